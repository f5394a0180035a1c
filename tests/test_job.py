"""A job as clients write it and as the queue keeps it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from comfyui_sonic.queue_bridge.errors import BadJob
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.tiers import lane_of, lanes_of, lower_tier, tier_of, tier_of_lane

GOOD = {"image": "file:///a.png", "audio": "file:///a.wav", "output": "file:///a.mp4"}


def test_a_job_survives_its_json() -> None:
    config = {"seed": 0, "crop": "x", "on": True}
    spec = JobSpec.parse({**GOOD, "name": "声音", "config": config, "priority": "priority"})
    assert JobSpec.from_json(spec.to_json()) == spec


def test_a_consent_id_is_kept_with_the_job_to_the_end_and_takes_no_room_where_there_is_none() -> None:
    spec = JobSpec.parse({**GOOD, "consent_id": "档案 2026/118#3"})
    assert JobSpec.from_json(spec.to_json()).consent_id == spec.consent_id == "档案 2026/118#3"
    assert spec.asked()["consent_id"] == "档案 2026/118#3"
    assert "consent_id" not in JobSpec.parse({**GOOD, "consent_id": None}).asked()
    waiting = {"state": "queued", "lane": "512", "spec": json.dumps(spec.asked())}
    record = JobRecord.from_hash(waiting, "tsk_1")
    assert record.spec.consent_id == "档案 2026/118#3"
    ended = {
        "state": "completed",
        "lane": "512",
        "spec": json.dumps(record.completed({"consent_id": "档案 2026/118#3"})),
    }
    again = JobRecord.from_hash(ended, "tsk_1")
    assert (again.spec.consent_id, again.to_dict()["consent_id"]) == ("档案 2026/118#3", "档案 2026/118#3")


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
        ({"consent_id": "x" * 201}, "consent_id: takes up to 200 characters, and no control characters."),
        ({"consent_id": "a\nb"}, "consent_id: takes up to 200 characters, and no control characters."),
        ({"consent_id": 7}, "consent_id: is no text."),
        ({"consent_id": "x" * 200}, None),
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
