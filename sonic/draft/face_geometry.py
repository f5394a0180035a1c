"""The face's own coordinates: 468 landmarks -> axes, sizes and the contours the renderer moves.

Local coordinates: u to the picture's right along the line of the eyes, v from the eyes towards the chin, both in
pixels, origin between the mouth's inner corners. Indices are those of MediaPipe's canonical face mesh.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..prepared import Face

Points = NDArray[np.float64]  # (N, 2)

# Lips from the person's right corner to the left one, as seen from left to right.
UPPER_INNER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LOWER_INNER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
UPPER_OUTER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
LOWER_OUTER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
UPPER_BETWEEN = (184, 74, 73, 72, 11, 302, 303, 304, 408, 183, 42, 41, 38, 12, 268, 271, 272, 407)
LOWER_BETWEEN = (77, 90, 180, 85, 16, 315, 404, 320, 307, 96, 89, 179, 86, 15, 316, 403, 319, 325)
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152,
    148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
FOREHEAD, CHIN, NOSE_BASE = 10, 152, 2
# Each eye from one corner to the other: (upper lid, lower lid, the brow's lower edge).
EYES = (
    ((33, 246, 161, 160, 159, 158, 157, 173, 133), (33, 7, 163, 144, 145, 153, 154, 155, 133), (53, 52, 65)),
    ((362, 398, 384, 385, 386, 387, 388, 466, 263), (362, 382, 381, 380, 374, 373, 390, 249, 263), (283, 282, 295)),
)
EYE_CORNERS = (33, 263)


@dataclass(frozen=True)
class FaceGeometry:
    """Measures of one face in one picture; everything the renderer knows of anatomy is derived from here."""

    points: Points  # (468, 2) pixels of the picture
    depth: NDArray[np.float64]  # (468,) pixels, negative towards the viewer
    origin: NDArray[np.float64]  # (2,) mouth centre
    axes: NDArray[np.float64]  # (2, 2) rows: unit vectors of u and v

    @classmethod
    def of(cls, face: Face) -> FaceGeometry:
        points = face.landmarks[:, :2].astype(np.float64)
        across = points[EYE_CORNERS[1]] - points[EYE_CORNERS[0]]
        u = across / np.hypot(*across)
        v = np.array([-u[1], u[0]])
        origin = (points[UPPER_INNER[0]] + points[UPPER_INNER[-1]]) / 2
        return cls(points, face.landmarks[:, 2].astype(np.float64), origin, np.stack([u, v]))

    def to_local(self, points: Points) -> Points:
        local: Points = (points - self.origin) @ self.axes.T
        return local

    def to_picture(self, local: Points) -> Points:
        points: Points = local @ self.axes + self.origin
        return points

    @cached_property
    def local(self) -> Points:
        return self.to_local(self.points)

    @cached_property
    def height(self) -> float:
        """Top of the forehead to chin in pixels: the unit of every movement."""
        return float(np.hypot(*(self.points[CHIN] - self.points[FOREHEAD])))

    @cached_property
    def mouth_half_width(self) -> float:
        return float(np.hypot(*(self.points[UPPER_INNER[-1]] - self.points[UPPER_INNER[0]]))) / 2

    @cached_property
    def chin_distance(self) -> float:
        """Mouth to chin in pixels along v."""
        return float(self.local[CHIN, 1])

    @cached_property
    def oval(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centre and half axes (u, v) of the ellipse around the face, local."""
        outline = self.local[list(OVAL)]
        low, high = outline.min(axis=0), outline.max(axis=0)
        return (low + high) / 2, (high - low) / 2

    def oval_distance(self, local: Points) -> NDArray[np.float64]:
        """0 in the middle of the face, 1 on its outline, 2 twice as far out."""
        centre, half = self.oval
        distance: NDArray[np.float64] = np.hypot(*np.moveaxis((local - centre) / half, -1, 0))
        return distance

    @cached_property
    def lip_gap(self) -> NDArray[np.float64]:
        """(11,) opening of the lips in the picture, pixels along v, from corner to corner; never negative."""
        gap = self.local[list(LOWER_INNER), 1] - self.local[list(UPPER_INNER), 1]
        return np.clip(gap, 0, None)
