"""Small clips in memory, for tests of what is done to finished frames."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
from comfyui_sonic.sonic.frames import Frame, FrameSource
from numpy.typing import NDArray


class Clip:
    """Frames in memory as a FrameSource; ``read`` counts the frames that were asked for."""

    def __init__(self, frames: NDArray[np.uint8]) -> None:
        self.count, self.height, self.width = frames.shape[:3]
        self._frames = frames
        self.read = 0

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        for frame in self._frames[start:stop]:
            self.read += 1
            yield frame.copy()


class Endless:
    """A clip of any length that is made as it is read, so that whoever keeps its frames is found out.

    Each frame is ``picture`` moved by ``speed`` pixels to the right per frame, around the edge.
    """

    def __init__(self, picture: Frame, count: int, speed: float = 1.0) -> None:
        self.count = count
        self.height, self.width = picture.shape[:2]
        self._picture, self._speed = picture, speed

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        for index in range(start, self.count if stop is None else min(stop, self.count)):
            yield np.roll(self._picture, round(index * self._speed), axis=1)


def peak_of(source: FrameSource) -> int:
    """The most bytes that are taken at once while a clip is read and nothing of it is kept."""
    tracemalloc.start()
    for _ in source.frames():
        pass
    highest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return highest


def textured(height: int = 96, width: int = 96, seed: int = 3) -> NDArray[np.uint8]:
    """A soft picture with structure everywhere, (height, width, 3) uint8, 60..180."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(60, 180, (-(-height // 12) + 1, -(-width // 12) + 1, 3))
    y, x = np.arange(height) / 12, np.arange(width) / 12
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    fy, fx = (y - y0)[:, None, None], (x - x0)[None, :, None]
    top = coarse[y0][:, x0] * (1 - fx) + coarse[y0][:, x0 + 1] * fx
    bottom = coarse[y0 + 1][:, x0] * (1 - fx) + coarse[y0 + 1][:, x0 + 1] * fx
    return np.rint(top * (1 - fy) + bottom * fy).astype(np.uint8)
