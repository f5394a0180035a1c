"""What is taught: frames at the model's rate of portraits that speak by the draft engine, head and eyes still."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from comfyui_sonic.sonic.draft.render import render_draft
from comfyui_sonic.sonic.options import InferenceOptions
from comfyui_sonic.sonic.prepared import PreparedData
from comfyui_sonic.sonic.schedule import MODEL_FPS, latent_frames
from numpy.typing import NDArray

from ..clips import PICTURES, VOICES, Clips

MARGINS = (None, 0.5)  # the whole picture, and cut to the face with this margin
SHOWN_A_FRAME = 2
SHOWN_FPS = SHOWN_A_FRAME * MODEL_FPS
_CHANGED = 4  # levels of 255
_AROUND = np.ones((9, 9), np.uint8)


@dataclass(frozen=True)
class Lesson:
    """frames: (F, H, W, 3) uint8 at 12.5 a second; moved: (H, W) float32, 1 wherever any of them moves."""

    prepared: PreparedData
    frames: NDArray[np.uint8]
    moved: NDArray[np.float32]


def lessons(size: int, seconds: float) -> Iterator[Lesson]:
    """Every example portrait with every example voice, in both framings."""
    clips = Clips("draft", {}, render_draft, 1, size, seconds)
    for picture in PICTURES:
        for margin in MARGINS:
            for voice in VOICES:
                yield _lesson(clips.prepared(picture, voice, margin))


def _lesson(prepared: PreparedData) -> Lesson:
    clip = render_draft(prepared, InferenceOptions(motion_scale=0.0, fps=SHOWN_FPS))
    # Every second frame of the finished video: one that draft makes at 12.5 a second shows a moment 20 ms later.
    shown = range(0, SHOWN_A_FRAME * latent_frames(len(prepared.speech)), SHOWN_A_FRAME)
    frames = np.stack([clip.frame(min(index, clip.count - 1)) for index in shown])
    changed = np.abs(frames.astype(np.int16) - prepared.picture).max(axis=(0, 3)) > _CHANGED
    moved = cv2.dilate(changed.astype(np.uint8), _AROUND).astype(np.float32)
    return Lesson(prepared, frames, moved)
