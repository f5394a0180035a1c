"""Brightness of a clip, evened out: strobing of about 1 Hz, steps between windows and frame-to-frame flicker go.

Outside the face of a talking head next to nothing moves, so how most of those pixels change from one frame to the next
is a change of the light, or of the network's idea of it. These changes, added up, are held against their mean over four
seconds, and the difference is taken off: brightness and contrast, since a network's windows differ in both.

What must stay is told apart by three things. At a cut, or where most pixels change in different ways, the window ends.
Where brightness leaves a band around the frame's own within the window, it is a fade: the window then takes as many
frames from either side, so that a steady fade is its own mean. And a light that is switched on is a cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from ..frames import Frame, FrameSource
from .regions import Weights

REACH_S = 2.0  # to each side: four seconds hold whole periods of 1 Hz and of Sonic's window rates
MOST_HELD = 256 * 2**20  # bytes of frames that wait for what comes after them; larger frames get a shorter window
LEAST_REACH = 4  # frames
BAND = 16.0  # of 255: flicker stays within it, fades leave it, a single change beyond it is a cut
CONTRAST_BAND = 0.15
LIKE_MOST = 10.0  # of 255: a pixel that changes by so much more or less than most has moved
LEAST_ALIKE = 0.5  # the part of the pixels that must change alike
LEAST_CONTRAST, LEAST_MEAN = 8.0, 20.0  # of 255: below, contrast cannot be told from noise
SAMPLE_STEP = 4  # brightness is measured on every fourth row and column
UNNOTICED = 1 / 32  # of 255
DITHER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]], np.uint8)


class EvenedFrames:
    """A FrameSource with the brightness of another one evened out.

    still: (H, W) float32, 1 where a change is a change of the light, 0 in the face. Memory: the frames of two seconds
    (256 MB at most), and twelve bytes for each frame that was read.
    """

    def __init__(self, source: FrameSource, still: Weights, fps: float) -> None:
        self.count, self.height, self.width = source.count, source.height, source.width
        self._source = source
        held = MOST_HELD // (3 * source.height * source.width)
        self._reach = max(LEAST_REACH, min(round(REACH_S * fps), held))
        self._measured = still[::SAMPLE_STEP, ::SAMPLE_STEP] > 0.99
        if not self._measured.any():
            self._measured = np.ones_like(self._measured)
        # Per frame: change of brightness and log contrast since the one before (NaN: not measured, inf: a cut), mean.
        self._changes = np.full((source.count, 3), np.nan, np.float32)
        tiles = -(-source.height // 4), -(-source.width // 4)
        dither = np.tile(DITHER, tiles)[: source.height, : source.width]
        self._dither = np.repeat(dither[..., None], 3, axis=2)

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames start..stop-1, each a fresh (H, W, 3) uint8 RGB array."""
        stop = self.count if stop is None else min(stop, self.count)
        if start >= stop:
            return
        waiting: deque[Frame] = deque()
        begin = self._first_to_read(start)
        incoming = enumerate(self._source.frames(begin, min(self.count, stop + self._reach)), begin)
        before: NDArray[np.float32] | None = None
        number = begin - 1
        for index in range(start, stop):
            while number < min(self.count - 1, index + self._reach):
                number, frame = next(incoming)
                if number >= start:
                    waiting.append(frame)
                pixels = self._pixels(frame)
                if np.isnan(self._changes[number, 0]) and (before is not None or number == 0):
                    self._changes[number] = _change(before, pixels)
                before = pixels
            yield self._corrected(waiting.popleft(), index)

    def _first_to_read(self, start: int) -> int:
        """The frame before the first one of the window whose change is not known yet; ``start`` if all are."""
        low = max(0, start - self._reach)
        unknown = np.flatnonzero(np.isnan(self._changes[low : start + 1, 0]))
        return max(0, low + int(unknown[0]) - 1) if unknown.size else start

    def _pixels(self, frame: Frame) -> NDArray[np.float32]:
        some = np.ascontiguousarray(frame[::SAMPLE_STEP, ::SAMPLE_STEP])
        pixels: NDArray[np.float32] = cv2.cvtColor(some, cv2.COLOR_RGB2GRAY)[self._measured].astype(np.float32)
        return pixels

    def _corrected(self, frame: Frame, index: int) -> Frame:
        brightness, contrast = self._deviation(index)
        mean = float(self._changes[index, 2])
        gain = float(np.exp(contrast))
        offset = mean * (1 - gain) + brightness
        if abs(brightness) < UNNOTICED and abs(gain - 1) * 128 < UNNOTICED:
            return frame
        # Whole levels would leave half a level of flicker; a fixed pattern of thresholds makes the mean exact.
        evened: Frame = cv2.addWeighted(frame, gain, self._dither, 1 / 16, offset - 15 / 32)
        return evened

    def _deviation(self, index: int) -> tuple[float, float]:
        """By how much brightness and log contrast of the frame must rise to be the mean of its window."""
        low, high = max(0, index - self._reach), min(self.count - 1, index + self._reach)
        earlier, earlier_leaves = _relative(-self._changes[low + 1 : index + 1, :2][::-1])
        later, later_leaves = _relative(self._changes[index + 1 : high + 1, :2])
        if earlier_leaves or later_leaves:
            common = min(len(earlier), len(later))
            earlier, later = earlier[:common], later[:common]
        total = earlier.sum(axis=0) + later.sum(axis=0)
        brightness, contrast = total / (len(earlier) + len(later) + 1)
        return float(brightness), float(contrast)


def _change(before: NDArray[np.float32] | None, now: NDArray[np.float32]) -> tuple[float, float, float]:
    """Change of brightness, of log contrast, and the mean; infinite where nothing can be compared."""
    mean = float(now.mean())
    if before is None:
        return np.inf, np.inf, mean
    difference = now - before
    alike = np.abs(difference - np.median(difference)) <= LIKE_MOST
    if alike.mean() < LEAST_ALIKE:
        return np.inf, np.inf, mean
    difference, level = difference[alike], ((now + before) / 2)[alike]
    brightness = float(difference.mean())
    if abs(brightness) > BAND:
        return np.inf, np.inf, mean
    level -= level.mean()
    spread = float(np.square(level).mean())
    tellable = spread > LEAST_CONTRAST**2 and mean > LEAST_MEAN
    contrast = float((difference * level).mean()) / spread if tellable else 0.0
    return brightness, contrast, mean


def _relative(changes: NDArray[np.float32]) -> tuple[NDArray[np.float32], bool]:
    """Brightness and contrast relative to the frame's, going away from it up to a cut; whether they leave the band."""
    cuts = np.flatnonzero(~np.isfinite(changes[:, 0]))
    relative = np.cumsum(changes[: cuts[0]] if cuts.size else changes, axis=0)
    beyond = np.flatnonzero((np.abs(relative) > (BAND, CONTRAST_BAND)).any(axis=1))
    return (relative[: beyond[0]], True) if beyond.size else (relative, False)
