"""A clip of a crop, laid back into the whole picture: same place, soft edges, same colours.

The edge of the crop fades into the picture over an eighth of the crop's side, but not where the crop ends at the
picture's own edge. Sonic's decoder shifts colours a little; so each frame's brightness per channel in that soft edge,
where a talking head hardly moves, is brought to the picture's. What moved there does not count: only pixels that
differ as most of them do.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import BadPortrait
from ..frames import Frame, FrameSource
from ..prepared import Box, PreparedData

FEATHER = 0.125  # of the crop's side
SHAPE_TOLERANCE = 0.03  # sides were rounded to multiples of 64 and may be rounded again by an upscaler
MATCH_LIMIT = 24.0  # of 255; more is another picture, whose colours are its own
MOVED = 10.0  # of 255: a pixel that differs by so much more than most has moved
SAMPLES = 64  # of the soft edge along each side of the crop


class CompositeFrames:
    """A FrameSource: frames of ``source`` in the place of their crop in ``background``.

    box: the place, x1, y1, x2, y2 within the background. background: a clip of its own goes along frame by frame and
    holds its last one; a picture stays. Memory is that of a few frames.
    """

    def __init__(self, source: FrameSource, background: FrameSource, box: Box) -> None:
        self.count = source.count
        self.height, self.width = background.height, background.width
        self._source, self._background, self._box = source, background, box
        x1, y1, x2, y2 = box
        size = x2 - x1, y2 - y1
        inner = x1 > 0, y1 > 0, x2 < self.width, y2 < self.height
        self._cover = _soft_edges(size, inner)
        self._rest = 1 - self._cover
        self._is_soft = any(inner)
        self._rows, self._columns = (
            np.linspace(0, side - 1, min(side, SAMPLES)).round().astype(int) for side in size[::-1]
        )
        sampled = self._cover[np.ix_(self._rows, self._columns)]
        self._edge = (sampled < 1) if self._is_soft else np.zeros_like(sampled, bool)

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames start..stop-1, each a fresh (H, W, 3) uint8 RGB array."""
        stop = self.count if stop is None else min(stop, self.count)
        if start >= stop:
            return
        last = self._background.count - 1
        behind = self._background.frames(min(start, last))
        picture = next(behind)
        for index, frame in enumerate(self._source.frames(start, stop), start):
            if start < index <= last:
                picture = next(behind)
            yield self._laid(frame, picture)

    def _laid(self, frame: Frame, picture: Frame) -> Frame:
        x1, y1, x2, y2 = self._box
        crop = _resized(frame, (x2 - x1, y2 - y1))
        whole = picture.copy()
        place = whole[y1:y2, x1:x2]
        if self._is_soft:
            shift = self._shift(crop, place)
            if np.abs(shift).max() >= 0.25:
                crop = _shifted(crop, shift)
            place[...] = cv2.blendLinear(crop, np.ascontiguousarray(place), self._cover, self._rest)
        else:
            place[...] = crop
        return whole

    def _shift(self, crop: Frame, place: Frame) -> NDArray[np.float32]:
        """(3,) by how much the picture is brighter than the crop in the soft edge; 0 where they show other things."""
        at = np.ix_(self._rows, self._columns)
        difference = place[at][self._edge].astype(np.float32) - crop[at][self._edge]
        usual = np.median(difference, axis=0)
        alike = np.abs(difference - usual).max(axis=1) <= MOVED
        if alike.mean() < 0.5 or np.abs(usual).max() > MATCH_LIMIT:
            return np.zeros(3, np.float32)
        shift: NDArray[np.float32] = difference[alike].mean(axis=0)
        return shift


def place_of(prepared: PreparedData, frames: FrameSource, background: FrameSource) -> Box:
    """Where the crop of ``prepared`` lies in ``background``, whole pixels within it.

    A background of the original's shape and any size has it in the same place. In one of another shape the crop keeps
    its own shape, and its middle the same part of the width and the height. Raises BadPortrait where the frames have
    another shape than the prepared picture, so that they cannot be a clip of it.
    """
    height, width = prepared.picture.shape[:2]
    if abs(frames.width / frames.height / (width / height) - 1) > SHAPE_TOLERANCE:
        raise BadPortrait(
            f"The images have {frames.width} x {frames.height} pixels and the prepared picture {width} x {height}, "
            "another shape; connect the preprocessed_data that the images were made from, and do not crop them."
        )
    original_width, original_height = prepared.original_size
    across, down = background.width / original_width, background.height / original_height
    if abs(across / down - 1) > SHAPE_TOLERANCE:
        across_size = down_size = min(across, down)
    else:
        across_size, down_size = across, down
    x1, y1, x2, y2 = prepared.crop_box
    left, right = _span((x1 + x2) / 2 * across, (x2 - x1) * across_size, background.width)
    top, bottom = _span((y1 + y2) / 2 * down, (y2 - y1) * down_size, background.height)
    return left, top, right, bottom


def _span(middle: float, length: float, whole: int) -> tuple[int, int]:
    size = min(max(1, round(length)), whole)
    start = min(max(0, round(middle - length / 2)), whole - size)
    return start, start + size


def _soft_edges(size: tuple[int, int], inner: tuple[bool, bool, bool, bool]) -> NDArray[np.float32]:
    """(h, w) float32: 1 inside, falling to 0 at the left, top, right and bottom where those lie inside the picture."""
    width, height = size
    left, top, right, bottom = inner
    soft = max(1.0, FEATHER * min(width, height))
    columns = np.minimum(_ramp(width, soft) if left else 1, _ramp(width, soft)[::-1] if right else 1)
    rows = np.minimum(_ramp(height, soft) if top else 1, _ramp(height, soft)[::-1] if bottom else 1)
    cover = np.broadcast_to(rows, height)[:, None] * np.broadcast_to(columns, width)[None]
    return np.ascontiguousarray(cover, np.float32)


def _ramp(length: int, soft: float) -> NDArray[np.float32]:
    t = np.clip((np.arange(length, dtype=np.float32) + 0.5) / soft, 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def _resized(frame: Frame, size: tuple[int, int]) -> Frame:
    if (frame.shape[1], frame.shape[0]) == size:
        return frame
    smaller = size[0] < frame.shape[1]
    resized: Frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    return resized


def _shifted(crop: Frame, shift: NDArray[np.float32]) -> Frame:
    levels = np.arange(256, dtype=np.float32)[:, None] + shift
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)[:, None]
    shifted: Frame = cv2.LUT(crop, table.reshape(1, 256, 3))
    return shifted
