"""All networks of Sonic together, from their files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..audio_encoder import WhisperEncoder
from ..checkpoints import read_weights
from ..conditioning import AudioProjection, MotionBucketPredictor
from ..interruption import Check, no_check
from ..options import Precision
from ..postprocess.interpolation import FrameInterpolation
from . import autoencoder, image_encoder
from .autoencoder import Autoencoder
from .image_encoder import ImageEncoder
from .managed import Managed
from .model import load_unet

log = logging.getLogger("sonic.native")

DTYPES = {"auto": None, "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class SonicNetworks:
    """What the socket SONIC_MODEL carries; every network moves on and off the card as ComfyUI needs the room.

    unet: a ModelPatcher over a SonicModel. audio_scale: how strongly the speech acts, 1 as published.
    """

    unet: Any
    image_encoder: ImageEncoder
    autoencoder: Autoencoder
    speech_encoder: Managed[WhisperEncoder]
    audio_projection: Managed[AudioProjection]
    motion_buckets: Managed[MotionBucketPredictor]
    interpolation: Managed[FrameInterpolation]
    audio_scale: float = 1.0


def load_networks(files: Mapping[str, Path], precision: Precision = "auto", check: Check = no_check) -> SonicNetworks:
    """files: by part, as `checkpoints.sonic_files` finds them, all six. Raises BadWeights.

    precision: of the video network, the image encoder and the autoencoder; the small networks are float32 as published.
    check: called again and again to let a user interrupt; what it raises passes through.
    """
    dtype = DTYPES[precision]
    svd = read_weights(files["svd"], (image_encoder.PREFIX, autoencoder.PREFIX), check)

    def part_of_svd(prefix: str) -> dict[str, torch.Tensor]:
        return {key: value for key, value in svd.items() if key.startswith(prefix)}

    def small(part: str, network: Any) -> Any:
        return _small(network, files[part], check)

    networks = SonicNetworks(
        unet=load_unet(read_weights(files["unet"], check=check), str(files["unet"]), dtype, check=check),
        image_encoder=ImageEncoder(part_of_svd(image_encoder.PREFIX), str(files["svd"]), dtype),
        autoencoder=Autoencoder(part_of_svd(autoencoder.PREFIX), str(files["svd"]), dtype),
        speech_encoder=small("speech_encoder", WhisperEncoder),
        audio_projection=small("audio_projection", AudioProjection),
        motion_buckets=small("motion_buckets", MotionBucketPredictor),
        interpolation=small("interpolation", FrameInterpolation),
    )
    log.info("Sonic is loaded from %s", files["unet"])
    return networks


def load_interpolation(file: Path, check: Check = no_check) -> Managed[FrameInterpolation]:
    """RIFE's network alone, for what needs no other. Raises BadWeights."""
    network: Managed[FrameInterpolation] = _small(FrameInterpolation, file, check)
    return network


def _small(network: Any, file: Path, check: Check) -> Any:
    weights = {key: value.float() for key, value in read_weights(file, check=check).items()}
    return Managed(network.of_weights(weights, str(file)))
