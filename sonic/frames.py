"""Frames that are made when they are asked for: what an engine returns, and what video and graph read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]  # (H, W, 3) RGB


class FrameSource(Protocol):
    """A clip that can be read again and from anywhere; the same index always gives the same frame."""

    count: int
    height: int
    width: int

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames start..stop-1 in order, each a fresh (H, W, 3) uint8 RGB array."""
        ...


def frame_count(seconds: float, fps: float) -> int:
    """Frames that cover ``seconds`` of sound: round(seconds * fps), at least one."""
    return max(1, round(seconds * fps))


class StillFrames:
    """One (H, W, 3) uint8 picture as a FrameSource of a single frame."""

    def __init__(self, picture: Frame) -> None:
        self.count = 1
        self.height, self.width = picture.shape[:2]
        self._picture = picture

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        if start <= 0 and (stop is None or stop > 0):
            yield self._picture.copy()
