"""What the sidebar tab asks a ComfyUI server for, over a real queue: what it may do, and what nobody may."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.database.redis_program import ServerProgram
from comfyui_sonic.queue_bridge.database.redis_server import RedisServer
from comfyui_sonic.queue_bridge.errors import BadJob, BadWorkflow
from comfyui_sonic.queue_bridge.gateway.api_keys import ApiKeys
from comfyui_sonic.queue_bridge.gateway.places import Places
from comfyui_sonic.queue_bridge.gateway.serve_tab import BELOW
from comfyui_sonic.queue_bridge.gateway.tab import Folders, off_app, tab_app
from comfyui_sonic.queue_bridge.job import JobSpec, new_job_id
from comfyui_sonic.queue_bridge.pipelines.graph_material import material_of
from comfyui_sonic.queue_bridge.pipelines.templates import SHIPPED, Template, load_templates
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Store, Submission
from comfyui_sonic.queue_bridge.states import State

from .gateway_fixture import Answer
from .small_video import small_video
from .test_panel import PORTRAIT, VOICE

TEMPLATES = load_templates([SHIPPED])


@dataclass
class Tab:
    """The routes at ``address``. root: with ComfyUI's folder ``input``, and ``shared``, one of the roots."""

    address: str
    root: Path
    store: Store
    view: QueueView
    session: aiohttp.ClientSession

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        async with self.session.request(method, f"{self.address}{path}", **options) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def send(self, **fields: str) -> Answer:
        form = aiohttp.FormData(fields)
        form.add_field("image", PORTRAIT.read_bytes(), filename="anna.png")
        form.add_field("audio", VOICE.read_bytes(), filename="anna.wav")
        return await self.ask("POST", "/v1/tasks", data=form)

    async def completed(self, video: bytes) -> str:
        task_id = str((await self.send()).json["task_id"])
        job = await self.store.claim("gpu-1", "boot", ("512", "768", "1024"))
        assert not isinstance(job, State | str) and job is not None
        place = Path(job.spec.output.removeprefix("file://"))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(video)
        await self.store.complete(job, {"bytes": len(video), "attempt": 1})
        return task_id


def file_of(root: Path, field: str, name: str) -> Path:
    path = root / "input" / name
    if not path.is_file():
        raise BadJob(field, f"the file '{name}' is not there.")
    return path


@contextlib.asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """The routes where ComfyUI has them, in an application that stands for the rest of it."""
    whole = web.Application()
    whole.add_subapp(BELOW, app)
    runner = web.AppRunner(whole)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}{BELOW}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def tab_at(url: str, root: Path, *, shared: bool = True, **settings: Any) -> AsyncIterator[Tab]:
    for name in ("input", "shared"):
        (root / name).mkdir(exist_ok=True)
    given = Settings(url=url, queue=f"tab-{new_job_id()}", roots=(root / "shared",), lease_s=600.0, **settings)
    store = Store(connect(url, many=True), given)
    view = QueueView(store.client, store.keys, url)
    places = Places(given.roots, root / "shared" / "gateway")
    folders = Folders(root / "input", lambda field, name: file_of(root, field, name), shared)
    try:
        async with (
            serving(tab_app(given, store, view, TEMPLATES, places, folders)) as address,
            aiohttp.ClientSession() as session,
        ):
            yield Tab(address, root, store, view, session)
    finally:
        await store.close()


@pytest.fixture
async def tab(redis_url: str, tmp_path: Path) -> AsyncIterator[Tab]:
    async with tab_at(redis_url, tmp_path) as tab:
        await tab.store.register(Identity("gpu-1", "boot"))
        yield tab


def graph(**changes: Any) -> dict[str, Any]:
    """A prompt as the browser sends it: the draft's graph, with what a widget adds to the inputs of its node."""
    inputs = {"2": {"image": "anna.png"}, "3": {"audio": "anna.wav", "audioUI": ""}}
    inputs["4"] = {"image": ["2", 0], "audio": ["3", 0], "duration": 0, "min_resolution": 256, "crop": "whole picture"}
    inputs["5"] = {"preprocessed_data": ["4", 0], "engine": "draft", "seed": 7}
    inputs["6"] = {"video": ["5", 3], "filename_prefix": "video/draft", "codec": "h264"}
    kinds = ("LoadPortrait", "LoadVoice", "PreData", "Inference", "SaveVideo")
    made = {
        number: {"class_type": f"SONIC_{kind}", "inputs": inputs[number]}
        for number, kind in zip("23456", kinds, strict=True)
    }
    return {number: node for number, node in {**made, **changes}.items() if node}


def test_a_graph_that_is_a_template_is_that_job() -> None:
    template: Template = TEMPLATES["portrait_speaks"]
    prompt = json.loads(json.dumps({name: dict(node) for name, node in template.graph.items()}))
    prompt["speak"]["inputs"]["seed"] = 9
    found = material_of(prompt, TEMPLATES)
    assert (found.template, found.files, found.warning) == (
        "portrait_speaks",
        {"image": "portrait.png", "audio": "voice.wav"},
        "",
    )
    assert found.config["seed"] == 9


def test_of_another_graph_the_job_has_its_files_and_settings_and_says_what_is_different() -> None:
    found = material_of(graph(), TEMPLATES)
    assert found.files == {"image": "anna.png", "audio": "anna.wav"}
    assert found.config | {"resolution": 256, "engine": "draft", "seed": 7} == found.config
    assert found.warning == "The job runs the template 'portrait_speaks': as the graph, but with SONIC_PostProcess."
    core = material_of(graph(**{"2": {"class_type": "LoadImage", "inputs": {"image": "bea.png"}}}), TEMPLATES)
    assert core.files["image"] == "bea.png"


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ({}, "no prompt"),
        ({"1": {"class_type": "KSampler", "inputs": {}}}, "no node of the type SONIC_PreData"),
        (
            graph(**{"3": {"class_type": "Speech", "inputs": {"text": "Hello"}}}),
            "The recording of the graph is no file",
        ),
        (graph(**{"9": {"class_type": "SONIC_PreData", "inputs": {}}}), "2 nodes of the type SONIC_PreData"),
    ],
)
def test_a_graph_without_one_portrait_and_one_recording_is_refused_in_a_sentence(prompt: Any, sentence: str) -> None:
    with pytest.raises(BadWorkflow, match=sentence):
        material_of(prompt, TEMPLATES)


async def test_a_graph_becomes_a_job_with_copies_of_its_files(tab: Tab) -> None:
    shutil.copyfile(PORTRAIT, tab.root / "input" / "anna.png")
    shutil.copyfile(VOICE, tab.root / "input" / "anna.wav")
    answer = await tab.ask("POST", "/v1/graph", json={"prompt": graph()})
    assert answer.status == 202, answer.body
    assert answer.json["warnings"] == [
        "The job runs the template 'portrait_speaks': as the graph, but with SONIC_PostProcess."
    ]
    record = await tab.view.job(answer.json["task_id"])
    assert record is not None and record.spec.name == "anna"
    for uri, source in ((record.spec.image, PORTRAIT), (record.spec.audio, VOICE)):
        place = Path(uri.removeprefix("file://"))
        assert place.is_relative_to(tab.root / "shared" / "gateway" / "uploads")
        assert place.read_bytes() == source.read_bytes()
    (tab.root / "input" / "anna.wav").unlink()
    answer = await tab.ask("POST", "/v1/graph", json={"prompt": graph()})
    assert answer.problem() == (422, "invalid") and answer.json["detail"] == "audio: the file 'anna.wav' is not there."
    assert not list((tab.root / "shared" / "gateway" / "uploads").glob(".*")), "nothing is left of what was refused"


async def test_a_page_of_another_site_changes_nothing(tab: Tab) -> None:
    waits = (await tab.send()).json["task_id"]
    host = tab.address.split("/")[2]
    strangers: list[dict[str, str]] = [
        {"Origin": "https://evil.example"},
        {"Origin": f"http://{host}", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"},
        {"Origin": "null"},
    ]
    for headers in strangers:
        for method, path in (
            ("DELETE", f"/v1/tasks/{waits}"),
            ("POST", f"/v1/tasks/{waits}/retry"),
            ("POST", f"/v1/tasks/{waits}/input"),
            ("POST", "/v1/graph"),
            ("POST", "/v1/tasks"),
            ("POST", "/v1/batches"),
        ):
            answer = await tab.ask(method, path, headers=headers)
            assert answer.problem() == (403, "forbidden"), (headers, path)
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert "Access-Control-Allow-Origin" not in answer.headers
    for headers in ({"Origin": f"http://{host}"}, {"Origin": "https://proxy.example", "Sec-Fetch-Site": "same-origin"}):
        assert (await tab.ask("DELETE", f"/v1/tasks/{waits}", headers=headers)).status in (200, 409)


async def test_whoever_is_there_names_no_file_and_no_address_and_runs_no_prompt(tab: Tab) -> None:
    secret = tab.root / "shared" / "secret.png"
    shutil.copyfile(PORTRAIT, secret)
    where = {"image": secret.as_uri(), "audio": "https://intranet.example/a.wav"}
    for path, fields in (("/v1/tasks", where), ("/v1/batches", {"tasks": [where]})):
        answer = await tab.ask("POST", path, json=fields)
        assert answer.problem() == (422, "invalid")
        assert "is not taken here; send the files themselves." in answer.json["detail"]
    for name in ("output", "callback"):
        answer = await tab.send(**{name: (tab.root / "shared" / "x.mp4").as_uri()})
        assert answer.problem() == (422, "invalid") and answer.json["field"] == name
    assert (await tab.ask("POST", "/v1/tasks", data=b"{}", headers={"Content-Type": "text/plain"})).status == 415
    assert (await tab.send(workflow="raw:prompt")).problem() == (422, "invalid")
    for path in (
        "/v1/instances",
        "/v1/instances/gpu-1/drain",
        "/v1/dead",
        "/metrics",
        "/page/panel/..%2f..%2f__init__.py",
    ):
        assert (await tab.ask("GET", path)).status in (404, 405), path
    assert (await tab.ask("POST", "/v1/instances/gpu-1/drain")).status == 404


async def test_jobs_of_api_keys_are_counted_and_not_shown(tab: Tab) -> None:
    _, text = await ApiKeys(tab.store).create("shop", ["submit"])
    caller = await ApiKeys(tab.store).caller_of(text)
    assert caller is not None
    theirs = JobSpec(new_job_id(), "file:///a.png", "file:///a.wav", "file:///a.mp4", name="theirs")
    await tab.store.submit([Submission(theirs, 512)], caller=caller.id)
    mine = (await tab.send(name="mine")).json["task_id"]
    assert [one["task_id"] for one in (await tab.ask("GET", "/v1/tasks")).json["tasks"]] == [mine]
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/retry"), ("GET", "/result"), ("GET", "/thumbnail")):
        assert (await tab.ask(method, f"/v1/tasks/{theirs.task_id}{path}")).problem() == (404, "not-found")
    for wrong in ("..%2f..%2fetc", "x" * 200, "%00"):
        assert (await tab.ask("GET", f"/v1/tasks/{wrong}/result")).status == 404


async def test_a_video_is_sent_in_parts_and_copied_where_nodes_load_it(tab: Tab, tmp_path: Path) -> None:
    video = small_video()
    task_id = await tab.completed(video)
    part = await tab.ask("GET", f"/v1/tasks/{task_id}/result", headers={"Range": "bytes=10-19"})
    assert (part.status, part.body) == (206, video[10:20])
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(video)}"
    name = (await tab.ask("POST", f"/v1/tasks/{task_id}/input")).json["file"]
    assert (tab.root / "input" / name).read_bytes() == video
    assert (await tab.ask("GET", f"/v1/tasks/{task_id}/thumbnail")).headers["Content-Type"] == "image/jpeg"
    record = await tab.view.job(task_id)
    assert record is not None
    Path(record.spec.output.removeprefix("file://")).unlink()
    assert (await tab.ask("POST", f"/v1/tasks/{task_id}/input")).problem() == (410, "gone")


async def test_a_video_outside_the_folders_is_not_served(tab: Tab, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere.mp4"
    outside.write_bytes(small_video())
    spec = JobSpec(new_job_id(), outside.as_uri(), outside.as_uri(), outside.as_uri(), name="odd")
    await tab.store.submit([Submission(spec, 512)])
    job = await tab.store.claim("gpu-1", "boot", ("512",))
    assert not isinstance(job, State | str) and job is not None
    await tab.store.complete(job, {"bytes": 1})
    for method, path in (("GET", "result"), ("POST", "input")):
        assert (await tab.ask(method, f"/v1/tasks/{spec.task_id}/{path}")).problem() == (410, "gone")
    assert (await tab.ask("GET", f"/v1/tasks/{spec.task_id}/thumbnail")).problem() == (404, "not-found")


async def test_an_upload_is_bounded(redis_url: str, tmp_path: Path) -> None:
    async with tab_at(redis_url, tmp_path, gateway_upload_mb=0.01) as tab:
        assert (await tab.send()).problem() == (413, "too-large")
        shutil.copyfile(PORTRAIT, tab.root / "input" / "anna.png")
        shutil.copyfile(VOICE, tab.root / "input" / "anna.wav")
        assert (await tab.ask("POST", "/v1/graph", json={"prompt": graph()})).problem() == (413, "too-large")
        assert not list((tab.root / "shared" / "gateway" / "uploads").iterdir())


async def test_several_servers_without_a_common_folder_are_told_what_to_set(redis_url: str, tmp_path: Path) -> None:
    async with tab_at(redis_url, tmp_path, shared=False) as tab:
        await tab.store.register(Identity("gpu-1", "boot"))
        assert (await tab.send()).status == 202
        await tab.store.register(Identity("gpu-2", "boot"))
        await asyncio.sleep(0.6)  # what is known of the servers is half a second old at most
        answer = await tab.send()
        assert answer.problem() == (422, "invalid") and "SONIC_QUEUE_GATEWAY_FOLDER" in answer.json["detail"]


@pytest.mark.slow
async def test_of_twenty_thousand_waiting_jobs_one_page_is_sent(tab: Tab) -> None:
    specs = [
        JobSpec(new_job_id(), "file:///a.png", "file:///a.wav", "file:///a.mp4", name=f"job {number}")
        for number in range(20_000)
    ]
    await tab.store.submit([Submission(spec, 512) for spec in specs])
    began = time.monotonic()
    answer = await tab.ask("GET", "/v1/tasks?limit=50")
    assert time.monotonic() - began < 1.0
    assert len(answer.json["tasks"]) == 50 and answer.json["next"] and len(answer.body) < 100_000
    assert (await tab.ask("GET", "/v1/tasks?limit=201")).problem() == (422, "invalid")
    async with tab.session.get(f"{tab.address}/v1/events") as events:
        first = await events.content.read(4096)
        assert b"event: snapshot" in first and b'"queued": 20000' in first


async def test_a_database_that_is_away_is_said_and_found_again(redis_program: ServerProgram, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sonic-") as folder:
        database = RedisServer(Path(folder), program=redis_program, outlives_us=False)
        with database:
            async with tab_at(database.url, tmp_path) as tab:
                assert (await tab.send()).status == 202
                database.stop()
                for path in ("/v1/tasks", "/v1/events"):
                    assert (await tab.ask("GET", path)).problem() == (503, "unavailable")
                assert (await tab.ask("GET", "/state")).json["on"]
                with RedisServer(Path(folder), program=redis_program, outlives_us=False):
                    assert len((await tab.ask("GET", "/v1/tasks")).json["tasks"]) == 1


@pytest.mark.parametrize("why", ["", "SONIC_QUEUE_LEASE_S: 'x' is no number."])
async def test_without_a_queue_the_page_is_there_and_says_so(why: str) -> None:
    async with serving(off_app(why)) as address, aiohttp.ClientSession() as session:
        async with session.get(f"{address}/state") as answer:
            assert await answer.json() == {"on": False, "why": why}
        for name, kind in (
            ("sidebar/tab.js", "text/javascript"),
            ("panel/text.js", "text/javascript"),
            ("sidebar/sidebar.css", "text/css"),
        ):
            async with session.get(f"{address}/page/{name}") as answer:
                assert answer.status == 200 and answer.content_type == kind
        async with session.get(f"{address}/v1/tasks") as answer:
            assert answer.status == 404
