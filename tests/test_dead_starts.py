"""What a start leaves on disk when its server is killed, and how it is found again."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.execution.dead_starts import UNKNOWN_S, DeadStarts
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.places.job_files import JobFiles
from comfyui_sonic.queue_bridge.places.job_places import JobPlaces
from comfyui_sonic.queue_bridge.places.start_folders import Owner
from comfyui_sonic.queue_bridge.quality_gate import write_report
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Store, Submission
from comfyui_sonic.queue_bridge.retry import Verdict
from comfyui_sonic.queue_bridge.states import State

from .object_store import ObjectStore

LANES = ("512",)


@dataclass
class Site:
    """One queue, and one ComfyUI's folders, in which servers live one after the other or side by side."""

    url: str
    folder: Path
    queue: str = field(default_factory=lambda: f"dead-{new_job_id()}")
    store: Store = field(init=False)
    view: QueueView = field(init=False)

    def __post_init__(self) -> None:
        self.store = Store(connect(self.url), Settings(url=self.url, queue=self.queue))
        self.view = QueueView(self.store.client, self.store.keys)
        for name in ("anna.png", "anna.wav"):
            (self.folder / name).write_bytes(b"hers")

    def files(self, boot: str, queue: str = "") -> JobFiles:
        owner = Owner.of(queue or self.queue, boot)
        return JobFiles([self.folder], self.folder / "input", self.folder / "output", owner)

    async def submit(self, name: str = "anna", output: str = "") -> str:
        image, audio = ((self.folder / f"anna.{suffix}").as_uri() for suffix in ("png", "wav"))
        place = output or (self.folder / "videos" / f"{name}.mp4").as_uri()
        (answer,) = await self.store.submit([Submission(JobSpec(new_job_id(), image, audio, place), 512)])
        return answer.task_id

    async def start(self, boot: str) -> JobRecord:
        """What a server does until it has a video: its files are copied, its prompt has saved one."""
        await self.store.register(Identity(boot, boot))
        job = await self.store.claim(boot, boot, LANES)
        assert isinstance(job, JobRecord)
        files = self.files(boot)
        files.copy_input(job.spec, job.token, "image", job.spec.image)
        video = self.video(job, boot)
        video.parent.mkdir(parents=True)
        video.write_bytes(b"video")
        return job

    def video(self, job: JobRecord, boot: str) -> Path:
        return self.files(boot).output_directory / f"{self.files(boot).output_prefix(job.spec, job.token)}.mp4"

    def lay(self, job: JobRecord, boot: str) -> dict[str, object]:
        return self.files(boot).stage(self.video(job, boot), job.spec, job.token)

    async def lose(self, job: JobRecord) -> None:
        """Its server has died, and the queue knows."""
        await self.store.settle(job, Verdict(State.QUEUED, "instance died"))

    async def start_again(self) -> JobRecord:
        """A start whose server died when it had laid its video, and the next one, which has laid its own."""
        first = await self.start(OLD)
        self.lay(first, OLD)
        await self.lose(first)
        second = await self.start(OTHER)
        self.lay(second, OTHER)
        return second

    async def sweep(self, boot: str) -> int:
        return await DeadStarts(self.view, JobPlaces(self.files(boot))).sweep()

    def left(self) -> list[str]:
        """The files in ComfyUI's folders, and beside the videos' places."""
        found = [path for part in ("input", "output", "videos") for path in (self.folder / part).rglob("*")]
        return sorted(path.name for path in found if path.is_file())


OLD, NEW, OTHER = "dddd000000000000", "aaaa000000000000", "bbbb000000000000"  # lives of servers


@pytest.fixture
async def site(redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    opened = Site(redis_url, tmp_path)
    yield opened
    await opened.store.close()


async def test_what_a_killed_server_left_is_removed_when_it_is_back(site: Site) -> None:
    await site.submit()
    job = await site.start(OLD)
    site.lay(job, OLD)
    assert site.left() == [f".{job.task_id}.1.part", "anna.png"]
    await site.lose(job)
    assert await site.sweep(NEW) == 1
    assert site.left() == []
    assert not any((site.folder / "input" / "sonic").iterdir()), "nor an empty folder"
    assert await site.sweep(NEW) == 0


async def test_a_start_that_runs_keeps_its_files_whoever_sweeps(site: Site) -> None:
    await site.submit()
    job = await site.start(OTHER)
    site.lay(job, OTHER)
    before = site.left()
    assert await site.sweep(NEW) == 0
    assert site.left() == before


async def test_a_later_start_keeps_what_is_its_own(site: Site) -> None:
    await site.submit()
    second = await site.start_again()
    assert await site.sweep(NEW) == 1
    assert site.left() == [f".{second.task_id}.2.part", "anna.png"]


async def test_what_was_laid_by_a_start_that_had_lost_its_job_without_knowing_it_is_removed(site: Site) -> None:
    """It was stopped, its job was done elsewhere, it went on, and was killed before it had heard of that."""
    await site.submit()
    asleep = await site.start(OLD)
    await site.lose(asleep)
    winner = await site.start(OTHER)
    staged = site.lay(winner, OTHER)
    await site.store.stage(winner, staged)
    assert site.files(OTHER).publish(staged)
    await site.store.complete(winner, {"output": staged["place"]})
    site.files(OTHER).folders.remove(winner.task_id, winner.token)
    site.lay(asleep, OLD)
    assert site.left() == [f".{asleep.task_id}.1.part", "anna.mp4", "anna.png"]
    assert await site.sweep(NEW) == 1
    assert site.left() == ["anna.mp4"]


async def test_a_chosen_video_stays_until_it_is_in_its_place(site: Site) -> None:
    await site.submit()
    job = await site.start(OLD)
    staged = site.lay(job, OLD)
    await site.store.stage(job, {**staged, "result": {}})
    await site.lose(job)
    assert await site.sweep(NEW) == 0
    assert site.files(NEW).publish(staged)
    await site.store.register(Identity(NEW, NEW))
    again = await site.store.claim(NEW, NEW, LANES)
    assert isinstance(again, JobRecord)
    await site.store.complete(again, {"output": staged["place"]})
    assert await site.sweep(NEW) == 1
    assert site.left() == ["anna.mp4"]


async def test_a_chosen_video_of_a_job_that_has_failed_is_there_for_a_retry_by_hand(site: Site) -> None:
    await site.submit()
    job = await site.start(OLD)
    await site.store.stage(job, {**site.lay(job, OLD), "result": {}})
    await site.store.settle(job, Verdict(State.FAILED, "instance died too often"))
    assert await site.sweep(NEW) == 1
    assert site.left() == [f".{job.task_id}.1.part"], "only the copies are gone"


@pytest.mark.parametrize(
    "verdict", [Verdict(State.FAILED, "instance died too often"), Verdict(State.CANCELLED, "cancelled")]
)
async def test_nothing_stays_of_a_job_that_has_ended_without_a_video(site: Site, verdict: Verdict) -> None:
    await site.submit()
    second = await site.start_again()
    await site.store.settle(second, verdict)
    assert await site.sweep(NEW) == 2
    assert site.left() == []


async def test_a_report_that_was_being_written_is_removed_with_the_rest(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.submit()
    job = await site.start(OLD)
    staged = site.lay(job, OLD)
    await site.store.stage(job, staged)
    assert site.files(OLD).publish(staged)
    with monkeypatch.context() as killed:
        killed.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        killed.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            write_report(Path(str(staged["place"])), {"sync": 1}, job.task_id)
    assert any(".report." in name for name in site.left())
    await site.store.complete(job, {"output": staged["place"]})
    assert await site.sweep(NEW) == 1
    assert site.left() == ["anna.mp4"]


async def test_folders_of_another_queue_of_unknown_jobs_and_of_people_stay(site: Site) -> None:
    spec = JobSpec("unknown", *[(site.folder / f"anna.{suffix}").as_uri() for suffix in ("png", "wav", "mp4")])
    site.files(OLD, queue="another").copy_input(spec, 1, "image", spec.image)
    site.files(OLD).copy_input(spec, 2, "image", spec.image)
    own = site.folder / "output" / "sonic" / "unknown" / "3-takes"
    own.mkdir(parents=True)
    (own / "mine.mp4").write_bytes(b"mine")
    assert await site.sweep(NEW) == 0
    assert site.left() == ["anna.png", "anna.png", "mine.mp4"]

    long_ago = time.time() - UNKNOWN_S - 1
    for folder in (site.folder / "input" / "sonic" / "unknown").iterdir():
        os.utime(folder, (long_ago, long_ago))
    os.utime(own, (long_ago, long_ago))
    assert await site.sweep(NEW) == 1, "its record is no longer kept"
    assert site.left() == ["anna.png", "mine.mp4"]


async def test_what_was_made_ready_for_a_start_to_come_stays_while_somebody_may_want_it(site: Site) -> None:
    task_id = await site.submit()
    record = await site.view.job(task_id)
    assert record
    site.files(OTHER).copy_input(record.spec, record.token + 1, "image", record.spec.image)
    assert await site.sweep(NEW) == 0
    job = await site.start(NEW)
    await site.store.settle(job, Verdict(State.CANCELLED, "cancelled"))
    assert await site.sweep("cccc000000000000") == 2


async def test_what_was_uploaded_beside_a_video_in_an_object_store_is_removed(
    site: Site, object_store: ObjectStore
) -> None:
    await site.submit(output="s3://videos/dead/anna.mp4")
    job = await site.start(OLD)
    places = JobPlaces(site.files(OLD), object_store.storage())
    await places.stage(site.video(job, OLD), job.spec, job.token)
    laid = f"dead/.sonic-{job.task_id}/1.part"
    assert laid in object_store.keys("videos")
    await site.lose(job)
    assert await DeadStarts(site.view, JobPlaces(site.files(NEW), object_store.storage())).sweep() == 1
    assert laid not in object_store.keys("videos")
