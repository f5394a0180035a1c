"""A picture -> the faces in it, each with 468 landmarks; finds small, turned and upside-down faces too.

The way: BlazeFace looks at the whole picture (and at overlapping tiles, where faces may be small) in four orientations;
each hit is refined by the face mesh, which looks again at a crop turned so that the eyes are level.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from .face_networks import DETECTOR_SIZE, MESH_SIZE, load_face_networks
from .frames import Frame
from .inference_mode import small_network
from .interruption import Check, no_check
from .prepared import Face

LONGEST_SEARCHED = 1536  # pixels; the mesh itself sees 192, so a portrait loses nothing
MIN_DETECTION = 0.5  # MediaPipe's own threshold
LEAST_SCORE = 0.5  # of the mesh where a face was a frame ago: below, it is gone
MIN_MESH_SCORE = 0.9  # true faces, drawn ones too, score above 0.99; a round badge has reached 0.7
MOST_HITS = 40  # a texture can look like hundreds of faces to the detector; the mesh is asked about the best
REFINEMENTS = 2  # mesh passes on a crop taken from the landmarks of the pass before
CROP_MARGIN = 1.5  # side of the mesh's crop over the face box, as the mesh was trained
SAME_FACE_IOU = 0.3
TILE_GRIDS = (2, 4, 8)  # tiles along the shorter side, where the whole picture shows no face
TURNED_UP_TO = 4  # tiles: very small faces are looked for the right way up only, to spare seconds
LEFT_EYE, RIGHT_EYE = 263, 33  # outer corners in the mesh; left and right as the person's own


@dataclass(frozen=True)
class Square:
    """A turned square in the picture: centre, side in pixels, angle in radians (0 = upright, clockwise on screen)."""

    x: float
    y: float
    side: float
    angle: float

    def to_picture(self, size: int) -> NDArray[np.float64]:
        """(2, 3) affine from pixels of a size x size crop to pixels of the picture."""
        scale = self.side / size
        c, s = scale * math.cos(self.angle), scale * math.sin(self.angle)
        half = size / 2
        return np.array([[c, -s, self.x - c * half + s * half], [s, c, self.y - s * half - c * half]])


def cut(picture: Frame, square: Square, size: int) -> NDArray[np.float32]:
    """The square as (size, size, 3) float32 0..255; outside the picture is black. Large squares are averaged first."""
    shrink = square.side / size
    if shrink > 2:
        factor = 1 / shrink
        smaller = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        fx, fy = smaller.shape[1] / picture.shape[1], smaller.shape[0] / picture.shape[0]
        picture, square = smaller, Square(square.x * fx, square.y * fy, square.side * fx, square.angle)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    crop: NDArray[np.uint8] = cv2.warpAffine(picture, square.to_picture(size), (size, size), flags=flags)
    return crop.astype(np.float32)


def _as_batch(crop: NDArray[np.float32]) -> torch.Tensor:
    """(h, w, 3) -> (1, 3, h, w), channels last in memory: the small convolutions take two thirds of the time then."""
    return torch.from_numpy(crop)[None].permute(0, 3, 1, 2)


def _anchors() -> NDArray[np.float32]:
    """(896, 2) anchor centres in pixels of the detector's input: two per cell of 16x16, six per cell of 8x8."""
    rows = []
    for cells, per_cell in ((16, 2), (8, 6)):
        centre = (np.arange(cells, dtype=np.float32) + 0.5) / cells * DETECTOR_SIZE
        grid = np.stack(np.meshgrid(centre, centre), axis=-1).reshape(-1, 2)
        rows.append(np.repeat(grid, per_cell, axis=0))
    return np.concatenate(rows)


def _detect(picture: Frame, square: Square) -> Iterator[tuple[float, Square]]:
    """Faces in one turned square of the picture as (score, square around the face, turned to its eyes)."""
    detector, _ = load_face_networks()
    with small_network():
        boxes, scores = detector(_as_batch(cut(picture, square, DETECTOR_SIZE) / np.float32(127.5) - 1))
    probability = torch.sigmoid(scores[0]).numpy()
    hits = np.flatnonzero(probability > MIN_DETECTION)
    if not hits.size:
        return
    numbers = boxes[0].numpy()[hits].reshape(len(hits), 8, 2)  # centre, size, six key points
    numbers[:, [0, 2, 3, 4, 5, 6, 7]] += _anchors()[hits][:, None]
    corners = np.concatenate([numbers[:, 0] - numbers[:, 1] / 2, numbers[:, 0] + numbers[:, 1] / 2], axis=1)
    affine = square.to_picture(DETECTOR_SIZE)
    order = np.argsort(-probability[hits])
    while order.size:
        best, rest = order[0], order[1:]
        together = order[_overlap(corners[best], corners[order]) > SAME_FACE_IOU]
        weight = probability[hits][together][:, None, None]
        merged = (numbers[together] * weight).sum(0) / weight.sum()
        points = merged @ affine[:, :2].T + affine[:, 2]
        right_eye, left_eye = points[2], points[3]
        angle = math.atan2(left_eye[1] - right_eye[1], left_eye[0] - right_eye[0])
        side = merged[1].max() * square.side / DETECTOR_SIZE * CROP_MARGIN
        yield float(probability[hits][best]), Square(points[0, 0], points[0, 1], side, angle)
        order = rest[_overlap(corners[best], corners[rest]) <= SAME_FACE_IOU]


def _overlap(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of one box (4,) with others (N, 4)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    ratio: NDArray[np.float32] = common / np.maximum(areas - common, 1e-9)
    return ratio


def fit_mesh(picture: Frame, square: Square, refinements: int = REFINEMENTS) -> Face:
    """The face mesh on a turned square that holds one face, refined on its own landmarks.

    From a frame shortly before of the same clip none is needed: the square fits as well as after a refinement.
    """
    for _ in range(1 + refinements):
        (face,) = fit_mesh_in_each([picture], square)
        square = square_around(face.landmarks)
    return face


def fit_mesh_in_each(pictures: Sequence[Frame], square: Square) -> list[Face]:
    """The face in the same square of several pictures; together they take two thirds of the time."""
    _, mesh = load_face_networks()
    with small_network():
        points, scores = mesh(torch.cat([_as_batch(cut(p, square, MESH_SIZE) / np.float32(255)) for p in pictures]))
    affine = square.to_picture(MESH_SIZE)
    return [
        _face_of(local, affine, square, float(score))
        for local, score in zip(points.numpy().astype(np.float64), scores.flatten().tolist(), strict=True)
    ]


def _face_of(local: NDArray[np.float64], affine: NDArray[np.float64], square: Square, score: float) -> Face:
    flat, depth = local[:, :2] @ affine[:, :2].T + affine[:, 2], local[:, 2:] * (square.side / MESH_SIZE)
    (x1, y1), (x2, y2) = flat.min(axis=0).tolist(), flat.max(axis=0).tolist()
    return Face((x1, y1, x2, y2), np.concatenate([flat, depth], axis=1).astype(np.float32), score)


def square_around(landmarks: NDArray[np.float64] | NDArray[np.float32]) -> Square:
    """The mesh's crop for known landmarks: level with the eyes, 1.5 times the longer side of their box."""
    flat = np.asarray(landmarks, dtype=np.float64)[:, :2]
    across = flat[LEFT_EYE] - flat[RIGHT_EYE]
    angle = math.atan2(across[1], across[0])
    c, s = math.cos(angle), math.sin(angle)
    upright = flat @ np.array([[c, -s], [s, c]])
    low, high = upright.min(axis=0), upright.max(axis=0)
    centre = np.array([[c, -s], [s, c]]) @ ((low + high) / 2)
    return Square(float(centre[0]), float(centre[1]), float((high - low).max()) * CROP_MARGIN, angle)


def _views(picture: Frame, tiles: int, quarters: range) -> Iterator[Square]:
    """Squares that cover the picture, overlapping by half, turned by quarters; tiles = 1 is the whole picture."""
    height, width = picture.shape[:2]
    if tiles == 1:
        centres = [(width / 2, height / 2)]
        side = float(max(width, height))
    else:
        side = min(width, height) * 2 / tiles
        across, down = (max(1, math.ceil(2 * extent / side) - 1) for extent in (width, height))
        centres = [
            (min(side / 2 * (i + 1), width - side / 2), min(side / 2 * (j + 1), height - side / 2))
            for j in range(down)
            for i in range(across)
        ]
    for x, y in centres:
        for quarter in quarters:
            yield Square(x, y, side, quarter * math.pi / 2)


def find_faces(picture: Frame, check: Check = no_check, grids: Sequence[int] = TILE_GRIDS) -> list[Face]:
    """Every face in an (H, W, 3) uint8 RGB picture, the largest first; an empty list where there is none.

    check: called before each view and each fit, some tens of milliseconds apart; what it raises ends the search.
    grids: in how many tiles smaller faces are looked for where the whole picture shows none; with none of them a
    picture without a face takes a hundredth of the time.
    """
    shrink = LONGEST_SEARCHED / max(picture.shape[:2])
    if shrink < 1:
        smaller = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        scale = (picture.shape[1] / smaller.shape[1], picture.shape[0] / smaller.shape[0], 1 / shrink)
        return [_scaled(face, np.array(scale, np.float32)) for face in find_faces(smaller, check, grids)]
    faces: list[Face] = []
    for tiles in (1, *grids):
        if not faces:
            _add_faces(picture, _views(picture, tiles, range(4 if tiles <= TURNED_UP_TO else 1)), faces, check)
        else:  # smaller people beside the one that was found are the same way up
            quarter = round(square_around(faces[0].landmarks).angle / (math.pi / 2)) % 4
            _add_faces(picture, _views(picture, tiles, range(quarter, quarter + 1)), faces, check)
            break
    return sorted(faces, key=lambda face: -(face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))


def _scaled(face: Face, scale: NDArray[np.float32]) -> Face:
    x1, y1, x2, y2 = (float(value) for value in np.array(face.box) * np.tile(scale[:2], 2))
    return Face((x1, y1, x2, y2), face.landmarks * scale, face.score)


def _add_faces(picture: Frame, views: Iterator[Square], faces: list[Face], check: Check) -> None:
    """Adds what the views show and ``faces`` does not hold yet, the surest first."""
    hits: list[tuple[float, Square]] = []
    for view in views:
        check()
        hits += _detect(picture, view)
    for _, square in sorted(hits, key=lambda hit: -hit[0])[:MOST_HITS]:
        check()
        face = fit_mesh(picture, square)
        known = np.array([other.box for other in faces], dtype=np.float32).reshape(-1, 4)
        if face.score > MIN_MESH_SCORE and not (_overlap(np.array(face.box, np.float32), known) > SAME_FACE_IOU).any():
            faces.append(face)
