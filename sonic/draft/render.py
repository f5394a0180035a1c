"""Prepared data -> a clip of the speaking portrait: every frame is the picture, warped, with a mouth inside."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import NoFace
from ..frames import Frame
from ..options import InferenceOptions
from ..prepared import PreparedData
from .displacement import MOUTH, Displacement, Field, Region
from .eyelids import find_eyelids
from .face_geometry import LOWER_INNER, UPPER_INNER, FaceGeometry, Points
from .mouth_interior import MouthInterior
from .performance import Performance, perform

CUBIC_UP_TO = 700 * 700  # pixels of the moving region; above, linear sampling is sharp enough and twice as fast
SEAM_SOFT = 0.008  # of the face's height: cross-fade between the layers beside the mouth
BLINK_VISIBLE = 0.02


def render_draft(prepared: PreparedData, options: InferenceOptions) -> DraftClip:
    """The clip of a prepared portrait speaking its sound; raises NoFace where the picture has none."""
    if prepared.face is None:
        raise NoFace(
            "The draft engine needs a face to move, but none was found in the picture; use a picture that shows one."
        )
    return DraftClip(
        prepared.picture, FaceGeometry.of(prepared.face), perform(prepared.speech, prepared.seconds, options)
    )


class DraftClip:
    """A FrameSource; frames are drawn when read, so a clip of any length takes the same memory."""

    def __init__(self, picture: Frame, geometry: FaceGeometry, performance: Performance) -> None:
        self.height, self.width = picture.shape[:2]
        self.count = performance.frames
        self.picture, self.geometry, self.performance = picture, geometry, performance
        self.displacement = Displacement.of(geometry, self.width, self.height)
        self.interior = MouthInterior.of(geometry, picture)
        self.eyelids = find_eyelids(geometry, picture)
        region = self.displacement.region
        self.sampling = cv2.INTER_CUBIC if region.width * region.height <= CUBIC_UP_TO else cv2.INTER_LINEAR
        self.pixels = _pixel_grid(region)
        self.below = _LowerPart(geometry, region, self.width, self.height)

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        for index in range(start, self.count if stop is None else min(stop, self.count)):
            yield self.frame(index)

    def frame(self, index: int) -> Frame:
        """Frame ``index`` as a fresh (H, W, 3) uint8 RGB array."""
        moving, region = self.displacement, self.displacement.region
        weights = moving.weights(self.performance, index)
        skull, jaw = moving.forward(moving.skull, weights), moving.forward(moving.jaw, weights)
        source = self._blinking(float(self.performance.blink[index]))

        upper = self._sample(source, moving.inverse(skull), region)
        upper_lip = self._posed(UPPER_INNER, skull)
        lower_lip = self._posed(LOWER_INNER, jaw)
        corners = (upper_lip[[0, -1]] + lower_lip[[0, -1]]) / 2
        upper_lip[[0, -1]], lower_lip[[0, -1]] = corners, corners
        below = self.below
        lower = self._sample(source, moving.inverse(jaw), region, below.rows, below.columns)
        below.blend(upper[below.rows, below.columns], lower, (upper_lip + lower_lip) / 2)

        frame = self.picture.copy()
        frame[region.y0 : region.y1, region.x0 : region.x1] = upper
        pucker = min(float(self.performance.round[index]), 1.0)
        shift = self._skull_shift(weights)
        self.interior.paint(frame, upper_lip, lower_lip, shift, self.performance.closing, pucker)
        return frame

    def lip_gap(self, index: int) -> float:
        """The intended opening between the lips of a frame in parts of the face's height; what a check reads back."""
        moving = self.displacement
        weights = moving.weights(self.performance, index)
        upper = self._posed(UPPER_INNER, moving.forward(moving.skull, weights))
        lower = self._posed(LOWER_INNER, moving.forward(moving.jaw, weights))
        gap = (self.geometry.to_local(lower) - self.geometry.to_local(upper))[:, 1]
        return float(max(gap.max(), 0.0)) / self.geometry.height

    def _blinking(self, shut: float) -> Frame:
        if shut < BLINK_VISIBLE or not self.eyelids:
            return self.picture
        source = self.picture.copy()
        for eyelid in self.eyelids:
            eyelid.close(source, shut)
        return source

    def _sample(
        self, source: Frame, backward: Field, region: Region, rows: slice = slice(None), columns: slice = slice(None)
    ) -> Frame:
        """The posed region (or a part of it): the picture, read where each pixel comes from."""
        dense = cv2.resize(backward, (region.width, region.height), interpolation=cv2.INTER_LINEAR)
        where = self.pixels[rows, columns] + dense[rows, columns]
        posed: Frame = cv2.remap(source, where, None, self.sampling, borderMode=cv2.BORDER_REPLICATE)
        return posed

    def _posed(self, contour: tuple[int, ...], forward: Field) -> Points:
        rest = self.geometry.points[list(contour)]
        return rest + self.displacement.at(forward, rest)

    def _skull_shift(self, weights: NDArray[np.float32]) -> Points:
        head = weights[len(MOUTH) :]
        fields = self.displacement.skull[len(MOUTH) :]
        at_mouth = self.geometry.origin[None]
        return sum(
            (w * self.displacement.at(field, at_mouth)[0] for w, field in zip(head, fields, strict=True)), np.zeros(2)
        )


def _pixel_grid(region: Region) -> NDArray[np.float32]:
    """(h, w, 2) picture coordinates of the region's pixels."""
    x, y = np.arange(region.x0, region.x1), np.arange(region.y0, region.y1)
    return np.stack(np.meshgrid(x, y), axis=-1).astype(np.float32)


class _LowerPart:
    """The part of the region where the jaw's layer is seen, and the line between the layers."""

    def __init__(self, geometry: FaceGeometry, region: Region, width: int, height: int) -> None:
        self.geometry = geometry
        centre, half = geometry.oval
        out = 1.55
        corners = np.array(
            [[u, v] for u in (centre[0] - out * half[0], centre[0] + out * half[0])
             for v in (-0.12 * geometry.height, centre[1] + out * half[1])]
        )  # fmt: skip
        box = geometry.to_picture(corners) - (region.x0, region.y0)
        x0, y0 = np.clip(np.floor(box.min(axis=0)).astype(int), 0, None)
        x1, y1 = np.minimum(np.ceil(box.max(axis=0)).astype(int), (region.width, region.height))
        self.rows, self.columns = slice(int(y0), int(y1)), slice(int(x0), int(x1))
        pixels = _pixel_grid(region)[self.rows, self.columns].reshape(-1, 2).astype(np.float64)
        local = geometry.to_local(pixels).astype(np.float32)
        shape = (int(y1 - y0), int(x1 - x0))
        self.v = local[:, 1].reshape(shape)
        self.soft = max(1.0, SEAM_SOFT * geometry.height)
        # u in whole pixels, so that the seam's height is looked up instead of interpolated for every pixel
        self.first = int(np.floor(local[:, 0].min()))
        self.columns_u = np.arange(self.first, int(np.ceil(local[:, 0].max())) + 1)
        self.index = np.clip(np.rint(local[:, 0]).astype(np.intp) - self.first, 0, len(self.columns_u) - 1).reshape(
            shape
        )

    def blend(self, upper: Frame, lower: Frame, seam: Points) -> None:
        """Lays ``lower`` over ``upper`` below the seam (11 points from corner to corner, picture pixels), in place."""
        line = self.geometry.to_local(seam)
        level = np.interp(self.columns_u, line[:, 0], line[:, 1]).astype(np.float32)
        cover = np.clip((self.v - level[self.index]) / self.soft + 0.5, 0, 1)
        upper[...] = cv2.blendLinear(lower, np.ascontiguousarray(upper), cover, 1 - cover)
