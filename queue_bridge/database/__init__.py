"""The queue's database: a server of our own, where there is none, and connections to any."""
