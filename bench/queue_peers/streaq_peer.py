"""streaQ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streaq import Worker

from .job import LEASE_S, SLOTS, URL, work_async
from .peer import Peer, program

worker: Any = Worker(redis_url=URL, concurrency=SLOTS, prefetch=1, idle_timeout=LEASE_S, priorities=["low", "high"])


@worker.task(name="run")
async def run(job: dict[str, Any]) -> None:
    await work_async(job)


class StreaqPeer(Peer):
    what = ("streaq",)
    how_many = "enqueue_many"

    async def open(self) -> None:
        await worker.__aenter__()

    async def close(self) -> None:
        await worker.__aexit__(None, None, None)

    async def put_one(self, job: dict[str, Any], *, first: bool = False) -> None:
        await run.enqueue(job).start(priority="high" if first else "low")

    async def put_all(self, jobs: Sequence[dict[str, Any]]) -> None:
        for start in range(0, len(jobs), 500):
            await worker.enqueue_many([run.enqueue(job).start(priority="low") for job in jobs[start : start + 500]])

    def worker(self, slots: int) -> list[str]:
        return [*program("streaq"), "run", f"{__name__}:worker"]


PEER = StreaqPeer()
