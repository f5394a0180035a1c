"""A job for the engine sonic waits for a server that has its files, and is made there."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from comfyui_sonic.command import main
from comfyui_sonic.queue_bridge.servers.instance import Instance, install_pack

from ..bridge_fixture import ROOT, Bridge, environment
from ..conftest import QUICKLY_ON_CPU

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]
EXAMPLES = ROOT / "examples" / "batch"


async def test_the_batch_goes_to_the_server_that_announces_sonic(
    bridge: Bridge, comfyui_path: Path, tmp_path: Path, write_sonic_files: Callable[[Path], None]
) -> None:
    orders, name = bridge.orders / "for sonic", "gpu-sonic"
    orders.mkdir()
    shutil.copyfile(EXAMPLES / "close_up.png", orders / "a.png")
    shutil.copyfile(EXAMPLES / "close_up.mp3", orders / "a.mp3")
    variables = environment(bridge.settings.url, bridge.settings.queue, name, bridge.orders)

    def sonic_queue(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "comfyui_sonic.queue_bridge.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)

    variables |= {"SONIC_QUEUE_QUALITY": "off"}
    server = Instance(comfyui_path, tmp_path / "server", arguments=QUICKLY_ON_CPU, environment=variables)
    install_pack(ROOT, server.base_directory / "custom_nodes")
    write_sonic_files(server.base_directory / "models")
    with server:
        settings = ["--engine", "sonic", "--resolution", "256", "--set", "duration=0.2", "--set", "inference_steps=1"]
        # The small networks draw no face, which would be searched for in every frame.
        settings += ["--set", "lip_sync_correction=false", "--set", "temporal_smoothing=false"]
        result = await asyncio.to_thread(sonic_queue, "submit", str(orders), "--json", *settings)
        told = json.loads((await asyncio.to_thread(sonic_queue, "status", "--json")).stdout)
    assert result.returncode == 0, result.stderr
    (job,) = json.loads(result.stdout)["jobs"]
    assert (job["state"], job["lane"], job["result"]["instance"]) == ("completed", "512-sonic", name)
    assert job["result"]["report"]["engine"] == "sonic"
    assert (orders / "a.mp4").is_file()
    engines = {one["name"]: one["engines"] for one in told["instances"]}
    assert engines == {name: ["draft", "sonic"], **{key: ["draft"] for key in bridge.instances}}


def test_a_comfyui_of_ones_own_is_started_for_one_video_with_models_from_elsewhere_and_ended(
    comfyui_path: Path,
    tmp_path: Path,
    write_sonic_files: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def servers() -> set[psutil.Process]:
        return {one for one in psutil.Process().children(recursive=True) if "main.py" in " ".join(one.cmdline())}

    before = servers()  # of other tests
    monkeypatch.setenv("SONIC_QUEUE_QUALITY", "off")
    write_sonic_files(tmp_path / "models")
    flags = ["--comfyui", str(comfyui_path), "--models", str(tmp_path / "models"), "--engine", "sonic", "--json"]
    flags += ["--image", str(EXAMPLES / "close_up.png"), "--audio", str(EXAMPLES / "close_up.mp3")]
    flags += ["--duration", "0.2", "--resolution", "256", "--steps", "1", "--no-smooth", "--no-correct-lip"]
    assert main(["run", "--local", *flags, "--output", str(tmp_path / "v.mp4")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["result"]["instance"]) == ("completed", "local")
    assert told["result"]["report"]["engine"] == "sonic"
    assert told["result"]["output"] == str(tmp_path / "v.mp4")
    assert (tmp_path / "v.mp4").stat().st_size == told["result"]["bytes"]
    assert servers() <= before
