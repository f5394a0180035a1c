"""The engine sonic where memory is a card's: what lies where, what is left in main memory, what fails for want of it.

In a real server on a card of software (tests/software_card), whose numbers are the processor's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_sonic.queue_bridge.servers.instance import Instance, install_pack
from comfyui_sonic.sonic.portrait import read_picture

from ..card_fixture import SoftwareCard
from .test_sonic_in_comfyui import ROOT, SECONDS, Graph, graph_for, models, run

__all__ = ["models"]  # a fixture
pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

IN_FLOAT32 = ("--fp32-vae", "--fp32-text-enc")  # as on the processor
ROOMY, SCARCE = 3000, 900  # MiB; ComfyUI keeps 1200 for its own work, so the second has none for weights
CUT_UP = 700  # what can be had of a card that says 3000, as free memory in small pieces makes it
Start = Callable[..., contextlib.AbstractContextManager[Instance]]


@pytest.fixture(scope="module")
def start(
    comfyui_path: Path,
    software_card: SoftwareCard,
    write_sonic_files: Callable[[Path], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Start:
    @contextlib.contextmanager
    def started(memory_mib: int, said_mib: int | None = None) -> Iterator[Instance]:
        folder, environment = tmp_path_factory.mktemp("card"), software_card.environment(memory_mib, said_mib)
        server = Instance(
            comfyui_path, folder, arguments=(*IN_FLOAT32, "--use-pytorch-cross-attention"), environment=environment
        )
        install_pack(ROOT, folder / "custom_nodes")
        write_sonic_files(folder / "models")
        with server:
            yield server

    return started


def card_of(server: Instance) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{server.address}/system_stats") as answer:
        (device,) = json.load(answer)["devices"]
    return dict(device)


def free(server: Instance) -> None:
    body = json.dumps({"unload_models": True, "free_memory": True}).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"http://{server.address}/free", body, headers)):
        pass


def until_empty(server: Instance) -> bool:
    """Whether nothing is left on the card, soon."""
    deadline = time.monotonic() + 20
    while card_of(server)["torch_vram_total"] and time.monotonic() < deadline:
        time.sleep(0.2)
    return card_of(server)["torch_vram_total"] == 0


def in_float32(server: Any) -> Graph:
    graph = graph_for(server, model=["loader", 0], seed=5)
    graph["loader"] = {"class_type": "SONIC_Loader", "inputs": {"unet": "unet.pth", "dtype": "fp32"}}
    graph["shown"] = {"class_type": "SaveImage", "inputs": {"images": ["speak", 0], "filename_prefix": "frame"}}
    return graph


def frames_of(server: Any, outputs: dict[str, Any]) -> np.ndarray:
    """(frames, height, width, 3) as they were before a codec took them."""
    folder = Path(server.base_directory) / "output"
    return np.stack([read_picture(folder / one["subfolder"] / one["filename"]) for one in outputs["shown"]["images"]])


@pytest.fixture(scope="module")
def on_the_processor(comfyui: Any, models: Path) -> np.ndarray:
    outputs, _, error = asyncio.run(run(comfyui, in_float32(comfyui)))
    assert error == ""
    return frames_of(comfyui, outputs)


async def test_without_room_for_weights_they_come_from_main_memory_layer_by_layer_to_the_same_video(
    start: Start, on_the_processor: np.ndarray
) -> None:
    with start(SCARCE) as server:
        outputs, _, error = await run(server, in_float32(server))
        assert error == ""
        difference = np.abs(frames_of(server, outputs).astype(int) - on_the_processor)
        free(server)
        assert until_empty(server)
    assert difference.max() <= 1 and difference.mean() < 0.01
    assert "loaded partially; 0.00 MB usable, 0.00 MB loaded, 77.55 MB offloaded" in server.log_file.read_text()


async def test_what_runs_out_of_memory_in_the_middle_says_so_and_costs_the_next_clip_nothing(start: Start) -> None:
    with start(CUT_UP, ROOMY) as server:
        graph = in_float32(server)
        graph["prepare"]["inputs"]["min_resolution"] = 512
        _, _, error = await run(server, graph)
        assert "software card: out of memory" in error
        free(server)
        assert until_empty(server)
        graph["prepare"]["inputs"] |= {"min_resolution": 256, "duration": SECONDS / 2}
        outputs, _, error = await run(server, graph)
        assert error == ""
        assert len(frames_of(server, outputs)) == 4


def test_the_tests_for_a_card_pass_on_it(software_card: SoftwareCard, comfyui_path: Path) -> None:
    """But for those that would take minutes: half precision, and what a compiler for the device is needed for."""
    chosen = "not half_precision and not inductor"
    command = [sys.executable, "-m", "pytest", "-q", "-k", chosen, "--card", "tests/sonic/test_on_a_card.py"]
    environment = os.environ | software_card.environment(4096) | {"COMFYUI_PATH": str(comfyui_path)}
    environment["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout
