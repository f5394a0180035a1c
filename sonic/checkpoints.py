"""The files of the Sonic engine: their names, the model folders they belong in, and how their weights are read."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BadWeights
from .interruption import Check, no_check

if TYPE_CHECKING:
    from torch import Tensor

Weights = dict[str, "Tensor"]

_LISTED = 8  # keys of a kind that an error's sentence names; its attributes hold all of them


@dataclass(frozen=True)
class ModelFile:
    """part: what it holds; folder: the kind of model folder it belongs in; names: any will do, the published first."""

    part: str
    folder: str
    names: tuple[str, ...]

    def searched(self) -> list[str]:
        """The names in the order they are looked for: a converted file before the PyTorch file it was made of."""
        return sorted(self.names, key=lambda name: not name.endswith(".safetensors"))


def _also_in_folder(stem: str) -> tuple[str, ...]:
    # A download of the published repository as a whole has these three in a folder "Sonic" of its own.
    names = (f"{stem}.pth", f"{stem}.safetensors")
    return (*names, *(f"Sonic/{name}" for name in names))


# The published face detector is not among them: faces are found by the mesh networks that come with this package.
SONIC_FILES = (
    ModelFile("unet", "sonic", _also_in_folder("unet")),
    ModelFile("audio_projection", "sonic", _also_in_folder("audio2token")),
    ModelFile("motion_buckets", "sonic", _also_in_folder("audio2bucket")),
    ModelFile("speech_encoder", "sonic", ("whisper-tiny/model.safetensors",)),
    ModelFile("interpolation", "sonic", ("RIFE/flownet.pkl", "RIFE/flownet.safetensors")),
    # Its image encoder and its VAE are used; its video network is replaced by unet.pth.
    ModelFile("svd", "checkpoints", ("svd_xt.safetensors", "svd_xt_1_1.safetensors")),
)


def sonic_files(model_dirs: Mapping[str, Sequence[Path]]) -> dict[str, Path]:
    """The files that are there, by their part; the first in the order of folders, then of names."""
    found: dict[str, Path] = {}
    for file in SONIC_FILES:
        candidates = (folder / name for folder in model_dirs[file.folder] for name in file.searched())
        path = next((path for path in candidates if path.is_file()), None)
        if path is not None:
            found[file.part] = path
    return found


def missing_sonic_files(model_dirs: Mapping[str, Sequence[Path]]) -> list[Path]:
    """Where each missing file belongs: its published name in the first folder of its kind.

    model_dirs: folders by kind, "sonic" and "checkpoints", at least one each, in the order they are searched.
    """
    found = sonic_files(model_dirs)
    return [model_dirs[file.folder][0] / file.names[0] for file in SONIC_FILES if file.part not in found]


def read_weights(path: Path, prefixes: Sequence[str] = ("",), check: Check = no_check) -> Weights:
    """The tensors of a .safetensors file or of a PyTorch file (.pth, .pkl), on the CPU, by their names in the file.

    prefixes: only keys that begin with one of these; of a .safetensors file nothing else is read from the disk.
    check: called before each tensor is read; what it raises passes through.
    Nothing in the file is ever executed. Raises BadWeights.
    """
    from safetensors import SafetensorError

    try:
        if path.suffix == ".safetensors":
            state = _read_safetensors(path, prefixes, check)
        else:
            check()
            state = _read_pytorch(path, prefixes)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadWeights(
            f"The weights '{path}' cannot be read ({reason}); it is damaged or of another kind: download it again."
        ) from error
    return state


def _read_safetensors(path: Path, prefixes: Sequence[str], check: Check) -> Weights:
    from safetensors import safe_open

    weights: Weights = {}
    with safe_open(path, framework="pt", device="cpu") as file:
        for key in file.keys():  # noqa: SIM118
            if key.startswith(tuple(prefixes)):
                check()
                weights[key] = file.get_tensor(key)
    return weights


def _read_pytorch(path: Path, prefixes: Sequence[str]) -> Weights:
    import torch

    # Only files in PyTorch's newer format can be mapped, which spares reading what is not needed yet.
    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ValueError("it holds something else than named tensors")
    return {key: value for key, value in loaded.items() if key.startswith(tuple(prefixes))}


def check_weights(what: str, expected: Mapping[str, Sequence[int]], found: Mapping[str, Tensor]) -> None:
    """Raises BadWeights unless ``found`` has exactly the expected keys, each of its expected shape.

    what: the file or part as a person knows it; expected: shapes by the names that the file uses.
    """
    missing = [key for key in expected if key not in found]
    extra = [key for key in found if key not in expected]
    misshapen = [
        f"{key} {list(found[key].shape)} instead of {list(shape)}"
        for key, shape in expected.items()
        if key in found and tuple(found[key].shape) != tuple(shape)
    ]
    if missing or extra or misshapen:
        kinds = (("missing", missing), ("not known", extra), ("of another shape", misshapen))
        faults = "; ".join(f"{len(keys)} {kind}: {_listing(keys)}" for kind, keys in kinds if keys)
        raise BadWeights(
            f"The weights '{what}' do not fit Sonic ({faults}); put the published file there.",
            missing,
            extra,
            misshapen,
        )


def _listing(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more
