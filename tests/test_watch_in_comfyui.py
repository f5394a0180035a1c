"""What a node can do to the server it runs in, and what the bridge makes of that, in real servers."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.health import UNHEALTHY
from comfyui_sonic.queue_bridge.job import JobRecord, new_job_id
from comfyui_sonic.queue_bridge.servers.instance import Instance, install_pack
from comfyui_sonic.queue_bridge.servers.local_fleet import LocalFleet
from comfyui_sonic.queue_bridge.states import State

from .bridge_fixture import ROOT, TEMPLATES, Bridge, BridgeQueue, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

WATCH = {
    "SONIC_QUEUE_LEASE_S": "3",
    "SONIC_QUEUE_HEARTBEAT_S": "0.5",
    "SONIC_QUEUE_SILENCE_S": "3",
    "SONIC_QUEUE_TIME_LIMIT_S": "8",
    "SONIC_QUEUE_INTERRUPT_S": "2",
}


def server(comfyui: Path, url: str, queue: str, directory: Path, name: str, **further: str) -> Instance:
    """A server with short limits; not started yet."""
    orders = directory / "orders"
    orders.mkdir(exist_ok=True)
    variables = environment(url, queue, name, orders) | WATCH | further
    instance = Instance(comfyui, directory / name, environment=variables)
    install_pack(ROOT, instance.base_directory / "custom_nodes")
    install_pack(ROOT / "tests" / "comfyui_pack", instance.base_directory / "custom_nodes", "test_nodes")
    return instance


def bridge_of(instance: Instance, url: str, queue: str, orders: Path) -> Bridge:
    return Bridge({"watched": instance}, orders, Settings(url=url, queue=queue, lease_s=3.0, heartbeat_s=0.5))


@pytest.fixture(scope="module")
def watched(comfyui_path: Path, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    """One server that lives through all that is done to it."""
    directory, queue = tmp_path_factory.mktemp("watched"), f"watched-{new_job_id()}"
    with server(comfyui_path, redis_url, queue, directory, "sturdy") as instance:
        yield bridge_of(instance, redis_url, queue, directory / "orders")


@pytest.fixture
async def queue(watched: Bridge) -> AsyncIterator[BridgeQueue]:
    async with watched.queue() as opened:
        yield opened


@pytest.fixture
def folder(watched: Bridge, request: pytest.FixtureRequest) -> Path:
    place = watched.orders / request.node.name.replace("[", "_").replace("]", "").replace(" ", "_")
    place.mkdir()
    return place


async def done(queue: BridgeQueue, folder: Path, how: str, **config: float) -> JobRecord:
    task_id = await queue.submit(folder, workflow="misbehave", how=how, **config)
    return (await queue.ended(task_id))[task_id]


@pytest.mark.parametrize("how", ["keep lock", "block loop"])
async def test_a_node_that_holds_up_everything_for_two_leases_keeps_its_job(
    queue: BridgeQueue, folder: Path, how: str
) -> None:
    async def tend() -> None:  # as any other instance would
        while True:
            await queue.store.tend()
            await asyncio.sleep(0.1)

    others = asyncio.create_task(tend())
    record = await done(queue, folder, how, seconds=6)
    others.cancel()
    assert (record.state, record.attempt, record.crashes, record.failures) == (State.COMPLETED, 1, 0, 0)
    assert (folder / "job.tally").read_text() == "start\n"


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("hang", "The prompt showed no progress for 3 s, so it was interrupted."),
        ("go on", "The prompt took longer than its limit of 8 s, so it was interrupted."),
    ],
)
async def test_a_prompt_that_never_ends_is_interrupted_and_tried_again(
    queue: BridgeQueue, folder: Path, how: str, sentence: str
) -> None:
    started = time.monotonic()
    record = await done(queue, folder, how, seconds=60)
    assert time.monotonic() - started < 30
    assert [entry["error"] for entry in record.history] == [sentence]
    assert (record.state, record.failures, record.crashes) == (State.COMPLETED, 1, 0)


async def test_models_are_unloaded_between_running_out_of_memory_and_the_next_try(
    queue: BridgeQueue, folder: Path
) -> None:
    record = await done(queue, folder, "memory")
    assert record.state is State.COMPLETED
    assert (folder / "job.tally").read_text().splitlines()[:2] == ["start", "unloaded"]


async def test_a_stopped_servers_job_is_anothers_and_its_own_prompt_is_interrupted_when_it_wakes(
    watched: Bridge, queue: BridgeQueue, folder: Path
) -> None:
    task_id = await queue.submit(folder, workflow="misbehave", how="go on", seconds=60)
    while not (folder / "job.tally").exists():
        await asyncio.sleep(0.05)
    process = watched.instances["watched"].process
    assert process
    process.send_signal(signal.SIGSTOP)
    try:
        while (await queue.view.jobs([task_id]))[task_id].state is State.RUNNING:
            await queue.store.tend()
            await asyncio.sleep(0.1)
    finally:
        process.send_signal(signal.SIGCONT)
    woken = time.monotonic()
    record = (await queue.ended(task_id))[task_id]
    assert time.monotonic() - woken < 8, "the prompt was not left to its time limit"
    assert (record.state, record.attempt, record.crashes, record.failures) == (State.COMPLETED, 2, 1, 0)


# --- a server that can run nothing any more ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Doomed:
    instance: Instance
    queue: BridgeQueue
    folder: Path

    async def status(self) -> int:
        """The exit status of the server, once it has ended."""
        assert self.instance.process
        return await asyncio.wait_for(asyncio.to_thread(self.instance.process.wait), 30)

    async def record(self, task_id: str) -> JobRecord:
        record = await self.queue.view.job(task_id)
        assert record
        return record


Doom = Callable[..., contextlib.AbstractAsyncContextManager[Doomed]]


@pytest.fixture
def doomed(comfyui_path: Path, redis_url: str, tmp_path: Path) -> Doom:
    @contextlib.asynccontextmanager
    async def start(**further: str) -> AsyncIterator[Doomed]:
        queue = f"doomed-{new_job_id()}"
        instance = server(comfyui_path, redis_url, queue, tmp_path, "doomed", **further)
        with instance:
            async with bridge_of(instance, redis_url, queue, tmp_path / "orders").queue() as opened:
                yield Doomed(instance, opened, tmp_path / "orders")

    return start


async def test_a_broken_card_ends_the_server_and_its_successor_does_the_job(doomed: Doom) -> None:
    async with doomed() as it:
        task_id = await it.queue.submit(it.folder, workflow="misbehave", how="card")
        assert await it.status() == UNHEALTHY
        record = await it.record(task_id)
        assert (record.state, record.device_faults, record.failures, record.crashes) == (State.QUEUED, 1, 0, 0)
        assert "illegal memory access" in record.history[0]["error"]
        assert await it.queue.view.instances() == []
        it.instance.start()
        it.instance.wait_until_ready()
        assert (await it.queue.ended(task_id))[task_id].state is State.COMPLETED


async def test_a_server_that_is_to_live_on_with_a_broken_card_takes_no_jobs_and_status_says_why(doomed: Doom) -> None:
    async with doomed(SONIC_QUEUE_EXIT_WHEN_UNHEALTHY="no") as it:
        task_id = await it.queue.submit(it.folder, workflow="misbehave", how="card")
        deadline = time.monotonic() + 20
        while not (seen := await it.queue.view.instances()) or not seen[0]["unhealthy"]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        assert seen[0]["unhealthy"].startswith("Its card has failed: Save failed: CUDA error")
        await asyncio.sleep(2)
        assert (await it.record(task_id)).state is State.QUEUED
        assert it.instance.is_alive()


async def test_a_prompt_that_hears_no_interrupt_ends_the_server_and_its_job_is_a_failure_not_a_crash(
    doomed: Doom,
) -> None:
    async with doomed() as it:
        task_id = await it.queue.submit(it.folder, workflow="misbehave", how="hang deaf", seconds=60)
        assert await it.status() == UNHEALTHY
        record = await it.record(task_id)
        assert (record.failures, record.crashes) == (1, 0)
        assert record.history[0]["error"] == (
            "The prompt showed no progress for 3 s, was interrupted, and did not end within 2 s."
        )


async def test_a_server_whose_prompt_worker_has_died_gives_its_job_back_as_a_failure_and_ends(doomed: Doom) -> None:
    async with doomed() as it:
        task_id = await it.queue.submit(it.folder, workflow="misbehave", how="worker")
        assert await it.status() == UNHEALTHY
        record = await it.record(task_id)
        assert (record.failures, record.crashes) == (1, 0)
        assert record.history[0]["error"] == "The thread of this ComfyUI that runs prompts has ended."


async def test_a_fleet_of_our_own_starts_a_server_with_a_broken_card_again(
    comfyui_path: Path, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, orders = f"fleet-{new_job_id()}", tmp_path / "orders"
    orders.mkdir()
    monkeypatch.setenv("SONIC_QUEUE_QUEUE", queue)
    monkeypatch.setenv("SONIC_QUEUE_TEMPLATES", str(TEMPLATES))
    install_pack(ROOT / "tests" / "comfyui_pack", tmp_path / "instances" / "1" / "custom_nodes", "test_nodes")
    fleet = LocalFleet(comfyui_path, tmp_path, instances=1, roots=[orders], url=redis_url)
    try:
        await asyncio.to_thread(fleet.start_instances, lambda _text: None)
        async with Bridge({}, orders, Settings(url=redis_url, queue=queue)).queue() as opened:
            task_id = await opened.submit(orders, workflow="misbehave", how="card")
            ended = asyncio.create_task(opened.ended(task_id))
            while not ended.done():
                fleet.check([one["name"] for one in await opened.view.instances()])
                await asyncio.sleep(0.2)
            record = ended.result()[task_id]
        assert (record.state, record.device_faults, record.attempt) == (State.COMPLETED, 1, 2)
        assert len(list((tmp_path / "instances" / "1").glob("*.before1.log"))) == 1
    finally:
        fleet.stop(completed=False)
