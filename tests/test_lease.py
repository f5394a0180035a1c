"""The process that keeps an instance and its job alive, on a real server, with leases of a second."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.database.redis_server import RedisServer
from comfyui_sonic.queue_bridge.errors import LeaseLost, QueueUnavailable
from comfyui_sonic.queue_bridge.execution.lease import LeaseKeeper
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Store, Submission, Unregistered
from comfyui_sonic.queue_bridge.states import State

pytestmark = pytest.mark.slow

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


async def test_a_lease_outlives_an_event_loop_that_is_blocked(settings: Settings, keepers: Keepers) -> None:
    me, store = Identity("a"), Store(connect(settings.url), settings)
    keeper = keepers(settings, me)
    job = await claimed_by(me, store)
    lost = threading.Event()
    keeper.hold(job, lost.set)
    time.sleep(2.5)  # two and a half leases without the loop
    assert not lost.is_set()
    await store.complete(job, {})
    await store.close()


async def test_every_job_that_is_held_keeps_its_lease_and_only_what_is_lost_is_lost(
    settings: Settings, keepers: Keepers
) -> None:
    me, store = Identity("a"), Store(connect(settings.url), settings)
    keeper = keepers(settings, me)
    running, published, dropped = [await claimed_by(me, store) for _ in range(3)]
    lost: list[str] = []
    for job in (running, published, dropped):
        keeper.hold(job, lambda job=job: lost.append(job.task_id))  # type: ignore[misc]
    time.sleep(1.5)
    keeper.drop(dropped)
    time.sleep(1.5)  # without the loop, too
    await store.tend()
    await store.complete(running, {})
    keeper.drop(running)
    assert lost == []
    with pytest.raises(LeaseLost):
        await store.renew(dropped)
    await store.renew(published)
    keeper.leave()
    await store.tend()
    view = QueueView(store.client, store.keys, settings.url)
    record = await view.job(published.task_id)
    assert record and record.state is State.QUEUED
    await store.close()


async def test_a_job_that_another_took_is_noticed_within_a_heartbeat(settings: Settings, keepers: Keepers) -> None:
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


async def test_what_an_instance_says_of_itself_is_seen(settings: Settings, keepers: Keepers) -> None:
    me, store = Identity("a"), Store(connect(settings.url), settings)
    keepers(settings, me)
    (seen,) = await QueueView(store.client, store.keys).instances()
    assert (seen["name"], seen["tiers"], seen["process"]) == ("a", [512], str(me.process))
    await store.close()


# --- an instance of its own process, which dies, halts or holds Python's lock --------------------------------------

INSTANCE = """
import asyncio, ctypes, os, sys, threading, time
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.execution.lease import LeaseKeeper
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.retry import Verdict
from comfyui_sonic.queue_bridge.states import State
from comfyui_sonic.queue_bridge.queue.store import Store, settlement

settings = Settings(url=os.environ["URL"], queue=sys.argv[1], lease_s=float(sys.argv[2]), heartbeat_s=0.1)

async def main():
    me, joined, lost = Identity("victim"), threading.Event(), threading.Event()
    keeper, store = LeaseKeeper(settings, me, lambda: {}, joined.set), Store(connect(settings.url), settings)
    keeper.start()
    joined.wait(20)
    job = await store.claim(me.name, me.boot, ("512",))
    keeper.hold(job, lost.set)
    print(job.task_id, keeper.process, flush=True)
    command = sys.stdin.readline().split()
    if command[0] == "lock":  # a call that keeps Python's lock for so many seconds, from the first moment of the job
        keeper.drop(job)
        time.sleep(0.2)
        keeper.hold(job, lost.set)
        ctypes.PyDLL(None).sleep(int(command[1]))
        await store.complete(job, {})
        print("completed", flush=True)
    elif command[0] == "fuse":
        verdict = Verdict(State.RETRYING, "failed, may pass", 60.0, counter="failures")
        failure = settlement(job, verdict, "x", "may pass", "")
        keeper.fuse(job, 1.0, failure, "A node let nothing else run.", end_us=True)
        await asyncio.sleep(0.5)
        ctypes.PyDLL(None).sleep(60)
    elif command[0] == "exec":  # as ComfyUI-Manager starts ComfyUI anew
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"])
    elif command[0] == "lose":
        print("lost" if await asyncio.to_thread(lost.wait, 5) else "kept", flush=True)
    keeper.leave()

asyncio.run(main())
"""


class Victim:
    """An instance that holds a job, in a process of its own."""

    def __init__(self, settings: Settings) -> None:
        self._command = [sys.executable, "-c", INSTANCE, settings.queue, str(settings.lease_s)]
        self._url = settings.url

    async def __aenter__(self) -> Victim:
        pipe = asyncio.subprocess.PIPE
        variables = os.environ | {"URL": self._url}
        self.process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe, env=variables)
        self.job, keeper = (await self.line()).split()
        self.keeper = psutil.Process(int(keeper))
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        await self.process.wait()
        await asyncio.to_thread(psutil.wait_procs, [self.keeper], 10)
        assert not self.keeper.is_running(), "the keeper ends with its server"

    async def line(self) -> str:
        assert self.process.stdout
        return (await self.process.stdout.readline()).decode().strip()

    async def tell(self, command: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{command}\n".encode())
        await self.process.stdin.drain()


async def test_a_process_that_reads_nothing_holds_nobody_up_and_hears_what_is_held_when_it_goes_on(
    settings: Settings, keepers: Keepers
) -> None:
    me, store = Identity("a"), Store(connect(settings.url), settings)
    settings = replace(settings, lease_s=30.0)
    keeper = keepers(settings, me)
    job = await claimed_by(me, Store(store.client, settings))
    assert keeper.process
    process = psutil.Process(keeper.process)
    process.suspend()
    began = time.monotonic()
    for _ in range(2000):  # far more than a pipe has room for
        keeper.hold(job, lambda: None)
    assert time.monotonic() - began < 2
    process.resume()
    keeper.drop(job)
    keeper.hold(job, lambda: None)
    await asyncio.to_thread(keeper.leave)
    record = await QueueView(store.client, store.keys).job(job.task_id)
    assert record
    assert record.state is State.QUEUED, "given back, so it knew what is held"
    await store.close()


async def submitted(settings: Settings) -> Store:
    store = Store(connect(settings.url), settings)
    await store.submit([Submission(JobSpec(new_job_id(), "file:///a", "file:///b", "file:///c.mp4"), 512)])
    return store


async def seconds_until_free(store: Store, job: str, limit_s: float) -> float:
    """How long a running job stays with its instance, which nobody but the lease's keeper and ``tend`` looks at."""
    view, started = QueueView(store.client, store.keys), time.monotonic()
    while (record := await view.job(job)) and record.state is State.RUNNING:
        assert time.monotonic() - started < limit_s, "nobody freed it"
        await store.tend()
        await asyncio.sleep(0.02)
    assert record
    assert (record.state, record.crashes, record.failures) == (State.QUEUED, 1, 0)
    return time.monotonic() - started


async def test_a_lease_outlives_a_call_that_keeps_pythons_lock_for_three_leases_right_from_the_start(
    settings: Settings,
) -> None:
    store = await submitted(settings)
    async with Victim(settings) as victim:
        await victim.tell("lock 3")
        deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            await store.tend()
            await asyncio.sleep(0.05)
        assert await victim.line() == "completed"
        record = await QueueView(store.client, store.keys).job(victim.job)
        assert record
        assert (record.state, record.attempt, record.crashes) == (State.COMPLETED, 1, 0)
    await store.close()


async def test_a_killed_instances_job_is_free_at_once_and_not_only_when_its_lease_runs_out(settings: Settings) -> None:
    settings = replace(settings, lease_s=60.0)
    store = await submitted(settings)
    async with Victim(settings) as victim:
        victim.process.kill()
        assert await seconds_until_free(store, victim.job, 10) < 2
    await store.close()


async def test_an_instance_that_becomes_another_program_has_ended_too(settings: Settings) -> None:
    settings = replace(settings, lease_s=60.0)
    store = await submitted(settings)
    async with Victim(settings) as victim:
        await victim.tell("exec")
        assert await seconds_until_free(store, victim.job, 20) < 4
    await store.close()


async def test_an_instance_that_dies_together_with_its_keeper_is_missed_by_another_within_seconds(
    settings: Settings, keepers: Keepers
) -> None:
    settings = replace(settings, lease_s=60.0)
    store = await submitted(settings)
    async with Victim(settings) as victim:
        keepers(settings, Identity("other"))
        victim.keeper.kill()
        victim.process.kill()
        assert await seconds_until_free(store, victim.job, 20) < 4
        assert [one["name"] for one in await QueueView(store.client, store.keys).instances()] == ["other"]
    await store.close()


async def test_a_stopped_instance_is_not_kept_alive_and_learns_that_its_job_is_gone(settings: Settings) -> None:
    store = await submitted(settings)
    async with Victim(settings) as victim:
        await asyncio.sleep(0.3)
        victim.process.send_signal(signal.SIGSTOP)
        assert 0.5 < await seconds_until_free(store, victim.job, 10) < 3
        await victim.tell("lose")
        victim.process.send_signal(signal.SIGCONT)
        assert await victim.line() == "lost"
    await store.close()


async def test_a_keeper_that_is_killed_is_replaced_and_the_job_stays(settings: Settings) -> None:
    settings = replace(settings, lease_s=3.0)
    store = await submitted(settings)
    async with Victim(settings) as victim:
        victim.keeper.kill()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            await store.tend()
            await asyncio.sleep(0.1)
        await victim.tell("lock 0")
        assert await victim.line() == "completed"
    await store.close()


async def test_a_server_that_can_look_at_no_clock_is_ended_by_its_keeper_and_the_job_has_failed_once(
    settings: Settings,
) -> None:
    store = await submitted(settings)
    async with Victim(settings) as victim:
        await victim.tell("fuse")
        assert await asyncio.wait_for(victim.process.wait(), 20) == -signal.SIGKILL
        record = await QueueView(store.client, store.keys).job(victim.job)
        assert record
        assert (record.state, record.failures, record.crashes) == (State.RETRYING, 1, 0)
    await store.close()


async def test_no_secret_is_on_the_keepers_command_line_and_it_imports_neither_torch_nor_comfyui(
    settings: Settings,
) -> None:
    store = await submitted(settings)
    async with Victim(settings) as victim:
        assert settings.url not in " ".join(victim.keeper.cmdline())
        assert victim.keeper.memory_info().rss < 80 * 2**20
    await store.close()


@pytest.mark.parametrize("refused", ["client|list", "client|setname"])
async def test_a_user_who_may_not_see_the_clients_gets_leases_alone_and_one_sentence(
    settings: Settings, keepers: Keepers, caplog: pytest.LogCaptureFixture, refused: str
) -> None:
    store = Store(connect(settings.url), settings)
    with tempfile.TemporaryDirectory(prefix="sonic-") as folder, RedisServer(Path(folder), outlives_us=False) as server:
        admin = connect(server.url)
        await admin.execute_command("ACL", "SETUSER", "bridge", "on", ">secret", "~*", "+@all", f"-{refused}")
        await admin.aclose()
        own = replace(settings, url=server.url.replace("unix://", "unix://bridge:secret@"))
        with caplog.at_level(logging.INFO, "sonic.lease"):
            keeper = keepers(own, Identity("a"))
            await asyncio.sleep(1.5)
        said = [record.message for record in caplog.records if "by its lease alone" in record.message]
        assert len(said) == 1
        assert "secret" not in said[0]
        (seen,) = await QueueView(connect(server.url), store.keys).instances()
        assert seen["name"] == "a"
        keeper.leave()
    await store.close()


async def test_a_servers_restart_that_takes_longer_than_a_lease_starts_nothing_twice(settings: Settings) -> None:
    """The other instance is back before the owner is, and the owner's connection is gone, too."""
    with tempfile.TemporaryDirectory(prefix="sonic-") as folder, RedisServer(Path(folder), outlives_us=False) as server:
        own = replace(settings, url=server.url, lease_s=2.0)
        owner, other, store = Identity("owner"), Identity("other"), Store(connect(own.url), own)
        assert await store.register(owner)
        assert await store.register(other)
        job = await claimed_by(owner, store)
        await store.close()
        server.stop()
        await asyncio.sleep(2.2)
        server.start()
        server.wait_until_ready()
        store = Store(connect(own.url), own)
        assert await store.register(other)
        assert not isinstance(await store.claim(other.name, other.boot, LANES), JobRecord)
        await store.renew(job)
        await asyncio.sleep(1.0)
        assert not isinstance(await store.claim(other.name, other.boot, LANES), JobRecord)
        await asyncio.sleep(1.5)  # and no longer than a lease
        assert await store.register(other)
        again = await store.claim(other.name, other.boot, LANES)
        assert isinstance(again, JobRecord)
        assert again.task_id == job.task_id
        await store.close()
