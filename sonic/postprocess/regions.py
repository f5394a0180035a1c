"""Parts of a frame, by weight: the face and the mouth are treated otherwise than what stands still around them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ..prepared import Face

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels
Weights = NDArray[np.float32]  # (H, W), 0..1

FACE_MARGIN = 0.25  # of the face's size, around it; a soft edge of the same width follows
LIPS = (61, 291, 0, 17)  # corners, upper and lower edge in the face mesh
CHIN = 152


def outside(box: Box | None, height: int, width: int, margin: float = FACE_MARGIN) -> Weights:
    """(H, W) float32: 0 in the box and its margin, 1 far from it, soft in between; 1 everywhere without a box."""
    weight = np.ones((height, width), np.float32)
    if box is None:
        return weight
    x1, y1, x2, y2 = box
    margin_x, margin_y = margin * (x2 - x1), margin * (y2 - y1)
    top, bottom = (int(np.clip(v, 0, height)) for v in (y1 - 2 * margin_y, y2 + 2 * margin_y))
    left, right = (int(np.clip(v, 0, width)) for v in (x1 - 2 * margin_x, x2 + 2 * margin_x))
    weight[top:bottom, left:right] = 0.0
    soft = max(1, int(min(margin_x, margin_y)))
    return np.asarray(cv2.blur(weight, (2 * soft + 1, 2 * soft + 1)), np.float32)


def mouth_box(face: Face) -> Box:
    """Around the lips and down to the chin, wherever the mouth opens to."""
    points = face.landmarks[[*LIPS, CHIN], :2]
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return x1, y1, x2, y2
