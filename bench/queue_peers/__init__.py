"""Job queues beside each other: a module for each says how jobs are put in and how a worker is started.

A peer's module is imported by that peer's own worker, and only the packages of that peer are needed there.
"""
