"""What the queue keeps of those who submit over HTTP, through every end of a job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.errors import BacklogFull
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Store, Submission
from comfyui_sonic.queue_bridge.retry import Verdict
from comfyui_sonic.queue_bridge.states import State

ME = "0a1b2c3d"


@dataclass
class Counted:
    """A queue whose clock stands still until a test says otherwise."""

    store: Store
    view: QueueView
    now_s: float = 1_800_000_000.0

    async def submit(self, count: int, backlog: int = 0, caller: str = ME) -> list[str]:
        specs = [JobSpec(new_job_id(), "file:///a", "file:///b", "file:///c.mp4") for _ in range(count)]
        answers = await self.store.submit([Submission(one, 512) for one in specs], caller=caller, backlog=backlog)
        return [answer.task_id for answer in answers]

    async def claim(self) -> JobRecord:
        await self.store.register(Identity("gpu-1", "boot"))
        job = await self.store.claim("gpu-1", "boot", ("512",))
        assert isinstance(job, JobRecord)
        return job


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[Counted]:
    settings = Settings(url=redis_url, queue=f"callers-{new_job_id()}", crashes=1, retention_days=1.0)
    store = Store(connect(redis_url), settings, clock=lambda: counted.now_s)
    counted = Counted(store, QueueView(store.client, store.keys, redis_url))
    yield counted
    await store.close()


async def test_every_end_of_a_job_is_one_that_has_not_ended_less(queue: Counted) -> None:
    await queue.submit(5)
    assert await queue.view.unended(ME) == 5
    await queue.store.complete(await queue.claim(), {})
    failed = await queue.claim()
    await queue.store.settle(failed, Verdict(State.FAILED, "bad input"), "No face.", "bad input", "gpu-1")
    assert await queue.view.unended(ME) == 3
    await queue.store.settle(
        await queue.claim(), Verdict(State.RETRYING, "failed, may pass", delay_s=5.0), "x", "y", "z"
    )
    assert await queue.view.unended(ME) == 3
    crashed = await queue.claim()
    queue.now_s += 3600
    await queue.store.tend()
    record = await queue.view.job(crashed.task_id)
    assert record
    assert (record.state, record.caller) == (State.FAILED, ME)
    assert await queue.view.unended(ME) == 2
    assert await queue.store.restart(failed.task_id) == "ok"
    assert await queue.view.unended(ME) == 3
    live = await queue.view.ids([State.QUEUED], 10)
    await queue.store.cancel(live)
    await queue.store.cancel(live)
    assert await queue.view.unended(ME) == 0


async def test_too_many_are_refused_as_a_whole_and_repeating_is_no_more(queue: Counted) -> None:
    spec = JobSpec(new_job_id(), "file:///a", "file:///b", "file:///c.mp4")
    for _ in range(2):
        await queue.store.submit([Submission(spec, 512)], caller=ME, backlog=1)
    with pytest.raises(BacklogFull, match=r"^1 of its jobs have not ended"):
        await queue.submit(1, backlog=1)
    with pytest.raises(BacklogFull):
        await queue.submit(3, backlog=3)
    assert (await queue.view.counts()).queued == 1
    await queue.submit(2, backlog=3)
    await queue.submit(9, caller="")


async def test_the_order_of_submission_is_kept_as_long_as_its_jobs(queue: Counted) -> None:
    first, second = await queue.submit(2)
    await asyncio.sleep(0.002)  # of two callers' in one millisecond nobody knows which came first
    others = await queue.submit(2, caller="")
    told = await queue.view.submitted(["", ME], 10)
    assert [task_id for _, task_id in told] == [*others[::-1], second, first]
    assert [task_id for _, task_id in await queue.view.submitted([ME], 10, since_ms=0)] == [first, second]
    for _ in range(4):
        await queue.store.complete(await queue.claim(), {})
    queue.now_s += 2 * 86_400
    await queue.store.tend()
    assert await queue.view.submitted(["", ME], 10) == []
    assert await queue.view.callers() == [""]
