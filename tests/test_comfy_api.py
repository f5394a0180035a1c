"""Comfy API v2 on a real gateway, by the official client as it is: only its base address is another one."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import shutil
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from comfy_sdk import AsyncComfy, Comfy, ComfyError
from comfy_sdk.events import Log, OutputReady, Progress, StatusChange
from comfy_sdk.exceptions import (
    Forbidden,
    HashMismatch,
    IdempotencyKeyReuse,
    InvalidWorkflow,
    JobFailed,
    MissingAsset,
    NotFound,
    QueueFull,
    Unauthorized,
    WorkflowFormatUi,
)
from comfyui_sonic.queue_bridge.errors import BadWorkflow
from comfyui_sonic.queue_bridge.execution.result_bundle import bundle
from comfyui_sonic.queue_bridge.gateway.places import Places
from comfyui_sonic.queue_bridge.gateway.uploads import YOUNG_S, OldUploads
from comfyui_sonic.queue_bridge.job import FILE, RAW
from comfyui_sonic.queue_bridge.pipelines.job_prompt import prompt_of
from comfyui_sonic.queue_bridge.pipelines.templates import SHIPPED
from comfyui_sonic.queue_bridge.prompt_events import PromptResult
from comfyui_sonic.queue_bridge.queue.asset_records import AssetRecords
from comfyui_sonic.queue_bridge.retry import Verdict
from comfyui_sonic.queue_bridge.states import State

from .gateway_fixture import GatewayHands, gateway_hands
from .test_gateway_tasks import picture, recording

GRAPH = json.loads((SHIPPED / "portrait_speaks.json").read_text())
# As a client's own export: other node ids, no _meta.
IDS = {"portrait": "12", "voice": "7", "prepare": "3", "speak": "44", "finish": "5", "save": "9"}
SAVE = IDS["save"]


def renamed(value: Any) -> Any:
    return [IDS[value[0]], value[1]] if isinstance(value, list) else value


def workflow(**changes: Any) -> dict[str, Any]:
    """The shipped template as somebody else would have drawn it; ``node__input=value`` changes an input."""
    graph = {
        IDS[one]: {
            "class_type": node["class_type"],
            "inputs": {name: renamed(value) for name, value in node["inputs"].items()},
        }
        for one, node in reversed(GRAPH.items())
    }
    for place, value in changes.items():
        node, _, name = place.partition("__")
        graph[IDS[node]]["inputs"][name] = value
    return graph


@pytest.fixture
async def hands(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatewayHands]:
    async with gateway_hands(redis_url, tmp_path, gateway_upload_mb=0.5) as hands:
        monkeypatch.setenv("COMFY_BASE_URL", hands.address)
        monkeypatch.delenv("COMFY_API_KEY", raising=False)
        yield hands


@pytest.fixture
async def client(hands: GatewayHands) -> AsyncIterator[AsyncComfy]:
    """The client of a key that may submit and read."""
    async with AsyncComfy(api_key=await hands.key("submit", "read")) as client:
        yield client


def speaking(client: AsyncComfy | Comfy, **changes: Any) -> Any:
    """A workflow with both files to be uploaded by the client."""
    changes = {"prepare__duration": 0.4, "prepare__min_resolution": 768, "speak__seed": 7} | changes
    wanted = client.workflows.from_json(workflow(**changes))
    wanted.set_input(IDS["portrait"], "image", client.assets.from_bytes(picture(), filename="anna.png"))
    wanted.set_input(IDS["voice"], "audio", client.assets.from_bytes(recording(), filename="hello.wav"))
    return wanted


async def test_a_workflow_that_is_a_template_becomes_a_job_with_its_parameters(
    hands: GatewayHands, client: AsyncComfy
) -> None:
    submitted = speaking(client, save__filename_prefix="films/Anna says hello")
    job = await client.submit(submitted, metadata={"client": "acme", "run": "7"})
    assert (job.status, job.metadata) == ("queued", {"client": "acme", "run": "7"})
    record = await hands.claim()
    assert (record.task_id, record.lane, record.spec.workflow) == (job.id, "768", "portrait_speaks")
    assert {"duration": 0.4, "resolution": 768, "seed": 7, "engine": "auto", "codec": "h264"}.items() <= dict(
        record.spec.config
    ).items()
    assert record.spec.name == "Anna says hello"
    laid = [Path(uri.removeprefix("file://")) for uri in (record.spec.image, record.spec.audio)]
    assert [path.name for path in laid] == ["image.png", "audio.wav"]
    assert [path.read_bytes() for path in laid] == [picture(), recording()]
    await hands.store.progress(record, 40, "Make frames", 12.0)
    await job.refresh()
    assert job.status == "running"
    shown = job._model.progress
    assert (shown.value, shown.current_node, shown.current_node_class) == (0.4, IDS["speak"], "SONIC_Inference")
    assert (shown.nodes_done, shown.nodes_total, shown.message) == (3, 6, "Make frames, about 12 s left")
    again = await job.get_workflow()
    assert again.format == "api"
    assert again.graph[IDS["portrait"]]["inputs"]["image"]["__type"] == "core/ASSET"
    assert again.graph[SAVE] == submitted.json[SAVE]


async def test_a_job_is_followed_to_its_video_which_is_downloaded_in_every_way(
    hands: GatewayHands, client: AsyncComfy, tmp_path: Path
) -> None:
    video = b"0123456789" * 1000
    job = await client.submit(speaking(client, save__filename_prefix="x/anna"))
    seen: list[Any] = []

    async def follow() -> None:
        async for event in job.events():
            seen.append(event)

    following = asyncio.create_task(follow())
    while not seen:
        await asyncio.sleep(0.01)
    await hands.store.settle(await hands.claim(), Verdict(State.QUEUED, "given back"))
    record = await hands.claim()
    for percent, stage in ((10, "Find the face"), (60, "Make frames")):
        await hands.store.progress(record, percent, stage, None)
    place = Path(record.spec.output.removeprefix("file://"))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(video)
    await hands.store.complete(record, {"bytes": len(video), "attempt": 1, "warnings": ["It is long."]})
    await following
    statuses = [one.status for one in seen if isinstance(one, StatusChange)]
    assert statuses == ["queued", "running", "queued", "running", "succeeded"]
    assert [(one.level, one.message) for one in seen if isinstance(one, Log)] == [
        ("warning", "A start has ended without a result (given back); the job waits for another one."),
        ("warning", "It is long."),
    ]
    assert [one.value for one in seen if isinstance(one, Progress)] == [0.1, 0.6]
    (ready,) = [one.output for one in seen if isinstance(one, OutputReady)]
    (output,) = (await job.result()).get_outputs(SAVE)
    assert (output.id, output.name, output.type, output.content_type) == (ready.id, "anna.mp4", "video", "video/mp4")
    assert (output.size_bytes, output.job_id) == (len(video), job.id)
    assert await output.to_bytes() == video
    assert await output.to_bytes(range=(5, 14)) == video[5:15]
    assert (await output.to_file(tmp_path / "x.mp4")).read_bytes() == video
    with (tmp_path / "y.mp4").open("wb") as stream:
        assert await output.to_stream(stream, range=(0, 99)) == 100
    link = await output.get_download_url()
    assert (link.url, link.expires_at) == (f"{hands.address}/api/v2/assets/{output.id}/content", None)
    asset = await client.assets.get(output.id)
    assert (asset.job_id, asset.file_path) == (job.id, "anna.mp4")
    with pytest.raises(ComfyError) as refused:
        await client.assets.delete(output.id)
    assert refused.value.code == "asset_in_use"
    assert [type(one) for one in [one async for one in job.events()]] == [Progress, Log, OutputReady, StatusChange]
    again = await client.jobs.get(job.id)
    assert (again.status, [one.id for one in again.outputs]) == ("succeeded", [output.id])
    place.unlink()
    with pytest.raises(ComfyError) as gone:
        await output.to_bytes()
    assert (gone.value.code, gone.value.http_status) == ("output_unavailable", 404)


async def test_an_output_may_be_the_input_of_the_next_job(hands: GatewayHands, client: AsyncComfy) -> None:
    first = await client.submit(speaking(client))
    await hands.complete(recording())
    wanted = speaking(client)
    output = (await first.wait()).outputs[0]
    wanted.set_input(IDS["voice"], "audio", {"__type": "core/ASSET", "info": {"id": output.id}})
    await client.submit(wanted)
    record = await hands.claim()
    assert Path(record.spec.audio.removeprefix("file://")).read_bytes() == recording()


async def test_the_plain_client_runs_a_workflow_to_its_end(hands: GatewayHands, tmp_path: Path) -> None:
    key = await hands.key("submit", "read")

    def run() -> bytes:
        with Comfy(api_key=key) as client:
            job = client.run(speaking(client), timeout=20)
            assert [type(event) for event in job.events()][-1] is StatusChange
            return job.outputs[0].to_bytes()  # type: ignore[no-any-return]

    running = asyncio.create_task(asyncio.to_thread(run))
    while not (await hands.view.counts()).queued:
        await asyncio.sleep(0.01)
    await hands.complete(b"a video")
    assert await running == b"a video"


async def test_uploaded_files_lie_here_once_and_are_their_callers_own(
    hands: GatewayHands, client: AsyncComfy, tmp_path: Path
) -> None:
    (tmp_path / "anna.png").write_bytes(picture())
    first = client.assets.from_file(tmp_path / "anna.png")
    second = client.assets.from_bytes(picture(), filename="again.png", content_type="image/png")
    with (tmp_path / "anna.png").open("rb") as stream:
        third = client.assets.from_stream(stream, filename="安娜.png")
    ids = [await one.commit() for one in (first, second, third)]
    assert len(set(ids)) == 3
    assert [one.created_new for one in (first, second, third)] == [True, False, False]
    assert first.hash == f"blake3:{blake3(picture()).hexdigest()}"
    assert first.expires_at is not None
    assert len(await hands.kept("uploads")) == 1
    found = await client.assets.get(ids[2])
    assert (found.file_path, found.hash, found.job_id) == ("安娜.png", first.hash, None)
    content = await hands.session.get(
        (await found.get_download_url()).url, headers=client._low._p.headers(hands.address)
    )
    assert (content.status, content.headers["Content-Type"]) == (200, "image/png")
    assert await content.read() == picture()
    whole = {"Authorization": f"Bearer {client._low._p.api_key}", "Range": "bytes=0-3"}
    part = await hands.get(f"/api/v2/assets/{ids[0]}/content", headers=whole)
    assert (part.status, part.body) == (206, picture()[:4])
    fetched = await client.assets.from_url(f"{hands.address}/healthz")
    await fetched.commit()
    assert (await client.assets.get(fetched.id)).file_path == "healthz"
    await fetched.delete()
    listed = (await hands.get("/api/v2/assets", client._low._p.api_key)).json["assets"]
    assert {one["id"] for one in listed} == set(ids)

    async with AsyncComfy(api_key=await hands.key("submit", "read")) as other:
        for asset_id in ids:
            with pytest.raises(NotFound):
                await other.assets.get(asset_id)
            with pytest.raises(NotFound):
                await other.assets.delete(asset_id)
        theirs = other.assets.from_bytes(picture(), filename="anna.png")
        await theirs.commit()
        assert theirs.created_new, "nobody learns what others have"
        await theirs.delete()

    await first.delete()
    with pytest.raises(NotFound):
        await client.assets.delete(ids[0])
    assert len(await hands.kept("uploads")) == 1, "two others have these bytes"
    await client.assets.delete(ids[1])
    await client.assets.delete(ids[2])
    assert await hands.kept("uploads") == []


async def test_bytes_are_taken_as_they_are_or_not_at_all(hands: GatewayHands, client: AsyncComfy) -> None:
    low = client._low
    with pytest.raises(Exception, match="have the hash blake3:"):
        await low.post_assets(io.BytesIO(b"x"), "image/png", "x.png", expected_hash=f"blake3:{'0' * 64}", file_size=1)
    wrong = client.assets.from_bytes(b"x", filename="x.png")
    wrong._hash = f"blake3:{'0' * 64}"
    with pytest.raises(HashMismatch):
        await wrong.commit()
    with pytest.raises(Exception, match="There are no such bytes here"):
        await low.asset_from_hash(f"blake3:{'1' * 64}")
    with pytest.raises(ComfyError) as large:
        await client.assets.from_bytes(b"x" * 600_000, filename="x.png").commit()
    assert (large.value.http_status, large.value.code) == (413, "payload_too_large")
    assert await hands.kept("uploads") == []
    for path in ("/api/v2/assets", "/v1/tasks"):
        form = {"data": b"--x\r\nno header--x--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}
        assert (await hands.ask("POST", path, client._low._p.api_key, **form)).status == 400
    tagged = await low.post_assets(io.BytesIO(b"x"), "text/html", "../x.html", file_size=1, tags=["a", "b"])
    assert (tagged.file_path, tagged.content_type) == ("x.html", "text/html")
    keyed = [
        await low.post_assets(io.BytesIO(b"y"), "image/png", "y.png", file_size=1, idempotency_key="k")
        for _ in range(2)
    ]
    assert keyed[0].id == keyed[1].id


async def test_a_job_keeps_its_files_though_the_upload_is_deleted_and_goes_with_them(
    hands: GatewayHands, client: AsyncComfy
) -> None:
    wanted = speaking(client)
    job = await client.submit(wanted)
    for place in ((IDS["portrait"], "image"), (IDS["voice"], "audio")):
        await wanted.json[place[0]]["inputs"][place[1]].delete()
    uploads = OldUploads(hands.view, Places.of(hands.settings), AssetRecords(hands.store))
    later = time.time() + YOUNG_S + 60
    assert await uploads.sweep(later) == 0
    kept = sorted(path.name for path in await hands.kept("uploads"))
    assert kept == ["audio.wav", "image.png", "workflow.json"]
    await hands.store.ask("DEL", hands.store.keys.job(job.id))
    used = client.assets.from_bytes(b"still wanted", filename="x")
    await used.commit()
    assert await uploads.sweep(later) == 1
    assert [path.name for path in await hands.kept("uploads")] == ["file"]
    await hands.store.ask("DEL", hands.store.keys.asset(used.id or ""))
    (blob,) = await hands.store.ask("KEYS", hands.store.keys.blob("*"))
    await hands.store.ask("DEL", blob)
    assert await uploads.sweep(later) == 1


async def test_bytes_that_somebody_has_removed_from_the_disk_are_uploaded_again(
    hands: GatewayHands, client: AsyncComfy
) -> None:
    await client.assets.from_bytes(picture(), filename="a.png").commit()
    for folder in (hands.root / "gateway" / "uploads").iterdir():
        await asyncio.to_thread(shutil.rmtree, folder)
    again = client.assets.from_bytes(picture(), filename="a.png")
    await again.commit()
    assert again.created_new


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"prepare__min_resolution": 500}, InvalidWorkflow, "500 is not a multiple of 64"),
        ({"speak__engine": "other"}, InvalidWorkflow, "'other' is not one of auto, sonic, draft"),
        ({"speak__seed": [1, 2, 3]}, InvalidWorkflow, "seed is no number, text, true or false."),
        ({"save__codec": ["44", 2]}, InvalidWorkflow, "codec is connected, other than in the template."),
        ({"finish__images": ["44", 1]}, InvalidWorkflow, "images is not connected to the same output"),
        ({"save__images": ["77", 0]}, InvalidWorkflow, "is connected to the node '77', which is not there."),
        ({"save__extra": 1}, InvalidWorkflow, "extra is no input of this node in the template."),
        ({"portrait__image": "portrait.png"}, MissingAsset, "names no uploaded file"),
        ({"portrait__image": {"__type": "core/ASSET", "info": {"id": "asset_0"}}}, MissingAsset, "is not there"),
        ({"portrait__image": {"__type": "core/ASSET"}}, MissingAsset, "is not there"),
        ({"portrait__image": "file:///etc/passwd"}, InvalidWorkflow, "lies outside the folders"),
    ],
)
async def test_what_is_wrong_with_a_workflow_is_said_of_its_node(
    hands: GatewayHands, client: AsyncComfy, changes: dict[str, Any], error: type[ComfyError], words: str
) -> None:
    wanted = speaking(client)
    for place, value in changes.items():
        node, _, name = place.partition("__")
        wanted.json[IDS[node]]["inputs"][name] = value
    with pytest.raises(error, match=words) as refused:
        await client.submit(wanted, idempotency_key="one")
    ((node_id, found),) = refused.value.details["node_errors"].items()
    assert node_id == IDS[next(iter(changes)).partition("__")[0]]
    assert found[0]["reason"]
    await client.submit(speaking(client), idempotency_key="one")  # a key that led to nothing is free


async def test_a_file_that_is_neither_picture_nor_sound_is_refused_at_its_node(client: AsyncComfy) -> None:
    wanted = speaking(client)
    wanted.set_input(IDS["voice"], "audio", client.assets.from_bytes(picture(), filename="voice.wav"))
    with pytest.raises(InvalidWorkflow, match="is no recording that is taken here") as refused:
        await client.submit(wanted)
    assert list(refused.value.details["node_errors"]) == [IDS["voice"]]


async def test_a_workflow_with_other_nodes_or_of_the_browser_is_refused(
    hands: GatewayHands, client: AsyncComfy
) -> None:
    wanted = client.workflows.from_json({"1": {"class_type": "SaveImage", "inputs": {}}})
    with pytest.raises(InvalidWorkflow, match="other nodes than every job template here"):
        await client.submit(wanted)
    graph = {"nodes": [], "links": [], "last_node_id": 1}
    with pytest.raises(WorkflowFormatUi):
        await client.submit(client.workflows.from_json(graph))
    key = client._low._p.api_key
    answer = await hands.post({"workflow": graph}, "/api/v2/jobs", key=key)
    assert (answer.status, answer.json["error"]["code"]) == (422, "workflow_format_ui")
    for body in ({"workflow": {}}, {"workflow": {"1": {}}}, {"workflow": {"1": {"class_type": "x"}}}):
        answer = await hands.post(body, "/api/v2/jobs", key=key)
        assert (answer.status, answer.json["error"]["code"]) == (422, "invalid_workflow")
    for body in ({}, {"workflow": graph, "webhook_url": "https://x"}, {"workflow": graph, "inputs": {}}, []):
        answer = await hands.post(body, "/api/v2/jobs", key=key)
        assert (answer.status, answer.json["error"]["code"]) == (422, "invalid_request")
    with pytest.raises(ComfyError) as refused:
        await client.submit(speaking(client), api_key="comfyui-secret")
    assert refused.value.code == "extra_data_not_supported"
    assert (await hands.view.counts()).queued == 0


async def test_the_same_request_again_finds_its_job_and_another_with_its_key_is_refused(
    hands: GatewayHands, client: AsyncComfy
) -> None:
    wanted = speaking(client)
    first = await client.submit(wanted, idempotency_key="order-1")
    again = await client.submit(wanted, idempotency_key="order-1")
    assert again.id == first.id
    with pytest.raises(IdempotencyKeyReuse):
        await client.submit(speaking(client, speak__seed=8), idempotency_key="order-1")
    both = await asyncio.gather(*(client.submit(wanted, idempotency_key="order-2") for _ in range(8)))
    assert len({job.id for job in both}) == 1
    assert (await hands.view.counts()).queued == 2
    key = client._low._p.api_key
    body = {"workflow": (await first.get_workflow()).graph}
    answers = [
        await hands.post(body, "/api/v2/jobs", key=key, headers={"Idempotency-Key": "order-3"}) for _ in range(2)
    ]
    assert [answer.headers.get("Idempotency-Replayed") for answer in answers] == [None, "true"]


async def test_cancelling_ends_a_job_and_changes_nothing_of_one_that_has_ended(
    hands: GatewayHands, client: AsyncComfy
) -> None:
    waiting = await client.submit(speaking(client))
    with pytest.raises(TimeoutError):
        await waiting.wait(timeout=0)
    assert (await waiting.cancel()).status == "canceled"
    with pytest.raises(JobFailed, match="ended canceled"):
        await waiting.result()
    running = await client.submit(speaking(client))
    statuses: list[str] = []

    async def follow() -> None:
        async for event in running.events():
            statuses.append(getattr(event, "status", "?"))

    following = asyncio.create_task(follow())
    record = await hands.claim()
    while "running" not in statuses:
        await asyncio.sleep(0.01)
    assert (await running.cancel()).status == "canceling"
    await hands.store.settle(record, Verdict(State.CANCELLED, "cancelled"))
    await following
    assert [one for one in statuses if one != "?"][-3:] == ["running", "canceling", "canceled"]
    assert (await running.wait()).status == "canceled"
    done = await client.submit(speaking(client))
    await hands.complete()
    assert (await done.cancel()).status == "succeeded"


async def test_a_failure_is_told_with_its_kind_and_its_sentence(hands: GatewayHands, client: AsyncComfy) -> None:
    job = await client.submit(speaking(client))
    record = await hands.claim()
    await hands.store.settle(record, Verdict(State.FAILED, "bad input"), "There is no face.", "bad input", "gpu-1")
    with pytest.raises(JobFailed) as failed:
        await job.result()
    assert (failed.value.error.code, failed.value.error.message) == ("invalid_input", "There is no face.")
    assert [event.status async for event in job.events() if isinstance(event, StatusChange)] == ["failed"]


async def test_jobs_are_listed_page_by_page_and_found_by_their_labels(hands: GatewayHands, client: AsyncComfy) -> None:
    ids = [(await client.submit(speaking(client), metadata={"n": str(n), "odd": str(n % 2)})).id for n in range(5)]
    assert [one.id async for one in client.list_jobs(limit=2)] == ids[::-1]
    found = [one async for one in client.list_jobs(metadata={"odd": "1"}, limit=1)]
    assert [one.id for one in found] == [ids[3], ids[1]]
    assert (found[0].status, found[0].metadata) == ("queued", {"n": "3", "odd": "1"})
    assert found[0].create_time is not None and found[0].update_time is not None
    await hands.complete()
    assert (await client.jobs.get(ids[0])).metadata == {"n": "0", "odd": "0"}, "labels are kept to the end"
    assert (await hands.get(f"/v1/tasks/{ids[1]}", client._low._p.api_key)).json["labels"] == {"n": "1", "odd": "1"}
    for bad in ({"a b": "1"}, {"a": "1", "b": "1", "c": "1", "d": "1"}):
        with pytest.raises(ComfyError) as refused:
            [one async for one in client.list_jobs(metadata=bad)]
        assert (refused.value.code, refused.value.http_status) == ("invalid_metadata_filter", 400)
    with pytest.raises(Exception, match="No page here has this cursor") as wrong:
        await client._low.list_jobs(cursor="x")
    assert wrong.value.code == "invalid_cursor"  # type: ignore[attr-defined]
    for bad in ({str(n): "x" for n in range(17)}, {"a": "x" * 257}, {"a": "\x07"}, {"": "x"}):
        with pytest.raises(ComfyError) as refused:
            await client.submit(speaking(client), metadata=bad)
        assert refused.value.code == "metadata_invalid"


async def test_another_keys_job_is_not_there(hands: GatewayHands, client: AsyncComfy) -> None:
    wanted = speaking(client)
    job = await client.submit(wanted)
    await hands.complete()
    output = (await job.wait()).outputs[0]
    async with AsyncComfy(api_key=await hands.key("submit", "read")) as other:
        with pytest.raises(NotFound):
            await other.jobs.get(job.id)
        for path in (f"jobs/{job.id}/events", f"jobs/{job.id}/workflow", f"assets/{output.id}/content"):
            answer = await hands.get(f"/api/v2/{path}", other._low._p.api_key)
            assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")
        with pytest.raises(NotFound):
            await other.assets.get(output.id)
        theirs = other.workflows.from_json(copy.deepcopy((await job.get_workflow()).graph))
        with pytest.raises(MissingAsset):
            await other.submit(theirs)
        assert [one async for one in other.list_jobs()] == []
    async with AsyncComfy(api_key=await hands.key("admin")) as admin:
        assert (await admin.jobs.get(job.id)).status == "succeeded"
        assert [one.id async for one in admin.list_jobs()] == [job.id]


async def test_keys_scopes_and_limits_are_those_of_the_gateway(
    hands: GatewayHands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfy_sdk.client._QUEUE_RETRY_BUDGET", 0.0)  # it would ask again for a minute
    async with AsyncComfy() as nobody:  # this machine, before there is any key
        job = await nobody.submit(speaking(nobody))
        assert job.status == "queued"
    reader, busy = await hands.key("read"), await hands.key("submit", "read", backlog=1)
    async with AsyncComfy() as nobody, AsyncComfy(api_key=reader) as reading, AsyncComfy(api_key="sq_x") as unknown:
        for client in (nobody, unknown):
            with pytest.raises(Unauthorized):
                await client.jobs.get(job.id)
        with pytest.raises(Forbidden):
            await reading.assets.from_bytes(b"x").commit()
        with pytest.raises(Forbidden):
            await reading.submit(reading.workflows.from_json(workflow()))
    async with AsyncComfy(api_key=busy) as client:
        await client.submit(speaking(client))
        with pytest.raises(QueueFull) as full:
            await client.submit(speaking(client))
        assert full.value.retry_after == 10
    for path, code in (("/api/v2/nothing", "not_found"), ("/api/v2/jobs/no", "not_found")):
        answer = await hands.get(path, busy)
        assert (answer.status, answer.json["error"]["code"]) == (404, code)
    wrong = await hands.ask("PUT", "/api/v2/jobs", busy)
    assert (wrong.status, wrong.json["error"]["code"]) == (405, "method_not_allowed")
    assert (await hands.get("/api/v2/health")).status == 200


async def test_a_workflow_with_addresses_of_files_in_the_roots_needs_no_upload(
    hands: GatewayHands, client: AsyncComfy
) -> None:
    files = {"portrait__image": (hands.root / "a.png").as_uri(), "voice__audio": (hands.root / "a.wav").as_uri()}
    job = await client.submit(client.workflows.from_json(workflow(**files)))
    record = await hands.claim()
    assert (record.task_id, record.spec.image) == (job.id, files["portrait__image"])


PICTURES = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "x"}},
    "2": {"class_type": "EmptyImage", "inputs": {"width": 1024, "height": 640, "batch_size": 1, "color": 0}},
    "3": {"class_type": "SaveImage", "inputs": {"filename_prefix": "in/inverted", "images": ["1", 0]}},
}


@pytest.fixture
async def raw_hands(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatewayHands]:
    """A gateway that takes prompts of two node classes and of all those of PICTURES."""
    classes = ("SaveLatent", *(str(node["class_type"]) for node in PICTURES.values()))
    async with gateway_hands(redis_url, tmp_path, raw_nodes=classes) as hands:
        monkeypatch.setenv("COMFY_BASE_URL", hands.address)
        yield hands


async def test_a_prompt_of_allowed_nodes_is_a_job_and_all_that_it_saves_its_outputs(
    raw_hands: GatewayHands, tmp_path: Path
) -> None:
    async with AsyncComfy() as client:
        wanted = client.workflows.from_json(copy.deepcopy(PICTURES))
        wanted.set_input("1", "image", client.assets.from_bytes(picture(), filename="Anna.PNG"))
        job = await client.submit(wanted, metadata={"a": "b"})
        record = await raw_hands.claim()
        assert (record.task_id, record.lane, record.spec.workflow) == (job.id, "768", RAW)
        (uri,) = record.spec.files.values()
        assert Path(uri.removeprefix("file://")).name == "file0.png"
        assert Path(uri.removeprefix("file://")).read_bytes() == picture()
        prompt = prompt_of(record, {}, raw_hands.settings.raw_nodes)
        graph = prompt.graph({"file0": "sonic/x/file0.png"}, "sonic/x/video")
        assert graph["1"]["inputs"]["image"] == "sonic/x/file0.png"
        assert graph["3"]["inputs"]["filename_prefix"] == "sonic/x/video"

        folder = tmp_path / "saved"
        folder.mkdir()
        for number in (1, 2):
            (folder / f"video_0000{number}_.png").write_bytes(picture() + bytes([number]))
        (folder / "secret.png").symlink_to("/etc/hostname")
        names = ("video_00001_.png", "video_00002_.png", "secret.png")
        shown = [{"filename": name, "subfolder": "", "type": "output"} for name in names]
        seen = {"filename": names[0], "type": "temp"}
        result = PromptResult("x", {"3": {"images": [*shown, seen], "animated": [True]}})
        place = Path(record.spec.output.removeprefix("file://"))
        members = bundle(result, record.spec.prompt, lambda file: folder / file.filename, folder, place)
        await raw_hands.store.complete(record, {"bytes": place.stat().st_size, "files": members})

        done = await job.wait()
        assert [(one.name, one.type, one.content_type) for one in done.get_outputs("3")] == [
            ("inverted_00001_.png", "image", "image/png"),
            ("inverted_00002_.png", "image", "image/png"),
        ]
        assert [await one.to_bytes() for one in done.outputs] == [picture() + b"\1", picture() + b"\2"]
        assert await done.outputs[1].to_bytes(range=(1, 3)) == picture()[1:4]
        assert done.metadata == {"a": "b"}
        assert (await done.get_workflow()).graph["2"] == PICTURES["2"]
        assert (await client.assets.get(done.outputs[1].id)).file_path == "inverted_00002_.png"
        whole = await raw_hands.get(f"/v1/tasks/{job.id}/result")
        assert (whole.status, whole.headers["Content-Type"]) == (200, "application/zip")
        with zipfile.ZipFile(io.BytesIO(whole.body)) as archive:
            assert archive.namelist() == ["0/inverted_00001_.png", "1/inverted_00002_.png"]
        place.write_bytes(b"not a ZIP")
        with pytest.raises(ComfyError) as gone:
            await done.outputs[0].to_bytes()
        assert gone.value.code == "output_unavailable"


async def test_a_prompt_with_a_node_that_is_not_allowed_is_refused_here_and_by_every_instance(
    raw_hands: GatewayHands,
) -> None:
    async with AsyncComfy() as client:
        wanted = copy.deepcopy(PICTURES) | {"9": {"class_type": "RunAnything", "inputs": {}}}
        with pytest.raises(InvalidWorkflow, match="'RunAnything' is not allowed here") as refused:
            await client.submit(client.workflows.from_json(wanted))
        assert list(refused.value.details["node_errors"]) == ["9"]
        named = copy.deepcopy(PICTURES)
        named["1"]["inputs"]["image"] = {FILE: "file:///etc/passwd"}  # type: ignore[index]
        with pytest.raises(InvalidWorkflow, match="which no client may say"):
            await client.submit(client.workflows.from_json(named))
        named["1"]["inputs"]["image"] = {"__type": "core/ASSET", "info": {"id": "asset_0"}}  # type: ignore[index]
        with pytest.raises(MissingAsset):
            await client.submit(client.workflows.from_json(named))
        large = copy.deepcopy(PICTURES) | {"4": {"class_type": "SaveLatent", "inputs": {"text": "x" * 70_000}}}
        with pytest.raises(ComfyError, match="65536 are the limit"):
            await client.submit(client.workflows.from_json(large))
        await client.submit(client.workflows.from_json(copy.deepcopy(PICTURES)))
    record = await raw_hands.claim()
    for allowed in ((), ("LoadImage", "SaveImage")):
        with pytest.raises(BadWorkflow, match="is not allowed here; an operator adds it to raw_nodes"):
            prompt_of(record, {}, allowed)
    asked = await raw_hands.post({**raw_hands.task(), "prompt": PICTURES})
    assert asked.problem() == (422, "invalid")
    asked = await raw_hands.post({**raw_hands.task(), "workflow": RAW})
    assert asked.problem() == (422, "invalid")


async def test_the_description_has_every_operation_of_the_contract(hands: GatewayHands) -> None:
    document = (await hands.get("/openapi.json")).json
    operations = {
        operation["operationId"]
        for path, methods in document["paths"].items()
        for operation in methods.values()
        if path.startswith("/api/v2/")
    }
    assert operations >= {
        *("postAssets", "assetFromHash", "headAssetByHash", "getAsset", "deleteAsset", "getAssetContent"),
        *("postJobs", "listJobs", "getJob", "getJobWorkflow", "getJobEvents", "cancelJob"),
    }
    refused = document["paths"]["/api/v2/jobs"]["post"]["responses"]["422"]
    assert "missing_asset" in refused["description"]
    assert list(refused["content"]) == ["application/json"]
