"""The commands ``models`` and ``convert`` of sonic-queue: what they say, where they look, and their exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from comfyui_sonic import command
from comfyui_sonic.queue_bridge.cli import parser
from comfyui_sonic.sonic.errors import BadSetting
from comfyui_sonic.sonic.model_commands import add_model_commands
from comfyui_sonic.sonic.model_places import model_folders

ROOT = Path(__file__).resolve().parent.parent
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process; gives its exit status and what it said."""
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # of this process they stay as they are

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        status = command.main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    """A folder that looks like ComfyUI's, with one of the files in it."""
    sonic = tmp_path / "ComfyUI" / "models" / "sonic"
    sonic.mkdir(parents=True)
    wide, narrow = (8, 12), (8,)
    weights = {"proj1.weight": wide, "proj2.weight": (8, 8), "proj3.weight": (2, 8)}
    biases = {"proj1.bias": narrow, "proj2.bias": narrow, "proj3.bias": (2,)}
    torch.save({name: torch.randn(shape) for name, shape in (weights | biases).items()}, sonic / "audio2bucket.pth")
    return tmp_path / "ComfyUI"


def test_what_is_missing_is_listed_with_its_size_and_place(run: Run, comfyui: Path) -> None:
    status, out, err = run("models", "--comfyui", comfyui)
    assert (status, err) == (1, "")
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines()}
    assert rows["unet"] == f"missing - 3.15 GB or 6.30 GB {comfyui / 'models' / 'sonic' / 'unet.pth'}"
    assert rows["svd"].endswith(str(comfyui / "models" / "checkpoints" / "svd_xt.safetensors"))
    assert rows["motion_buckets"].startswith("wrong ")
    assert f"{comfyui / 'models' / 'sonic' / 'audio2bucket.pth'} is cut off or another network: it has" in out
    assert out.splitlines()[-1].startswith("6 of 6 files are missing or wrong; until then the engine 'draft'")


def test_a_file_in_the_wrong_place_comes_with_what_to_do(run: Run, comfyui: Path) -> None:
    (comfyui / "models" / "unet.pth").write_bytes(b"\x80")
    _, out, _ = run("models", "--comfyui", comfyui)
    models = comfyui / "models"
    assert (
        f"{models / 'unet.pth'} is where the engine does not look; move it to {models / 'sonic' / 'unet.pth'}." in out
    )


def test_models_as_json_holds_the_same(run: Run, comfyui: Path) -> None:
    status, out, _ = run("models", "--json", "--comfyui", comfyui)
    told = json.loads(out)
    assert status == 1 and told["ready"] is False and len(told["files"]) == 6
    unet = next(file for file in told["files"] if file["part"] == "unet")
    assert unet["expected_bytes"] == [3_151_482_324, 6_302_964_648]
    assert (unet["path"], unet["usable"]) == (None, False)
    assert unet["belongs"] == str(comfyui / "models" / "sonic" / "unet.pth")


def test_convert_makes_what_is_there_and_the_second_time_nothing(run: Run, comfyui: Path) -> None:
    source = comfyui / "models" / "sonic" / "audio2bucket.pth"
    target = source.with_suffix(".safetensors")
    status, out, err = run("convert", "--comfyui", comfyui)
    assert (status, err) == (0, "")
    assert f"{source} (" in out and f" -> {target} (" in out and "kB" in out
    before = target.stat()
    status, out, _ = run("convert", "--comfyui", comfyui)
    assert (status, out) == (0, f"{source}: converted before, to {target}\n")
    assert target.stat().st_mtime_ns == before.st_mtime_ns
    status, out, _ = run("convert", source, "--again", "--json")
    assert status == 0 and json.loads(out)["target_bytes"] == before.st_size
    assert target.stat().st_ino != before.st_ino


def test_convert_takes_named_files_to_another_folder(run: Run, comfyui: Path, tmp_path: Path) -> None:
    source = comfyui / "models" / "sonic" / "audio2bucket.pth"
    status, out, _ = run("convert", source, "--output", tmp_path / "new", "--json")
    assert status == 0
    assert json.loads(out)["target"] == str(tmp_path / "new" / "audio2bucket.safetensors")
    assert not source.with_suffix(".safetensors").exists()


@pytest.mark.parametrize("as_json", [False, True])
def test_an_error_is_one_sentence_as_of_every_command(as_json: bool, run: Run, comfyui: Path) -> None:
    source = comfyui / "models" / "sonic" / "audio2bucket.pth"
    run("convert", source)
    status, out, err = run("convert", source, *(["--json"] if as_json else []))
    said = json.loads(out)["error"] if as_json else err.removesuffix("\n")
    assert status == 1 and (err if as_json else out) == ""
    assert said == f"'{source.with_suffix('.safetensors')}' is there already; add --again to make it anew."


def test_nothing_to_convert_is_told_apart_from_everything_converted(run: Run, comfyui: Path) -> None:
    source = comfyui / "models" / "sonic" / "audio2bucket.pth"
    source.unlink()
    status, _, err = run("convert", "--comfyui", comfyui)
    assert status == 1 and str(source) in err and "svd_xt" not in err
    for name in ("unet", "audio2token", "audio2bucket", "RIFE/flownet"):
        path = comfyui / "models" / "sonic" / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    status, out, _ = run("convert", "--comfyui", comfyui)
    assert (status, out) == (0, "There is nothing to convert: all files are safetensors.\n")


# --- where -----------------------------------------------------------------------------------------------------------


def test_the_folders_are_those_of_the_option_the_environment_or_the_place_of_the_pack(tmp_path: Path) -> None:
    for name in ("option", "variable", "home"):
        (tmp_path / name / "models").mkdir(parents=True)
    installed = tmp_path / "home" / "custom_nodes" / "sonic"
    variable = {"COMFYUI_PATH": str(tmp_path / "variable")}
    own = tmp_path / "option" / "models"

    def sonic(*arguments: object) -> list[Path]:
        return model_folders(*arguments)["sonic"]  # type: ignore[arg-type]

    assert sonic([own], tmp_path / "variable", variable, installed) == [own / "sonic"]
    assert sonic([own, tmp_path], None, {}, tmp_path) == [own / "sonic", tmp_path / "sonic"]
    assert sonic([], tmp_path / "option", variable, installed) == [own / "sonic"]
    assert sonic([], None, variable, installed) == [tmp_path / "variable" / "models" / "sonic"]
    assert sonic([], None, {}, installed) == [tmp_path / "home" / "models" / "sonic"]
    with pytest.raises(BadSetting, match="it is not known which ComfyUI is meant"):
        model_folders([], None, {}, tmp_path / "checkout")
    with pytest.raises(BadSetting, match=r"--comfyui: '.*nowhere' is no ComfyUI"):
        model_folders([], tmp_path / "nowhere", variable, installed)
    with pytest.raises(BadSetting, match=r"COMFYUI_PATH: '.*' is no ComfyUI"):
        model_folders([], None, {"COMFYUI_PATH": str(tmp_path)}, installed)
    with pytest.raises(BadSetting, match=r"--models: there is no folder"):
        model_folders([tmp_path / "nowhere"], None, variable, installed)


def test_a_relative_folder_is_told_in_full(comfyui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(comfyui.parent)
    assert model_folders([], Path("ComfyUI"), {})["checkpoints"] == [comfyui / "models" / "checkpoints"]


def test_the_extra_folders_of_comfyui_are_searched_in_its_order(comfyui: Path, tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    (comfyui / "extra_model_paths.yaml").write_text(
        f"""
a1111:
    base_path: {tmp_path / "shared"}
    checkpoints: |
        Stable-diffusion
        more/checkpoints
    vae: vae
fast:
    is_default: true
    checkpoints: ../disk
empty:
""",
        encoding="utf-8",
    )
    folders = model_folders([], comfyui, {})
    shared, own = tmp_path / "shared", comfyui / "models"
    assert folders["checkpoints"] == [
        *(tmp_path / "disk", own / "checkpoints"),
        *(shared / "Stable-diffusion", shared / "more" / "checkpoints"),
    ]
    assert folders["sonic"] == [own / "sonic"]
    (comfyui / "extra_model_paths.yaml").write_text("a:\n  base_path: /big\n  sonic: sonic\n", encoding="utf-8")
    assert model_folders([], comfyui, {})["sonic"] == [Path("/big/sonic").absolute()]
    (comfyui / "extra_model_paths.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(BadSetting, match=r"extra_model_paths\.yaml' is not as ComfyUI expects it"):
        model_folders([], comfyui, {})


# --- one command line ------------------------------------------------------------------------------------------------


def test_all_commands_are_on_one_command_line() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "SONIC_QUEUE_URL"}
    program = [sys.executable, "-m", "comfyui_sonic.command"]
    shown = subprocess.run([*program, "--help"], capture_output=True, text=True, env=environment)
    for name in ("submit", "status", "list", "watch", "serve-redis", "models", "convert"):
        assert f"\n    {name}" in shown.stdout
    refused = subprocess.run([*program, "convert", "--nonsense"], capture_output=True, text=True, env=environment)
    assert refused.returncode == 2 and refused.stderr.startswith("usage: sonic-queue")


def test_a_checkout_that_is_not_installed_has_both_commands(comfyui: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name not in ("COMFYUI_PATH", "PYTHONPATH")}
        program = [sys.executable, "-m", "sonic", *arguments]
        return subprocess.run(program, cwd=ROOT, capture_output=True, text=True, env=environment)

    told = call("models", "--json", "--comfyui", str(comfyui))
    assert told.returncode == 1 and len(json.loads(told.stdout)["files"]) == 6
    for as_json in (False, True):
        refused = call("convert", str(comfyui / "gone.pth"), *(["--json"] if as_json else []))
        said = json.loads(refused.stdout)["error"] if as_json else refused.stderr.removesuffix("\n")
        assert refused.returncode == 1
        assert said.startswith(f"'{comfyui / 'gone.pth'}' cannot be read: ")


def test_the_queue_alone_knows_its_own_commands_only() -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["models"])
    assert parser((add_model_commands,)).parse_args(["models"]).command == "models"


def test_the_installed_program_and_that_of_the_quickstart_are_this_command() -> None:
    assert 'sonic-queue = "comfyui_sonic.command:main"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "from comfyui_sonic.command import main" in (ROOT / "quickstart.py").read_text(encoding="utf-8")
