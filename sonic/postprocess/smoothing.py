"""Temporal smoothing: takes flicker out of a clip and calms what should be still; motion and mouth stay.

`light` evens out the brightness (see brightness.py) and moves each pixel half way to the mean of its neighbours in time
where it differs from them by no more than noise does. A moving edge differs by much more and is left alone, and so is
the face. `flow` averages each frame with the two before it, brought to it along the optical flow; so moving things are
calmed as well. Where the frames disagree although motion was taken out, something was hidden, and the frame is kept;
around the mouth the average is weak, so that lips move as far as before. `both` does one after the other.

Everything works on a sliding window, so that memory does not grow with the clip and any frame can be read on its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ..frames import Frame, FrameSource
from ..prepared import Face
from .brightness import EvenedFrames
from .motion import Flow, Grey, MotionFinder, moved_along, pixel_grid
from .regions import Weights, mouth_box, outside

Way = tuple[Flow, NDArray[np.float32]]
SmoothingMethod = Literal["light", "flow", "both"]

CALMING = 0.5
NOISE = 6.0  # of 255
NOISE_BLUR = 5  # pixels; a difference counts when it is wider than a single pixel
AVERAGING = 0.5  # share of what came before, frame by frame
AT_MOUTH = 0.1  # of that share
MOUTH_MARGIN = 0.3
STILL = 0.15  # pixels; less is no motion but the flow's own noise, and moving by it would only soften


def smooth(source: FrameSource, method: SmoothingMethod, fps: float, face: Face | None) -> FrameSource:
    """The frames of ``source``, smoothed as they are read. face: as in the first frame, None if there is none."""
    still = outside(face.box if face else None, source.height, source.width)
    if method in ("light", "both"):
        source = CalmedFrames(EvenedFrames(source, still, fps), still)
    if method in ("flow", "both"):
        mouth = outside(mouth_box(face) if face else None, source.height, source.width, MOUTH_MARGIN)
        source = FlowAveragedFrames(source, AT_MOUTH + (1 - AT_MOUTH) * mouth)
    return source


def likeness_by_difference() -> NDArray[np.float32]:
    """(1, 256) how much a difference of so many levels looks like noise: 1 for none, next to 0 far beyond NOISE."""
    levels = np.arange(256, dtype=np.float32) / NOISE
    return np.asarray(np.exp(-(levels**2)).reshape(1, 256), np.float32)


class CalmedFrames:
    """A FrameSource: pixels that differ from their neighbours in time as noise does get less of it."""

    def __init__(self, source: FrameSource, still: Weights) -> None:
        self.count, self.height, self.width = source.count, source.height, source.width
        self._source = source
        self._weight = CALMING * still
        self._likeness = likeness_by_difference()

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames start..stop-1, each a fresh (H, W, 3) uint8 RGB array."""
        stop = self.count if stop is None else min(stop, self.count)
        if start >= stop:
            return
        incoming = self._source.frames(max(0, start - 1), min(self.count, stop + 1))
        before = next(incoming) if start > 0 else None
        current = next(incoming)
        for index in range(start, stop):
            after = next(incoming) if index + 1 < self.count else None
            # The first and the last frame, which lack a neighbour, stay as they are.
            yield current.copy() if before is None or after is None else self._calmed(before, current, after)
            if after is not None:
                before, current = current, after

    def _calmed(self, before: Frame, current: Frame, after: Frame) -> Frame:
        neighbours = cv2.addWeighted(before, 0.5, after, 0.5, 0)
        # Steady motion shows in how the neighbours differ from each other, a passing thing in how they differ from it.
        moved = cv2.max(cv2.absdiff(neighbours, current), cv2.absdiff(after, before))
        red, green, blue = cv2.split(moved)
        widened = cv2.blur(cv2.max(cv2.max(red, green), blue), (NOISE_BLUR, NOISE_BLUR))
        share = cv2.LUT(widened, self._likeness) * self._weight
        calmed: Frame = cv2.blendLinear(neighbours, current, share, 1 - share)
        return calmed


class FlowAveragedFrames:
    """A FrameSource: an exponential average over each frame and the two before it, along the motion.

    share: (H, W) float32, how much of the average is taken where.
    """

    def __init__(self, source: FrameSource, share: Weights) -> None:
        self.count, self.height, self.width = source.count, source.height, source.width
        self._source = source
        self._share = AVERAGING * share
        self._finder = MotionFinder(source.height, source.width, quick=True)
        self._grid = pixel_grid(source.height, source.width)
        small_width, small_height = self._finder.size
        self._small_grid = pixel_grid(small_height, small_width)
        self._likeness = likeness_by_difference()

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames start..stop-1, each a fresh (H, W, 3) uint8 RGB array."""
        stop = self.count if stop is None else min(stop, self.count)
        if start >= stop:
            return
        before: Frame | None = None  # the frame before, and its average with the one before that
        average_before: Frame | None = None
        for index, frame, way in self._with_ways(max(0, start - 2), stop):
            result = average = frame
            if before is not None and average_before is not None and way is not None:
                where, share = way.result()
                rest = 1 - share
                # Fixed-point maps serve both pictures, each then in two thirds of the time.
                maps = cv2.convertMaps(where, None, cv2.CV_16SC2)
                average = cv2.blendLinear(_moved(before, maps), frame, share, rest)
                result = cv2.blendLinear(_moved(average_before, maps), frame, share, rest)
            if index >= start:
                yield result.copy() if result is frame else result
            before, average_before = frame, average

    def _with_ways(self, start: int, stop: int) -> Iterator[tuple[int, Frame, Future[Way] | None]]:
        """Each frame with the way back from it; that of the next one is looked for meanwhile, on another core."""
        with ThreadPoolExecutor(1, "sonic-flow") as ahead:
            small_before: Grey | None = None
            held: tuple[int, Frame, Future[Way] | None] | None = None
            for index, frame in enumerate(self._source.frames(start, stop), start):
                small = self._finder.reduced(frame)
                way = None if small_before is None else ahead.submit(self._way_back, small, small_before)
                if held:
                    yield held
                held, small_before = (index, frame, way), small
            if held:
                yield held

    def _way_back(self, small: Grey, small_before: Grey) -> Way:
        """Where each pixel was one frame ago, and how much that place has to say about it."""
        flow = self._finder.flow(small, small_before)
        flow[np.abs(flow).max(axis=2) * float(self._finder.scale.max()) < STILL] = 0
        differ = cv2.blur(cv2.absdiff(moved_along(small_before, self._small_grid + flow), small), (3, 3))
        alike = cv2.resize(cv2.LUT(differ, self._likeness), (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        where = self._finder.enlarged(flow, self.width, self.height)
        where += self._grid
        return where, alike * self._share


def _moved(picture: Frame, maps: tuple[NDArray[np.int16], NDArray[np.uint16]]) -> Frame:
    moved: Frame = cv2.remap(picture, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return moved
