"""Keeps an encoder from taking the machine: SVT-AV1 in a process of root's puts itself before everything else.

On Linux it gives its threads, and the one that opens it, a place in real time (SCHED_FIFO, 99). Whatever that thread
starts inherits it: a whole server would stand still while frames are computed, its event loop and its leases with it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

TASKS = Path("/proc/self/task")  # there on Linux


@contextlib.contextmanager
def usual_scheduling() -> Iterator[None]:
    """Threads that have a place in real time afterwards, and had none before, get the usual one back."""
    if not TASKS.is_dir() or not hasattr(os, "sched_setscheduler"):
        yield
        return
    before = _in_real_time()
    try:
        yield
    finally:
        for thread in _in_real_time() - before:
            with contextlib.suppress(OSError):  # it has ended
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def _in_real_time() -> set[int]:
    found = set()
    for task in TASKS.iterdir():
        with contextlib.suppress(OSError):
            if os.sched_getscheduler(int(task.name)) & ~os.SCHED_RESET_ON_FORK in (os.SCHED_FIFO, os.SCHED_RR):
                found.add(int(task.name))
    return found
