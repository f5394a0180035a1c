"""sonic-queue run: one video, waited for, through the queue or in this very process."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import psutil
import pytest
from comfyui_sonic.command import main
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.job import JobRecord, new_job_id
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Idle, Store
from comfyui_sonic.queue_bridge.retry import Verdict
from comfyui_sonic.queue_bridge.states import State
from comfyui_sonic.sonic.labels import read_mark

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "batch"
RESULT = {"output": "/v/a.mp4", "seconds": 1.0, "instance": "a", "attempt": 1, "warnings": ["It is long."]}


@dataclass
class Bench:
    """A queue of its own, with this test as its instance, and the command."""

    store: Store
    folder: Path

    async def start(self, *flags: str) -> asyncio.subprocess.Process:
        settings = self.store.settings
        variables = {"SONIC_QUEUE_URL": settings.url, "SONIC_QUEUE_QUEUE": settings.queue}
        files = ["--image", str(self.folder / "a.png"), "--audio", str(self.folder / "a.mp3")]
        command = [sys.executable, "-m", "comfyui_sonic.queue_bridge.cli", "run", *files, *flags]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return await asyncio.create_subprocess_exec(*command, env=os.environ | variables, **pipes)

    async def claim(self) -> JobRecord:
        async with asyncio.timeout(15):
            while isinstance(job := await self.store.claim("a", "boot", ("512", "1024-sonic")), Idle):
                await self.store.sleep(job, 1.0)
        return job


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for kind in ("png", "mp3"):
        shutil.copyfile(EXAMPLES / f"close_up.{kind}", tmp_path / f"a.{kind}")
    return tmp_path


@pytest.fixture
async def bench(redis_url: str, folder: Path) -> AsyncIterator[Bench]:
    settings = Settings(url=redis_url, queue=f"run-{new_job_id()}", lease_s=600.0)
    store = Store(connect(redis_url), settings)
    await store.register(Identity("a", "boot"))
    yield Bench(store, folder)
    await store.close()


async def test_the_classic_flags_become_a_job_and_its_video_is_waited_for(bench: Bench) -> None:
    flags = ["--resolution", "1024", "--steps", "12", "--dynamic_scale", "1.2", "--motion-scale", "0.9", "--smooth"]
    flags += ["--correct_lip", "false", "--seed", "7", "--engine", "sonic", "--duration", "1.5"]
    process = await bench.start(*flags, "--callback", "https://a.example/hook")
    job = await bench.claim()
    assert dict(job.spec.config) == {
        **{"resolution": 1024, "inference_steps": 12, "dynamic_scale": 1.2, "motion_scale": 0.9, "seed": 7},
        **{"temporal_smoothing": True, "lip_sync_correction": False, "engine": "sonic", "duration": 1.5},
    }
    assert job.spec.output == (bench.folder / "a.mp4").as_uri()
    assert job.spec.callback == "https://a.example/hook"
    await bench.store.stage(job, {"place": "/v/a.mp4", "result": RESULT})
    await bench.store.complete(job, RESULT)
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert said.decode().splitlines()[-2:] == ["It is long.", "/v/a.mp4"]


async def test_a_job_that_fails_is_its_sentence_and_status_1(bench: Bench) -> None:
    process = await bench.start("--json")
    job = await bench.claim()
    await bench.store.settle(job, Verdict(State.FAILED, "bad input"), "There is no face in a.png.", "bad input", "a")
    said, _ = await process.communicate()
    assert process.returncode == 1
    assert json.loads(said)["error"] == "There is no face in a.png."


async def test_ctrl_c_cancels_the_job(bench: Bench) -> None:
    process = await bench.start()
    job = await bench.claim()
    process.send_signal(signal.SIGINT)
    said, errors = await process.communicate()
    assert process.returncode == 130
    assert f"The job {job.task_id} is cancelled." in said.decode()
    assert errors.decode() == "\nStopped.\n"
    assert (await bench.store.wished("a", job)).cause == "cancelled"
    view = QueueView(bench.store.client, bench.store.keys)
    record = await view.job(job.task_id)
    assert record
    assert record.cancelling


def run(folder: Path, *flags: str, audio: str = "a.mp3") -> int:
    return main(["run", "--local", "--image", str(folder / "a.png"), "--audio", str(folder / audio), *flags])


@pytest.mark.slow
def test_locally_a_video_is_made_without_any_server(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SONIC_QUEUE_URL", "redis://127.0.0.1:1")
    flags = ["--duration", "0.4", "--resolution", "256", "--dynamic_scale", "1.3", "--smooth", "--json"]
    assert run(folder, *flags, "--output", str(folder / "new" / "v.mp4")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["engine"], told["frames"], told["output_path"]) == ("draft", 10, str(folder / "new" / "v.mp4"))
    with av.open(told["output_path"]) as video:
        assert sum(1 for _ in video.decode(video=0)) == 10
        assert min(video.streams.video[0].width, video.streams.video[0].height) == 256
        assert read_mark(video.metadata)
        assert json.loads(video.metadata["sonic"])["settings"]["dynamic_scale"] == 1.3


@pytest.mark.slow
def test_locally_in_a_comfyui_of_ones_own_the_engine_draft_makes_a_video_and_the_server_is_ended(
    folder: Path, comfyui_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def servers() -> set[psutil.Process]:
        return {one for one in psutil.Process().children(recursive=True) if "main.py" in " ".join(one.cmdline())}

    before = servers()  # of other tests
    flags = ["--comfyui", str(comfyui_path), "--engine", "draft", "--duration", "0.4", "--resolution", "256", "--json"]
    assert run(folder, *flags, "--output", str(folder / "v.mp4")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["result"]["instance"], told["result"]["output"]) == (
        "completed",
        "local",
        str(folder / "v.mp4"),
    )
    assert told["result"]["report"]["engine"] == "draft"
    with av.open(folder / "v.mp4") as video:
        assert sum(1 for _ in video.decode(video=0)) == 10
    assert servers() <= before


@pytest.mark.parametrize(
    ("flags", "audio", "words"),
    [
        (
            ["--engine", "sonic"],
            "a.mp3",
            "The engine 'sonic' runs inside ComfyUI only; name one that has Sonic's files",
        ),
        (["--comfyui", "/nowhere"], "a.mp3", "There is no ComfyUI in '/nowhere': main.py is missing there."),
        (["--models", "/nowhere"], "a.mp3", "--models: there is no folder '/nowhere'."),
        (["--models", "/"], "a.mp3", "--models: are those of a ComfyUI; name it with --comfyui."),
        ([], "gone.mp3", "--audio: there is no file '"),
        (["--resolution", "500"], "a.mp3", "min_resolution: 500 is not a multiple of 64."),
        (["--callback", "https://a/"], "a.mp3", "--callback: belongs to a job in the queue"),
    ],
)
def test_what_cannot_be_made_locally_is_one_sentence(
    folder: Path,
    flags: list[str],
    audio: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    assert run(folder, *flags, audio=audio) == 1
    assert capsys.readouterr().err.startswith(words)


def test_a_command_of_the_queue_does_not_load_torch() -> None:
    asked = "import sys; from comfyui_sonic.command import main; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", asked], check=True, timeout=60)
