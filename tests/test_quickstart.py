"""The command's own parts; that the whole of it works is seen where it is run."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from comfyui_sonic.queue_bridge.database.redis_server import running_server

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def quickstart() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quickstart", ROOT / "quickstart.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def comfyui_with(tmp_path: Path, requirements: str) -> Path:
    (tmp_path / "requirements.txt").write_text(requirements, encoding="utf-8")
    return tmp_path


def test_without_arguments_the_examples_are_made(quickstart: Any) -> None:
    arguments, rest = quickstart.parse([])
    assert arguments.command == "run"
    assert arguments.folder == ROOT / "examples" / "batch"
    assert arguments.instances == 2
    assert not arguments.keep
    assert rest == []


def test_everything_behind_test_is_pytests(quickstart: Any) -> None:
    arguments, rest = quickstart.parse(["test", "-k", "pairing", "--keep"])
    assert arguments.command == "test"
    assert rest == ["-k", "pairing", "--keep"]


@pytest.mark.parametrize("wrong", [["--port", "70000"], ["--port", "x"], ["--instances", "0"], ["--what"], ["fly"]])
def test_a_wrong_argument_ends_with_status_2(quickstart: Any, wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        quickstart.parse(wrong)
    assert raised.value.code == 2


def test_packages_that_would_replace_torch_come_without_their_dependencies(quickstart: Any, tmp_path: Path) -> None:
    lines = "torch\ntorchvision\nnumpy>=1.25\n\n# note\nkornia>=0.7.1\naiohttp  # web\ncomfyui-workflow-templates==1\n"
    wanted = quickstart.Requirements(comfyui_with(tmp_path, lines))
    assert {"numpy>=1.25", "aiohttp", "requests"} <= set(wanted.plain)
    assert "kornia>=0.7.1" in wanted.without_dependencies
    everything = [quickstart.package_of(line) for line in [*wanted.plain, *wanted.without_dependencies]]
    assert "torch" not in everything
    assert "comfyui-workflow-templates" not in everything
    assert everything.count("torchvision") == 1


def test_the_stamp_changes_with_what_would_be_installed(quickstart: Any, tmp_path: Path) -> None:
    before = quickstart.Requirements(comfyui_with(tmp_path, "numpy\n")).stamp()
    assert quickstart.Requirements(comfyui_with(tmp_path, "numpy\n# only a note\n")).stamp() == before
    assert quickstart.Requirements(tmp_path, with_tests=True).stamp() != before
    assert quickstart.Requirements(comfyui_with(tmp_path, "numpy\nscipy\n")).stamp() != before


def test_every_package_of_the_tests_has_its_version(quickstart: Any) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    loose = [line for line in project["optional-dependencies"]["test"] if "==" not in line]
    assert loose == []


def test_a_comfyui_path_without_comfyui_is_one_sentence(
    quickstart: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(quickstart.SetupError, match=r"^COMFYUI_PATH is '.*', but there is no main\.py in it\.$"):
        quickstart.find_comfyui()


def test_a_python_that_is_too_old_is_one_sentence(quickstart: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "PYTHONS", ((3, 98), (3, 99)))
    with pytest.raises(quickstart.SetupError, match=r"not supported; start this with Python 3\.98 to 3\.99\.$"):
        quickstart.check_python()


def test_a_failing_step_names_its_reason_and_its_log(
    quickstart: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quickstart, "WORK", tmp_path)
    script = "print('WARNING: never mind'); print('ERROR: No matching distribution for x'); raise SystemExit(1)"
    with pytest.raises(quickstart.SetupError) as raised:
        quickstart.logged([sys.executable, "-c", script], "step.log")
    assert str(raised.value) == f"No matching distribution for x; the whole log is {tmp_path / 'step.log'}."


@pytest.mark.slow
def test_a_folder_becomes_videos_and_a_second_run_starts_nothing(comfyui_path: Path, tmp_path: Path) -> None:
    folder = folder_with_a_good_and_a_broken_pair(tmp_path)
    result = run_folder(comfyui_path, tmp_path, folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good 声音 🎤.mp4"]
    assert "1 made, 2 skipped, 0 failed" in result.stdout
    assert "draft" in result.stdout
    assert "comfyui-1" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    for base in (tmp_path / "base" / "instances").iterdir():
        assert not list((base / "input" / "sonic").glob("*")), "nothing of a run stays behind"
    again = run_folder(comfyui_path, tmp_path, folder)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 known already; --again makes anew what is there." in again.stdout
    assert "Starting ComfyUI" not in again.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_and_leaves_no_half_video(comfyui_path: Path, tmp_path: Path, number: int) -> None:
    import psutil

    folder = folder_with_a_good_and_a_broken_pair(tmp_path)
    process = subprocess.Popen(run_folder_command(comfyui_path, tmp_path, folder), stdout=subprocess.PIPE, text=True)
    assert process.stdout
    for line in process.stdout:
        if "answers at" in line:
            break
    base = tmp_path / "base"
    server = json.loads((base / "instances" / "1" / "server.json").read_text(encoding="utf-8"))
    time.sleep(0.3)  # into the first prompt; where exactly does not matter
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert not psutil.pid_exists(server["process"])
    assert not list(tmp_path.glob("out/.*")), "no unfinished file"
    assert not (base / "instances" / "1" / "server.json").exists()
    assert running_server(base / "queue") is None


def folder_with_a_good_and_a_broken_pair(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good 声音 🎤.png").write_bytes((ROOT / "examples" / "batch" / "close_up.png").read_bytes())
    (folder / "good 声音 🎤.mp3").write_bytes((ROOT / "examples" / "batch" / "close_up.mp3").read_bytes())
    (folder / "broken.jpg").write_text("no picture", encoding="utf-8")
    (folder / "broken.wav").write_bytes((ROOT / "tests" / "data" / "voice.wav").read_bytes())
    (folder / "lonely.wav").write_bytes(b"")
    return folder


def run_folder_command(comfyui_path: Path, tmp_path: Path, folder: Path) -> list[str]:
    places = ["--directory", str(tmp_path / "base"), "--output", str(tmp_path / "out"), str(folder)]
    module = "comfyui_sonic.queue_bridge.commands.run_folder"
    return [sys.executable, "-m", module, "--instances", "1", "--comfyui", str(comfyui_path), *places]


def run_folder(comfyui_path: Path, tmp_path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = run_folder_command(comfyui_path, tmp_path, folder)
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
