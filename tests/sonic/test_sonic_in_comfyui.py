"""The engine sonic inside a real ComfyUI server, with small networks in the published files."""

from __future__ import annotations

import asyncio
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import av
import numpy as np
import pytest
from comfyui_sonic.sonic.checkpoints import SONIC_FILES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
SECONDS = 0.32
TEXT = (3).to_bytes(4, "big")  # ComfyUI's binary message with a line for a node

Graph = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def models(comfyui: Any, write_sonic_files: Callable[[Path], None]) -> Iterator[Path]:
    """The server's folder of models with Sonic's files in it; they go again, as others test what happens without."""
    folder = Path(comfyui.base_directory) / "models"
    write_sonic_files(folder)
    yield folder
    for file in SONIC_FILES:
        for name in file.names:
            (folder / file.folder / name).unlink(missing_ok=True)


def graph_for(comfyui: Any, **settings: Any) -> Graph:
    names = {
        "image": ROOT / "examples" / "batch" / "eileen_collins.png",
        "audio": ROOT / "tests" / "data" / "voice.wav",
    }
    for node, source in names.items():
        names[node] = Path(f"{uuid.uuid4().hex[:8]}{source.suffix}")
        shutil.copyfile(source, Path(comfyui.base_directory) / "input" / names[node])
    return {
        "image": {"class_type": "LoadImage", "inputs": {"image": str(names["image"])}},
        "audio": {"class_type": "LoadAudio", "inputs": {"audio": str(names["audio"])}},
        "prepare": {
            "class_type": "SONIC_PreData",
            "inputs": {
                "image": ["image", 0],
                "audio": ["audio", 0],
                "duration": SECONDS,
                "min_resolution": 256,
                "expand_ratio": 0.18,
            },
        },
        "speak": {
            "class_type": "SONIC_Inference",
            "inputs": {
                "preprocessed_data": ["prepare", 0],
                "inference_steps": 1,
                "dynamic_scale": 1.0,
                "motion_scale": 1.0,
                **settings,
            },
        },
        "save": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["speak", 3], "filename_prefix": uuid.uuid4().hex, "format": "auto", "codec": "auto"},
        },
    }


async def run(
    comfyui: Any, graph: Graph, on_progress: Any = None, texts: list[str] | None = None
) -> tuple[dict[str, Any], list[tuple[int, int]], str]:
    """(outputs by node, progress of the node that speaks, error) of a prompt; texts: takes what the node shows."""
    client, progress, error = uuid.uuid4().hex, [], ""
    address = comfyui.address if "://" in comfyui.address else f"http://{comfyui.address}"
    timeout = aiohttp.ClientTimeout(total=200)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        async with session.ws_connect(f"{address}/ws?clientId={client}", max_msg_size=0) as socket:
            async with session.post(f"{address}/prompt", json={"prompt": graph, "client_id": client}) as answer:
                body = await answer.json()
                assert answer.status == 200, body
            async for message in socket:
                if texts is not None and message.type is aiohttp.WSMsgType.BINARY and message.data[:4] == TEXT:
                    node, text = message.data[8:].decode(), message.data[8 + int.from_bytes(message.data[4:8]) :]
                    if node.startswith("speak"):
                        texts.append(text.decode())
                event = json.loads(message.data) if message.type is aiohttp.WSMsgType.TEXT else {"type": "preview"}
                if event["type"] == "progress" and event["data"]["node"] == "speak":
                    progress.append((event["data"]["value"], event["data"]["max"]))
                    if on_progress is not None:
                        await on_progress(event["data"]["value"], session, address)
                elif event["type"] == "execution_error":
                    error = event["data"]["exception_message"].strip()
                elif event["type"] == "execution_interrupted":
                    error = "interrupted"
                elif event["type"] == "executing" and event["data"]["node"] is None:
                    break
        async with session.get(f"{address}/history/{body['prompt_id']}") as answer:
            return (await answer.json())[body["prompt_id"]]["outputs"], progress, error


def pictures_of(comfyui: Any, outputs: dict[str, Any]) -> np.ndarray:
    """(frames, height, width, 3) of the saved video, which has sound."""
    entry = outputs["save"]["images"][0]
    path = Path(comfyui.base_directory) / "output" / entry["subfolder"] / entry["filename"]
    with av.open(str(path)) as container:
        assert container.streams.audio
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def frames_of(comfyui: Any, outputs: dict[str, Any]) -> int:
    return len(pictures_of(comfyui, outputs))


def in_parts(graph: Graph, seed: int, stock: bool = False) -> Graph:
    """The same with ComfyUI's sampler between; stock: also with its guider, its noise levels and its noise."""
    parts: dict[str, tuple[str, dict[str, Any]]] = {
        "loader": ("SONIC_Loader", {"unet": "unet.pth"}),
        "told": (
            "SONIC_Conditioning",
            {
                "model": ["loader", 0],
                "preprocessed_data": ["prepare", 0],
                "dynamic_scale": 1.0,
                "motion_scale": 1.0,
            },
        ),
        "sampler": ("KSamplerSelect", {"sampler_name": "euler"}),
        "sample": (
            "SamplerCustomAdvanced",
            {
                "noise": ["noise", 0],
                "guider": ["guider", 0],
                "sampler": ["sampler", 0],
                "sigmas": ["sigmas", 0],
                "latent_image": ["told", 4],
            },
        ),
        "speak": (
            "SONIC_Decode",
            {"model": ["loader", 0], "samples": ["sample", 0], "preprocessed_data": ["prepare", 0], "fps": 25.0},
        ),
    }
    if stock:
        karras = {"steps": 1, "sigma_max": 700.0, "sigma_min": 0.002, "rho": 7.0}
        strengths = {"cfg_conds": 7.5, "cfg_cond2_negative": 2.0, "style": "regular"}
        parts["noise"] = ("RandomNoise", {"noise_seed": seed})
        parts["sigmas"] = ("KarrasScheduler", karras)
        wires = {"model": ["told", 0], "cond1": ["told", 1], "cond2": ["told", 2], "negative": ["told", 3]}
        parts["guider"] = ("DualCFGGuider", wires | strengths)
    else:
        strengths = {"appearance_guidance": 2.0, "audio_guidance": 7.5}
        parts["noise"] = ("SONIC_Noise", {"seed": seed})
        parts["sigmas"] = ("SONIC_Scheduler", {"steps": 1})
        wires = {"model": ["told", 0], "positive": ["told", 1], "without_speech": ["told", 2], "negative": ["told", 3]}
        parts["guider"] = ("SONIC_Guider", wires | strengths)
    return graph | {node: {"class_type": kind, "inputs": inputs} for node, (kind, inputs) in parts.items()}


@dataclass
class Whole:
    """A video that the engine's one node has made: its graph, and what ``run`` gave."""

    graph: Graph
    outputs: dict[str, Any]
    progress: list[tuple[int, int]]
    error: str
    texts: list[str]


@pytest.fixture(scope="module")
def whole(comfyui: Any, models: Path) -> Whole:
    graph, texts = graph_for(comfyui, seed=5), list[str]()
    return Whole(graph, *asyncio.run(run(comfyui, graph, texts=texts)), texts)


async def test_the_loader_names_every_missing_file(comfyui: Any) -> None:
    graph = graph_for(comfyui, model=["loader", 0])
    graph["loader"] = {"class_type": "SONIC_Loader", "inputs": {"unet": "unet.pth"}}
    _, _, error = await run(comfyui, graph)
    for file in SONIC_FILES:
        assert str(Path("models") / file.folder / file.names[0]) in error


def test_sonic_makes_a_video_when_its_files_are_there(comfyui: Any, whole: Whole) -> None:
    assert whole.error == ""
    assert whole.texts[0].splitlines()[0] == "Engine: sonic." and "GB + weights" in whole.texts[0]
    assert whole.texts[1] == "sonic: step 1 of 1, window 1 of 1"
    assert whole.texts[-2] == "sonic: frame 8 of 8, about 0 s left"
    assert whole.texts[-1].startswith("Engine: sonic") and "8 frames at 25 frames a second" in whole.texts[-1]
    assert frames_of(comfyui, whole.outputs) == round(SECONDS * 25)
    told = whole.outputs["speak"]["sonic"][0]
    assert told["engine"] == "sonic" and told["reason"] == "'auto' chose sonic because all its files are there."
    done = [value for value, _ in whole.progress]
    assert done == sorted(done) and done[-1] == 50 + 8
    assert {most for _, most in whole.progress} == {50 + 8}


async def test_a_connected_model_is_used_and_networks_stay_loaded(comfyui: Any, models: Path) -> None:
    def times_loaded() -> int:
        return comfyui.log_file.read_text(encoding="utf-8").count("Sonic is loaded from")

    before = times_loaded()
    graph = graph_for(comfyui, model=["loader", 0], seed=1, fps=12.5)
    inputs = {"unet": "unet.pth", "dtype": "auto", "audio_scale": 0.5}
    graph["loader"] = {"class_type": "SONIC_Loader", "inputs": inputs}
    outputs, _, error = await run(comfyui, graph)
    assert error == ""
    assert frames_of(comfyui, outputs) == round(SECONDS * 12.5)
    assert "connected" in outputs["speak"]["sonic"][0]["reason"]
    assert times_loaded() == max(before, 1)


async def test_the_parts_around_comfyuis_sampler_make_the_same_video(comfyui: Any, whole: Whole) -> None:
    outputs, progress, error = await run(comfyui, in_parts(whole.graph, seed=5))
    assert error == ""
    np.testing.assert_array_equal(pictures_of(comfyui, outputs), pictures_of(comfyui, whole.outputs))
    assert outputs["speak"]["sonic"][0]["engine"] == "sonic"
    assert progress[-1] == (8, 8)


async def test_comfyuis_own_guider_and_noise_levels_work_too(comfyui: Any, models: Path) -> None:
    graph = graph_for(comfyui)
    graph["prepare"]["inputs"]["duration"] = 0.16
    outputs, _, error = await run(comfyui, in_parts(graph, seed=5, stock=True))
    assert error == ""
    assert frames_of(comfyui, outputs) == round(0.16 * 25)


@pytest.mark.parametrize(
    ("node", "inputs", "said"),
    [
        ("sample", {"latent_image": ["other", 0]}, "conditioning is for 4 frames and the latent has 3"),
        ("speak", {"samples": ["other", 0]}, "were not made from this preprocessed_data"),
    ],
)
async def test_parts_that_do_not_belong_together_are_named(
    node: str, inputs: dict[str, Any], said: str, comfyui: Any, models: Path
) -> None:
    graph = in_parts(graph_for(comfyui), seed=5)
    graph["other"] = {"class_type": "EmptyLatentImage", "inputs": {"width": 256, "height": 256, "batch_size": 3}}
    graph[node]["inputs"] |= inputs
    outputs, _, error = await run(comfyui, graph)
    assert said in error and "\n" not in error
    assert "save" not in outputs


@pytest.mark.parametrize(
    ("steps", "stop_from", "at_most"),
    [pytest.param(8, 50, 100, id="denoising"), pytest.param(1, 51, 60, id="decoding")],
)
async def test_an_interrupt_ends_it_and_leaves_no_file(
    steps: int, stop_from: int, at_most: int, comfyui: Any, models: Path
) -> None:
    base = Path(comfyui.base_directory)

    def videos() -> set[Path]:
        return {path for part in ("output", "temp") for path in (base / part).rglob("*") if path.is_file()}

    before, stopped_at = videos(), []

    async def stop(value: int, session: aiohttp.ClientSession, address: str) -> None:
        if value >= stop_from and not stopped_at:  # the first window is through, or the first frame
            stopped_at.append(value)
            async with session.post(f"{address}/interrupt", json={}) as answer:
                assert answer.status == 200

    graph = graph_for(comfyui, inference_steps=steps, seed=7)
    graph["prepare"]["inputs"]["duration"] = 0.6
    outputs, progress, error = await run(comfyui, graph, stop)
    assert error == "interrupted"
    assert max(value for value, _ in progress) <= at_most
    assert "speak" not in outputs
    assert videos() <= before


async def test_a_damaged_file_is_named_in_one_sentence(comfyui: Any, models: Path) -> None:
    path = models / "sonic" / "audio2bucket.pth"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    try:
        outputs, _, error = await run(comfyui, graph_for(comfyui, engine="sonic"))
    finally:
        path.write_bytes(whole)
    assert "audio2bucket.pth' cannot be read" in error
    assert "\n" not in error
    assert "save" not in outputs
