"""Faces are found and measured as the published networks do it, whichever way up they are."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from comfyui_sonic.sonic.face_networks import WEIGHTS, load_face_networks
from comfyui_sonic.sonic.landmarks import find_faces
from comfyui_sonic.sonic.portrait import read_picture

EXAMPLES = Path(__file__).parents[1] / "examples" / "batch"
RECORDED = json.loads((Path(__file__).parent / "data" / "face_networks.json").read_text())
FACE_BOX = (178, 67, 272, 174)  # of Eileen Collins in the shipped picture


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return read_picture(EXAMPLES / "eileen_collins.png")


def noise(low: float, size: int) -> torch.Tensor:
    picture = np.random.default_rng(0).uniform(low, 1, (1, size, size, 3)).astype(np.float32)
    return torch.from_numpy(picture).permute(0, 3, 1, 2)


def test_the_detector_gives_the_numbers_of_the_published_one() -> None:
    detector, _ = load_face_networks()
    with torch.inference_mode():
        boxes, scores = detector(noise(-1, 128))
    np.testing.assert_allclose(
        boxes.numpy().reshape(-1)[::37][:60], RECORDED["face_detection_short_range/regressors"], atol=0.05
    )
    expected = RECORDED["face_detection_short_range/classificators"]
    np.testing.assert_allclose(scores.numpy().reshape(-1)[::37][: len(expected)], expected, atol=0.05)


def test_the_mesh_gives_the_numbers_of_the_published_one() -> None:
    _, mesh = load_face_networks()
    with torch.inference_mode():
        points, _ = mesh(noise(0, 192))
    np.testing.assert_allclose(points.numpy().reshape(-1)[::37][:60], RECORDED["face_landmark/conv2d_20"], atol=0.05)


def test_the_shipped_weights_are_small() -> None:
    assert WEIGHTS.stat().st_size < 1_500_000


@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
def test_a_face_is_found_whichever_way_up_it_is(portrait: np.ndarray, quarter_turns: int) -> None:
    (upright,) = find_faces(portrait)
    (face,) = find_faces(np.ascontiguousarray(np.rot90(portrait, quarter_turns)))
    side = portrait.shape[0] - 1
    x, y = upright.landmarks[:, 0], upright.landmarks[:, 1]
    turned = {0: (x, y), 1: (y, side - x), 2: (side - x, side - y), 3: (side - y, x)}[quarter_turns]
    error = np.hypot(face.landmarks[:, 0] - turned[0], face.landmarks[:, 1] - turned[1])
    assert error.mean() < 0.03 * np.ptp(upright.landmarks[:, 0])


def test_the_box_of_a_known_face_is_where_it_is(portrait: np.ndarray) -> None:
    (face,) = find_faces(portrait)
    np.testing.assert_allclose(face.box, FACE_BOX, atol=6)
    assert face.score > 0.9
    assert face.landmarks.shape == (468, 3)
    assert face.landmarks.dtype == np.float32


def test_several_faces_come_largest_first(portrait: np.ndarray) -> None:
    head = portrait[20:220, 120:330]
    scene = np.full((500, 1000, 3), 128, np.uint8)
    for x, size in ((20, 150), (250, 400), (720, 220)):
        scaled = cv2.resize(head, (size, size), interpolation=cv2.INTER_AREA)
        scene[40 : 40 + size, x : x + size] = scaled
    faces = find_faces(scene)
    assert [int(np.searchsorted([250, 720], face.box[0])) for face in faces] == [1, 2, 0]


def test_a_small_face_in_a_large_picture_is_found(portrait: np.ndarray) -> None:
    scene = np.full((1200, 1600, 3), 90, np.uint8)
    scene[700:1020, 1100:1420] = cv2.resize(portrait, (320, 320), interpolation=cv2.INTER_AREA)
    (face,) = find_faces(scene)
    assert 1100 < face.box[0] < face.box[2] < 1420


@pytest.mark.parametrize("picture", ["grey", "noise"])
def test_where_there_is_no_face_none_is_found(picture: str) -> None:
    blank = np.full((300, 400, 3), 127, np.uint8)
    noisy = np.random.default_rng(3).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    assert find_faces(blank if picture == "grey" else noisy) == []


def test_in_a_huge_picture_a_face_is_found_where_it_is(portrait: np.ndarray) -> None:
    (small,) = find_faces(portrait)
    (large,) = find_faces(cv2.resize(portrait, (5120, 5120), interpolation=cv2.INTER_LINEAR))
    error = np.linalg.norm(large.landmarks[:, :2] / 10 - small.landmarks[:, :2], axis=1)
    assert error.mean() < 0.03 * (small.box[2] - small.box[0])


def test_a_round_badge_is_not_taken_for_a_face(portrait: np.ndarray) -> None:
    for quality in range(20, 96, 15):
        _, packed = cv2.imencode(".jpg", portrait[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        picture = np.ascontiguousarray(cv2.imdecode(packed, cv2.IMREAD_COLOR)[..., ::-1])
        assert [round(face.box[0] / 30) for face in find_faces(picture)] == [6]


def test_a_search_in_vain_can_be_ended_at_any_time(portrait: np.ndarray) -> None:
    noisy = np.random.default_rng(3).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    asked: list[None] = []
    assert find_faces(noisy, lambda: asked.append(None)) == []
    assert len(asked) > 100

    def stop() -> None:
        raise InterruptedError

    for picture in (noisy, portrait):
        with pytest.raises(InterruptedError):
            find_faces(picture, stop)
