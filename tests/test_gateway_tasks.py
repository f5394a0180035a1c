"""Tasks over HTTP against a real queue: made, listed, cancelled, started again, and what is said of wrong requests."""

from __future__ import annotations

import asyncio
import io
import json
import wave
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from comfyui_sonic.queue_bridge.gateway.places import Places
from comfyui_sonic.queue_bridge.gateway.uploads import YOUNG_S, OldUploads
from comfyui_sonic.queue_bridge.job import FIELDS
from comfyui_sonic.queue_bridge.queue.asset_records import AssetRecords
from comfyui_sonic.queue_bridge.retry import Verdict
from comfyui_sonic.queue_bridge.states import State
from PIL import Image

from .gateway_fixture import GatewayHands, gateway_hands


@pytest.fixture
async def hands(redis_url: str, tmp_path: Path) -> AsyncIterator[GatewayHands]:
    async with gateway_hands(redis_url, tmp_path, gateway_upload_mb=0.5) as hands:
        yield hands


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


def recording(seconds: float = 0.5, rate: int = 8000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(b"\0\0" * round(seconds * rate))
    return file.getvalue()


def form(**parts: Any) -> aiohttp.FormData:
    """Bytes become files, everything else a field."""
    made = aiohttp.FormData()
    for name, value in parts.items():
        if isinstance(value, bytes):
            made.add_field(name, value, filename=f"../安娜 1.{name}")
        else:
            made.add_field(name, value)
    return made


async def test_a_task_is_accepted_with_its_address_and_is_the_job_of_a_folder(hands: GatewayHands) -> None:
    said = {"config": {"resolution": 768, "inference_steps": 5}, "priority": "priority", "name": "安娜"}
    answer = await hands.post(hands.task(**said, consent_id="c-7"))
    assert answer.status == 202
    task_id = answer.json["task_id"]
    assert answer.json["status"] == "accepted"
    assert answer.json["warnings"] == ["inference_steps is 5; 10 to 30 is usual."]
    assert answer.headers["Location"] == f"/v1/tasks/{task_id}"
    job = await hands.claim()
    assert (job.task_id, job.lane, job.job_class, job.spec.name) == (task_id, "768", "priority", "安娜")
    assert (job.spec.config, job.spec.consent_id, job.caller) == (said["config"], "c-7", "")
    seen = (await hands.get(f"/v1/tasks/{task_id}")).json
    assert (seen["state"], seen["image"], seen["output"]) == ("running", job.spec.image, None)
    assert Path(job.spec.output.removeprefix("file://")).is_relative_to(hands.root / "gateway" / "results")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image": "file:///etc/passwd"}, "image: '/etc/passwd' lies outside the folders"),
        ({"image": "gopher://a/b"}, "image: is no address that is taken here"),
        ({"image": None}, "image: is not a string."),
        ({"image": "file:///\udc00"}, "image: holds half a character."),
        ({"image_url": "{root}/x.png"}, "image: is given twice"),
        ({"audio": ""}, "audio: is empty."),
        ({"output": "{root}/x.mov"}, "output: does not end with .mp4."),
        ({"image": "{root}/gateway/uploads/a/image.png"}, "image: lies in the gateway's own folder"),
        ({"output": "{root}/gateway/results/x.mp4"}, "output: lies in the gateway's own folder"),
        ({"config": {"resolution": 500}}, "config.resolution: 500 is not a multiple of 64."),
        ({"config": {"no": 1}}, "config.no: the template 'portrait_speaks' has no such parameter"),
        ({"workflow": "no"}, "workflow: there is no template 'no' here"),
        ({"priority": "high"}, "priority: is not one of normal, priority."),
        ({"nonsense": 1}, "nonsense: is no field here"),
        ({"task_id": "../x"}, "task_id: does not look like"),
        ({"batch": "key_1"}, "batch: may not begin with key_."),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_is_queued(
    hands: GatewayHands, fields: dict[str, Any], words: str
) -> None:
    root = hands.root.as_uri()
    said = {name: value.format(root=root) if isinstance(value, str) else value for name, value in fields.items()}
    answer = await hands.post(hands.task(**said))
    assert answer.problem() == (422, "invalid")
    assert answer.json["detail"].startswith(words)
    assert (await hands.view.counts()).queued == 0


async def test_every_field_of_a_job_may_be_said(hands: GatewayHands) -> None:
    described = (await hands.get("/openapi.json")).json["components"]["schemas"]["NewTask"]["properties"]
    assert set(described) == FIELDS - {"prompt", "traceparent"}, "one comes by the Comfy API only, one as a header"


async def test_errors_are_problems_of_rfc_9457(hands: GatewayHands) -> None:
    assert (await hands.get("/nothing")).problem() == (404, "not-found")
    assert (await hands.get("/v1/tasks/tsk_unknown")).problem() == (404, "not-found")
    wrong = await hands.ask("PUT", "/v1/tasks")
    assert wrong.problem() == (405, "method-not-allowed")
    assert wrong.headers["Allow"] == "GET,POST"
    assert (await hands.ask("OPTIONS", "/v1/tasks")).problem() == (405, "method-not-allowed")
    plain = {"Content-Type": "text/plain"}
    assert (await hands.ask("POST", "/v1/tasks", data=b"{}", headers=plain)).problem() == (
        415,
        "unsupported-media-type",
    )
    json_type = {"Content-Type": "application/json"}
    for body in (b"", b"{", b'{"a": NaN}', b"[" * 100_000, b"\xff"):
        assert (await hands.ask("POST", "/v1/tasks", data=body, headers=json_type)).problem() == (400, "bad-request")
    assert (await hands.post([])).problem() == (422, "invalid")
    assert (await hands.get("/v1/tasks?limit=0")).problem() == (422, "invalid")
    assert (await hands.get("/v1/tasks?limit=x")).problem() == (422, "invalid")
    assert (await hands.get("/v1/tasks?nonsense=1")).problem() == (422, "invalid")


async def test_uploads_are_looked_into_and_their_stated_duration_is_corrected(hands: GatewayHands) -> None:
    config = json.dumps({"duration": 9.0, "resolution": 256})
    answer = await hands.ask("POST", "/v1/tasks", data=form(image=picture(), audio=recording(0.5), config=config))
    assert answer.status == 202, answer.body
    assert answer.json["warnings"] == [
        "config.duration: 9 s were asked for, and the recording has 0.500 s, so that counts."
    ]
    job = await hands.claim()
    assert job.spec.config == {"duration": 0.5, "resolution": 256}
    assert job.spec.name == "安娜 1"
    image, audio = (Path(uri.removeprefix("file://")) for uri in (job.spec.image, job.spec.audio))
    assert (image.name, audio.name) == ("image.png", "audio.wav")
    assert (image.read_bytes(), audio.read_bytes()) == (picture(), recording(0.5))
    seen = (await hands.get(f"/v1/tasks/{job.task_id}")).json
    assert (seen["image"], seen["audio"]) == (None, None)


async def test_one_file_may_be_uploaded_and_the_other_named(hands: GatewayHands) -> None:
    audio = (hands.root / "a.wav").as_uri()
    answer = await hands.ask("POST", "/v1/tasks", data=form(image=picture(), audio=audio))
    assert answer.status == 202, answer.body
    assert (await hands.claim()).spec.audio == audio


@pytest.mark.parametrize(
    ("parts", "expected", "words"),
    [
        ({"image": b"no picture", "audio": recording()}, (422, "invalid"), "image: is no picture"),
        ({"image": picture(), "audio": picture()}, (422, "invalid"), "audio: is no recording"),
        ({"image": picture(), "audio": recording(0)}, (422, "invalid"), "audio: holds no sound."),
        ({"image": picture(), "audio": recording(60)}, (413, "too-large"), "500000 bytes are the limit here."),
        ({"image": picture()}, (422, "invalid"), "audio: is missing."),
        ({"image": picture(), "audio": recording(), "movie": b"x"}, (422, "invalid"), "movie: cannot be a file"),
        ({"image": picture(), "audio": recording(), "config": "{"}, (400, "bad-request"), "The field 'config'"),
        ({"image": picture(), "audio": recording(), "image_url": "x"}, (422, "invalid"), "image: is given twice."),
    ],
)
async def test_of_a_refused_upload_nothing_stays(
    hands: GatewayHands, parts: dict[str, Any], expected: tuple[int, str], words: str
) -> None:
    answer = await hands.ask("POST", "/v1/tasks", data=form(**parts))
    assert answer.problem() == expected
    assert answer.json["detail"].startswith(words)
    assert list((hands.root / "gateway" / "uploads").iterdir()) == []


async def test_uploads_go_when_their_job_is_forgotten_and_not_before(hands: GatewayHands) -> None:
    for own in ({}, {"task_id": "order.7"}):
        await hands.ask("POST", "/v1/tasks", data=form(image=picture(), audio=recording(), **own))
    uploads = OldUploads(hands.view, Places.of(hands.settings), AssetRecords(hands.store))
    half = hands.root / "gateway" / "uploads" / ".tsk_1.0123456789abcdef.part"
    half.mkdir()
    later = half.stat().st_mtime + YOUNG_S + 60
    assert await uploads.sweep() == 0
    first = await hands.claim()
    await hands.store.client.delete(hands.store.keys.job(first.task_id))
    assert await uploads.sweep(later) == 2
    (left,) = (hands.root / "gateway" / "uploads").iterdir()
    assert left.name.startswith((await hands.claim()).task_id)


async def test_the_same_request_again_finds_its_task_and_another_one_is_refused(hands: GatewayHands) -> None:
    key = {"Idempotency-Key": "order 7"}
    answers = await asyncio.gather(*(hands.post(headers=key) for _ in range(8)))
    (task_id,) = {answer.json["task_id"] for answer in answers}
    assert sorted(answer.json["repeated"] for answer in answers) == [False, *[True] * 7]
    assert (await hands.view.counts()).queued == 1
    other = await hands.post(hands.task(name="another"), headers=key)
    assert other.problem() == (422, "idempotency-key-reused")
    await hands.complete()
    assert (await hands.post(headers=key)).json["task_id"] == task_id
    assert (await hands.view.counts()).queued == 0
    assert (await hands.post()).json["task_id"] != task_id
    assert (await hands.post(headers={"Idempotency-Key": "x" * 256})).problem() == (422, "invalid")


async def test_the_same_upload_again_lies_there_once(hands: GatewayHands) -> None:
    key = {"Idempotency-Key": "order 8"}
    parts = {"image": picture(), "audio": recording()}
    first, second = [await hands.ask("POST", "/v1/tasks", data=form(**parts), headers=key) for _ in range(2)]
    assert (first.json["task_id"], second.json["repeated"]) == (second.json["task_id"], True)
    assert len(list((hands.root / "gateway" / "uploads").iterdir())) == 1
    parts["audio"] = recording(0.6)
    other = await hands.ask("POST", "/v1/tasks", data=form(**parts), headers=key)
    assert other.problem() == (422, "idempotency-key-reused")


async def test_an_id_of_the_clients_own_makes_its_request_known(hands: GatewayHands) -> None:
    answers = [await hands.post(hands.task(task_id="order-7")) for _ in range(2)]
    assert [answer.json["repeated"] for answer in answers] == [False, True]
    other = await hands.post(hands.task(task_id="order-7", name="another"))
    assert other.problem() == (422, "idempotency-key-reused")
    for _ in range(2):
        clash = await hands.post(hands.task(task_id="order-7"), headers={"Idempotency-Key": "new"})
        assert clash.problem() == (409, "conflict")
    assert (await hands.view.counts()).queued == 1


async def test_tasks_are_listed_page_by_page_the_latest_first(hands: GatewayHands) -> None:
    ids = [await hands.submit(name=str(number)) for number in range(7)]
    done = (await hands.complete()).task_id
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await hands.get(f"/v1/tasks?limit=3{cursor}")).json
        seen += [task["task_id"] for task in page["tasks"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == ids[::-1]
    only = (await hands.get("/v1/tasks?state=completed")).json
    assert ([task["task_id"] for task in only["tasks"]], only["next"]) == ([done], None)
    assert (await hands.get("/v1/tasks?state=gone")).problem() == (422, "invalid")


async def test_a_task_is_cancelled_and_started_again(hands: GatewayHands) -> None:
    task_id = await hands.submit()
    assert (await hands.ask("POST", f"/v1/tasks/{task_id}/retry")).problem() == (409, "conflict")
    cancelled = await hands.ask("DELETE", f"/v1/tasks/{task_id}")
    assert (cancelled.status, cancelled.json["status"]) == (200, "cancelled")
    again = await hands.ask("POST", f"/v1/tasks/{task_id}/retry")
    assert (again.status, again.headers["Location"]) == (202, f"/v1/tasks/{task_id}")
    job = await hands.claim()
    running = await hands.ask("DELETE", f"/v1/tasks/{task_id}")
    assert (running.status, running.json["status"]) == (202, "cancelling")
    await hands.store.settle(job, Verdict(State.CANCELLED, "cancelled"))
    await hands.ask("POST", f"/v1/tasks/{task_id}/retry")
    await hands.complete()
    late = await hands.ask("DELETE", f"/v1/tasks/{task_id}")
    assert late.problem() == (409, "conflict")
    assert late.json["state"] == "completed"


async def test_a_batch_is_made_whole_or_not_at_all(hands: GatewayHands) -> None:
    tasks = [hands.task(name=str(number)) for number in range(5)]
    wrong = await hands.post({"tasks": [*tasks, hands.task(workflow="no")]}, "/v1/batches")
    assert wrong.problem() == (422, "invalid")
    assert wrong.json["field"] == "tasks[5]"
    assert (await hands.view.counts()).queued == 0
    key = {"Idempotency-Key": "batch 1"}
    first, second = [await hands.post({"tasks": tasks}, "/v1/batches", headers=key) for _ in range(2)]
    batch_id, ids = first.json["batch_id"], first.json["task_ids"]
    assert second.json["task_ids"] == ids
    assert len(set(ids)) == 5
    assert (await hands.view.counts()).queued == 5
    await hands.submit(name="beside it")
    await hands.complete()
    counts = (await hands.get(f"/v1/batches/{batch_id}")).json
    assert (counts["total"], counts["completed"], counts["unended"]) == (5, 1, 4)
    listed = (await hands.get(f"/v1/tasks?batch={batch_id}&limit=3")).json
    rest = (await hands.get(f"/v1/tasks?batch={batch_id}&cursor={listed['next']}")).json
    assert [task["task_id"] for task in listed["tasks"] + rest["tasks"]] == ids
    cancelled = (await hands.ask("DELETE", f"/v1/batches/{batch_id}")).json
    assert (cancelled["cancelled"], cancelled["cancelling"]) == (4, 0)
    assert (await hands.view.counts()).queued == 1


async def test_a_zip_is_a_batch_as_by_the_command(hands: GatewayHands) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("anna.png", picture())
        archive.writestr("anna.wav", recording())
        archive.writestr("alone.png", picture())
    answer = await hands.ask(
        "POST", "/v1/batches", data=form(archive=file.getvalue(), priority="priority", config='{"resolution": 768}')
    )
    assert answer.status == 202, answer.body
    assert [one["file"] for one in answer.json["left_out"]] == ["alone.png"]
    (task_id,) = answer.json["task_ids"]
    job = await hands.claim()
    assert (job.task_id, job.lane, job.job_class, job.spec.name) == (task_id, "768", "priority", "anna")
    assert Path(job.spec.image.removeprefix("file://")).read_bytes() == picture()
    raw = {"Content-Type": "application/zip", "Idempotency-Key": "zip"}
    ids = [
        (await hands.ask("POST", "/v1/batches", data=file.getvalue(), headers=raw)).json["task_ids"] for _ in range(2)
    ]
    assert ids[0] == ids[1]
    assert len(list((hands.root / "gateway" / "uploads").iterdir())) == 2
    damaged = await hands.ask("POST", "/v1/batches", data=b"PK no zip", headers={"Content-Type": "application/zip"})
    assert damaged.problem() == (422, "invalid")
    assert str(hands.root) not in damaged.json["detail"]


async def test_the_queue_its_instances_and_its_dead_letter_are_shown(hands: GatewayHands) -> None:
    await hands.submit()
    dead = await hands.submit(priority="priority")
    job = await hands.claim()
    verdict = Verdict(State.FAILED, "retries used up", dead_letter=True, counter="failures")
    await hands.store.settle(job, verdict, "Save failed.", "may pass", "gpu-1")
    queue = (await hands.get("/v1/queue")).json
    assert (queue["waiting"]["pending"]["512"], queue["queued"], queue["dead"]) == (1, 1, 1)
    assert [one["name"] for one in (await hands.get("/v1/instances")).json["instances"]] == ["gpu-1"]
    (lying,) = (await hands.get("/v1/dead")).json["tasks"]
    assert (lying["task_id"], lying["error"]) == (dead, "Save failed.")


async def test_metrics_have_depth_age_and_outcomes(hands: GatewayHands) -> None:
    await hands.submit()
    await hands.complete()
    await hands.submit(config={"resolution": 1024})
    await asyncio.sleep(0.01)
    answer = await hands.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = dict(line.rsplit(" ", 1) for line in answer.body.decode().splitlines() if not line.startswith("#"))
    assert lines['sonic_queue_depth{class="pending",tier="1024"}'] == "1"
    assert lines['sonic_queue_depth{class="priority",tier="512"}'] == "0"
    assert 0 < float(lines['sonic_queue_oldest_seconds{class="pending",tier="1024"}']) < 60
    assert lines['sonic_tasks_ended_total{state="completed",cause="completed"}'] == "1"
    assert lines["sonic_instances_all"] == "1"
    assert lines['sonic_gateway_requests_total{operation="createTask",status="202"}'] == "2"
