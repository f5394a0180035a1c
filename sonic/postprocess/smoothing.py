"""Temporal smoothing: takes brightness flicker out of a clip and calms what should be still; motion and face stay.

Two steps, both on a sliding window, so that memory does not grow with the clip and any frame can be read on its own:

1. The mean brightness outside the face is compared with its mean over nine frames; the difference is taken off the
   frame. A flicker vanishes, a step (as between separately decoded chunks) becomes a ramp of a third of a second.
2. Each pixel moves half way to the mean of its neighbours in time where it differs from them by no more than noise
   does. A moving edge differs by much more and is left alone, and so is the face, whose small motions are what counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from ..frames import Frame, FrameSource

Box = tuple[float, float, float, float]

BRIGHTNESS_RADIUS = 4  # frames to each side
BRIGHTNESS_LIMIT = 12.0  # of 255; what differs by more is a cut or a light switched on
SAMPLE_STEP = 4  # brightness is measured on every fourth row and column
CALMING = 0.5
NOISE = 6.0  # of 255
NOISE_BLUR = 5  # pixels; a difference counts when it is wider than a single pixel
FACE_MARGIN = 0.25  # of the face's size, around it; a soft edge of the same width follows
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class SmoothedFrames:
    """A FrameSource that smooths another one; face: the box to spare in pixels, None where there is no face."""

    def __init__(self, source: FrameSource, face: Box | None) -> None:
        self.count, self.height, self.width = source.count, source.height, source.width
        self._source = source
        self._weight = _weight_outside(face, source.height, source.width)
        self._measured = self._weight[::SAMPLE_STEP, ::SAMPLE_STEP] > 0.99
        if not self._measured.any():
            self._measured = np.ones_like(self._measured)

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames start..stop-1, each a fresh (H, W, 3) uint8 RGB array."""
        stop = self.count if stop is None else min(stop, self.count)
        if start >= stop:
            return
        window: deque[NDArray[np.float32]] = deque(maxlen=3)
        evened = self._evened(max(0, start - 1), min(self.count, stop + 1))
        if start > 0:
            window.append(next(evened))
        window.append(next(evened))
        for index in range(start, stop):
            after = next(evened, None) if index + 1 < self.count else None
            if after is not None:
                window.append(after)
            before = window[0] if index > 0 else None
            current = window[-2] if after is not None else window[-1]
            yield self._calmed(before, current, after)
            if after is None:
                return
            if len(window) == 3:
                window.popleft()

    def _evened(self, start: int, stop: int) -> Iterator[NDArray[np.float32]]:
        """Step 1: frames start..stop-1 as float32 0..255."""
        radius = BRIGHTNESS_RADIUS
        first = max(0, start - radius)
        buffer: deque[tuple[int, Frame, float]] = deque()
        incoming = enumerate(self._source.frames(first, min(self.count, stop + radius)), first)
        for index in range(start, stop):
            reach = min(radius, index, self.count - 1 - index)  # symmetric, so that a fade is not bent at the ends
            while not buffer or buffer[-1][0] < index + reach:
                number, frame = next(incoming)
                buffer.append((number, frame, self._brightness(frame)))
            while buffer[0][0] < index - radius:
                buffer.popleft()
            _, frame, brightness = next(entry for entry in buffer if entry[0] == index)
            near = [
                other
                for number, _, other in buffer
                if abs(number - index) <= reach and abs(other - brightness) <= BRIGHTNESS_LIMIT
            ]
            yield frame.astype(np.float32) + np.float32(sum(near) / len(near) - brightness)

    def _brightness(self, frame: Frame) -> float:
        pixels = frame[::SAMPLE_STEP, ::SAMPLE_STEP][self._measured]
        return float(pixels.mean(axis=0) @ LUMA)

    def _calmed(
        self, before: NDArray[np.float32] | None, current: NDArray[np.float32], after: NDArray[np.float32] | None
    ) -> Frame:
        """Step 2; the first and the last frame, which lack a neighbour, stay as they are."""
        if before is not None and after is not None:
            neighbours = (before + after) * 0.5
            difference = neighbours - current
            # Steady motion shows in how the neighbours differ from each other, a passing thing in how they differ from
            # this frame.
            moved = np.maximum(np.abs(difference), np.abs(after - before)).max(axis=2)
            likeness = np.exp(-((cv2.blur(moved, (NOISE_BLUR, NOISE_BLUR)) / NOISE) ** 2))
            current = current + difference * (CALMING * self._weight * likeness)[..., None]
        return np.clip(np.rint(current), 0, 255).astype(np.uint8)


def _weight_outside(face: Box | None, height: int, width: int) -> NDArray[np.float32]:
    """(H, W) float32: 0 in the face and its margin, 1 far from it, soft in between."""
    weight = np.ones((height, width), np.float32)
    if face is None:
        return weight
    x1, y1, x2, y2 = face
    margin_x, margin_y = FACE_MARGIN * (x2 - x1), FACE_MARGIN * (y2 - y1)
    top, bottom = (int(np.clip(v, 0, height)) for v in (y1 - 2 * margin_y, y2 + 2 * margin_y))
    left, right = (int(np.clip(v, 0, width)) for v in (x1 - 2 * margin_x, x2 + 2 * margin_x))
    weight[top:bottom, left:right] = 0.0
    soft = max(1, int(min(margin_x, margin_y)))
    blurred = cv2.blur(weight, (2 * soft + 1, 2 * soft + 1))
    return np.asarray(blurred, np.float32)
