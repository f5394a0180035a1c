"""SONIC_Loader: the files of Sonic become a model that can be connected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

from comfy_api.latest import io

from ..sonic.checkpoints import missing_sonic_files, sonic_files
from ..sonic.errors import MissingWeights
from ..sonic.options import Precision
from .kept_networks import sonic_networks
from .model_folders import model_folders
from .sockets import ModelSocket

_DEFAULT = "unet.pth"
_KINDS = (".pth", ".safetensors")


class Loader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SONIC_Loader",
            display_name="Sonic Loader",
            category="Sonic",
            description="Loads Sonic: its networks from models/sonic, image encoder and VAE from the SVD-XT checkpoint "
            "in models/checkpoints.",
            inputs=[
                io.Combo.Input("unet", options=_unets(), tooltip="The video network, in models/sonic."),
                io.Combo.Input(
                    "dtype",
                    options=list(get_args(Precision)),
                    default="auto",
                    optional=True,
                    tooltip="Precision of the video network; auto is what ComfyUI finds best for this machine.",
                ),
                io.Float.Input(
                    "audio_scale",
                    default=1.0,
                    min=0.0,
                    max=3.0,
                    step=0.05,
                    optional=True,
                    tooltip="How strongly the speech acts on the picture; 1 as published.",
                ),
            ],
            outputs=[ModelSocket.Output(display_name="model")],
        )

    @classmethod
    def fingerprint_inputs(cls, unet: str, dtype: Precision = "auto", audio_scale: float = 1.0) -> str:
        path = _path_of(unet)
        return f"{path}:{path.stat().st_mtime_ns}" if path.is_file() else ""

    @classmethod
    def execute(cls, unet: str, dtype: Precision = "auto", audio_scale: float = 1.0) -> io.NodeOutput:
        folders = model_folders()
        files = {**sonic_files(folders), "unet": _path_of(unet)}
        missing = [path for path in missing_sonic_files(folders) if path.name != _DEFAULT]
        if not files["unet"].is_file():
            missing.insert(0, files["unet"])
        if missing:
            raise MissingWeights("sonic", missing)
        return io.NodeOutput(replace(sonic_networks(files, dtype), audio_scale=audio_scale))


def _unets() -> list[str]:
    """Files of models/sonic that are called a unet, by their paths within it; the published name if there is none."""
    found = {
        path.relative_to(folder).as_posix()
        for folder in model_folders()["sonic"]
        for path in folder.rglob("*unet*")
        if path.suffix in _KINDS
    }
    # A workflow goes on naming the published file after it was converted and removed.
    published = {str(Path(name).with_suffix(".pth").as_posix()) for name in found}
    return sorted(found | published) or [_DEFAULT]


def _path_of(unet: str) -> Path:
    """The file of this name, else the one that it was converted to."""
    folders = model_folders()["sonic"]
    names = (unet, str(Path(unet).with_suffix(".safetensors")))
    return next((folder / name for name in names for folder in folders if (folder / name).is_file()), folders[0] / unet)
