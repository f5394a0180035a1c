"""A job for the engine sonic waits for a server that has its files, and is made there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.instance import Instance, install_pack
from comfyui_sonic.queue_bridge.job import new_job_id

from ..bridge_fixture import ROOT, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]
EXAMPLES = ROOT / "examples" / "batch"


async def test_the_batch_goes_to_the_server_that_announces_sonic(
    comfyui_path: Path, redis_url: str, tmp_path: Path, write_sonic_files: Callable[[Path], None]
) -> None:
    orders, queue = tmp_path / "orders", f"sonic-{new_job_id()}"
    orders.mkdir()
    shutil.copyfile(EXAMPLES / "close_up.png", orders / "a.png")
    shutil.copyfile(EXAMPLES / "close_up.mp3", orders / "a.mp3")
    variables = {"SONIC_QUEUE_URL": redis_url, "SONIC_QUEUE_QUEUE": queue}

    def sonic_queue(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "comfyui_sonic.queue_bridge.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)

    with contextlib.ExitStack() as stack:
        for name in ("without", "with"):
            variables_of_server = environment(redis_url, queue, name, orders) | {"SONIC_QUEUE_QUALITY": "off"}
            server = Instance(comfyui_path, tmp_path / name, environment=variables_of_server)
            install_pack(ROOT, server.base_directory / "custom_nodes")
            if name == "with":
                write_sonic_files(server.base_directory / "models")
            stack.enter_context(server)
        settings = ["--engine", "sonic", "--resolution", "256", "--set", "duration=0.4", "--set", "inference_steps=1"]
        # The small networks draw no face, which would be searched for in every frame.
        settings += ["--set", "lip_sync_correction=false", "--set", "temporal_smoothing=false"]
        result = await asyncio.to_thread(sonic_queue, "submit", str(orders), "--json", *settings)
        told = json.loads((await asyncio.to_thread(sonic_queue, "status", "--json")).stdout)
    assert result.returncode == 0, result.stderr
    (job,) = json.loads(result.stdout)["jobs"]
    assert (job["state"], job["lane"], job["result"]["instance"]) == ("completed", "512-sonic", "with")
    assert job["result"]["report"]["engine"] == "sonic"
    assert (orders / "a.mp4").is_file()
    assert {one["name"]: one["engines"] for one in told["instances"]} == {
        "without": ["draft"],
        "with": ["draft", "sonic"],
    }
