"""A video that falls short is made once more with another seed, and then delivered with what is wrong said."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.states import State

from .bridge_fixture import Bridge, BridgeQueue

pytestmark = pytest.mark.slow


@pytest.fixture
async def queue(bridge: Bridge) -> AsyncIterator[BridgeQueue]:
    async with bridge.queue() as queue:
        yield queue


@pytest.fixture
def folder(bridge: Bridge, request: pytest.FixtureRequest) -> Path:
    place = bridge.orders / request.node.name.replace("[", "_").replace("]", "_")
    place.mkdir(parents=True)
    return place


def seeds(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "job.tally").read_text().splitlines()]


async def test_a_good_video_is_delivered_with_its_report_beside_it(queue: BridgeQueue, folder: Path) -> None:
    task_id = await queue.submit(folder, workflow="rated", seed=3)
    record = (await queue.ended(task_id))[task_id]
    assert (record.state, record.redraws, seeds(folder)) == (State.COMPLETED, 0, [3])
    assert record.result and record.result["quality"]["falls_short"] == []
    kept = json.loads((folder / "job.quality.json").read_text(encoding="utf-8"))
    assert kept == record.result["quality"] and kept["frames"] == 12
    assert not list(folder.glob(".*"))


async def test_another_seed_is_tried_once_and_makes_it_good(queue: BridgeQueue, folder: Path) -> None:
    task_id = await queue.submit(folder, workflow="rated", seed=3, good_from=4)
    record = (await queue.ended(task_id))[task_id]
    assert (record.state, record.redraws, record.failures, seeds(folder)) == (State.COMPLETED, 1, 0, [3, 4])
    assert record.result and record.result["quality"]["falls_short"] == []
    assert "No face is seen in 12 of 12 frames." in record.history[0]["error"]
    causes = [event["cause"] for event in await queue.events_of(task_id) if event.get("cause")]
    assert causes.count("another seed") == 1


async def test_one_that_falls_short_twice_is_delivered_and_says_so(queue: BridgeQueue, folder: Path) -> None:
    task_id = await queue.submit(folder, workflow="rated", seed=2**64 - 1, good_from=2**63 - 1)
    record = (await queue.ended(task_id))[task_id]
    assert record.state is State.COMPLETED  # the last seed is good; the one before it was not needed
    task_id = await queue.submit(folder, "bad", workflow="rated", seed=3, good_from=100)
    record = (await queue.ended(task_id))[task_id]
    assert (record.state, record.redraws, record.attempt) == (State.COMPLETED, 1, 2)
    assert record.result and record.result["quality"]["falls_short"] == ["No face is seen in 12 of 12 frames."]
    assert (folder / "bad.mp4").exists() and (folder / "bad.quality.json").exists()


async def test_the_videos_of_draft_are_not_measured_unless_that_is_wanted(queue: BridgeQueue, folder: Path) -> None:
    task_id = await queue.submit(folder, workflow="rated", seed=3, good_from=100, engine="draft")
    record = (await queue.ended(task_id))[task_id]
    assert (record.state, record.redraws, seeds(folder)) == (State.COMPLETED, 0, [3])
    assert record.result and "quality" not in record.result
    assert not (folder / "job.quality.json").exists()
