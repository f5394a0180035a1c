"""The engine is chosen for a reason that is said, and a missing one is named with its files."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from comfyui_sonic.sonic.audio import read_sound
from comfyui_sonic.sonic.checkpoints import SONIC_FILES, missing_sonic_files, sonic_files
from comfyui_sonic.sonic.engine import choose_engine, misfit, render, runnable_engines
from comfyui_sonic.sonic.errors import EngineUnavailable, MissingWeights, NoFace
from comfyui_sonic.sonic.options import InferenceOptions, PrepareOptions
from comfyui_sonic.sonic.portrait import read_picture
from comfyui_sonic.sonic.prepare import prepare

ROOT = Path(__file__).parent.parent


@pytest.fixture
def model_dirs(tmp_path: Path) -> dict[str, list[Path]]:
    return {"sonic": [tmp_path / "sonic", tmp_path / "more"], "checkpoints": [tmp_path / "checkpoints"]}


def put(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()


def test_every_missing_file_is_named_with_the_folder_it_belongs_in(model_dirs: dict[str, list[Path]]) -> None:
    missing = missing_sonic_files(model_dirs)
    assert len(missing) == len(SONIC_FILES)
    assert model_dirs["sonic"][0] / "unet.pth" in missing
    assert model_dirs["checkpoints"][0] / "svd_xt.safetensors" in missing
    with pytest.raises(MissingWeights) as caught:
        choose_engine("sonic", missing)
    assert all(str(path) in str(caught.value) for path in missing)
    assert caught.value.missing == tuple(missing)


def test_a_file_counts_in_any_of_its_folders_and_under_any_of_its_names(model_dirs: dict[str, list[Path]]) -> None:
    put(model_dirs["sonic"][1], "unet.safetensors")
    put(model_dirs["checkpoints"][0], "svd_xt_1_1.safetensors")
    names = {path.name for path in missing_sonic_files(model_dirs)}
    assert names == {"audio2token.pth", "audio2bucket.pth", "model.safetensors", "flownet.pkl"}


def test_auto_takes_draft_and_says_why(model_dirs: dict[str, list[Path]]) -> None:
    choice = choose_engine("auto", missing_sonic_files(model_dirs))
    assert choice.name == "draft"
    assert "6 files of Sonic are not there" in choice.reason and "unet.pth" in choice.reason


def test_why_draft_was_taken_names_no_folder_of_the_machine_since_the_video_says_it(
    model_dirs: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = choose_engine("auto", missing_sonic_files(model_dirs))
    assert str(model_dirs["sonic"][0].parent) not in choice.reason

    moved = ModuleType("comfyui_sonic.sonic.native.fit")
    moved.__file__ = "/srv/comfy/fit.py"
    monkeypatch.setitem(sys.modules, moved.__name__, moved)
    said = misfit()
    assert "cannot import name 'misfit' from 'comfyui_sonic.sonic.native.fit')" in said and "/srv" not in said


def test_with_all_files_there_sonic_runs_and_auto_takes_it(model_dirs: dict[str, list[Path]]) -> None:
    for file in SONIC_FILES:
        put(model_dirs[file.folder][0], file.names[0])
    assert missing_sonic_files(model_dirs) == []
    assert sonic_files(model_dirs)["unet"] == model_dirs["sonic"][0] / "unet.pth"
    assert choose_engine("sonic", []).name == "sonic"
    auto = choose_engine("auto", [])
    assert auto.name == "sonic" and "all its files are there" in auto.reason


def test_a_connected_model_needs_no_files_and_draft_needs_no_model(model_dirs: dict[str, list[Path]]) -> None:
    missing = missing_sonic_files(model_dirs)
    assert choose_engine("auto", missing, connected=True).name == "sonic"
    assert choose_engine("sonic", missing, connected=True).name == "sonic"
    assert choose_engine("draft", missing, connected=True).name == "draft"


def test_sonic_without_its_networks_is_a_clear_error() -> None:
    voice = read_sound(ROOT / "tests" / "data" / "voice.wav")
    picture = read_picture(ROOT / "examples" / "batch" / "eileen_collins.png")
    prepared = prepare(picture, voice, PrepareOptions(duration_s=0.1, min_resolution=256))
    with pytest.raises(EngineUnavailable, match="call load_sonic first"):
        render(prepared, InferenceOptions(), choose_engine("sonic", []))


def test_draft_needs_no_files(model_dirs: dict[str, list[Path]]) -> None:
    assert choose_engine("draft", missing_sonic_files(model_dirs)).name == "draft"


@pytest.mark.parametrize(
    ("seconds", "fps", "frames"), [(0.1, 25.0, 2), (1.0, 25.0, 25), (1.5, 12.5, 19), (0.5, 29.97, 15)]
)
def test_a_clip_has_as_many_frames_as_its_sound_lasts(seconds: float, fps: float, frames: int) -> None:
    voice = read_sound(ROOT / "tests" / "data" / "voice.wav")
    picture = read_picture(ROOT / "examples" / "batch" / "eileen_collins.png")
    options = InferenceOptions(fps=fps)
    prepared = prepare(picture, voice, PrepareOptions(duration_s=seconds, min_resolution=256))
    clip = render(prepared, options, choose_engine("draft", []))
    assert clip.count == frames
    read = list(clip.frames())
    assert len(read) == frames
    assert all(frame.shape == (256, 256, 3) and frame.dtype == np.uint8 for frame in read)
    np.testing.assert_array_equal(next(clip.frames(frames - 1)), read[-1])


def test_the_draft_engine_needs_a_face() -> None:
    voice = read_sound(ROOT / "tests" / "data" / "voice.wav")
    options = PrepareOptions(on_no_face="whole picture", min_resolution=256)
    prepared = prepare(np.full((256, 256, 3), 90, np.uint8), voice, options)
    with pytest.raises(NoFace, match="needs a face"):
        render(prepared, InferenceOptions(), choose_engine("draft", []))


def test_only_engines_whose_files_are_there_are_announced() -> None:
    assert runnable_engines([]) == ("draft", "sonic")
    assert runnable_engines([Path("unet.pth")]) == ("draft",)
    assert runnable_engines([], "It does not fit.") == ("draft",)


def test_where_comfyui_has_moved_on_sonic_says_so_and_auto_still_makes_a_video() -> None:
    with pytest.raises(EngineUnavailable, match=r"^It does not fit\.$"):
        choose_engine("sonic", [], unfit="It does not fit.")
    choice = choose_engine("auto", [], unfit="It does not fit.")
    assert (choice.name, choice.reason) == ("draft", "'auto' chose draft. It does not fit.")
    assert choose_engine("draft", [], unfit="It does not fit.").name == "draft"
