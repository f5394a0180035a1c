"""A job as clients write it and as the queue keeps it."""

from __future__ import annotations

from typing import Any

import pytest
from comfyui_sonic.queue_bridge.errors import BadJob
from comfyui_sonic.queue_bridge.job import JobSpec, new_job_id
from comfyui_sonic.queue_bridge.tiers import lane_of, lanes_of, lower_tier, tier_of, tier_of_lane

GOOD = {"image": "file:///a.png", "audio": "file:///a.wav", "output": "file:///a.mp4"}


def test_a_job_survives_its_json() -> None:
    config = {"seed": 0, "crop": "x", "on": True}
    spec = JobSpec.parse({**GOOD, "name": "声音", "config": config, "priority": "priority"})
    assert JobSpec.from_json(spec.to_json()) == spec


def test_image_url_and_audio_url_are_other_names_of_image_and_audio() -> None:
    spec = JobSpec.parse({"image_url": "file:///a.png", "audio_url": "file:///a.wav", "output": "file:///a.mp4"})
    assert (spec.image, spec.audio) == ("file:///a.png", "file:///a.wav")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": ""}, "image: is missing."),
        ({"image_url": "file:///b.png"}, "image: is given twice, as image and as image_url."),
        ({"audio": 3}, "audio: is no text."),
        ({"prio": "high"}, "prio: is no field of a job; "),
        ({"priority": "high"}, "priority: 'high' is not one of normal, priority."),
        ({"task_id": "../x"}, "task_id: takes up to 100 letters"),
        ({"config": []}, None),
        ({"config": [1]}, "config: is no object"),
        ({"config": {"a": {}}}, "config.a: is no number, text, true or false."),
    ],
)
def test_a_wrong_field_is_one_sentence(change: dict[str, Any], words: str | None) -> None:
    if words is None:
        JobSpec.parse({**GOOD, **change})
        return
    with pytest.raises(BadJob) as raised:
        JobSpec.parse({**GOOD, **change})
    assert str(raised.value).startswith(words)


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_what_is_no_json_object_is_no_job(text: str) -> None:
    with pytest.raises(BadJob):
        JobSpec.from_json(text)


def test_ids_are_dated_and_do_not_repeat() -> None:
    ids = {new_job_id() for _ in range(10_000)}
    assert len(ids) == 10_000
    assert all(one.startswith("tsk_20") for one in ids)


def test_a_job_belongs_to_the_smallest_tier_that_holds_it() -> None:
    assert [tier_of(side) for side in (256, 512, 576, 768, 832, 1024, 1536)] == [512, 512, 768, 768, 1024, 1024, 1024]
    assert [lower_tier(tier) for tier in (1024, 768, 512)] == [768, 512, None]


def test_an_instance_serves_every_lane_of_its_tiers_and_engines_and_no_other() -> None:
    assert lane_of(768, "auto") == lane_of(768, "draft") == "768"
    assert lanes_of([768, 512], ["draft"]) == ("512", "768")
    assert lanes_of([512], ["draft", "sonic"]) == ("512", "512-sonic")
    assert lane_of(512, "sonic") not in lanes_of([512], ["draft"])
    assert tier_of_lane(lane_of(1024, "sonic")) == 1024
