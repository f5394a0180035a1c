"""Closes a mouth that stands open where nobody speaks.

Where speech is surely absent (the mouth network hears silence, and the sound is far below the loudest speech, for a
third of a second and more), the lower lip is drawn up towards the upper one until the mouth is as open as at rest. It
closes a moment after the speech has ended and opens before the next begins, softly, so that no speech is touched.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from ..audio import MODEL_RATE
from ..draft.face_geometry import LOWER_INNER, UPPER_INNER, FaceGeometry
from ..draft.mouth_shapes import MOUTH_SHAPES, mouth_shapes
from ..frames import Frame, FrameSource
from ..interruption import Check, no_check
from ..landmarks import LEAST_SCORE, find_faces, fit_mesh, square_around
from ..prepared import Face

HZ = 50  # of the curve that says where nobody speaks
SURE = 0.8  # of the mouth network
QUIET_DB = -30.0  # below the loudest moments
LEAST_S = 0.3  # shorter pauses belong to the speech
AFTER_S, BEFORE_S = 0.1, 0.14  # kept free after and before speech
ATTACK_S, RELEASE_S = 0.16, 0.12  # the mouth closes and opens in
REST_QUANTILE = 0.05  # of the openings of a clip: the mouth at rest
NOTICED = 0.004  # of the face's height: an opening above rest that is worth closing
REACH = 0.75  # of the way from the lip to the chin: below, nothing moves
UNSEEN = 0.012  # of the face's height: by so much a mouth is more open than the mesh sees it


def silence_curve(speech: NDArray[np.float32], fps: float, frames: int) -> NDArray[np.float32]:
    """(frames,) 0 where somebody speaks, 1 where the mouth is to be shut, in between on the way.

    speech: (samples,) 16 kHz mono. After the end of the sound nobody speaks.
    """
    points = max(1, int(np.ceil(frames / fps * HZ)))
    shapes = mouth_shapes(speech, HZ, points) if len(speech) else np.ones((points, len(MOUTH_SHAPES)), np.float32)
    silent = (shapes[:, MOUTH_SHAPES.index("silence")] > SURE) & (_levels(speech, points) < QUIET_DB)
    shut = np.zeros(points)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], silent, [False]]).astype(int)))
    moments = np.arange(points) / HZ
    for start, stop in zip(edges[::2] / HZ, edges[1::2] / HZ, strict=True):
        if stop - start < LEAST_S:
            continue
        # At the ends of the clip there is no speech to keep clear of.
        down = np.ones(points) if start == 0 else np.clip((moments - start - AFTER_S) / ATTACK_S, 0, 1)
        up = np.ones(points) if stop >= points / HZ else np.clip((stop - BEFORE_S - moments) / RELEASE_S, 0, 1)
        shut = np.maximum(shut, np.minimum(down, up))
    shut = shut * shut * (3 - 2 * shut)
    return np.asarray(np.interp((np.arange(frames) + 0.5) / fps, moments, shut), np.float32)


def _levels(speech: NDArray[np.float32], points: int) -> NDArray[np.float64]:
    """(points,) dB beside the loudest moments of the speech; nothing is -200."""
    size = MODEL_RATE // HZ
    padded = np.zeros(points * size)
    padded[: min(len(speech), len(padded))] = speech[: len(padded)]
    power = np.square(padded).reshape(points, size).mean(axis=1)
    loud = max(float(np.percentile(power, 98)), 1e-12)
    levels: NDArray[np.float64] = 10 * np.log10(np.maximum(power / loud, 1e-20))
    return levels


def opening_at_rest(openings: NDArray[np.float32]) -> float:
    """The mouth at rest in parts of the face's height, from (frames,) openings of a clip; 0 where none is known."""
    seen = openings[np.isfinite(openings)]
    return float(np.quantile(seen, REST_QUANTILE)) if len(seen) else 0.0


class ClosedMouthFrames:
    """A FrameSource: where ``shut`` (frames,) is above 0, the mouth is closed by that part of what it is too open.

    face: as in the first frame; at_rest: the opening of the mouth at rest. Frames in which no face is seen stay.
    """

    def __init__(
        self, source: FrameSource, face: Face, shut: NDArray[np.float32], at_rest: float, check: Check = no_check
    ) -> None:
        self.count, self.height, self.width = source.count, source.height, source.width
        self._source, self._face, self._shut, self._at_rest, self._check = source, face, shut, at_rest, check

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames start..stop-1, each a fresh (H, W, 3) uint8 RGB array."""
        for index, frame in enumerate(self._source.frames(start, stop), start):
            shut = float(self._shut[index]) if index < len(self._shut) else 0.0
            yield self._closed(frame, shut) if shut > 0 else frame

    def _closed(self, frame: Frame, shut: float) -> Frame:
        # From the first frame's face every time, not from the frame before: any frame can be read on its own.
        face = fit_mesh(frame, square_around(self._face.landmarks))
        if face.score < LEAST_SCORE:
            # A small one far from there is not looked for, as every frame of an empty scene would take a second.
            face = next(iter(find_faces(frame, self._check, grids=())), face)
        return close_mouth(frame, face, shut, self._at_rest) if face.score >= LEAST_SCORE else frame


def close_mouth(frame: Frame, face: Face, shut: float, at_rest: float) -> Frame:
    """The frame with the lips brought together by ``shut`` (0..1) of what they are open above rest.

    What lies below the upper lip is read from farther down, all of it at the lip and nothing at the chin; so the lower
    lip rises, and the inside of the mouth vanishes behind it.
    """
    geometry = FaceGeometry.of(face)
    upper, lower = geometry.local[list(UPPER_INNER)], geometry.local[list(LOWER_INNER)]
    above_rest = geometry.lip_gap.max() - at_rest * geometry.height
    if above_rest < NOTICED * geometry.height:
        return frame
    rise = geometry.lip_gap * (shut * (above_rest + UNSEEN * geometry.height) / geometry.lip_gap.max())
    below = REACH * geometry.chin_distance
    x0, y0, x1, y1 = _box(geometry, below, frame.shape[1], frame.shape[0])
    if x1 <= x0 or y1 <= y0:
        return frame
    pixels = np.stack(np.meshgrid(np.arange(x0, x1), np.arange(y0, y1)), axis=-1).astype(np.float64)
    local = geometry.to_local(pixels.reshape(-1, 2)).reshape(pixels.shape)
    u, v = local[..., 0], local[..., 1]
    seam = np.interp(u, upper[:, 0], upper[:, 1])
    lip = np.interp(u, lower[:, 0], lower[:, 1])
    # Nothing at the corners, where the contours meet and np.interp would hold the last value.
    amount = np.interp(u, (upper[:, 0] + lower[:, 0]) / 2, rise, left=0.0, right=0.0)
    fading = np.clip(1 - (v - seam) / np.maximum(below + lip - seam, 1.0), 0, 1)
    moved = np.where(v > seam, amount * fading * fading * (3 - 2 * fading), 0.0)
    moved = cv2.blur(moved.astype(np.float32), (3, 3)) * (v > seam)
    where = (pixels + moved[..., None] * geometry.axes[1]).astype(np.float32)
    closed = frame.copy()
    closed[y0:y1, x0:x1] = cv2.remap(frame, where, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return closed


def _box(geometry: FaceGeometry, below: float, width: int, height: int) -> tuple[int, int, int, int]:
    """The pixels that can change: x0, y0, x1, y1."""
    points = geometry.local[[*UPPER_INNER, *LOWER_INNER]]
    (left, top), (right, bottom) = points.min(axis=0) - 2, points.max(axis=0) + 2
    corners = np.array([[u, v] for u in (left, right) for v in (top, bottom + below)])
    around = geometry.to_picture(corners)
    x0, y0 = np.clip(np.floor(around.min(axis=0)), 0, (width, height)).astype(int)
    x1, y1 = np.clip(np.ceil(around.max(axis=0)), 0, (width, height)).astype(int)
    return int(x0), int(y0), int(x1), int(y1)
