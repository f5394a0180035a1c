"""The engine is chosen for a reason that is said, and a missing one is named with its files."""

from __future__ import annotations

from pathlib import Path

import pytest
from comfyui_sonic.sonic.checkpoints import SONIC_FILES, missing_sonic_files
from comfyui_sonic.sonic.engine import choose_engine
from comfyui_sonic.sonic.errors import EngineUnavailable, MissingWeights


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


def test_with_all_files_there_sonic_is_refused_clearly_and_auto_still_works(model_dirs: dict[str, list[Path]]) -> None:
    for file in SONIC_FILES:
        put(model_dirs[file.folder][0], file.names[0])
    assert missing_sonic_files(model_dirs) == []
    with pytest.raises(EngineUnavailable, match="cannot run in this version"):
        choose_engine("sonic", [])
    assert "cannot run Sonic yet" in choose_engine("auto", []).reason


def test_draft_needs_no_files(model_dirs: dict[str, list[Path]]) -> None:
    assert choose_engine("draft", missing_sonic_files(model_dirs)).name == "draft"
