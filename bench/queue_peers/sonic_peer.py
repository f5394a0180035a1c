"""This queue: jobs through the store, and a worker of instances with a lease each."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.errors import LeaseLost
from comfyui_sonic.queue_bridge.execution.lease import LeaseKeeper
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.store import Idle, Store, Submission

from .job import LEASE_S, SLOTS, URL, work_async
from .peer import Peer

LANES = ("512", "768", "1024")
WORK = ("number", "milliseconds", "blocks")  # of a job, what its work is told
IDLE_S = 5.0
SETTINGS = Settings(url=URL, queue="bench", lease_s=LEASE_S, heartbeat_s=LEASE_S / 5, events_kept=1000)


def submission(job: dict[str, Any], *, first: bool = False) -> Submission:
    """The same fields; what its work is told are parameters more. Its key makes a repeated one find it."""
    config = {**job["config"], **{name: job[name] for name in WORK if name in job}}
    spec = JobSpec(
        job["task_id"], job["image"], job["audio"], job["output"], job["name"], config,
        "priority" if first else "normal", job["workflow"], job["batch"],
    )  # fmt: skip
    return Submission(spec, 512, idempotency_key=job["task_id"])


class SonicPeer(Peer):
    what = ("comfyui_sonic",)
    how_many = "submit"

    async def open(self) -> None:
        self._store = Store(connect(URL), SETTINGS)

    async def close(self) -> None:
        await self._store.close()

    async def put_one(self, job: dict[str, Any], *, first: bool = False) -> None:
        await self._store.submit([submission(job, first=first)])

    async def put_all(self, jobs: Sequence[dict[str, Any]]) -> None:
        await self._store.submit(submission(job) for job in jobs)

    def worker(self, slots: int) -> list[str]:
        return [sys.executable, "-m", __name__]


class Instance:
    """One slot. As in worker.py, the next job is claimed and begun before the one before is committed.

    As in the bridge, a process of its own keeps the leases, says that this one lives, and that it has died.
    """

    def __init__(self) -> None:
        self._store = Store(connect(URL), SETTINGS)
        self._me = Identity(f"instance-{new_job_id()}")
        self._loop = asyncio.get_running_loop()
        self._joined = asyncio.Event()
        joined = partial(self._loop.call_soon_threadsafe, self._joined.set)
        self._keeper = LeaseKeeper(SETTINGS, self._me, dict, joined)
        self._at_work: tuple[JobRecord, asyncio.Task[Any]] | None = None

    async def run(self) -> None:
        self._keeper.start()
        await self._joined.wait()
        committing: asyncio.Task[None] | None = None
        job = await self._next_job()
        while True:
            self._keeper.hold(job, partial(self._loop.call_soon_threadsafe, self._lose, job))
            works = await self._works(job)
            claiming = asyncio.create_task(self._next_job())
            await asyncio.sleep(0)  # it is sent; the server is at work on it while the result is packed
            if committing:  # of the job before: no more than one
                await committing
                committing = None
            if works:
                committing = asyncio.create_task(self._commit(job))
            else:
                self._keeper.drop(job)
            job = await claiming

    async def _next_job(self) -> JobRecord:
        claim_id = uuid.uuid4().hex
        found = await self._claim(claim_id)
        while isinstance(found, Idle):
            found = await self._store.sleep(found, IDLE_S) or await self._claim(claim_id)
        return found

    async def _claim(self, claim_id: str) -> JobRecord | Idle:
        return await self._store.claim(self._me.name, self._me.boot, LANES, claim_id=claim_id, wait_s=IDLE_S)

    async def _works(self, job: JobRecord) -> bool:
        """Run it; False when it was broken off, as another instance has it."""
        task = asyncio.current_task()
        assert task
        mine = self._at_work = job, task
        try:
            await work_async({name: job.spec.config[name] for name in WORK if name in job.spec.config})
        except asyncio.CancelledError:
            if self._at_work is mine:
                raise
            task.uncancel()
            return False
        self._at_work = None
        return True

    def _lose(self, job: JobRecord) -> None:
        """Its lease has run out. What has been done of it already is refused at its commit, by its token."""
        if self._at_work and self._at_work[0] is job:
            task = self._at_work[1]
            self._at_work = None
            task.cancel()

    async def _commit(self, job: JobRecord) -> None:
        with contextlib.suppress(LeaseLost):
            await self._store.complete(job, result_of(job, self._me.name))
        self._keeper.drop(job)


def result_of(job: JobRecord, instance: str) -> dict[str, Any]:
    """What a ComfyUI server reports of a video."""
    report = {"engine": "sonic", "frames": 312, "fps": 25, "seconds": 12.48, "notes": []}
    return {
        "output": job.spec.output, "bytes": 1_000_000 + job.token * 137, "seconds": 31.416, "instance": instance[:12],
        "attempt": job.attempt, "warnings": [], "resolution": 512, "degraded": False, "report": report,
    }  # fmt: skip


async def serve() -> None:
    await asyncio.gather(*(Instance().run() for _ in range(SLOTS)))


PEER = SonicPeer()
if __name__ == "__main__":
    asyncio.run(serve())
