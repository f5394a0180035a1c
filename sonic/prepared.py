"""What SONIC_PreData hands on: picture, face and sound, checked and aligned. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .frames import Frame

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in whole pixels


@dataclass(frozen=True)
class Face:
    """One face found in a picture.

    box: x1, y1, x2, y2 in pixels of the picture it was found in (may reach beyond its edges).
    landmarks: (468, 3) float32, MediaPipe's face mesh in the same pixels; z likewise, negative towards the viewer.
    score: 0..1, how sure the mesh network is that this is a face.
    """

    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float32]
    score: float


@dataclass(frozen=True)
class Sound:
    """waveform: (channels, samples) float32 in -1..1 as recorded; sample_rate in Hz."""

    waveform: NDArray[np.float32]
    sample_rate: int

    @property
    def seconds(self) -> float:
        return float(self.waveform.shape[1] / self.sample_rate)


@dataclass(frozen=True)
class PreparedData:
    """Everything an engine needs.

    picture: (H, W, 3) uint8 RGB, H and W multiples of 64.
    face: in the picture's pixels; None only if the caller allowed a picture without a face.
    sound: the part of the recording to be spoken, at its own rate and channels.
    speech: (samples,) float32 mono at 16 kHz of the same part, at -23 LUFS (see loudness.py).
    original: the picture as it came in, (H, W, 3) uint8 RGB; the same array as ``picture`` where nothing was changed.
    original_size: (width, height) of the picture as it came in.
    crop_box: x1, y1, x2, y2 of the used part, in pixels of the original.
    notes: sentences on what was corrected.
    """

    picture: Frame
    face: Face | None
    sound: Sound
    speech: NDArray[np.float32]
    original_size: tuple[int, int]
    crop_box: Box
    original: Frame
    notes: tuple[str, ...] = field(default=())

    @property
    def seconds(self) -> float:
        return self.sound.seconds
