"""What the measuring asks of a queue."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Any

GATHERED = 100


class Peer:
    """One queue. what: the packages that must be importable. has_priority: whether a job can go before others."""

    what: tuple[str, ...] = ()
    how_many = "loop"  # in words: how many jobs are put in with one call
    has_priority = True

    async def open(self) -> None:
        """Before the first job."""

    async def close(self) -> None:
        """After the last one."""

    async def put(self, job: dict[str, Any], *, first: bool = False) -> float:
        """Put one job in; returns when that began (CLOCK_MONOTONIC). first: before all others."""
        began = time.monotonic()
        await self.put_one(job, first=first)
        return began

    async def put_one(self, job: dict[str, Any], *, first: bool = False) -> None:
        raise NotImplementedError

    async def put_each(self, jobs: Sequence[dict[str, Any]]) -> float:
        """One after the other; returns how many seconds that took."""
        began = time.monotonic()
        for job in jobs:
            await self.put_one(job)
        return time.monotonic() - began

    async def put_many(self, jobs: Sequence[dict[str, Any]]) -> float:
        """All of them as quickly as the queue can; returns how many seconds that took."""
        began = time.monotonic()
        await self.put_all(jobs)
        return time.monotonic() - began

    async def put_all(self, jobs: Sequence[dict[str, Any]]) -> None:
        for job in jobs:
            await self.put_one(job)

    def worker(self, slots: int) -> list[str]:
        """The command line of a worker that runs so many jobs at once; its environment has BENCH_SLOTS, too."""
        raise NotImplementedError


async def gathered(peer: Peer, jobs: Sequence[dict[str, Any]]) -> None:
    for start in range(0, len(jobs), GATHERED):
        await asyncio.gather(*(peer.put_one(job) for job in jobs[start : start + GATHERED]))


def program(name: str) -> list[str]:
    """A console script of the environment that this Python belongs to."""
    return [str(sys.prefix) + "/bin/" + name]
