"""What is counted of all jobs, on a real server: ends, repeated starts, seconds by stage."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.queue.figures import BUCKETS_S, RETURNS, Figures, taken
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Store, Submission
from comfyui_sonic.queue_bridge.retry import FailureKind, RetryPolicy, judge

NOW = RetryPolicy(retries=1, backoff_s=0.0)


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    made = Store(connect(redis_url), Settings(url=redis_url, queue=f"figures-{new_job_id()}", crashes=2))
    await made.register(Identity("a", "boot"))
    yield made
    await made.close()


async def start(store: Store, resolution: int = 768) -> JobRecord:
    spec = JobSpec(new_job_id(), "file:///a.png", "file:///a.wav", "file:///a.mp4")
    await store.submit([Submission(spec, resolution)])
    return await again(store)


async def again(store: Store) -> JobRecord:
    job = await store.claim("a", "boot", ("512", "768"))
    assert isinstance(job, JobRecord)
    return job


async def figures(store: Store) -> Figures:
    return await QueueView(store.client, store.keys).figures()


async def fail(store: Store, job: JobRecord, kind: FailureKind) -> None:
    verdict = judge(kind, failures=job.failures, tier=768, policy=NOW, device_faults=job.device_faults)
    await store.settle(job, verdict, "x", str(kind), "a")


async def test_every_end_is_counted_by_its_cause_and_every_repeated_start_by_what_made_it_necessary(
    store: Store,
) -> None:
    job = await start(store)
    for kind in (FailureKind.OUT_OF_MEMORY, FailureKind.DEVICE_FAULT, FailureKind.BELOW_QUALITY, FailureKind.MAY_PASS):
        await fail(store, job, kind)
        job = await again(store)
    await fail(store, job, FailureKind.MAY_PASS)
    await fail(store, await start(store), FailureKind.BAD_INPUT)
    await start(store)
    for _ in range(2):
        await store.call("bury", "a", "boot")
        await store.register(Identity("a", "boot"))
        if _ == 0:
            await again(store)
    found = await figures(store)
    assert found.returns == {name: 2 if name == "crashes" else 1 for name in RETURNS}
    assert found.ends == {
        ("failed", "retries used up"): 1,
        ("failed", "bad input"): 1,
        ("failed", "instance died too often"): 1,
    }


async def test_seconds_by_stage_are_added_once_however_often_a_commit_is_repeated(store: Store) -> None:
    for seconds in (0.4, 45.0, 99999.0):
        job = await start(store)
        for _ in range(2):
            await store.complete(job, {}, taken(768, "sonic", {"run": seconds}, 15.0))
    found = await figures(store)
    run = found.seconds["run", 768, "sonic"]
    assert (run.count, run.total_s) == (3, pytest.approx(100044.4))
    assert [limit for limit, count in zip((*BUCKETS_S, None), run.counts, strict=True) if count] == [0.5, 60.0, None]
    assert found.video_s == {(768, "sonic"): 45.0}
    assert found.ends == {("completed", "completed"): 3}


def test_an_engine_that_is_not_known_makes_no_series_of_its_own() -> None:
    fields = taken(512, "x" * 99, {"run": 1.0})
    assert [str(name).split(":")[3] for name in fields[::2]] == ["other", "other"]


def test_fields_of_another_version_are_passed_over() -> None:
    assert Figures.of_fields({"a:b:c:d:e": "1", "seconds:run:x:y:z": "1", "seconds:sing:512:sonic:1": "2"}) == Figures()
