"""SAQ; running jobs say that they live every second."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from saq import Queue

from .job import LEASE_S, LONG_S, SLOTS, URL, work_async
from .peer import Peer, gathered, program

queue = Queue.from_url(URL)


async def run(context: dict[str, Any], *, job: dict[str, Any]) -> None:
    async def beat() -> None:
        while True:
            await asyncio.sleep(1)
            await context["job"].update()

    beating = asyncio.create_task(beat()) if job["milliseconds"] > 1000 else None
    await work_async(job)
    if beating:
        beating.cancel()


settings = {"queue": queue, "functions": [run], "concurrency": SLOTS, "timers": {"sweep": 2}}


class SaqPeer(Peer):
    what = ("saq",)
    how_many = "gather 100"
    has_priority = False

    async def open(self) -> None:
        await queue.connect()

    async def close(self) -> None:
        await queue.disconnect()

    async def put_one(self, job: dict[str, Any], *, first: bool = False) -> None:
        await queue.enqueue("run", job=job, retries=3, heartbeat=int(LEASE_S), timeout=120 + int(LONG_S))

    async def put_all(self, jobs: Sequence[dict[str, Any]]) -> None:
        await gathered(self, jobs)

    def worker(self, slots: int) -> list[str]:
        return [*program("saq"), f"{__name__}.settings"]


PEER = SaqPeer()
