"""The job that an instance has ready to start next, on a real server: what others see of it, and when it is theirs."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from comfyui_sonic.queue_bridge.execution.ahead import Ahead
from comfyui_sonic.queue_bridge.execution.comfy_client import ComfyClient
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, Priority, new_job_id
from comfyui_sonic.queue_bridge.pipelines.templates import SHIPPED, load_templates
from comfyui_sonic.queue_bridge.places.job_files import JobFiles
from comfyui_sonic.queue_bridge.places.job_places import JobPlaces
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.store import Idle, Submission
from comfyui_sonic.queue_bridge.states import State
from comfyui_sonic.queue_bridge.web_address import Reach
from comfyui_sonic.sonic.errors import BadPortrait

from .test_store import LANES, Bench, bench

__all__ = ["bench"]


async def set_aside(bench: Bench, name: str = "a", lanes: tuple[str, ...] = LANES) -> JobRecord | None:
    return await bench.store.set_aside(name, bench.boots[name], lanes)


async def test_a_job_that_is_set_aside_stays_queued_and_is_the_next_one_of_its_instance(bench: Bench) -> None:
    first, second = await bench.submit(2)
    found = await set_aside(bench)
    assert found
    assert (found.task_id, found.state, found.token, found.attempt) == (first, State.QUEUED, 0, 0)
    assert (await bench.view.counts()).queued == 2
    started = await bench.claim()
    assert (started.task_id, started.token) == (first, found.token + 1)
    assert (await bench.claim("b")).task_id == second


async def test_asking_again_sets_nothing_more_aside(bench: Bench) -> None:
    first, second = await bench.submit(2)
    assert [(await set_aside(bench)).task_id for _ in range(3)] == [first] * 3  # type: ignore[union-attr]
    assert (await bench.claim("b")).task_id == second


async def test_two_instances_set_different_jobs_aside_and_each_starts_its_own(bench: Bench) -> None:
    jobs = await bench.submit(4)
    for name in ("a", "b"):
        await set_aside(bench, name)
    assert [(await bench.claim(name)).task_id for name in ("b", "a")] == [jobs[1], jobs[0]]


async def test_a_priority_job_that_comes_meanwhile_starts_before_it(bench: Bench) -> None:
    (normal,) = await bench.submit()
    await set_aside(bench)
    (urgent,) = await bench.submit(priority="priority")
    now = await set_aside(bench)
    assert now
    assert now.task_id == urgent
    started = await bench.claim()
    assert (started.task_id, started.attempt) == (urgent, 1)
    later = await bench.claim()
    assert (later.task_id, later.attempt) == (normal, 1)


async def test_looking_ahead_takes_no_turn_from_either_class(bench: Bench) -> None:
    await bench.submit(40)
    await bench.submit(40, priority="priority")
    order = []
    for _ in range(30):
        for _ in range(3):
            await set_aside(bench)
        order.append((await bench.claim()).spec.priority)
    assert order.count("normal") == 3
    assert order[:9] == ["priority"] * 9


async def test_an_idle_instance_takes_it_when_there_is_nothing_else(bench: Bench) -> None:
    (only,) = await bench.submit()
    await set_aside(bench)
    assert (await bench.claim("b")).task_id == only
    assert await set_aside(bench) is None


async def test_it_is_passed_over_three_times_and_then_taken_by_whoever_comes(bench: Bench) -> None:
    """So a long job of one instance holds up no other job for longer than three starts elsewhere."""
    jobs = await bench.submit(8)
    await set_aside(bench)
    taken = [(await bench.claim("b")).task_id for _ in range(5)]
    assert taken == [jobs[1], jobs[2], jobs[3], jobs[0], jobs[4]]


async def test_it_is_anybodys_as_soon_as_its_instance_is_dead_and_no_crash_is_counted(bench: Bench) -> None:
    first, _ = await bench.submit(2)
    await set_aside(bench)
    await bench.store.client.delete(bench.store.keys.instance("a"))  # as when its registration runs out
    started = await bench.claim("b")
    assert (started.task_id, started.attempt, started.crashes) == (first, 1, 0)


async def test_a_successor_of_the_same_name_does_not_inherit_it(bench: Bench) -> None:
    first, second = await bench.submit(2)
    await set_aside(bench)
    await bench.register("a", "boot-2", predecessor_is_dead=True)
    assert (await bench.claim("b")).task_id == first
    assert (await bench.claim("a")).task_id == second


async def test_what_is_set_aside_is_anybodys_when_its_instance_is_to_take_no_job(bench: Bench) -> None:
    first, second = await bench.submit(2)
    await set_aside(bench)
    await bench.store.drain("a", 60.0)
    assert await set_aside(bench) is None
    assert [(await bench.claim("b")).task_id for _ in range(2)] == [first, second]


async def test_an_instance_that_leaves_lets_its_next_job_go(bench: Bench) -> None:
    first, second = await bench.submit(2)
    await set_aside(bench)
    await bench.store.let_go("a", bench.boots["a"])
    assert [(await bench.claim("b")).task_id for _ in range(2)] == [first, second]
    assert await bench.store.client.hget(bench.store.keys.job(first), "ahead") is None


async def test_a_job_that_is_set_aside_can_be_cancelled_and_put_back(bench: Bench) -> None:
    first, second = await bench.submit(2)
    await set_aside(bench)
    assert await bench.store.cancel([first]) == {first: "cancelled"}
    assert (await set_aside(bench)).task_id == second  # type: ignore[union-attr]
    assert await bench.store.restart(first) == "ok"
    assert (await bench.view.counts()).queued == 2
    assert [(await bench.claim(name)).task_id for name in ("b", "a")] == [first, second]


async def test_a_job_of_another_lane_is_not_set_aside(bench: Bench) -> None:
    await bench.submit(tier=1024)
    assert await set_aside(bench, lanes=("512",)) is None


async def test_a_job_found_at_fault_fails_before_its_start(bench: Bench) -> None:
    broken, good = await bench.submit(2)
    found = await set_aside(bench)
    assert found
    assert await bench.store.refuse(found, "a", "The sound is empty.")
    assert await bench.store.refuse(found, "a", "The sound is empty."), "the call may be repeated"
    record = await bench.view.job(broken)
    assert record
    assert (record.state, record.error, record.attempt) == (State.FAILED, "The sound is empty.", 0)
    assert (await bench.claim()).task_id == good
    assert isinstance(await bench.ask(), Idle)


async def test_a_job_that_another_has_started_meanwhile_is_not_refused(bench: Bench) -> None:
    (only,) = await bench.submit()
    found = await set_aside(bench)
    assert found
    assert (await bench.claim("b")).task_id == only
    assert not await bench.store.refuse(found, "a", "The sound is empty.")
    assert await bench.state(only) is State.RUNNING


async def test_an_instance_that_dies_before_the_prompt_has_begun_is_no_crash_of_the_job(bench: Bench) -> None:
    (only,) = await bench.submit()
    for _ in range(5):
        job = await bench.claim()
        await bench.store.progress(job, 0.5, "Waiting", None)
        bench.clock.pass_s(31)
        await bench.store.tend()
    record = await bench.view.job(only)
    assert record
    assert (record.state, record.attempt, record.crashes, record.history) == (State.QUEUED, 0, 0, ())


# --- making it ready --------------------------------------------------------------------------------------------------


def check_picture(path: Path) -> None:
    if path.read_bytes() == b"broken":
        raise BadPortrait("The picture is damaged.")


@dataclass
class Desk:
    """An instance that looks ahead, and a folder with orders."""

    bench: Bench
    ahead: Ahead
    files: JobFiles
    orders: Path

    async def submit(
        self,
        name: str = "a",
        *,
        picture: bytes = b"picture",
        folder: str = ".",
        priority: Priority = "normal",
        image: str = "",
        **config: int,
    ) -> str:
        place = self.orders / folder
        place.mkdir(exist_ok=True)
        (place / f"{name}.png").write_bytes(picture)
        (place / f"{name}.wav").write_bytes(b"sound")
        places = [(place / f"{name}.{suffix}").as_uri() for suffix in ("png", "wav", "mp4")]
        places[0] = image or places[0]
        spec = JobSpec(new_job_id(), *places, config=config, priority=priority)
        (answer,) = await self.bench.store.submit([Submission(spec, 512)])
        return answer.task_id

    @contextlib.asynccontextmanager
    async def looking(self, until: Callable[[], bool]) -> AsyncIterator[None]:
        """While another job runs, and until something has come of it."""
        current = JobRecord.spoilt({"class": "pending"}, "current", "")
        looking = asyncio.create_task(self.ahead.look(lambda: False, lambda: None, current))
        try:
            async with asyncio.timeout(10):
                while not until():
                    await asyncio.sleep(0.01)
            yield
        finally:
            looking.cancel()

    def copies(self) -> list[str]:
        return sorted(name for _, _, names in os.walk(self.files.input_directory) for name in names)

    async def eventually(self, task_id: str, state: State) -> JobRecord:
        async with asyncio.timeout(10):
            while (found := (await self.bench.view.jobs([task_id]))[task_id]).state is not state:
                await asyncio.sleep(0.01)
        return found


@pytest.fixture
def desk(bench: Bench, tmp_path: Path) -> Desk:
    orders = tmp_path / "orders"
    orders.mkdir()
    files = JobFiles([orders], tmp_path / "input", tmp_path / "output")
    places = JobPlaces(files, reach=Reach(private_hosts=("127.0.0.1",)))
    templates = load_templates([SHIPPED])
    checks = {"SONIC_LoadPortrait": check_picture}
    client = ComfyClient("127.0.0.1:1")  # never asked: over HTTP nothing is known of a graph before it runs
    ahead = Ahead(bench.store, Identity("a", "boot-1"), places, templates, client, LANES, checks)
    return Desk(bench, ahead, files, orders)


async def test_its_files_are_there_when_its_turn_comes(desk: Desk) -> None:
    await desk.submit()
    async with desk.looking(lambda: len(desk.copies()) == 2):
        pass
    job = await desk.bench.claim()
    ready = await desk.ahead.take(job)
    assert ready
    assert (desk.files.input_directory / ready.files["image"]).read_bytes() == b"picture"
    assert await desk.ahead.take(job) is None, "they are handed out once"
    desk.files.folders.remove(job.task_id, job.token)
    assert desk.copies() == []


async def test_a_picture_that_was_replaced_meanwhile_is_copied_again(desk: Desk) -> None:
    await desk.submit()
    async with desk.looking(lambda: len(desk.copies()) == 2):
        pass
    (desk.orders / "a.png").write_bytes(b"a better picture")
    assert await desk.ahead.take(await desk.bench.claim()) is None


@pytest.fixture
async def slow_shop() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """The address of a picture that never ends, and whether its reader has gone."""
    gone = asyncio.Event()

    async def picture(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/png"})
        await response.prepare(request)
        try:
            while True:
                await response.write(b"picture")
                await asyncio.sleep(0.01)
        finally:
            gone.set()

    application = web.Application()
    application.router.add_get("/a.png", picture)
    async with TestServer(application, host="127.0.0.1") as server:
        yield str(server.make_url("/a.png")), gone


@pytest.fixture
async def shop() -> AsyncIterator[tuple[str, list[str]]]:
    """The address of a picture, and what has been asked for."""
    asked: list[str] = []

    async def picture(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(body=b"picture", content_type="image/png")

    application = web.Application()
    application.router.add_get("/anna.png", picture)
    async with TestServer(application, host="127.0.0.1") as server:
        yield str(server.make_url("/anna.png")), asked


async def test_a_download_ends_when_its_job_is_let_go(desk: Desk, slow_shop: tuple[str, asyncio.Event]) -> None:
    address, gone = slow_shop
    waiting = await desk.submit(image=address)
    async with desk.looking(lambda: bool(desk.copies())):
        pass
    async with asyncio.timeout(2):
        await desk.ahead.close()
        await gone.wait()
    assert desk.copies() == []
    assert await desk.bench.state(waiting) is State.QUEUED


async def test_files_that_were_let_go_are_not_removed_under_the_start_that_fetches_them_anew(desk: Desk) -> None:
    await desk.submit()
    async with desk.looking(lambda: len(desk.copies()) == 2):
        pass
    desk.ahead._make_ready(None)  # another job was to be next for a moment
    job = await desk.bench.claim()
    assert await desk.ahead.take(job) is None
    files = await desk.ahead._places.fetch(job.spec, job.token)
    await asyncio.sleep(0.1)
    assert (desk.files.input_directory / files["image"]).read_bytes() == b"picture"


async def test_a_picture_from_the_web_is_fetched_once(desk: Desk, shop: tuple[str, list[str]]) -> None:
    address, asked = shop
    await desk.submit(image=address)
    async with desk.looking(lambda: len(desk.copies()) == 2):
        pass
    ready = await desk.ahead.take(await desk.bench.claim())
    assert ready
    assert (desk.files.input_directory / ready.files["image"]).read_bytes() == b"picture"
    assert asked == ["/anna.png"]


async def test_a_damaged_picture_fails_the_job_and_the_one_behind_it_is_made_ready_at_once(desk: Desk) -> None:
    broken = await desk.submit("broken", picture=b"broken")
    await desk.submit("good")
    async with desk.looking(lambda: desk.copies() == ["good.png", "good.wav"]):
        record = await desk.eventually(broken, State.FAILED)
    assert (record.error, record.error_kind, record.attempt) == ("The picture is damaged.", "bad input", 0)


async def test_a_wrong_parameter_fails_the_job_before_its_start(desk: Desk) -> None:
    wrong = await desk.submit(inference_steps=5000)
    async with desk.looking(lambda: True):
        record = await desk.eventually(wrong, State.FAILED)
    assert record.error == "config.inference_steps: 5000 is outside 1 to 100."


async def test_a_folder_that_is_away_is_left_to_the_start(desk: Desk) -> None:
    waiting = await desk.submit("a", folder="drive")
    (desk.orders / "drive").rename(desk.orders / "away")
    async with desk.looking(lambda: True):
        await asyncio.sleep(0.3)
    assert await desk.bench.state(waiting) is State.QUEUED
    assert await desk.ahead.take(await desk.bench.claim()) is None


async def test_nothing_is_set_aside_when_that_is_turned_off(desk: Desk) -> None:
    waiting = await desk.submit()
    desk.bench.store.settings = replace(desk.bench.settings, prefetch=0)
    async with desk.looking(lambda: True):
        await asyncio.sleep(0.3)
    assert desk.copies() == []
    assert await desk.bench.store.client.hget(desk.bench.store.keys.job(waiting), "ahead") is None


async def test_a_priority_job_is_made_ready_instead_and_the_first_copies_go(desk: Desk) -> None:
    await desk.submit("normal")
    async with desk.looking(lambda: desk.copies() == ["normal.png", "normal.wav"]):
        pass
    urgent = await desk.submit("urgent", priority="priority")
    async with desk.looking(lambda: desk.copies() == ["urgent.png", "urgent.wav"]):
        pass
    job = await desk.bench.claim()
    assert job.task_id == urgent
    assert await desk.ahead.take(job)
