"""Which files of the engine sonic are there, what is wrong with them, and making safetensors of PyTorch files."""

from __future__ import annotations

import logging
import pickle
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoints import SONIC_FILES, ModelFile, Weights, check_weights, read_weights
from .errors import BadWeights, CannotWrite
from .tensor_file import TensorFile, read_header

if TYPE_CHECKING:
    import torch

log = logging.getLogger("sonic.model_files")

ModelFolders = Mapping[str, Sequence[Path]]  # by kind, "sonic" and "checkpoints", in the order they are searched
SAFETENSORS = ".safetensors"

# Numbers in each published file. Two bytes each in half precision, four in full.
PARAMETERS: Mapping[str, int] = {
    "unet": 1_575_741_162,
    "audio_projection": 54_300_672,
    "motion_buckets": 21_762_050,
    "speech_encoder": 37_760_640,
    "interpolation": 3_038_015,
    "svd": 2_389_819_857,
}

# What tells each network from others, by names in its file and their shapes.
_SVD_CLIP = "conditioner.embedders.0.open_clip.model.visual."
_TELLING: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "unet": {
        "conv_in.weight": (320, 8, 3, 3),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_ip.0.weight": (320, 1024),
    },
    "audio_projection": {"proj1.bias": (1024,), "proj3.bias": (32 * 1024,), "norm.weight": (1024,)},
    "motion_buckets": {"proj1.bias": (1024,), "proj3.bias": (2,)},
    "speech_encoder": {"conv1.bias": (384,), "layers.3.fc1.bias": (1536,)},
    "interpolation": {"block0.conv0.0.0.weight": (45, 11, 3, 3)},
    "svd": {
        f"{_SVD_CLIP}ln_post.weight": (1280,),
        "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
        "first_stage_model.decoder.conv_out.time_mix_conv.weight": (3, 3, 3, 1, 1),
    },
}
_OPTIONAL_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "speech_encoder": ("model.encoder.", "encoder."),
    "interpolation": ("module.",),
}
# Checkpoints that are taken for another often, by the beginnings of names that only they have.
_WELL_KNOWN = (
    ("cond_stage_model.transformer.", "a Stable Diffusion 1.5 checkpoint"),
    ("cond_stage_model.model.", "a Stable Diffusion 2 checkpoint"),
    ("conditioner.embedders.1.model.", "an SDXL checkpoint"),
    ("double_blocks.", "a Flux checkpoint"),
)

# Rounded to half precision: the published inference runs it so. The others run in float32 and stay as they are.
HALVED = frozenset({"unet"})


@dataclass(frozen=True)
class FileState:
    """One file that the engine needs.

    part: what it holds; names: any will do; belongs: where the published file goes; path: the file that the engine
    reads, None when there is none; expected_bytes: the weights in half and in full precision, of which the published
    file has one, plus a little; found_bytes: 0 without a file; problem: what is wrong with it and what to do, the rest
    of a sentence that begins with its name, "" when nothing is seen; elsewhere: a file of this name where the engine
    does not look, when there is none where it does.
    """

    part: str
    names: tuple[str, ...]
    belongs: Path
    path: Path | None
    expected_bytes: tuple[int, int]
    found_bytes: int = 0
    problem: str = ""
    elsewhere: Path | None = None

    @property
    def usable(self) -> bool:
        return self.path is not None and not self.problem


def survey(folders: ModelFolders, parameters: Mapping[str, int] = PARAMETERS) -> list[FileState]:
    """Every file that the engine needs, as far as the first bytes and the size tell; no weight is read.

    parameters: how many numbers each published file holds.
    """
    return [_state(file, folders, parameters[file.part]) for file in SONIC_FILES]


def _state(file: ModelFile, folders: ModelFolders, parameters: int) -> FileState:
    belongs = folders[file.folder][0] / file.names[0]
    expected = 2 * parameters, 4 * parameters
    path = _first(folders[file.folder], file.searched())
    if path is None:
        elsewhere = next(_elsewhere(file, folders), None)
        return FileState(file.part, file.names, belongs, None, expected, elsewhere=elsewhere)
    try:
        size = path.stat().st_size
        problem = _problem(file.part, path, size, expected[0])
    except OSError as error:
        size, problem = 0, f"cannot be read: {error.strerror}."
    return FileState(file.part, file.names, belongs, path, expected, size, problem)


def _first(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    return next((path for folder in folders for name in names if (path := folder / name).is_file()), None)


def _elsewhere(file: ModelFile, folders: ModelFolders) -> Iterator[Path]:
    """Files of a name that will do, below the model folders; "model.safetensors" alone says nothing."""
    names = dict.fromkeys(name for full in file.names for name in (full, Path(full).name))
    kind = folders[file.folder]
    roots = [*kind, *(folder.parent for folder in kind if folder.parent.name == "models")]  # others may be whole disks
    for root in roots:
        for name in names:
            if name != "model.safetensors":
                yield from sorted(path for path in root.rglob(name) if path.is_file())


def _problem(part: str, path: Path, size: int, least: int) -> str:
    """What is wrong with the file of a part, or ""; ``least``: bytes of its weights, at the fewest."""
    if problem := _not_weights(path, size):
        return problem
    if path.suffix == SAFETENSORS:
        try:
            return _safetensors_problem(part, path, size)
        except ValueError as error:
            return str(error)
    if size < least:
        return (
            f"is cut off or another network: it has {as_size(size)}, "
            f"and Sonic's weights alone are {as_size(least)} at least; download it again."
        )
    return ""


def _not_weights(path: Path, size: int) -> str:
    """What the file is instead of weights, judged by its ends; "" when it may be weights."""
    with path.open("rb") as file:
        first = file.read(64).lstrip()
    if not size:
        return "is empty; download it again."
    if first.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself: run 'git lfs pull' where it comes from."
    if first.lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):  # a header's length may be a lone "<"
        return "is a web page, saved under the name of the file; download the file itself."
    if path.suffix == SAFETENSORS:
        return ""
    if first.startswith(b"PK"):
        return "" if zipfile.is_zipfile(path) else "is cut off: its end is missing; download it again."
    return "" if first.startswith(b"\x80") else "is no PyTorch file; download it again."


def _safetensors_problem(part: str, path: Path, size: int) -> str:
    header = read_header(path)
    if size < header.file_bytes:
        return f"is cut off: {as_size(size)} of {as_size(header.file_bytes)} are there; download it again."
    if size > header.file_bytes:
        return f"is damaged: {as_size(size - header.file_bytes)} follow its end; download it again."
    prefixes = _OPTIONAL_PREFIXES.get(part, ())
    found = {_without(prefixes, name): shape for name, shape in header.shapes.items()}
    for name, shape in _TELLING[part].items():
        if name not in found or found[name] != shape:
            known = next((what for start, what in _WELL_KNOWN if any(key.startswith(start) for key in found)), "")
            what = f"is {known}, not what is needed here" if known else "holds another network"
            seen = f"{name} is {list(found[name])}, not {list(shape)}" if name in found else f"{name} is not in it"
            return f"{what} ({seen}); put the published file there."
    return ""


def _without(prefixes: Sequence[str], name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)


def as_size(count: int) -> str:
    """Bytes for a person, in powers of 1000 as shops and download pages count."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:.{2 if power == 9 else 1}f} {unit}"
    return f"{count} bytes"


# --- conversion ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conversion:
    """A file that was made: what it holds, out of what, and the bytes of both."""

    part: str
    source: Path
    target: Path
    source_bytes: int
    target_bytes: int


def pytorch_files(folders: ModelFolders) -> dict[str, Path]:
    """The files that can be converted, by their part."""
    found: dict[str, Path] = {}
    for file in SONIC_FILES:
        path = _first(folders[file.folder], [name for name in file.names if not name.endswith(SAFETENSORS)])
        if path is not None:
            found[file.part] = path
    return found


def target_of(source: Path, folder: Path | None = None) -> Path:
    """The file that a conversion makes: of the same name, in ``folder`` or beside the source."""
    stem = source.stem.removeprefix("pytorch_")  # as transformers names its files of both kinds
    return (folder or source.parent) / f"{stem}{SAFETENSORS}"


def free_bytes(folder: Path) -> int:
    """Room on the disk that holds ``folder``."""
    return shutil.disk_usage(folder).free


def _nothing_to_tell(written: int, total: int) -> None:
    pass


def convert(
    source: Path,
    folder: Path | None = None,
    *,
    again: bool = False,
    free: Callable[[Path], int] = free_bytes,
    on_written: Callable[[int, int], None] = _nothing_to_tell,
) -> Conversion:
    """Makes safetensors of one of Sonic's PyTorch files; nothing in the file is executed.

    Names and shapes are as in the source, and checked. The video network becomes float16, as the published inference
    runs it; the small networks, which run in float32, keep their type. The file appears only when it is whole.
    folder: where to (default: beside the source); again: replace a file that is there; free: bytes free on the disk of
    a folder; on_written: told bytes written and in all, and what it raises ends the writing.
    Raises BadWeights or CannotWrite.
    """
    target = target_of(source, folder)
    if source.suffix == SAFETENSORS:
        raise BadWeights(f"'{source}' is safetensors already; name a .pth or .pkl file.")
    if target.exists() and not again:
        raise CannotWrite(f"'{target}' is there already; add --again to make it anew.")
    weights = _read(source)
    part = _checked_part(weights, str(source))
    try:
        file = TensorFile(weights, {name: _stored_type(part, weight) for name, weight in weights.items()})
    except ValueError as error:
        raise BadWeights(f"The weights '{source}' cannot be converted: {error}.") from error
    _write(file, target, free, on_written)
    log.info("%s is converted to %s", source, target)
    return Conversion(part, source, target, source.stat().st_size, file.total_bytes)


def _read(source: Path) -> Weights:
    try:
        problem = _not_weights(source, source.stat().st_size)
    except OSError as error:
        raise BadWeights(f"'{source}' cannot be read: {error.strerror}.") from error
    if problem:
        raise BadWeights(f"'{source}' {problem}")
    try:
        return read_weights(source)
    except BadWeights as error:
        if isinstance(error.__cause__, pickle.UnpicklingError) and "weights_only" in str(error.__cause__):
            raise BadWeights(
                f"'{source}' holds code beside weights, or is damaged, and was not opened; "
                "take the file that Sonic's authors published."
            ) from error
        raise


def _checked_part(weights: Weights, what: str) -> str:
    """Which network the weights are; raises BadWeights unless they are all of one of Sonic's, each of its shape."""
    names = {"unet": "conv_in.weight", "interpolation": "block0.conv0.0.0.weight", "speech_encoder": "conv1.weight"}
    found = {_without(("module.", "model.encoder.", "encoder."), name) for name in weights}
    if "proj1.weight" in weights and "proj3.weight" in weights:
        part = "audio_projection" if "norm.weight" in weights else "motion_buckets"
    else:
        part = next((part for part, name in names.items() if name in found), "")
    if not part:
        raise BadWeights(f"The weights '{what}' are none of Sonic's networks; name one of its .pth or .pkl files.")
    if part == "unet":
        from .unet_layout import unet_shapes

        check_weights(what, unet_shapes({name: weight.shape for name, weight in weights.items()}, what), weights)
    else:
        _check_small(part, weights, what)
    return part


def _check_small(part: str, weights: Weights, what: str) -> None:
    """Raises BadWeights unless the weights fill their network."""
    import torch

    from .audio_encoder import WhisperEncoder
    from .conditioning import AudioProjection, MotionBucketPredictor
    from .postprocess.interpolation import FrameInterpolation

    networks: dict[str, Any] = {
        "audio_projection": AudioProjection,
        "motion_buckets": MotionBucketPredictor,
        "speech_encoder": WhisperEncoder,
        "interpolation": FrameInterpolation,
    }
    with torch.device("meta"):  # shapes without memory
        networks[part].of_weights({name: weight.to("meta") for name, weight in weights.items()}, what)


def _stored_type(part: str, weight: torch.Tensor) -> torch.dtype:
    import torch

    if not weight.is_floating_point():
        return weight.dtype
    if part in HALVED:
        return torch.float16
    return torch.float32 if weight.dtype == torch.float64 else weight.dtype


def _write(file: TensorFile, target: Path, free: Callable[[Path], int], on_written: Callable[[int, int], None]) -> None:
    part = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        room = free(target.parent)
        if room < file.total_bytes:
            raise CannotWrite(
                f"'{target}' needs {as_size(file.total_bytes)}, and only {as_size(room)} are free on that disk; "
                "make room or name another folder with --output."
            )
        file.write(part, on_written)
        part.replace(target)
    except OSError as error:
        raise CannotWrite(f"'{target}' cannot be written: {error.strerror}.") from error
    finally:  # after an error or an interrupt of any kind nothing is left; after success there is nothing to remove
        part.unlink(missing_ok=True)
