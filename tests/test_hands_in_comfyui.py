"""What an operator does by hand, in real ComfyUI servers: cancel what runs, drain a server, end it by SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.execution.comfy_client import ComfyClient
from comfyui_sonic.queue_bridge.job import JobRecord
from comfyui_sonic.queue_bridge.servers.instance import Instance, install_pack
from comfyui_sonic.queue_bridge.states import State

from .bridge_fixture import NAMES, ROOT, Bridge, BridgeQueue, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
WAIT_S = 30.0


@pytest.fixture
async def queue(bridge: Bridge) -> AsyncIterator[BridgeQueue]:
    async with bridge.queue() as opened:
        yield opened


@pytest.fixture
def folder(bridge: Bridge, request: pytest.FixtureRequest) -> Path:
    place = bridge.orders / request.node.name.replace("[", "_").replace("]", "")
    place.mkdir()
    return place


def sonic_queue(bridge: Bridge, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {"SONIC_QUEUE_URL": bridge.settings.url, "SONIC_QUEUE_QUEUE": bridge.settings.queue}
    command = [sys.executable, "-m", "comfyui_sonic.queue_bridge.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=os.environ | variables)


async def until(queue: BridgeQueue, task_id: str, true: Callable[[JobRecord], bool]) -> JobRecord:
    """The job's record as soon as this is true of it."""
    deadline = time.monotonic() + WAIT_S
    while True:
        record = await queue.view.job(task_id)
        assert record
        if true(record):
            return record
        assert time.monotonic() < deadline, record
        await asyncio.sleep(0.02)


def computes(record: JobRecord) -> bool:
    """A node of it is at work."""
    return record.state is State.RUNNING and record.stage == "Save"


@contextlib.asynccontextmanager
async def only(queue: BridgeQueue, name: str) -> AsyncIterator[None]:
    """Nobody but one instance takes jobs."""
    others = [one["name"] for one in await queue.view.instances() if one["name"] != name]
    for other in others:
        await queue.store.drain(other, 600.0)
    try:
        yield
    finally:
        for other in others:
            await queue.store.undrain(other)


@contextlib.contextmanager
def third_server(bridge: Bridge, comfyui: Path, place: Path, **settings: str) -> Iterator[Instance]:
    variables = environment(bridge.settings.url, bridge.settings.queue, "gpu-3", bridge.orders) | settings
    third = Instance(comfyui, place / "gpu-3", environment=variables)
    install_pack(ROOT, third.base_directory / "custom_nodes")
    install_pack(ROOT / "tests" / "comfyui_pack", third.base_directory / "custom_nodes", "test_nodes")
    with third:
        yield third


async def test_exactly_the_cancelled_prompt_is_interrupted_and_what_waits_behind_it_runs(
    bridge: Bridge, queue: BridgeQueue, folder: Path
) -> None:
    tally = folder / "browser.tally"
    async with only(queue, "gpu-1"), ComfyClient(bridge.instances["gpu-1"].address) as client:
        unwanted = await queue.submit(folder, "unwanted", seconds=30.0)
        following = await queue.submit(folder, "following", seconds=0.2)
        await until(queue, unwanted, computes)
        browser = asyncio.create_task(client.run({"t": {"class_type": "TEST_Tally", "inputs": {"tally": str(tally)}}}))
        await asyncio.sleep(0.3)
        assert await queue.store.cancel([unwanted]) == {unwanted: "cancelling"}
        asked = time.monotonic()
        record = (await queue.ended(unwanted))[unwanted]
        assert time.monotonic() - asked < 2.0
        assert (record.state, record.error, record.failures, record.history) == (State.CANCELLED, "", 0, ())
        await asyncio.wait_for(browser, 10.0)
        assert tally.exists()
        last = (await queue.ended(following))[following]
    assert (last.state, last.attempt, (last.result or {})["instance"]) == (State.COMPLETED, 1, "gpu-1")
    assert [path.name for path in folder.iterdir() if path.suffix in (".mp4", ".part")] == ["following.mp4"]
    for kind in ("input", "output"):
        assert not (bridge.instances["gpu-1"].base_directory / kind / "sonic" / unwanted).exists()


async def test_a_job_behind_a_prompt_of_the_browser_is_cancelled_and_the_prompt_goes_on(
    bridge: Bridge, queue: BridgeQueue, folder: Path
) -> None:
    graph = {
        "s": {
            "class_type": "TEST_SaveAfterFailures",
            "inputs": {
                "filename_prefix": "browser",
                "tally": str(folder / "browser.tally"),
                "failures": 0,
                "seconds": 3.0,
                "message": "",
            },
        }
    }
    async with only(queue, "gpu-1"), ComfyClient(bridge.instances["gpu-1"].address) as client:
        browser = asyncio.create_task(client.run(graph))
        while not (folder / "browser.tally").exists():
            await asyncio.sleep(0.05)
        another = asyncio.create_task(client.run(graph))  # without it the job would not be claimed yet
        await asyncio.sleep(0.3)
        unwanted = await queue.submit(folder, "unwanted", seconds=1.0)
        await until(queue, unwanted, lambda record: record.state is State.RUNNING)
        await asyncio.sleep(0.3)
        await queue.store.cancel([unwanted])
        assert (await queue.ended(unwanted))[unwanted].state is State.CANCELLED
        assert not browser.done()
        for prompt in (browser, another):
            assert (await prompt).files(), "nobody interrupted it"
    assert not (folder / "unwanted.tally").exists(), "it never began"


async def test_the_command_cancels_a_batch_that_runs_and_waits(
    bridge: Bridge, queue: BridgeQueue, folder: Path
) -> None:
    jobs = [await queue.submit(folder, f"job{number}", seconds=20.0) for number in range(6)]
    deadline = time.monotonic() + WAIT_S
    # Which two is open: a server that is quick may set the second job aside before the other has looked.
    while sum(computes(record) for record in (await queue.view.jobs(jobs)).values()) < 2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    ended = await asyncio.to_thread(sonic_queue, bridge, "cancel", *jobs, "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert {one["answer"] for one in json.loads(ended.stdout)} == {"cancelled", "cancelling"}
    records = await asyncio.wait_for(queue.ended(*jobs), 5.0)
    assert {record.state for record in records.values()} == {State.CANCELLED}
    assert not list(folder.glob("*.mp4"))


async def test_a_drained_server_gives_its_job_back_when_told_and_another_finishes_it(
    bridge: Bridge, queue: BridgeQueue, folder: Path
) -> None:
    async with only(queue, "gpu-1"):
        task_id = await queue.submit(folder, "job", seconds=2.5)
        await until(queue, task_id, computes)
        assert json.loads((await asyncio.to_thread(sonic_queue, bridge, "drain", "gpu-1", "--json")).stdout)["running"]
        await asyncio.sleep(0.5)
        record = await queue.view.job(task_id)
        assert record
        assert record.owner == "gpu-1", "it has its grace"
    try:  # the others take jobs again
        stopped = time.monotonic()
        await queue.store.drain("gpu-1", 0.0)
        record = await until(queue, task_id, lambda record: record.owner == "gpu-2")
        assert time.monotonic() - stopped < 2.0
        later = await queue.submit(folder, "later")
        records = await queue.ended(task_id, later)
    finally:
        await queue.store.undrain("gpu-1")
    record = records[task_id]
    assert (record.state, record.attempt, record.failures, record.crashes) == (State.COMPLETED, 1, 0, 0)
    assert {(one.result or {})["instance"] for one in records.values()} == {"gpu-2"}
    causes = [event["cause"] for event in await queue.events_of(task_id) if event["cause"] != "progress"]
    assert causes == ["submitted", "claimed", "drained", "claimed", "staged", "completed"]


@pytest.mark.skipif(os.name != "posix", reason="there are no such signals here")
async def test_sigterm_gives_a_long_job_back_after_the_grace_and_another_server_finishes_it(
    bridge: Bridge, queue: BridgeQueue, comfyui_path: Path, folder: Path, tmp_path: Path
) -> None:
    with third_server(bridge, comfyui_path, tmp_path, SONIC_QUEUE_GRACE_S="1") as third:
        assert third.process
        async with only(queue, "gpu-3"):
            task_id = await queue.submit(folder, "job", seconds=6.0)
            await until(queue, task_id, computes)
        told = time.monotonic()
        third.process.send_signal(signal.SIGTERM)
        await until(queue, task_id, lambda record: record.owner in NAMES)
        assert time.monotonic() - told < bridge.settings.lease_s - 1, "not only when the lease has run out"
        assert await asyncio.to_thread(third.process.wait, 10) == 0
        assert "gpu-3" not in {one["name"] for one in await queue.view.instances()}
        record = (await queue.ended(task_id))[task_id]
    assert (record.state, record.attempt, record.failures, record.crashes) == (State.COMPLETED, 1, 0, 0)
    assert "Traceback" not in third.log_file.read_text(encoding="utf-8")


@pytest.mark.skipif(os.name != "posix", reason="there are no such signals here")
async def test_sigterm_lets_a_short_job_end_and_takes_no_other(
    bridge: Bridge, queue: BridgeQueue, comfyui_path: Path, folder: Path, tmp_path: Path
) -> None:
    with third_server(bridge, comfyui_path, tmp_path) as third:
        assert third.process
        async with only(queue, "gpu-3"):
            task_id = await queue.submit(folder, "job", seconds=2.0)
            waiting = await queue.submit(folder, "waiting", seconds=0.1)
            await until(queue, task_id, computes)
            third.process.send_signal(signal.SIGTERM)
            record = (await queue.ended(task_id))[task_id]
            assert (record.state, (record.result or {})["instance"]) == (State.COMPLETED, "gpu-3")
            assert await asyncio.to_thread(third.process.wait, 10) == 0
            assert (await queue.view.jobs([waiting]))[waiting].attempt == 0
        assert (await queue.ended(waiting))[waiting].state is State.COMPLETED


@pytest.mark.skipif(os.name != "posix", reason="there are no such signals here")
async def test_sigterm_ends_an_idle_server_at_once_and_it_leaves_the_queue(
    bridge: Bridge, queue: BridgeQueue, comfyui_path: Path, tmp_path: Path
) -> None:
    with third_server(bridge, comfyui_path, tmp_path) as third:
        assert third.process
        deadline = time.monotonic() + WAIT_S
        while "gpu-3" not in {one["name"] for one in await queue.view.instances()}:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        told = time.monotonic()
        third.process.send_signal(signal.SIGTERM)
        while "gpu-3" in {one["name"] for one in await queue.view.instances()}:
            assert time.monotonic() - told < 1.0
            await asyncio.sleep(0.02)
        assert await asyncio.to_thread(third.process.wait, 10) == 0, "Python's own end takes most of this time"
