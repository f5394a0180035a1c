"""taskiq on a Redis stream, acknowledged when the task has run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskiq_redis import RedisStreamBroker

from .job import LEASE_S, URL, work_async
from .peer import Peer, gathered, program

broker = RedisStreamBroker(
    URL, idle_timeout=round(LEASE_S * 1000), xread_count=1, unacknowledged_lock_timeout=5, consumer_id="0"
)


@broker.task(task_name="run")
async def run(job: dict[str, Any]) -> None:
    await work_async(job)


class TaskiqPeer(Peer):
    what = ("taskiq", "taskiq_redis")
    how_many = "gather 100"
    has_priority = False

    async def open(self) -> None:
        await broker.startup()

    async def close(self) -> None:
        await broker.shutdown()

    async def put_one(self, job: dict[str, Any], *, first: bool = False) -> None:
        await run.kiq(job)

    async def put_all(self, jobs: Sequence[dict[str, Any]]) -> None:
        await gathered(self, jobs)

    def worker(self, slots: int) -> list[str]:
        limits = ["--workers", "1", "--max-async-tasks", str(slots), "--max-prefetch", "1"]
        quiet = ["--ack-type", "when_executed", "--log-level", "ERROR"]
        return [*program("taskiq"), "worker", f"{__name__}:broker", *limits, *quiet]


PEER = TaskiqPeer()
