"""The files of the engine sonic: what is said about them, and their conversion to safetensors."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_sonic.sonic.checkpoints import SONIC_FILES, missing_sonic_files, read_weights, sonic_files
from comfyui_sonic.sonic.errors import BadWeights, CannotWrite
from comfyui_sonic.sonic.model_files import PARAMETERS, FileState, convert, pytorch_files, survey
from comfyui_sonic.sonic.unet_layout import unet_shapes
from safetensors import safe_open
from safetensors.torch import save_file

GOLDEN = Path(__file__).parent / "data" / "golden"
FEW = dict.fromkeys(PARAMETERS, 50)  # parameters of files small enough for tests

State = dict[str, torch.Tensor]
Folders = dict[str, list[Path]]


def small(file: str, prefix: str = "") -> State:
    """Weights of one of the small recorded networks, with values that half precision has to round."""
    shapes = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))["keys"][file]
    source = torch.Generator().manual_seed(1)
    return {prefix + name: torch.randn(shape, generator=source) for name, shape in shapes.items()}


def telling(part: str) -> State:
    """A few weights that have the names and shapes of the real file."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "unet": {
            "conv_in.weight": (320, 8, 3, 3),
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_ip.0.weight": (320, 1024),
        },
        "whisper": {"model.encoder.conv1.bias": (384,), "model.encoder.layers.3.fc1.bias": (1536,)},
        "svd": {
            "conditioner.embedders.0.open_clip.model.visual.ln_post.weight": (1280,),
            "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
            "first_stage_model.decoder.conv_out.time_mix_conv.weight": (3, 3, 3, 1, 1),
        },
        "sd15": {
            "cond_stage_model.transformer.text_model.final_layer_norm.weight": (768,),
            "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
        },
    }
    return {name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes[part].items()}


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Folders of models with all files in them, as other packs for Sonic have them too."""
    sonic, checkpoints = tmp_path / "models" / "sonic", tmp_path / "models" / "checkpoints"
    for folder in (sonic / "whisper-tiny", sonic / "RIFE", checkpoints):
        folder.mkdir(parents=True)
    torch.save({"weight": torch.zeros(50)}, sonic / "unet.pth")
    torch.save(small("audio2token"), sonic / "audio2token.pth")
    torch.save(small("audio2bucket"), sonic / "audio2bucket.pth")
    torch.save(small("rife", "module."), sonic / "RIFE" / "flownet.pkl", _use_new_zipfile_serialization=False)
    (sonic / "yoloface_v5m.pt").write_bytes(b"not needed")
    save_file(telling("whisper"), sonic / "whisper-tiny" / "model.safetensors")
    save_file(telling("svd"), checkpoints / "svd_xt.safetensors")
    return {"sonic": [sonic], "checkpoints": [checkpoints]}


def state_of(part: str, folders: Folders) -> FileState:
    return next(state for state in survey(folders, FEW) if state.part == part)


# --- what is there ---------------------------------------------------------------------------------------------------


def test_files_as_other_packs_have_them_are_found_as_they_are(folders: Folders) -> None:
    states = survey(folders, FEW)
    assert [state.problem for state in states] == [""] * len(SONIC_FILES)
    assert all(state.usable and state.path == state.belongs for state in states)
    assert {state.part: state.path for state in states} == sonic_files(folders)
    assert all(state.path and state.found_bytes == state.path.stat().st_size for state in states)


@pytest.mark.parametrize("part", list(PARAMETERS))
def test_each_missing_file_is_named_with_its_place_and_size(part: str, folders: Folders) -> None:
    state = state_of(part, folders)
    assert state.path
    state.path.unlink()
    states = {state.part: state for state in survey(folders, FEW)}
    assert [name for name, state in states.items() if not state.usable] == [part]
    assert states[part] == replace(state, path=None, found_bytes=0)
    assert missing_sonic_files(folders) == [state.belongs]


def test_the_expected_sizes_are_those_of_the_published_files(folders: Folders) -> None:
    with gzip.open(GOLDEN / "checkpoint_keys.json.gz") as file:
        published = json.load(file)
    expected = {state.part: state.expected_bytes for state in survey(folders)}
    parts = {file.part: file.names[0] for file in SONIC_FILES if file.folder == "sonic"}
    for part, name in parts.items():
        numbers = sum(torch.Size(shape).numel() for shape in published[name].values())
        assert expected[part] == (2 * numbers, 4 * numbers)


@pytest.mark.parametrize("place", ["models/sonic/deeper/unet.pth", "models/unet.pth"])
def test_a_file_in_the_wrong_place_is_found_and_not_used(place: str, folders: Folders, tmp_path: Path) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    folders["sonic"][0].joinpath("unet.pth").rename(tmp_path / place)
    state = state_of("unet", folders)
    assert (state.path, state.elsewhere, state.usable) == (None, tmp_path / place, False)


def test_only_folders_of_models_are_looked_through(folders: Folders, tmp_path: Path) -> None:
    outside = tmp_path / "disk" / "sonic"
    outside.mkdir(parents=True)
    (tmp_path / "disk" / "unet.pth").write_bytes(b"\x80")
    assert state_of("unet", {**folders, "sonic": [outside]}).elsewhere is None


def test_the_published_repository_downloaded_as_a_whole_is_found(folders: Folders) -> None:
    sonic = folders["sonic"][0]
    (sonic / "Sonic").mkdir()
    for name in ("unet.pth", "audio2token.pth", "audio2bucket.pth"):
        (sonic / name).rename(sonic / "Sonic" / name)
    assert all(state.usable for state in survey(folders, FEW))
    assert sonic_files(folders)["unet"] == sonic / "Sonic" / "unet.pth"


def test_the_second_folder_of_a_kind_is_searched_too(folders: Folders, tmp_path: Path) -> None:
    first = tmp_path / "other"
    searched = {kind: [first / kind, *places] for kind, places in folders.items()}
    assert all(state.usable for state in survey(searched, FEW))
    assert state_of("unet", searched).belongs == first / "sonic" / "unet.pth"


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["unet", "speech_encoder", "svd"])
def test_a_file_that_is_cut_off_is_told_by_its_own_directory(part: str, folders: Folders) -> None:
    path = state_of(part, folders).path
    assert path
    path.write_bytes(path.read_bytes()[:-100])
    state = state_of(part, folders)
    assert state.path == path and not state.usable and state.problem.startswith("is cut off")


def test_a_small_file_without_a_directory_is_told_by_its_size(folders: Folders) -> None:
    state = next(state for state in survey(folders, {**FEW, "interpolation": 10**7}) if state.part == "interpolation")
    assert "Sonic's weights alone are 20.0 MB at least" in state.problem


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3151482324\n", "is a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b"", "is empty"),
        (b"Not found", "is no "),
    ],
)
@pytest.mark.parametrize("part", ["unet", "speech_encoder"])
def test_what_is_no_weights_at_all_is_called_what_it_is(content: bytes, said: str, part: str, folders: Folders) -> None:
    path = state_of(part, folders).path
    assert path
    path.write_bytes(content)
    assert state_of(part, folders).problem.startswith(said)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (telling("sd15"), "is a Stable Diffusion 1.5 checkpoint, not what is needed here"),
        (telling("whisper"), "holds another network (conditioner.embedders.0.open_clip.model.visual.ln_post.weight is"),
        (
            telling("svd") | {"conditioner.embedders.0.open_clip.model.visual.ln_post.weight": torch.zeros(768)},
            "ln_post.weight is [768], not [1280]",
        ),
    ],
)
def test_another_model_in_place_of_svd_is_told_by_names_and_shapes(weights: State, said: str, folders: Folders) -> None:
    save_file(weights, folders["checkpoints"][0] / "svd_xt.safetensors")
    state = state_of("svd", folders)
    assert said in state.problem and not state.usable


def test_the_video_network_of_svd_is_not_taken_for_sonics(folders: Folders) -> None:
    save_file({"conv_in.weight": torch.zeros(320, 8, 3, 3)}, folders["sonic"][0] / "unet.safetensors")
    assert "to_k_ip.0.weight is not in it" in state_of("unet", folders).problem


def test_a_header_whose_length_reads_like_text_is_no_web_page(folders: Folders) -> None:
    path = folders["sonic"][0] / "whisper-tiny" / "model.safetensors"
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    padded = data[8 : 8 + length].ljust(0x3C20)
    path.write_bytes(struct.pack("<Q", len(padded)) + padded + data[8 + length :])
    assert path.read_bytes().startswith(b" <") and state_of("speech_encoder", folders).problem == ""
    path.write_bytes(path.read_bytes() + b"more")
    assert state_of("speech_encoder", folders).problem == "is damaged: 4 bytes follow its end; download it again."


def test_the_header_is_read_without_the_weights(folders: Folders) -> None:
    path = folders["sonic"][0] / "unet.safetensors"
    path.write_bytes(struct.pack("<Q", 10**9) + b"{}")
    assert state_of("unet", folders).problem == "is no safetensors file; download it again."
    path.write_bytes(struct.pack("<Q", 400) + b"{}")
    assert state_of("unet", folders).problem == "is cut off within its header; download it again."


# --- conversion ------------------------------------------------------------------------------------------------------


@pytest.fixture
def unet(tmp_path: Path) -> Path:
    path = tmp_path / "unet.pth"
    torch.save(small("unet"), path)
    return path


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_layout_of_the_video_network_is_the_published_one() -> None:
    with gzip.open(GOLDEN / "checkpoint_keys.json.gz") as file:
        published = {name: tuple(shape) for name, shape in json.load(file)["unet.pth"].items()}
    assert unet_shapes(published, "unet.pth") == published


def test_the_video_network_becomes_half_precision_and_stays_the_same_otherwise(unet: Path) -> None:
    done = convert(unet)
    weights, made = read_weights(unet), read_weights(unet.with_suffix(".safetensors"))
    assert made.keys() == weights.keys()
    for name, weight in weights.items():
        assert made[name].dtype == torch.float16 and made[name].shape == weight.shape
        assert torch.equal(made[name], weight.half())
    assert (done.part, done.source, done.target) == ("unet", unet, unet.with_suffix(".safetensors"))
    assert done.source_bytes == unet.stat().st_size and done.target_bytes == done.target.stat().st_size
    assert done.target_bytes < 0.55 * done.source_bytes


@pytest.mark.parametrize(
    ("file", "name", "prefix", "part"),
    [
        ("audio2token", "audio2token.pth", "", "audio_projection"),
        ("audio2bucket", "audio2bucket.pth", "", "motion_buckets"),
        ("rife", "flownet.pkl", "module.", "interpolation"),
        ("whisper_encoder", "pytorch_model.bin", "model.encoder.", "speech_encoder"),
    ],
)
def test_the_small_networks_keep_every_bit(file: str, name: str, prefix: str, part: str, tmp_path: Path) -> None:
    weights = small(file, prefix)
    if file == "whisper_encoder":
        weights[f"{prefix}embed_positions.weight"] = torch.randn(1500, 48)
        weights["model.decoder.x"] = torch.randn(2)  # not used, and no reason to refuse the file
    torch.save(weights, tmp_path / name)
    done = convert(tmp_path / name, tmp_path / "new")
    made = read_weights(done.target)
    assert done.part == part
    assert made.keys() == weights.keys()
    assert all(torch.equal(made[key], weights[key]) and made[key].dtype == torch.float32 for key in weights)
    assert done.target.parent == tmp_path / "new"
    assert done.target.name == {"pytorch_model.bin": "model.safetensors"}.get(name, f"{Path(name).stem}.safetensors")


def test_the_engine_reads_the_converted_file_first(folders: Folders) -> None:
    sources = pytorch_files(folders)
    assert sources.keys() == {"unet", "audio_projection", "motion_buckets", "interpolation"}
    done = convert(sources["audio_projection"])
    assert sonic_files(folders)["audio_projection"] == done.target
    sources["audio_projection"].unlink()
    assert missing_sonic_files(folders) == []


def test_tensors_that_share_memory_or_lie_crosswise_are_written_whole(tmp_path: Path) -> None:
    weights = small("audio2bucket")
    weights["proj2.weight"] = weights["proj2.weight"].T
    weights["proj2.bias"] = weights["proj1.bias"]
    torch.save(weights, tmp_path / "audio2bucket.pth")
    made = read_weights(convert(tmp_path / "audio2bucket.pth").target)
    assert all(torch.equal(made[name], weight) for name, weight in weights.items())


def test_a_converted_file_is_replaced_only_when_asked_for(unet: Path) -> None:
    target = convert(unet).target
    before = target.read_bytes()
    with pytest.raises(CannotWrite, match=r"unet\.safetensors' is there already; add --again"):
        convert(unet)
    target.write_bytes(b"damaged")
    with pytest.raises(CannotWrite, match="is there already"):
        convert(unet)
    assert target.read_bytes() == b"damaged"
    convert(unet, again=True)
    assert target.read_bytes() == before
    with pytest.raises(BadWeights, match="is safetensors already"):
        convert(target)


class Stop(BaseException):
    """As Ctrl-C is: no Exception."""


@pytest.mark.parametrize("there", [False, True])
def test_an_interrupted_conversion_leaves_what_was_there(there: bool, unet: Path) -> None:
    if there:
        unet.with_suffix(".safetensors").write_bytes(b"older")
    before = entries(unet.parent)

    def interrupt(written: int, total: int) -> None:
        assert len(entries(unet.parent)) == len(before) + 1
        if written > total / 2:
            raise Stop

    with pytest.raises(Stop):
        convert(unet, again=there, on_written=interrupt)
    assert entries(unet.parent) == before
    if there:
        assert unet.with_suffix(".safetensors").read_bytes() == b"older"


def test_too_little_room_is_said_before_anything_is_written(unet: Path) -> None:
    asked: list[Path] = []

    def little(folder: Path) -> int:
        asked.append(folder)
        return 1000

    with pytest.raises(CannotWrite, match=r"unet\.safetensors' needs [\d.]+ MB, and only 1\.0 kB are free"):
        convert(unet, free=little)
    assert asked == [unet.parent] and entries(unet.parent) == ["unet.pth"]
    convert(unet, free=lambda _: 10**9)


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (Path("sprung"),))


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(
    new_format: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "unet.pth"
    torch.save({**small("audio2bucket"), "trap": Trap()}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(BadWeights) as caught:
        convert(path)
    assert "holds code beside weights" in str(caught.value) and "\n" not in str(caught.value)
    assert entries(tmp_path) == ["unet.pth"]
    path.write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(BadWeights, match="holds code beside weights"):
        convert(path)
    assert entries(tmp_path) == ["unet.pth"]
    pickle.loads(path.read_bytes())  # noqa: S301  # the trap is one: what was not run above runs here
    assert entries(tmp_path) == ["sprung", "unet.pth"]


def test_what_does_not_fit_sonic_is_not_converted(tmp_path: Path) -> None:
    cases = {
        "other.pth": ({"weight": torch.zeros(3)}, "none of Sonic's networks"),
        "short.pth": (dict(list(small("unet").items())[:-1]), "1 missing"),
        "long.pth": (small("unet") | {"optimizer.step": torch.zeros(1)}, r"1 not known: optimizer\.step"),
        "bucket.pth": (small("audio2bucket") | {"proj2.bias": torch.zeros(3)}, "of another shape: proj2.bias"),
        "huge.pth": (small("unet") | {"conv_out.bias": torch.full((4,), 1e6)}, "too large for F16"),
    }
    for name, (weights, said) in cases.items():
        torch.save(weights, tmp_path / name)
        with pytest.raises(BadWeights, match=said):
            convert(tmp_path / name)
    assert entries(tmp_path) == sorted(cases)
    (tmp_path / "unet.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(BadWeights, match=r"unet\.pth' is a Git LFS pointer"):
        convert(tmp_path / "unet.pth")
    with pytest.raises(BadWeights, match=r"gone\.pth' cannot be read: "):
        convert(tmp_path / "gone.pth")


def test_the_library_reads_what_is_written(unet: Path) -> None:
    with safe_open(convert(unet).target, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_slice("conv_in.weight").get_dtype() == "F16"
