"""The engine sonic inside a real ComfyUI server, with small networks in the published files."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import av
import pytest
from comfyui_sonic.sonic.checkpoints import SONIC_FILES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
SECONDS = 0.6

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


async def run(comfyui: Any, graph: Graph, on_progress: Any = None) -> tuple[dict[str, Any], list[tuple[int, int]], str]:
    """(outputs by node, progress of the node that speaks, error) of a prompt."""
    client, progress, error = uuid.uuid4().hex, [], ""
    address = comfyui.address if "://" in comfyui.address else f"http://{comfyui.address}"
    timeout = aiohttp.ClientTimeout(total=200)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        async with session.ws_connect(f"{address}/ws?clientId={client}", max_msg_size=0) as socket:
            async with session.post(f"{address}/prompt", json={"prompt": graph, "client_id": client}) as answer:
                body = await answer.json()
                assert answer.status == 200, body
            async for message in socket:
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


def frames_of(comfyui: Any, outputs: dict[str, Any]) -> int:
    entry = outputs["save"]["images"][0]
    path = Path(comfyui.base_directory) / "output" / entry["subfolder"] / entry["filename"]
    with av.open(str(path)) as container:
        assert container.streams.audio
        return sum(1 for _ in container.decode(video=0))


async def test_the_loader_names_every_missing_file(comfyui: Any) -> None:
    graph = graph_for(comfyui, model=["loader", 0])
    graph["loader"] = {"class_type": "SONIC_Loader", "inputs": {"unet": "unet.pth"}}
    _, _, error = await run(comfyui, graph)
    for file in SONIC_FILES:
        assert str(Path("models") / file.folder / file.names[0]) in error


async def test_sonic_makes_a_video_when_its_files_are_there(comfyui: Any, models: Path) -> None:
    outputs, progress, error = await run(comfyui, graph_for(comfyui))
    assert error == ""
    assert frames_of(comfyui, outputs) == round(SECONDS * 25)
    told = outputs["speak"]["sonic"][0]
    assert told["engine"] == "sonic" and told["reason"] == "'auto' chose sonic because all its files are there."
    done = [value for value, _ in progress]
    assert done == sorted(done) and done[-1] == 50 + 15
    assert {most for _, most in progress} == {50 + 15}


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


async def test_an_interrupt_ends_the_denoising_and_leaves_no_file(comfyui: Any, models: Path) -> None:
    base = Path(comfyui.base_directory)

    def videos() -> set[Path]:
        return {path for part in ("output", "temp") for path in (base / part).rglob("*") if path.is_file()}

    before, stopped_at = videos(), []

    async def stop(value: int, session: aiohttp.ClientSession, address: str) -> None:
        if value >= 50 and not stopped_at:  # the first of eight windows is through
            stopped_at.append(value)
            async with session.post(f"{address}/interrupt", json={}) as answer:
                assert answer.status == 200

    outputs, progress, error = await run(comfyui, graph_for(comfyui, inference_steps=8, seed=7), stop)
    assert error == "interrupted"
    assert max(value for value, _ in progress) <= 100
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
