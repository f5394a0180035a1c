"""Our socket types, and how pictures and sounds look in ComfyUI's own ones (IMAGE, AUDIO)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io

from ..sonic.errors import BadPortrait, BadSound
from ..sonic.frames import Frame
from ..sonic.portrait import picture_from_floats
from ..sonic.prepared import Sound

PreparedSocket = io.Custom("SONIC_PREDATA")  # carries a PreparedData
ModelSocket = io.Custom("SONIC_MODEL")  # carries the loaded Sonic networks


def picture_of(image: torch.Tensor) -> Frame:
    """The first picture of an IMAGE [B, H, W, C], 0..1, as (H, W, 3) uint8. Raises BadPortrait."""
    if image.ndim != 4 or image.shape[0] == 0:
        raise BadPortrait(
            f"The image has the shape {tuple(image.shape)} where (pictures, height, width, channels) is needed."
        )
    return picture_from_floats(image[0].cpu().float().numpy())


def frames_of(images: torch.Tensor) -> Iterator[Frame]:
    """The pictures of an IMAGE [B, H, W, C], 0..1, one by one; a FrameTensor makes each as it is asked for."""
    for image in images:
        pixels = image[..., :3].float().mul(255.0).round_().clamp_(0, 255).byte().cpu().numpy()
        yield np.ascontiguousarray(pixels if pixels.shape[2] == 3 else np.repeat(pixels[..., :1], 3, axis=2))


def image_of(picture: Frame) -> torch.Tensor:
    """(H, W, 3) uint8 as an IMAGE [1, H, W, 3], 0..1."""
    return torch.from_numpy(picture).float().div_(255.0)[None]


def sound_of(audio: dict[str, Any] | None) -> Sound:
    """The first sound of an AUDIO {waveform [B, C, T], sample_rate}. Raises BadSound."""
    if not audio or audio.get("waveform") is None:
        raise BadSound("There is no sound; connect a node that loads one (a video without a sound track gives none).")
    waveform = audio["waveform"]
    if waveform.ndim != 3 or waveform.shape[0] == 0:
        raise BadSound(f"The sound has the shape {tuple(waveform.shape)} where (sounds, channels, samples) is needed.")
    return Sound(np.ascontiguousarray(waveform[0].cpu().float().numpy()), int(audio["sample_rate"]))


def audio_of(sound: Sound) -> dict[str, Any]:
    """A sound as AUDIO {waveform [1, C, T], sample_rate}."""
    return {"waveform": torch.from_numpy(np.ascontiguousarray(sound.waveform))[None], "sample_rate": sound.sample_rate}
