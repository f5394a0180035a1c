"""SONIC_SaveVideo inside real ComfyUI servers: what lies in the output folder, and what the queue makes of it."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import av
import numpy as np
import pytest
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, Value, new_job_id
from comfyui_sonic.queue_bridge.queue.store import Submission

from .bridge_fixture import ROOT, Bridge
from .certificates import SIGNER, can_sign
from .test_nodes_in_comfyui import PORTRAIT, VOICE, Graph, Outcome, Server, readme_graph, server, server_process, unique

__all__ = ["server"]  # a fixture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SHORT_S = 3.0


def graph_with(server: Server, duration: float = SHORT_S, **inputs: Any) -> Graph:
    graph = readme_graph(server.put(unique("portrait.png"), PORTRAIT), server.put(unique("voice.wav"), VOICE), duration)
    saving = {"filename_prefix": unique("kept"), "codec": "h264", "crf": -1, **inputs}
    graph["save"] = {"class_type": "SONIC_SaveVideo", "inputs": saving}
    return graph


OF_IMAGES = {"images": ["speak", 0], "audio": ["speak", 1], "fps": ["speak", 2]}
OF_VIDEO = {"video": ["speak", 3]}


def seen(path: Path) -> tuple[list[np.ndarray[Any, Any]], dict[str, str], str]:
    """Grey frames, metadata, name of the video stream's codec."""
    with av.open(str(path)) as container:
        name = container.streams.video[0].codec_context.name
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
        assert len(container.streams.audio) == 1
        return frames, dict(container.metadata), name


def has_text(frame: np.ndarray[Any, Any]) -> bool:
    """Letters of pure white on a dark plate, in the lower right corner of a frame of 256 pixels."""
    plate = frame[-38:-8, -80:-8]
    return float((plate > 225).mean()) > 0.1 and float((plate < 110).mean()) > 0.3


@pytest.mark.parametrize("source", ["images", "video"])
async def test_hevc_with_both_marks_is_read_back(server: Server, source: str) -> None:
    given = OF_IMAGES if source == "images" else OF_VIDEO
    outcome = await server.run(
        graph_with(server, codec="hevc", producer="某某公司", visible_mark=True, mark_seconds=2.0, **given)
    )
    assert outcome.error == ""
    frames, metadata, codec = seen(server.saved(outcome))
    assert (len(frames), codec) == (round(SHORT_S * 25), "hevc")
    assert all(map(has_text, frames[:50])) and not any(map(has_text, frames[51:]))
    mark = json.loads(metadata["AIGC"])
    assert (mark["Label"], mark["ContentProducer"]) == ("1", "某某公司")
    assert json.loads(metadata["prompt"])["save"]["class_type"] == "SONIC_SaveVideo"
    assert json.loads(metadata["sonic"])["engine"] == "draft"
    entry = outcome.outputs["save"]
    assert entry["animated"] == [True] and entry["images"][0]["type"] == "output"
    done = [value for node, value, _ in outcome.progress if node == "save"]
    assert done and done == sorted(done) and done[-1] == len(frames)


async def test_a_video_that_needs_no_change_is_copied_and_keeps_its_number(server: Server) -> None:
    graph = graph_with(server, 1.0, **OF_VIDEO, producer="us")
    graph["core"] = {
        "class_type": "SaveVideo",
        "inputs": {"video": ["speak", 3], "filename_prefix": unique("core"), "format": "auto", "codec": "auto"},
    }
    forged = {"AIGC": {"Label": "0"}, "workflow": {"nodes": []}}
    outcome = await server.run(graph, extra={"extra_pnginfo": forged})
    assert outcome.error == ""
    (ours, our_words, _), (core, core_words, _) = seen(server.saved(outcome)), seen(server.saved(outcome, "core"))
    assert all(np.array_equal(a, b) for a, b in zip(ours, core, strict=True))
    our_mark, core_mark = json.loads(our_words["AIGC"]), json.loads(core_words["AIGC"])
    assert our_mark["ProduceID"] == core_mark["ProduceID"] and our_mark["Label"] == core_mark["Label"] == "1"
    assert json.loads(our_words["workflow"]) == json.loads(core_words["workflow"]) == {"nodes": []}
    assert (our_mark["ContentProducer"], core_mark["ContentProducer"]) == ("us", "Sonic for ComfyUI")
    assert json.loads(our_words["sonic"])["engine"] == json.loads(core_words["sonic"])["engine"] == "draft"


async def test_a_video_of_components_and_one_from_a_file_are_saved_as_well(server: Server) -> None:
    graph = graph_with(server, 1.0, video=["joined", 0])
    graph["joined"] = {"class_type": "CreateVideo", "inputs": OF_IMAGES}
    outcome = await server.run(graph)
    assert outcome.error == ""
    saved = server.saved(outcome)
    assert len(seen(saved)[0]) == 25
    again = {
        "load": {"class_type": "LoadVideo", "inputs": {"file": server.put(unique("v.mp4"), saved)}},
        "save": {
            "class_type": "SONIC_SaveVideo",
            "inputs": {"video": ["load", 0], "filename_prefix": unique("k"), "codec": "lossless", "crf": -1},
        },
    }
    outcome = await server.run(again)
    assert outcome.error == ""
    frames, metadata, _ = seen(server.saved(outcome))
    assert len(frames) == 25
    assert json.loads(metadata["AIGC"])["ProduceID"] == json.loads(seen(saved)[1]["AIGC"])["ProduceID"]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"filename_prefix": "../../outside"}, "is no name inside ComfyUI's output folder"),
        ({"filename_prefix": " "}, "is no name inside ComfyUI's output folder"),
        ({"crf": 60}, "crf: 60 is outside 0 to 51, which h264 takes"),
        ({"producer": "a\nb"}, "producer: takes up to 200 characters"),
        ({"visible_mark": True, "mark_text": "生成é"}, "the font label.otf has no é"),
        ({"visible_mark": True, "mark_seconds": 1.0}, "mark_seconds: 1 is not 2 or more"),
        ({"content_credentials": True}, "c2pa-python|SONIC_C2PA_CERTIFICATE"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_runs(
    server: Server, inputs: dict[str, Any], words: str
) -> None:
    outcome = await server.run(graph_with(server, **OF_VIDEO, **inputs), expect_valid=False)
    assert any(part in outcome.error for part in words.split("|")), outcome.error
    assert outcome.outputs == {}


@pytest.mark.parametrize("given", [{}, {**OF_VIDEO, "images": ["speak", 0]}])
async def test_neither_and_both_are_refused_in_a_sentence(server: Server, given: dict[str, Any]) -> None:
    outcome = await server.run(graph_with(server, 0.5, **given))
    assert outcome.error.startswith("images: either images or a video can be saved, and ")


async def test_a_folder_that_cannot_be_made_is_said_in_a_sentence(server: Server) -> None:
    taken = f"taken_{uuid.uuid4().hex[:8]}"
    (server.base / "output" / taken).write_bytes(b"a file")
    before = server.videos()
    outcome = await server.run(graph_with(server, 0.5, **OF_VIDEO, **{"filename_prefix": f"{taken}/name"}))
    assert f"'{taken}/name'" in outcome.error and "\n" not in outcome.error
    assert {path for path in server.videos() - before if path.parent.name == "output"} == set()


async def test_an_interrupt_while_saving_leaves_no_file(server: Server) -> None:
    graph = graph_with(server, **OF_IMAGES, codec="av1")
    graph["speak"]["inputs"]["fps"] = 50.0
    before = {path for path in server.videos() if path.parent.name == "output"}

    async def stop(value: int) -> None:
        if value >= 5:  # the frames are made while they are saved
            await server.interrupt()

    outcome = await server.run(graph, stop)
    assert outcome.interrupted
    assert {path for path in server.videos() if path.parent.name == "output"} == before


async def test_memory_does_not_grow_with_the_frames_that_are_saved(server: Server) -> None:
    graph = graph_with(server, 0.0, **OF_IMAGES)
    graph["speak"]["inputs"]["fps"] = 120.0
    graph["prepare"]["inputs"]["min_resolution"] = 512
    process = server_process(server.address)
    levels: list[int] = []

    async def watch(value: int) -> None:
        if value % 50 == 0:
            levels.append(process.memory_info().rss)

    outcome: Outcome = await server.run(graph, watch)
    assert outcome.error == ""
    frames = len(seen(server.saved(outcome))[0])
    assert frames > 300
    assert max(levels) - levels[1] < 0.25 * frames * 512 * 512 * 3 * 4  # as one tensor it would be all of that


async def published(bridge: Bridge, folder: Path, consent_id: str = "", **config: Value) -> JobRecord:
    """A job of the template `publish` with material of its own, at its end; its video is ``folder / "out.mp4"``."""
    folder.mkdir()
    examples = ROOT / "examples" / "batch"
    names = ("close_up.png", "close_up.mp3")
    for name in names:
        (folder / name).write_bytes((examples / name).read_bytes())
    uris = [(folder / name).as_uri() for name in (*names, "out.mp4")]
    settings = {"duration": 1.0, "engine": "draft", **config}
    spec = JobSpec(new_job_id(), *uris, workflow="publish", config=settings, consent_id=consent_id)
    async with bridge.queue() as queue:
        await queue.store.submit([Submission(spec, 512)])
        return (await queue.ended(spec.task_id))[spec.task_id]


async def test_the_queue_finds_the_file_and_keeps_the_consent(bridge: Bridge) -> None:
    folder = bridge.orders / "published"
    record = await published(bridge, folder, "file 7")
    assert record.error == ""
    assert record.result is not None and record.result["consent_id"] == record.spec.consent_id == "file 7"
    frames, metadata, codec = seen(folder / "out.mp4")
    assert (len(frames), codec) == (25, "hevc")
    assert all(map(has_text, frames)) and json.loads(metadata["AIGC"])["ContentProducer"] == "us"


def statement_in(video: Path) -> dict[str, Any]:
    """The signed manifest that a C2PA reader finds in a video which nobody has changed since."""
    import c2pa

    with c2pa.Reader(video) as reader:
        store = json.loads(reader.json())
    assert store["validation_state"] in ("Valid", "Trusted"), store.get("validation_status")
    manifest: dict[str, Any] = store["manifests"][store["active_manifest"]]
    return manifest


@pytest.mark.skipif(not can_sign(), reason="the package c2pa-python is not installed")
async def test_a_server_signs_what_it_saves_for_a_job_and_for_a_prompt(bridge: Bridge) -> None:
    folder = bridge.orders / "signed"
    record = await published(bridge, folder, content_credentials=True)  # encoded anew, as it gets a visible mark
    assert record.error == ""
    instance = bridge.instances["gpu-1"]
    async with aiohttp.ClientSession() as session:
        server = Server(instance.address, Path(instance.base_directory), session)
        outcome = await server.run(graph_with(server, 1.0, **OF_VIDEO, content_credentials=True))  # copied
    assert outcome.error == ""
    for video, frames in ((folder / "out.mp4", 25), (server.saved(outcome), 25)):
        manifest = statement_in(video)
        assert manifest["signature_info"]["common_name"] == SIGNER
        assert "compositeWithTrainedAlgorithmicMedia" in json.dumps(manifest["assertions"])
        pictures, metadata, _ = seen(video)
        assert len(pictures) == frames and json.loads(metadata["AIGC"])["Label"] == "1"
        assert not list(video.parent.glob(".*"))
        assert b"PRIVATE KEY" not in video.read_bytes()


async def test_the_node_is_described_with_a_tooltip_for_every_input(server: Server) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{server.address}/object_info/SONIC_SaveVideo") as told:
        node = (await told.json())["SONIC_SaveVideo"]
    inputs = {**node["input"]["required"], **node["input"]["optional"]}
    assert node["output_node"] is True
    assert [name for name, kind in inputs.items() if not kind[1].get("tooltip")] == []
