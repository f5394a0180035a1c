"""Videos that are removed by age: only when asked, and only what the queue itself has put in its place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.execution.old_results import A_CALL, OldResults
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.places.job_files import JobFiles
from comfyui_sonic.queue_bridge.places.job_places import JobPlaces
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.store import Store, Submission

DAY_S = 24 * 3600.0


@dataclass
class Shop:
    """A queue whose videos are kept for so many days, and the folder where they appear."""

    url: str
    folder: Path
    days: float = 10.0
    now_s: float = 1_800_000_000.0
    store: Store = field(init=False)

    def __post_init__(self) -> None:
        settings = Settings(url=self.url, queue=f"results-{new_job_id()}", results_days=self.days)
        self.store = Store(connect(self.url), settings, clock=lambda: self.now_s)

    async def make(self, name: str, content: bytes = b"video") -> Path:
        """One job from its submission to its committed video."""
        files = self.files()
        place = self.folder / name
        uris = ("file:///a.png", "file:///a.wav", place.as_uri())
        await self.store.register(Identity("a", "boot"))
        await self.store.submit([Submission(JobSpec(new_job_id(), *uris), 512)])
        job = await self.store.claim("a", "boot", ("512",))
        assert isinstance(job, JobRecord)
        produced = files.output_directory / "made.mp4"
        produced.write_bytes(content)
        staged = files.stage(produced, job.spec, job.token)
        await self.store.stage(job, staged)
        assert files.publish(staged)
        await self.store.complete(job, {"output": str(place)})
        return place

    def files(self, root: Path | None = None) -> JobFiles:
        comfyui = self.folder.parent / "comfyui"
        return JobFiles([root or self.folder], comfyui / "input", comfyui / "output")

    async def sweep(self, root: Path | None = None) -> int:
        return await OldResults(self.store, JobPlaces(self.files(root))).sweep()


@pytest.fixture
async def shop(redis_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    (tmp_path / "orders").mkdir()
    made = Shop(redis_url, tmp_path / "orders")
    yield made
    await made.store.close()


async def test_a_video_goes_when_its_time_is_over_and_a_younger_one_stays(shop: Shop) -> None:
    old = await shop.make("安娜.mp4")
    shop.now_s += 6 * DAY_S
    young = await shop.make("young.mp4")
    assert await shop.sweep() == 0
    shop.now_s += 5 * DAY_S
    assert await shop.sweep() == 1
    assert (old.exists(), young.exists()) == (False, True)
    assert await shop.sweep() == 0
    assert await shop.store.client.zcard(shop.store.keys.results) == 1


async def test_a_file_that_somebody_put_there_instead_is_never_removed(shop: Shop) -> None:
    changed, linked, gone = [await shop.make(f"{name}.mp4") for name in ("changed", "linked", "gone")]
    changed.write_bytes(b"VIDEO")  # as long as ours
    own = shop.folder / "own.mp4"
    linked.rename(own)
    linked.symlink_to(own)
    gone.unlink()
    beside = shop.folder / "beside.mp4"
    beside.write_bytes(b"video")
    shop.now_s += 11 * DAY_S
    assert await shop.sweep() == 0
    assert changed.read_bytes() == b"VIDEO"
    assert own.exists()
    assert beside.exists()
    assert await shop.store.client.zcard(shop.store.keys.results) == 0, "nor looked at again"


async def test_a_video_made_again_in_the_same_place_is_kept_from_then_on(shop: Shop) -> None:
    await shop.make("a.mp4")
    shop.now_s += 9 * DAY_S
    place = await shop.make("a.mp4")
    shop.now_s += 9 * DAY_S
    assert await shop.sweep() == 0
    assert place.exists()
    shop.now_s += 2 * DAY_S
    assert await shop.sweep() == 1


async def test_what_lies_outside_ones_folders_is_left_to_another_instance(shop: Shop, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    places = [await shop.make(f"{number}.mp4") for number in range(A_CALL + 5)]
    shop.now_s += 11 * DAY_S
    assert await shop.sweep(root=elsewhere) == 0
    assert all(place.exists() for place in places)
    assert await shop.sweep() == A_CALL + 5
    assert not any(place.exists() for place in places)


async def test_without_the_setting_nothing_is_remembered_of_places(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "orders").mkdir()
    shop = Shop(redis_url, tmp_path / "orders", days=0.0)
    await shop.make("a.mp4")
    assert await shop.store.client.exists(shop.store.keys.results, shop.store.keys.result_files) == 0
    await shop.store.close()
