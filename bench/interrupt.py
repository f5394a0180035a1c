"""How long ComfyUI goes on after somebody has pressed 'interrupt', wherever it is just then.

    python -m bench.interrupt [--comfyui DIR] [--models DIR] [--presses 12] [--seconds 60]

Prints JSON. One real ComfyUI on the processor runs a graph for each stage; in each of ``--presses`` runs it is
interrupted at another moment, spread over the time that the whole run took, and the time is taken until the server says
that it has stopped. A press that came after the end is not counted. ``--models`` is a folder of models with Sonic's
files, for its stages; without one they are left out. How long networks of the published width go on is what
``bench.sonic_interrupt`` measures, without files.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from comfyui_sonic.queue_bridge.servers.instance import Instance, install_pack
from comfyui_sonic.sonic.audio import read_sound
from comfyui_sonic.sonic.portrait import read_picture
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
Graph = dict[str, dict[str, Any]]
LEAST_S = 0.03  # a run shorter than this cannot be caught


def write_inputs(folder: Path, seconds: float) -> None:
    """A portrait, a texture without a face, and a voice of this length."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(read_picture(ROOT / "examples" / "batch" / "eileen_collins.png")).save(folder / "face.png")
    texture = np.random.default_rng(1).integers(0, 255, (3000, 2000, 3), dtype=np.uint8)
    Image.fromarray(texture).save(folder / "texture.png", compress_level=1)
    sound = read_sound(ROOT / "tests" / "data" / "voice.wav")
    samples = np.resize(sound.waveform.mean(axis=0), round(seconds * sound.sample_rate))
    with wave.open(str(folder / "voice.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sound.sample_rate)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())


def prepared(picture: str, size: int, seconds: float) -> Graph:
    return {
        "image": {"class_type": "SONIC_LoadPortrait", "inputs": {"image": picture}},
        "audio": {"class_type": "SONIC_LoadVoice", "inputs": {"audio": "voice.wav"}},
        "prepare": {
            "class_type": "SONIC_PreData",
            "inputs": {
                "image": ["image", 0],
                "audio": ["audio", 0],
                "duration": seconds,
                "min_resolution": size,
                "expand_ratio": 0.18,
                "on_no_face": "whole picture",
            },
        },
    }


def spoken(engine: str, size: int, seconds: float, seed: int, steps: int = 4, smooth: bool = False) -> Graph:
    graph = prepared("face.png", size, seconds)
    graph["speak"] = {
        "class_type": "SONIC_Inference",
        "inputs": {
            "preprocessed_data": ["prepare", 0],
            "inference_steps": steps,
            "dynamic_scale": 1.0,
            "motion_scale": 1.0,
            "engine": engine,
            "seed": seed,
        },
    }
    video: list[Any] = ["speak", 3]
    if smooth:
        wires = {"images": ["speak", 0], "audio": ["speak", 1], "fps": ["speak", 2]}
        asked = {"temporal_smoothing": True, "lip_sync_correction": True}
        graph["smooth"] = {"class_type": "SONIC_PostProcess", "inputs": wires | asked}
        wires = {"images": ["smooth", 0], "audio": ["smooth", 1], "fps": ["speak", 2]}
        graph["video"] = {"class_type": "CreateVideo", "inputs": wires}
        video = ["video", 0]
    saved = {"video": video, "filename_prefix": uuid.uuid4().hex, "format": "auto", "codec": "auto"}
    return graph | {"save": {"class_type": "SaveVideo", "inputs": saved}}


def searched(seed: int) -> Graph:
    """A search for a face where there is none; what is shown of it is the picture as it is."""
    graph = prepared("texture.png", 512, 1.0 + seed / 1000)
    return graph | {"speak": {"class_type": "PreviewAny", "inputs": {"source": ["prepare", 0]}}}


class Server:
    """One client of the server: runs a graph, and interrupts it after a while."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}"

    async def run(self, graph: Graph, press_after_s: float | None = None) -> tuple[str, float]:
        """How it ended, and the seconds since it began or, when it was interrupted, since that was asked for."""
        client = uuid.uuid4().hex
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session,
            session.ws_connect(f"{self._url}/ws?clientId={client}", max_msg_size=0) as socket,
        ):
            began = time.monotonic()
            async with session.post(f"{self._url}/prompt", json={"prompt": graph, "client_id": client}) as answer:
                if answer.status != 200:
                    raise SystemExit(await answer.text())
            press = None if press_after_s is None else asyncio.create_task(self._press(session, press_after_s))
            async for message in socket:
                event = json.loads(message.data) if message.type is aiohttp.WSMsgType.TEXT else {"type": ""}
                if event["type"] in ("execution_success", "execution_error", "execution_interrupted"):
                    break
            ended = time.monotonic()
            if event["type"] == "execution_error":
                raise SystemExit(event["data"]["exception_message"])
            pressed = began
            if press is not None:
                if event["type"] == "execution_interrupted":
                    pressed = await press
                press.cancel()
            return str(event["type"]), ended - pressed

    async def _press(self, session: aiohttp.ClientSession, after_s: float) -> float:
        await asyncio.sleep(after_s)
        pressed = time.monotonic()
        async with session.post(f"{self._url}/interrupt", json={}):
            return pressed

    async def forget_models(self) -> None:
        """So that the next run loads them again."""
        asked = {"unload_models": True, "free_memory": True}
        async with aiohttp.ClientSession() as session, session.post(f"{self._url}/free", json=asked):
            await asyncio.sleep(0.5)


async def latencies(server: Server, graph_of: Callable[[int], Graph], presses: int, afresh: bool) -> dict[str, Any]:
    """graph_of: from a number that makes every run a new one. afresh: models are loaded in each run."""
    seeds = itertools.count(1)
    _, whole_s = await server.run(graph_of(next(seeds)))
    if not afresh:
        _, whole_s = await server.run(graph_of(next(seeds)))
    found = []
    for press in range(presses):
        if afresh:
            await server.forget_models()
        ended, seconds = await server.run(graph_of(next(seeds)), max(LEAST_S, whole_s * (press + 0.5) / presses))
        if ended == "execution_interrupted":
            found.append(seconds)
    if not found:
        return {"run_s": round(whole_s, 2), "presses": 0}
    return {
        "run_s": round(whole_s, 2),
        "presses": len(found),
        "stopped_after_s": {"median": round(statistics.median(found), 3), "longest": round(max(found), 3)},
    }


async def measure(server: Server, presses: int, seconds: float, with_sonic: bool) -> dict[str, Any]:
    stages: dict[str, tuple[Callable[[int], Graph], bool]] = {
        "a face is looked for in a texture": (searched, False),
        "draft at 512": (lambda seed: spoken("draft", 512, seconds, seed), False),
        "draft at 1024": (lambda seed: spoken("draft", 1024, seconds, seed), False),
        "draft, smoothed and measured": (lambda seed: spoken("draft", 512, seconds / 3, seed, smooth=True), False),
    }
    if with_sonic:
        stages["sonic, with its loading"] = (lambda seed: spoken("sonic", 256, 0.3, seed, steps=1), True)
        stages["sonic, denoising"] = (lambda seed: spoken("sonic", 256, 0.5, seed, steps=4), False)
        stages["sonic, decoding"] = (lambda seed: spoken("sonic", 256, 1.5, seed, steps=1), False)
    found = {}
    for name, (graph_of, afresh) in stages.items():
        found[name] = await latencies(server, graph_of, presses, afresh)
        sys.stderr.write(f"{name}: {json.dumps(found[name])}\n")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("COMFYUI_PATH") or ROOT / ".quickstart" / "ComfyUI"
    parser.add_argument("--comfyui", type=Path, default=Path(default), help="the folder with ComfyUI's main.py")
    parser.add_argument("--models", type=Path, help="a folder of models with Sonic's files")
    parser.add_argument("--presses", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the voice")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        instance = Instance(arguments.comfyui, Path(directory) / "comfyui")
        install_pack(ROOT, instance.base_directory / "custom_nodes")
        write_inputs(instance.base_directory / "input", arguments.seconds)
        if arguments.models:
            (instance.base_directory / "models").symlink_to(arguments.models.resolve(), target_is_directory=True)
        with instance:
            server = Server(instance.address)
            found = asyncio.run(measure(server, arguments.presses, arguments.seconds, arguments.models is not None))
    json.dump(found, sys.stdout, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
