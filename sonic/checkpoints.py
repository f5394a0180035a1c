"""The files of the Sonic engine: their names and the model folders they belong in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelFile:
    """folder: the kind of model folder it belongs in; names: relative to it, any one will do, the published first."""

    folder: str
    names: tuple[str, ...]


# The published face detector is not among them: faces are found by the mesh networks that come with this package.
SONIC_FILES = (
    ModelFile("sonic", ("unet.pth", "unet.safetensors")),
    ModelFile("sonic", ("audio2token.pth", "audio2token.safetensors")),
    ModelFile("sonic", ("audio2bucket.pth", "audio2bucket.safetensors")),
    ModelFile("sonic", ("whisper-tiny/model.safetensors",)),
    ModelFile("sonic", ("RIFE/flownet.pkl", "RIFE/flownet.safetensors")),
    # Its image encoder and its VAE are used; its video network is replaced by unet.pth.
    ModelFile("checkpoints", ("svd_xt.safetensors", "svd_xt_1_1.safetensors")),
)


def missing_sonic_files(model_dirs: Mapping[str, Sequence[Path]]) -> list[Path]:
    """Where each missing file belongs: its published name in the first folder of its kind.

    model_dirs: folders by kind, "sonic" and "checkpoints", at least one each, in the order they are searched.
    """
    return [
        model_dirs[file.folder][0] / file.names[0]
        for file in SONIC_FILES
        if not any((folder / name).is_file() for folder in model_dirs[file.folder] for name in file.names)
    ]
