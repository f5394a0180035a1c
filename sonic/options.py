"""Settings of the two stages, frozen, with the published defaults; checked once, when they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from .errors import BadSetting

CropMode = Literal["whole picture", "crop to face"]
OnNoFace = Literal["error", "whole picture"]
EngineName = Literal["auto", "sonic", "draft"]
Precision = Literal["auto", "fp16", "bf16", "fp32"]

SIZE_STEP = 64  # the video network halves a picture six times
DOWNSCALE = 8  # pixels of a picture to a pixel of its latents, along each side
MIN_RESOLUTION = (256, 1536)
PUBLISHED_SEED = 72589


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise BadSetting(name, f"{value} is outside {low} to {high}.")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BadSetting(name, f"'{value}' is not one of {', '.join(allowed)}.")


@dataclass(frozen=True)
class PrepareOptions:
    """How picture and sound are made ready.

    duration_s: seconds of sound to use, 0 = all of it; longer than the sound is corrected.
    min_resolution: the short side of the prepared picture in pixels, a multiple of 64.
    expand_ratio: margin around the face box, as a part of its size, when cropping to the face.
    face_index: which face, counted from the largest (0).
    """

    duration_s: float = 0.0
    min_resolution: int = 512
    expand_ratio: float = 0.18
    crop: CropMode = "whole picture"
    on_no_face: OnNoFace = "error"
    face_index: int = 0

    def __post_init__(self) -> None:
        _within("duration", self.duration_s, 0.0, 24 * 3600.0)
        _within("min_resolution", self.min_resolution, *MIN_RESOLUTION)
        if self.min_resolution % SIZE_STEP:
            raise BadSetting("min_resolution", f"{self.min_resolution} is not a multiple of {SIZE_STEP}.")
        _within("expand_ratio", self.expand_ratio, 0.0, 1.0)
        _within("face_index", self.face_index, 0, 99)
        _one_of("crop", self.crop, get_args(CropMode))
        _one_of("on_no_face", self.on_no_face, get_args(OnNoFace))


@dataclass(frozen=True)
class InferenceOptions:
    """How prepared data become frames.

    inference_steps: denoising steps (Sonic only).
    dynamic_scale: size of the mouth's motion; 0 is still, 1 natural (draft), both motion buckets (Sonic).
    motion_scale: head and blinks; 0 is still, 1 natural (draft), the translation bucket (Sonic).
    fps: frames a second of the finished video; never changes what the model is told.
    """

    inference_steps: int = 25
    dynamic_scale: float = 1.1
    motion_scale: float = 1.05
    engine: EngineName = "auto"
    seed: int = PUBLISHED_SEED
    fps: float = 25.0

    def __post_init__(self) -> None:
        _within("inference_steps", self.inference_steps, 1, 100)
        _within("dynamic_scale", self.dynamic_scale, 0.0, 3.0)
        _within("motion_scale", self.motion_scale, 0.0, 3.0)
        _one_of("engine", self.engine, get_args(EngineName))
        _within("seed", self.seed, 0, 2**64 - 1)
        _within("fps", self.fps, 1.0, 120.0)
