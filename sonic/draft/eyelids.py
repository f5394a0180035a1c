"""Blinks: the skin above an eye slides down over it; done in the picture itself, before the head moves."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..frames import Frame
from .face_geometry import EYES, FaceGeometry

FOLD = 0.75  # the part of the way to the brow over which the lid's skin is stretched
LASHES = 0.025  # of the eye's width: the lash line that a lowered lid ends in
LID_ABOVE = 0.035  # of the eye's width: the mesh's lid line lies a little inside the eye
LASHES_UP_TO = 0.13  # of the eye's width: made-up or drawn lashes are thicker, and must not be stretched
SKIN_LIGHT = 0.8  # of the lid's own lightness: where the lashes end
LASH_SHADE = 0.45
UNLIKE_SKIN = 12.0  # CIELAB chroma distance under the lower lid from which the mesh is taken to have missed the eye
UNDER_LID = (0.14, 0.2, 0.3)  # of the eye's width: where skin must begin under the lower lid
CHEEKS = (50, 280, 117, 346, 101, 330)
MIN_OPENING = 0.06  # of the eye's width; a narrower eye is shut or squinting already


@dataclass(frozen=True)
class Eyelid:
    """One eye's rectangle in the picture and, for every pixel of it, the local v of lid, lower lid and fold."""

    x0: int
    y0: int
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    v: NDArray[np.float32]
    lid: NDArray[np.float32]
    lower: NDArray[np.float32]
    fold: NDArray[np.float32]
    down: NDArray[np.float32]  # (2,) unit vector of v
    lash: float  # thickness of the lash line in pixels

    def close(self, picture: Frame, shut: float) -> None:
        """Slides the lid down by ``shut`` (0..1), in place."""
        edge = self.lid + shut * (self.lower - self.lid)
        stretch = (self.lid - self.fold) / np.maximum(edge - self.fold, 1e-3)
        from_v = self.fold + (self.v - self.fold) * stretch
        move = np.where(self.v > self.fold, from_v - self.v, 0).astype(np.float32)
        height, width = self.v.shape
        part = picture[self.y0 : self.y0 + height, self.x0 : self.x0 + width]
        # The stretched skin lies inside the rectangle, because the fold does.
        skin = cv2.remap(
            part,
            self.x + move * self.down[0],
            self.y + move * self.down[1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        cover = np.clip(edge - self.v + 0.5, 0, 1)[..., None]
        lashes = 1 - LASH_SHADE * np.clip((edge - self.lid) / 4, 0, 1) * np.exp(-(((edge - self.v) / self.lash) ** 2))
        part[...] = (part + (skin * lashes[..., None] - part) * cover + 0.5).astype(np.uint8)


def find_eyelids(geometry: FaceGeometry, picture: Frame) -> list[Eyelid]:
    """Both eyes, or none where the mesh does not fit them (large drawn eyes) or they are shut."""
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float32)
    eyelids = []
    for upper, lower, brow in EYES:
        top, bottom = geometry.local[list(upper)], geometry.local[list(lower)]
        width = float(top[-1, 0] - top[0, 0])
        opening = float((bottom[:, 1] - top[:, 1]).max())
        if opening < MIN_OPENING * width or not _skin_under(geometry, lab, bottom, width):
            return []
        lashes = _lash_height(geometry, lab, top, width)
        eyelids.append(_eyelid(geometry, picture, top, bottom, geometry.local[list(brow)], width, lashes))
    return eyelids


def _skin_under(geometry: FaceGeometry, lab: NDArray[np.float32], bottom: NDArray[np.float64], width: float) -> bool:
    """Whether skin begins right under the lower lid: its hue must be the cheek's (a shadow there is no sign)."""

    def hue(points: NDArray[np.float64]) -> NDArray[np.float32]:
        columns, rows = np.clip(points.round().astype(int), 0, (lab.shape[1] - 1, lab.shape[0] - 1)).T
        return np.asarray(np.median(lab[rows, columns, 1:], axis=0), np.float32)

    cheek = hue(geometry.points[list(CHEEKS)])
    under = [hue(geometry.to_picture(bottom[3:-3] + np.array([0, below * width]))) for below in UNDER_LID]
    return max(float(np.hypot(*(colour - cheek))) for colour in under) < UNLIKE_SKIN


def _lash_height(geometry: FaceGeometry, lab: NDArray[np.float32], top: NDArray[np.float64], width: float) -> float:
    """Pixels from the mesh's lid line up to where the lid's skin is as light as it is in the middle of the lid."""

    def light(above: float) -> float:
        points = geometry.to_picture(top[3:-3] - np.array([0, above * width])).round().astype(int)
        columns, rows = np.clip(points, 0, (lab.shape[1] - 1, lab.shape[0] - 1)).T
        return float(np.median(lab[rows, columns, 0]))

    for above in np.arange(LID_ABOVE, LASHES_UP_TO, 0.02):
        if light(above) > SKIN_LIGHT * light(LASHES_UP_TO + 0.05):
            return float(above * width)
    return LID_ABOVE * width


def _eyelid(
    geometry: FaceGeometry, picture: Frame, top: NDArray[np.float64], bottom: NDArray[np.float64],
    brow: NDArray[np.float64], width: float, lashes: float,
) -> Eyelid:  # fmt: skip
    lid_line, bottom = top.copy(), bottom.copy()
    opening = np.clip(bottom[:, 1] - top[:, 1], 0, None)
    along_eye = np.clip((top[:, 0] - top[0, 0]) / width, 0, 1)
    lid_line[:, 1] -= lashes * np.sin(np.pi * along_eye) ** 0.8  # the lids meet in the corners
    bottom[:, 1] = np.maximum(bottom[:, 1] + np.minimum(0.05 * width, 0.3 * opening), lid_line[:, 1])
    fold_height = FOLD * max(float(np.median(lid_line[:, 1]) - np.median(brow[:, 1])), 0.2 * width)
    rectangle = geometry.to_picture(
        np.array(
            [
                [u, v]
                for u in (top[0, 0] - 2, top[-1, 0] + 2)
                for v in (lid_line[:, 1].min() - fold_height - 2, bottom[:, 1].max() + 2)
            ]
        )
    )
    x0, y0 = np.clip(np.floor(rectangle.min(axis=0)).astype(int), 0, None)
    x1, y1 = np.minimum(np.ceil(rectangle.max(axis=0)).astype(int) + 1, (picture.shape[1], picture.shape[0]))
    pixels = np.stack(np.meshgrid(np.arange(x0, x1), np.arange(y0, y1)), axis=-1)
    local = geometry.to_local(pixels.astype(np.float64))
    u = local[..., 0]

    def along(line: NDArray[np.float64]) -> NDArray[np.float32]:
        return np.interp(u, line[:, 0], line[:, 1]).astype(np.float32)

    lid, lower = along(lid_line), along(bottom)
    # At and beyond the corners lid and lower lid meet, so nothing moves there.
    lower = np.where((u <= top[0, 0]) | (u >= top[-1, 0]), lid, lower)
    fold = (lid - fold_height).astype(np.float32)
    x, y = ((pixels[..., axis] - start).astype(np.float32) for axis, start in ((0, x0), (1, y0)))
    v, down = local[..., 1].astype(np.float32), geometry.axes[1].astype(np.float32)
    return Eyelid(int(x0), int(y0), x, y, v, lid, lower, fold, down, max(0.8, LASHES * width))
