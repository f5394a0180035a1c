"""The client against a real ComfyUI server, with ComfyUI's own nodes; the sentences also without a server."""

from __future__ import annotations

import asyncio
import math
import struct
import wave
from pathlib import Path
from typing import Any

import pytest
from comfyui_sonic.queue_bridge import errors as bridge_errors
from comfyui_sonic.queue_bridge.errors import (
    BridgeError,
    InstanceError,
    PromptFailed,
    PromptInterrupted,
    PromptRejected,
)
from comfyui_sonic.queue_bridge.execution.comfy_client import ComfyClient
from comfyui_sonic.queue_bridge.ports import free_port
from comfyui_sonic.queue_bridge.prompt_events import Progress, ProgressMeter, failure, rejection
from comfyui_sonic.sonic import errors as sonic_errors
from PIL import Image

pytestmark = pytest.mark.slow


def picture(path: Path) -> Path:
    Image.new("RGB", (64, 64), "teal").save(path)
    return path


def sound(path: Path, seconds: float = 0.4) -> Path:
    samples = [int(9000 * math.sin(i / 9)) for i in range(int(16000 * seconds))]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return path


def clip_graph(image: str, audio: str, prefix: str = "clip") -> dict[str, Any]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "LoadAudio", "inputs": {"audio": audio}},
        "3": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "audio": ["2", 0], "fps": 25.0}},
        "4": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["3", 0], "filename_prefix": prefix, "format": "mp4", "codec": "h264"},
        },
    }


def endless_graph(prefix: str) -> dict[str, Any]:
    """Minutes of work for ComfyUI without any model: one blur after the other."""
    graph: dict[str, Any] = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 512, "height": 512, "batch_size": 8, "color": 0}}
    }
    for i in range(2, 300):
        inputs = {"image": [str(i - 1), 0], "blur_radius": 31, "sigma": 10.0}
        graph[str(i)] = {"class_type": "ImageBlur", "inputs": inputs}
    graph["300"] = {"class_type": "SaveImage", "inputs": {"images": ["299", 0], "filename_prefix": prefix}}
    return graph


async def test_a_picture_and_a_sound_become_a_downloaded_video(client: ComfyClient, tmp_path: Path) -> None:
    image = await client.upload(picture(tmp_path / "a.png"), subfolder="clip")
    audio = await client.upload(sound(tmp_path / "a.wav"), subfolder="clip")
    result = await client.run(clip_graph(image, audio))
    (file,) = result.files()
    place = await client.download(file, tmp_path / "new folder" / "a.mp4")
    assert place.read_bytes()[4:8] == b"ftyp"
    assert [path.name for path in place.parent.iterdir()] == ["a.mp4"], "no unfinished file stays behind"


@pytest.mark.parametrize(
    "name", ["two words.png", "声音 é.png", "🎤.png", "quo'te\".png", "per%cent.png", "semi;colon.png"]
)
async def test_an_upload_keeps_an_unusual_name(client: ComfyClient, comfyui: Any, tmp_path: Path, name: str) -> None:
    stored = await client.upload(picture(tmp_path / name), subfolder="names")
    assert stored == f"names/{name}"
    assert (comfyui.input_directory / "names" / name).read_bytes() == (tmp_path / name).read_bytes()


async def test_progress_never_goes_back_and_ends_at_one(client: ComfyClient, tmp_path: Path) -> None:
    image = await client.upload(picture(tmp_path / "p.png"))
    audio = await client.upload(sound(tmp_path / "p.wav"))
    seen: list[Progress] = []
    await client.run(clip_graph(image, audio, "progress"), on_progress=seen.append, weights={"SaveVideo": 5})
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert "SaveVideo" in {progress.stage for progress in seen}


async def test_a_prompt_that_is_cached_still_gives_its_outputs(client: ComfyClient, tmp_path: Path) -> None:
    image = await client.upload(picture(tmp_path / "c.png"))
    audio = await client.upload(sound(tmp_path / "c.wav"))
    first = await client.run(clip_graph(image, audio, "cached"))
    again = await client.run(clip_graph(image, audio, "cached"))
    assert again.files() == first.files() != []


async def test_a_wrong_input_is_refused_in_one_sentence(client: ComfyClient) -> None:
    graph = {
        "7": {"class_type": "EmptyImage", "inputs": {"width": -5, "height": 64, "batch_size": 1, "color": 0}},
        "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "x"}},
    }
    with pytest.raises(PromptRejected) as raised:
        await client.run(graph)
    assert "node 7" in str(raised.value)
    assert "width" in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_an_unknown_node_is_refused_by_its_name(client: ComfyClient) -> None:
    with pytest.raises(PromptRejected, match="NoSuchNode"):
        await client.run({"1": {"class_type": "NoSuchNode", "inputs": {}}})


async def test_a_file_that_is_no_sound_fails_in_one_sentence_that_names_the_node(
    client: ComfyClient, tmp_path: Path
) -> None:
    text = tmp_path / "text.wav"
    text.write_text("this is no sound", encoding="utf-8")
    image = await client.upload(picture(tmp_path / "b.png"))
    with pytest.raises(PromptFailed) as raised:
        await client.run(clip_graph(image, await client.upload(text)))
    assert "LoadAudio" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "Traceback" not in str(raised.value)


async def test_an_interrupt_ends_the_prompt(client: ComfyClient) -> None:
    running = asyncio.Event()
    prompt_id = "5f9a2a52-7bb4-4a0e-8f0c-0d1d8ad3a001"
    task = asyncio.create_task(
        client.run(endless_graph("interrupt"), on_progress=lambda _: running.set(), prompt_id=prompt_id)
    )
    await asyncio.wait_for(running.wait(), 30)
    await client.interrupt(prompt_id)
    with pytest.raises(PromptInterrupted):
        await asyncio.wait_for(task, 30)


async def test_cancelling_the_call_interrupts_the_prompt_on_the_server(client: ComfyClient) -> None:
    running = asyncio.Event()
    prompt_id = "5f9a2a52-7bb4-4a0e-8f0c-0d1d8ad3a002"
    task = asyncio.create_task(
        client.run(endless_graph("cancel"), on_progress=lambda _: running.set(), prompt_id=prompt_id)
    )
    await asyncio.wait_for(running.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(30):
        while (entry := await client.history(prompt_id)) is None:
            await asyncio.sleep(0.05)
    assert "execution_interrupted" in [event for event, _ in entry["status"]["messages"]]


async def test_a_server_that_is_not_there_is_one_sentence() -> None:
    async with ComfyClient(f"127.0.0.1:{free_port()}") as nobody:
        with pytest.raises(InstanceError, match="does not answer"):
            await nobody.run(clip_graph("a.png", "a.wav"))


async def test_an_upload_of_a_missing_file_is_one_sentence(client: ComfyClient, tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match=r"'gone\.png' cannot be read"):
        await client.upload(tmp_path / "gone.png")


def test_progress_weighs_the_nodes_and_ignores_what_goes_back() -> None:
    graph = {"a": {"class_type": "Quick"}, "b": {"class_type": "Long", "_meta": {"title": "The long one"}}}
    meter = ProgressMeter(graph, {"Long": 9.0})
    assert meter.feed("executed", {"node": "a"}).fraction == pytest.approx(0.1)
    half = {"nodes": {"b": {"state": "running", "value": 5, "max": 10}}}
    assert meter.feed("progress_state", half) == Progress(pytest.approx(0.55), "The long one", 5, 10)
    back = {"nodes": {"b": {"state": "running", "value": 1, "max": 10}, "b.0.1": {"state": "finished"}}}
    assert meter.feed("progress_state", back).fraction == pytest.approx(0.55)
    assert meter.feed("execution_success", {}).fraction == 1.0


def test_an_error_of_our_nodes_speaks_for_itself_and_echoes_no_input() -> None:
    data = {
        "node_id": "3",
        "node_type": "SONIC_PreData",
        "exception_type": "/home/me/custom_nodes/comfyui_sonic.sonic.errors.NoFace",
        "exception_message": "No face was found in the picture; use one that shows a face.",
        "traceback": ["secret path"],
        "current_inputs": {"image": ["secret input"]},
    }
    error = failure(data, {})
    assert str(error) == "No face was found in the picture; use one that shows a face."
    assert error.bad_input
    assert error.error_type == "NoFace"
    assert "secret" not in repr(vars(error))


def test_any_other_error_names_the_node_and_is_not_the_materials_fault() -> None:
    data = {"node_id": "3", "node_type": "VAEDecode", "exception_type": "RuntimeError", "exception_message": "a\nb"}
    error = failure(data, {"3": {"class_type": "VAEDecode", "_meta": {"title": "Decode"}}})
    assert str(error) == "Decode failed: a."
    assert not error.bad_input


def test_a_nodes_own_check_of_its_material_counts_as_bad_input() -> None:
    reason = {
        "type": "custom_validation_failed",
        "message": "Custom validation failed",
        "details": "image - No such file",
    }
    error = rejection({"node_errors": {"1": {"errors": [reason]}}}, {})
    assert str(error) == "No such file."
    assert error.bad_input


def test_the_names_of_bad_input_are_those_of_the_error_tree() -> None:
    def names(kind: type[Exception]) -> set[str]:
        return {kind.__name__}.union(*(names(below) for below in kind.__subclasses__()))

    assert names(sonic_errors.BadInput) == bridge_errors.BAD_INPUT_TYPES
