"""The process that keeps an instance and its job alive, on a real server, with leases of a second."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.errors import QueueUnavailable
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.lease import LeaseKeeper
from comfyui_sonic.queue_bridge.presence import Identity
from comfyui_sonic.queue_bridge.queue_view import QueueView
from comfyui_sonic.queue_bridge.redis_connection import connect
from comfyui_sonic.queue_bridge.redis_server import RedisServer
from comfyui_sonic.queue_bridge.states import State
from comfyui_sonic.queue_bridge.store import Store, Submission, Unregistered

LANES = ("512",)
Keepers = Callable[..., LeaseKeeper]


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings(url=redis_url, queue=f"lease-{new_job_id()}", lease_s=1.0, heartbeat_s=0.1)


@pytest.fixture
def keepers() -> Iterator[Keepers]:
    """Makes keepers that have joined the queue, and ends them."""
    made: list[LeaseKeeper] = []

    def make(settings: Settings, identity: Identity, wait_s: float = 10.0) -> LeaseKeeper:
        joined = threading.Event()
        keeper = LeaseKeeper(settings, identity, lambda: {"tiers": [512]}, joined.set)
        keeper.start()
        made.append(keeper)
        joined.wait(wait_s)
        return keeper

    yield make
    for keeper in made:
        keeper.leave()


async def claimed_by(identity: Identity, store: Store) -> JobRecord:
    await store.submit([Submission(JobSpec(new_job_id(), "file:///a", "file:///b", "file:///c.mp4"), 512)])
    job = await store.claim(identity.name, identity.boot, LANES)
    assert isinstance(job, JobRecord)
    return job


async def test_a_lease_outlives_an_event_loop_that_is_blocked(
    settings: Settings, keepers: Keepers
) -> None:
    me, store = Identity("a"), Store(connect(settings.url), settings)
    keeper = keepers(settings, me)
    job = await claimed_by(me, store)
    lost = threading.Event()
    keeper.hold(job, lost.set)
    time.sleep(2.5)  # two and a half leases without the loop
    assert not lost.is_set()
    await store.complete(job, {})
    await store.close()


async def test_a_job_that_another_took_is_noticed_within_a_heartbeat(
    settings: Settings, keepers: Keepers
) -> None:
    me, store = Identity("a"), Store(connect(settings.url), settings)
    keeper = keepers(settings, me)
    job = await claimed_by(me, store)
    await asyncio.sleep(1.2)  # not held yet, so the lease runs out
    await store.tend()
    lost = threading.Event()
    keeper.hold(job, lost.set)
    assert await asyncio.to_thread(lost.wait, 1.0)
    await store.close()


async def test_work_goes_on_while_the_queues_server_is_away_and_counts_when_it_is_back(
    settings: Settings, keepers: Keepers, caplog: pytest.LogCaptureFixture
) -> None:
    with tempfile.TemporaryDirectory(prefix="sonic-") as folder, RedisServer(Path(folder), outlives_us=False) as server:
        own = replace(settings, url=server.url)
        me, store = Identity("a"), Store(connect(own.url), own)
        keeper = keepers(own, me)
        job = await claimed_by(me, store)
        lost = threading.Event()
        with caplog.at_level(logging.WARNING, "sonic.lease"):
            keeper.hold(job, lost.set)
            await asyncio.sleep(0.2)
            server.stop()
            await asyncio.sleep(1.5)  # longer than the lease
            server.start()
            server.wait_until_ready()
            await asyncio.sleep(0.3)
        assert not lost.is_set()
        said = [record.message for record in caplog.records if "Trying again." in record.message]
        assert 1 <= len(said) == len(set(said)), "each trouble once"
        with contextlib.suppress(QueueUnavailable):  # the first call sees that the old connection is closed
            await store.renew(job)
        await store.complete(job, {})
        keeper.leave()
        await store.close()


async def test_a_second_instance_of_one_name_says_so_once_and_takes_no_jobs(
    settings: Settings, keepers: Keepers, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Identity("gpu-1"), Identity("gpu-1")
    keepers(settings, first)
    with caplog.at_level(logging.WARNING, "sonic.lease"):
        keepers(settings, second, 0.0)
        while not caplog.records:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.4)
    said = [record.message for record in caplog.records if "Another instance is called 'gpu-1'" in record.message]
    assert len(said) == 1
    assert "give it another name with SONIC_QUEUE_INSTANCE" in said[0]
    store = Store(connect(settings.url), settings)
    with pytest.raises(Unregistered):
        await store.claim(second.name, second.boot, LANES)
    assert not isinstance(await store.claim(first.name, first.boot, LANES), JobRecord)
    await store.close()


async def test_a_successor_of_a_dead_process_takes_over_at_once_with_its_job(
    settings: Settings, keepers: Keepers
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    settings = replace(settings, lease_s=30.0)
    predecessor, store = Identity("gpu-1", process=ended.pid), Store(connect(settings.url), settings)
    assert await store.register(predecessor)
    job = await claimed_by(predecessor, store)
    successor = Identity("gpu-1")
    started = time.monotonic()
    keepers(settings, successor)
    again = await store.claim(successor.name, successor.boot, LANES)
    assert isinstance(again, JobRecord)
    assert again.task_id == job.task_id
    assert time.monotonic() - started < 10, "not only when the lease has run out"
    await store.close()


async def test_leaving_gives_the_job_back_at_once_and_takes_nothing_from_its_budgets(
    settings: Settings, keepers: Keepers
) -> None:
    me, store = Identity("a"), Store(connect(settings.url), settings)
    keeper = keepers(settings, me)
    job = await claimed_by(me, store)
    keeper.hold(job, lambda: None)
    await asyncio.to_thread(keeper.leave)
    view = QueueView(store.client, store.keys)
    record = await view.job(job.task_id)
    assert record
    assert (record.state, record.failures, record.crashes) == (State.QUEUED, 0, 0)
    assert await view.instances() == []
    await store.close()


async def test_what_an_instance_says_of_itself_is_seen(
    settings: Settings, keepers: Keepers
) -> None:
    me, store = Identity("a"), Store(connect(settings.url), settings)
    keepers(settings, me)
    (seen,) = await QueueView(store.client, store.keys).instances()
    assert (seen["name"], seen["tiers"], seen["process"]) == ("a", [512], str(me.process))
    await store.close()
