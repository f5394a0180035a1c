"""arq; its lease is job_timeout + 10 s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from arq import create_pool
from arq.connections import RedisSettings

from .job import LEASE_S, LONG_S, SLOTS, URL, work_async
from .peer import Peer, gathered, program


async def run(_: dict[str, Any], job: dict[str, Any]) -> None:
    await work_async(job)


class WorkerSettings:
    functions: ClassVar = [run]
    redis_settings = RedisSettings.from_dsn(URL)
    max_jobs = SLOTS
    job_timeout = max(LEASE_S, LONG_S + 10)  # or it would end the long job


class ArqPeer(Peer):
    what = ("arq",)
    how_many = "gather 100"
    has_priority = False

    async def open(self) -> None:
        self._pool = await create_pool(RedisSettings.from_dsn(URL))

    async def close(self) -> None:
        await self._pool.aclose()

    async def put_one(self, job: dict[str, Any], *, first: bool = False) -> None:
        await self._pool.enqueue_job("run", job)

    async def put_all(self, jobs: Sequence[dict[str, Any]]) -> None:
        await gathered(self, jobs)

    def worker(self, slots: int) -> list[str]:
        return [*program("arq"), f"{__name__}.WorkerSettings"]


PEER = ArqPeer()
