"""The drawn portrait: what moves moves, and what should be still is still."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from comfyui_sonic.sonic.draft.eyelids import find_eyelids
from comfyui_sonic.sonic.draft.face_geometry import FaceGeometry
from comfyui_sonic.sonic.draft.performance import Performance, perform
from comfyui_sonic.sonic.draft.render import DraftClip
from comfyui_sonic.sonic.landmarks import find_faces, fit_mesh, square_around
from comfyui_sonic.sonic.options import InferenceOptions
from comfyui_sonic.sonic.portrait import read_picture
from comfyui_sonic.sonic.postprocess.lip_sync import mouth_openings

EXAMPLES = Path(__file__).parents[1] / "examples" / "batch"
CURVES = ("jaw", "wide", "round", "pressed", "teeth", "blink", "shift_u", "shift_v", "roll", "yaw", "pitch")


def performance(frames: int, closing: float = 1.0, **curves: object) -> Performance:
    """A performance in which all that is not named is at rest."""
    values = {name: np.broadcast_to(np.float32(curves.get(name, 0.0)), frames).copy() for name in CURVES}
    return Performance(closing=closing, **values)


@pytest.fixture(scope="module", params=["eileen_collins.png", "close_up.png", "painted_anna.png"])
def portrait(request: pytest.FixtureRequest) -> np.ndarray:
    return read_picture(EXAMPLES / request.param)


@pytest.fixture(scope="module")
def geometry(portrait: np.ndarray) -> FaceGeometry:
    return FaceGeometry.of(find_faces(portrait)[0])


def opening(picture: np.ndarray) -> float:
    return float(mouth_openings([picture])[0])


def test_a_performance_of_nothing_leaves_the_picture_as_it_is(portrait: np.ndarray, geometry: FaceGeometry) -> None:
    frame = DraftClip(portrait, geometry, performance(1, closing=0.0)).frame(0)
    assert np.array_equal(frame, portrait)


def test_a_mouth_that_is_open_in_the_picture_is_closed_at_rest(portrait: np.ndarray, geometry: FaceGeometry) -> None:
    frame = DraftClip(portrait, geometry, performance(1)).frame(0)
    assert opening(frame) < max(0.016, 0.5 * opening(portrait))


def test_an_open_jaw_is_seen_as_wide_as_it_was_meant(portrait: np.ndarray, geometry: FaceGeometry) -> None:
    jaw = np.linspace(0, 1, 9)
    clip = DraftClip(portrait, geometry, performance(len(jaw), jaw=jaw))
    seen = mouth_openings(clip.frames())
    meant = np.array([clip.lip_gap(index) for index in range(clip.count)])
    assert np.corrcoef(seen, meant)[0, 1] > 0.93
    assert seen[-1] - seen[0] > 0.3 * (meant[-1] - meant[0])  # the mesh itself reads wide mouths as less wide


def test_pressed_lips_are_shut_even_after_an_open_vowel(portrait: np.ndarray, geometry: FaceGeometry) -> None:
    clip = DraftClip(portrait, geometry, performance(2, jaw=[0.8, 0.0], pressed=[0.0, 1.0]))
    wide, shut = mouth_openings(clip.frames())
    assert shut < 0.4 * wide


def test_a_pucker_makes_the_mouth_narrower_and_a_smile_wider(portrait: np.ndarray, geometry: FaceGeometry) -> None:
    clip = DraftClip(portrait, geometry, performance(3, jaw=0.3, round=[0, 1, 0], wide=[0, 0, 1]))
    face = find_faces(portrait)[0]
    widths = []
    for frame in clip.frames():
        points = fit_mesh(frame, square_around(face.landmarks)).landmarks
        widths.append(np.linalg.norm(points[61] - points[291]))
    assert widths[1] < 0.97 * widths[0] < 0.99 * widths[2]


def test_what_is_far_from_the_face_never_moves(portrait: np.ndarray, geometry: FaceGeometry) -> None:
    moving = dict.fromkeys(CURVES, 1.0)
    frame = DraftClip(portrait, geometry, performance(1, **moving)).frame(0)
    height, width = portrait.shape[:2]
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2).astype(np.float64)
    far = (geometry.oval_distance(geometry.to_local(pixels)) > 2.15).reshape(height, width)
    assert np.array_equal(frame[far], portrait[far])
    edges = np.ones((height, width), bool)
    edges[1:-1, 1:-1] = False
    assert np.array_equal(frame[edges], portrait[edges])


def test_without_motion_every_pixel_outside_the_face_stays_as_it_was(
    portrait: np.ndarray, geometry: FaceGeometry
) -> None:
    speaking = dict.fromkeys(("jaw", "wide", "round", "teeth"), 1.0)
    frame = DraftClip(portrait, geometry, performance(1, **speaking)).frame(0)
    height, width = portrait.shape[:2]
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2).astype(np.float64)
    outside = (geometry.oval_distance(geometry.to_local(pixels)) > 1.55).reshape(height, width)
    assert np.array_equal(frame[outside], portrait[outside])


def test_a_blink_changes_the_eyes_and_nothing_else(portrait: np.ndarray, geometry: FaceGeometry) -> None:
    clip = DraftClip(portrait, geometry, performance(2, blink=[0.0, 1.0]))
    assert len(find_eyelids(geometry, portrait)) == 2
    open_eyes, shut_eyes = clip.frames()
    changed = np.abs(open_eyes.astype(int) - shut_eyes).max(axis=2) > 8
    rows, columns = np.nonzero(changed)
    local = geometry.to_local(np.stack([columns, rows], axis=1).astype(np.float64))
    assert changed.sum() > 50
    assert (local[:, 1] < geometry.local[1, 1]).all()  # above the tip of the nose


def test_frames_can_be_read_in_any_order_and_again(portrait: np.ndarray, geometry: FaceGeometry) -> None:
    clip = DraftClip(portrait, geometry, performance(4, jaw=[0, 0.3, 0.6, 0.9], yaw=[0, 0.2, 0.4, 0.6]))
    forwards = list(clip.frames())
    assert all(np.array_equal(clip.frame(index), forwards[index]) for index in (3, 0, 2, 1))
    assert np.array_equal(next(clip.frames(2)), forwards[2])


@pytest.mark.parametrize("quarter_turns", [1, 2])
def test_a_turned_portrait_speaks_too(quarter_turns: int) -> None:
    portrait = np.ascontiguousarray(np.rot90(read_picture(EXAMPLES / "close_up.png"), quarter_turns))
    clip = DraftClip(portrait, FaceGeometry.of(find_faces(portrait)[0]), performance(3, jaw=[0.0, 0.5, 1.0]))
    shut, half, wide = mouth_openings(clip.frames())
    assert shut < half < wide


SPEECH = np.random.default_rng(5).normal(0, 0.1, 16000 * 3).astype(np.float32)


def test_the_same_seed_gives_the_same_performance_and_another_seed_another() -> None:
    first, again, other = (perform(SPEECH, 3.0, InferenceOptions(seed=seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in CURVES)
    assert not np.array_equal(first.yaw, other.yaw)
    assert np.array_equal(first.jaw, other.jaw)


def test_no_motion_scale_means_no_head_and_no_blink() -> None:
    still = perform(SPEECH, 3.0, InferenceOptions(motion_scale=0.0))
    assert not any(getattr(still, name).any() for name in ("blink", "shift_u", "shift_v", "roll", "yaw", "pitch"))


def test_no_dynamic_scale_means_no_mouth() -> None:
    still = perform(SPEECH, 3.0, InferenceOptions(dynamic_scale=0.0))
    assert still.closing == 0
    assert not any(getattr(still, name).any() for name in ("jaw", "wide", "round", "pressed", "teeth"))


def test_a_performance_covers_the_sound_exactly() -> None:
    for fps in (12.5, 24.0, 25.0, 30.0, 60.0):
        assert perform(SPEECH, 3.0, InferenceOptions(fps=fps)).frames == round(3.0 * fps)
