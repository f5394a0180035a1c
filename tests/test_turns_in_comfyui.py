"""One real ComfyUI between the queue and the people at its browser, and the next job while one runs."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.execution.comfy_client import ComfyClient
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, Priority, new_job_id
from comfyui_sonic.queue_bridge.queue.store import Submission
from comfyui_sonic.queue_bridge.servers.instance import Instance, install_pack
from comfyui_sonic.queue_bridge.states import State

from .bridge_fixture import ROOT, Bridge, BridgeQueue, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
NAME = "alone"


@pytest.fixture(scope="module")
def server(comfyui_path: Path, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    """One server on a queue of its own, so that it is known who runs what."""
    directory = tmp_path_factory.mktemp("turns")
    orders = directory / "orders"
    orders.mkdir()
    queue = f"turns-{new_job_id()}"
    instance = Instance(comfyui_path, directory / NAME, environment=environment(redis_url, queue, NAME, orders))
    install_pack(ROOT, instance.base_directory / "custom_nodes")
    install_pack(ROOT / "tests" / "comfyui_pack", instance.base_directory / "custom_nodes", "test_nodes")
    with instance:
        yield Bridge({NAME: instance}, orders, Settings(url=redis_url, queue=queue, lease_s=6.0, heartbeat_s=1.0))


@pytest.fixture
async def queue(server: Bridge) -> AsyncIterator[BridgeQueue]:
    async with server.queue() as opened:
        yield opened


@pytest.fixture
async def browser(server: Bridge) -> AsyncIterator[ComfyClient]:
    async with ComfyClient(server.instances[NAME].address) as client:
        yield client


class Line:
    """Jobs and prompts of one test that write down when they ran."""

    def __init__(self, queue: BridgeQueue, browser: ComfyClient, folder: Path) -> None:
        self.queue = queue
        self.browser = browser
        self.folder = folder
        self.marks = folder / "marks"

    async def job(self, name: str, seconds: float = 0.3, priority: Priority = "normal") -> str:
        for file in ("a.png", "a.wav"):
            (self.folder / file).write_bytes(b"not looked into")
        places = [(self.folder / file).as_uri() for file in ("a.png", "a.wav", f"{name}.mp4")]
        config = {"marks": str(self.marks), "name": name, "seconds": seconds}
        spec = JobSpec(new_job_id(), *places, name=name, priority=priority, workflow="marks", config=config)
        (answer,) = await self.queue.store.submit([Submission(spec, 512)])
        return answer.task_id

    async def prompt(self, name: str, seconds: float = 0.3) -> str:
        inputs: dict[str, Any] = {"marks": str(self.marks), "name": name, "seconds": seconds}
        graph = {"m": {"class_type": "TEST_Marks", "inputs": {"filename_prefix": f"browser/{name}", **inputs}}}
        return await self.browser.submit(graph)

    async def record(self, task_id: str) -> JobRecord:
        record = await self.queue.view.job(task_id)
        assert record
        return record

    async def until(self, task_id: str, state: State, stage: str | None = None) -> JobRecord:
        async with asyncio.timeout(30):
            while True:
                record = await self.record(task_id)
                if record.state is state and stage in (None, record.stage):
                    return record
                await asyncio.sleep(0.02)

    async def ran(self, count: int) -> list[str]:
        """The names in the order in which they ran, once there are so many."""
        async with asyncio.timeout(60):
            while not self.marks.exists() or len(self.marks.read_text().splitlines()) < count:
                await asyncio.sleep(0.05)
        return [line.split()[0] for line in self.marks.read_text().splitlines()]


@pytest.fixture
def line(queue: BridgeQueue, browser: ComfyClient, server: Bridge, request: pytest.FixtureRequest) -> Line:
    folder = server.orders / request.node.name
    folder.mkdir()
    return Line(queue, browser, folder)


async def test_the_queue_and_the_browser_take_turns_when_both_have_much_to_do(line: Line) -> None:
    jobs = [await line.job(f"job{number}") for number in range(6)]
    await line.until(jobs[0], State.RUNNING)
    for number in range(6):
        await line.prompt(f"local{number}")
    order = "".join(name[0] for name in await line.ran(12))
    assert order.strip("jl") == ""
    first = order.index("l")
    assert first <= 2, "the first prompt of the browser does not wait for the batch"
    assert order[first:].startswith("ljljljlj"), order


async def test_one_prompt_of_the_browser_runs_after_the_job_at_hand(line: Line) -> None:
    jobs = [await line.job(f"job{number}") for number in range(6)]
    await line.until(jobs[0], State.RUNNING)
    await line.prompt("local")
    assert (await line.ran(7)).index("local") <= 2


async def test_jobs_run_one_after_another_and_in_their_order(line: Line) -> None:
    for number in range(8):
        await line.job(f"{number}", seconds=0.1)
    assert await line.ran(8) == [str(number) for number in range(8)]
    spans = [tuple(map(float, one.split()[1:])) for one in line.marks.read_text().splitlines()]
    gaps = [later[0] - earlier[1] for earlier, later in itertools.pairwise(spans)]
    assert min(gaps) >= 0
    assert statistics.median(gaps) < 0.1


async def test_a_priority_job_starts_before_the_one_that_is_ready(line: Line) -> None:
    running = await line.job("running", seconds=3.0)
    ready = await line.job("ready")
    await line.until(running, State.RUNNING)
    key = line.queue.store.keys.job(ready)
    async with asyncio.timeout(5):
        while await line.queue.store.client.hget(key, "ahead") != NAME:
            await asyncio.sleep(0.02)
    assert (await line.record(ready)).state is State.QUEUED
    await line.job("urgent", priority="priority")
    assert await line.ran(3) == ["running", "urgent", "ready"]
    record = await line.until(ready, State.COMPLETED)
    assert (record.attempt, record.failures, record.crashes) == (1, 0, 0)


async def test_a_priority_job_goes_before_a_job_that_waits_behind_the_browser(line: Line) -> None:
    """The job is in ComfyUI's own queue already; it is taken out of it and counts as never started."""
    opening = await line.job("opening", seconds=1.0)
    await line.until(opening, State.RUNNING, "Marks")  # else the browser would be before it
    for number in range(2):
        await line.prompt(f"local{number}", seconds=4.0)
    waiting = await line.job("waiting")
    await line.until(waiting, State.RUNNING, "Waiting")
    await line.job("urgent", priority="priority")
    assert await line.ran(5) == ["opening", "local0", "urgent", "local1", "waiting"]
    record = await line.until(waiting, State.COMPLETED)
    assert (record.attempt, record.failures, record.history) == (1, 0, ())


async def test_a_broken_sound_fails_its_job_while_another_one_still_runs(line: Line) -> None:
    running = await line.job("running", seconds=4.0)
    await line.until(running, State.RUNNING)
    picture = ROOT / "examples" / "batch" / "close_up.png"
    (line.folder / "broken.wav").write_bytes(b"no sound at all")
    (line.folder / "close_up.png").write_bytes(picture.read_bytes())
    places = [(line.folder / file).as_uri() for file in ("close_up.png", "broken.wav", "broken.mp4")]
    await line.queue.store.submit([Submission(spec := JobSpec(new_job_id(), *places), 512)])
    after = await line.job("after")
    record = await line.until(spec.task_id, State.FAILED)
    assert record.error == "'broken.wav' is not a sound that can be read; use a WAV, MP3, FLAC, OGG, M4A or video file."
    assert (record.error_kind, record.attempt) == ("bad input", 0)
    assert (await line.record(running)).state is State.RUNNING, "it was found beside the running job"
    assert (await line.until(after, State.COMPLETED)).attempt == 1


async def test_nothing_is_left_in_comfyuis_folders(line: Line, server: Bridge) -> None:
    jobs = [await line.job(f"job{number}", seconds=0.2) for number in range(3)]
    for job in jobs:
        await line.until(job, State.COMPLETED)
    await asyncio.sleep(0.5)
    instance = server.instances[NAME]
    left = [path for folder in (instance.input_directory, instance.output_directory) for path in folder.glob("sonic/*")]
    assert left == []
