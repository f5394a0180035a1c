"""Smoothing takes flicker, strobing and steps between windows; cuts, fades, motion and the mouth stay."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from comfyui_sonic.sonic.postprocess.brightness import EvenedFrames
from comfyui_sonic.sonic.postprocess.regions import outside
from comfyui_sonic.sonic.postprocess.smoothing import FlowAveragedFrames, SmoothingMethod, smooth
from comfyui_sonic.sonic.prepared import Face
from numpy.typing import NDArray

from .clips import Clip, Endless, peak_of, textured

METHODS: tuple[SmoothingMethod, ...] = ("light", "flow", "both")


def still_picture() -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    coarse = rng.uniform(60, 180, (8, 8, 3))
    return np.kron(coarse, np.ones((12, 12, 1))).astype(np.float32)


def face_at(x1: float, y1: float, x2: float, y2: float) -> Face:
    """A face whose mouth fills the lower half of its box."""
    landmarks = np.tile(np.array([(x1 + x2) / 2, (y1 + y2) / 2, 0], np.float32), (468, 1))
    landmarks[61, 0], landmarks[291, 0], landmarks[152, 1] = x1, x2, y2
    return Face((x1, y1, x2, y2), landmarks, 1.0)


def as_frames(frames: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def smoothed(
    frames: NDArray[np.floating], method: SmoothingMethod = "light", face: Face | None = None, fps: float = 25.0
) -> NDArray[np.uint8]:
    return np.stack(list(smooth(Clip(as_frames(frames)), method, fps, face).frames()))


def brightness(frames: NDArray[np.generic]) -> NDArray[np.float64]:
    return frames.astype(np.float64).mean(axis=(1, 2, 3))


def flicker_index(frames: NDArray[np.generic]) -> float:
    """Standard deviation of the change of mean brightness from frame to frame."""
    return float(np.diff(brightness(frames)).std())


@pytest.mark.parametrize("hz", [0.7, 1.0, 1.6])
@pytest.mark.parametrize("phase", [0.0, 1.5])
def test_strobing_of_about_1_hz_falls_by_four_fifths(hz: float, phase: float) -> None:
    times = np.arange(200) / 25
    frames = textured()[None] * (1 + 0.03 * np.sin(2 * np.pi * hz * times + phase))[:, None, None, None]
    before, after = brightness(as_frames(frames)).std(), brightness(smoothed(frames)).std()
    assert after < 0.2 * before


@pytest.mark.parametrize("period", [12, 25, 50])
def test_steps_between_windows_fall_by_four_fifths(period: int) -> None:
    levels = np.random.default_rng(period).uniform(-4, 4, 200 // period + 1)
    frames = textured()[None] + levels[np.arange(200) // period][:, None, None, None]
    before, after = as_frames(frames), smoothed(frames)
    assert np.abs(np.diff(brightness(after))).max() < 0.2 * np.abs(np.diff(brightness(before))).max()


def test_steps_of_contrast_go_as_well() -> None:
    picture = textured().astype(float)
    gains = np.where(np.arange(150) // 25 % 2, 1.04, 0.96)[:, None, None, None]
    frames = as_frames((picture - picture.mean()) * gains + picture.mean())
    spread = smoothed(frames).astype(float).std(axis=(1, 2, 3))
    assert np.ptp(spread) < 0.4 * np.ptp(frames.astype(float).std(axis=(1, 2, 3)))


def test_flicker_from_frame_to_frame_falls_to_a_fifth_or_less() -> None:
    rng = np.random.default_rng(1)
    frames = still_picture()[None] + rng.normal(0, 3, 60)[:, None, None, None]
    assert flicker_index(smoothed(frames)) < flicker_index(as_frames(frames)) / 5


def test_noise_on_what_stands_still_gets_less() -> None:
    rng = np.random.default_rng(2)
    frames = still_picture()[None] + rng.normal(0, 2, (30, 96, 96, 3))
    before = np.rint(frames).std(axis=0).mean()
    for method in METHODS:
        assert smoothed(frames, method)[2:-2].std(axis=0).mean() < 0.8 * before, method


@pytest.mark.parametrize("method", METHODS)
def test_a_moving_edge_keeps_its_sharpness(method: SmoothingMethod) -> None:
    frames = np.full((30, 64, 128, 3), 60.0, np.float32)
    for index in range(30):
        frames[index, :, 20 + 3 * index :] = 180.0
    # The flow may miss the edge by a part of a pixel, which shows beside it; it stays as steep as it was.
    out = smoothed(frames, method).astype(float)
    steepest = np.abs(np.diff(out, axis=2)).max(axis=2)
    assert steepest[2:].min() > 105 if method != "light" else steepest.min() > 118
    assert np.abs(out - frames).mean() < 1


def test_the_face_is_spared_by_the_light_method() -> None:
    rng = np.random.default_rng(5)
    frames = np.repeat(still_picture()[None], 30, axis=0)
    frames[:, 40:56, 40:56] += rng.normal(0, 3, (30, 16, 16, 3))  # the finest motion of a mouth
    out = smoothed(frames, face=face_at(36, 36, 60, 60))
    np.testing.assert_allclose(out[:, 40:56, 40:56], np.rint(frames[:, 40:56, 40:56]), atol=1)


@pytest.mark.parametrize("method", METHODS)
def test_a_mouth_that_opens_and_closes_opens_as_far_as_before(method: SmoothingMethod) -> None:
    frames = np.repeat(textured(128, 128)[None].astype(np.float32), 40, axis=0)
    apertures = 6 + 5 * np.sin(2 * np.pi * 4 * np.arange(40) / 25)
    for frame, aperture in zip(frames, apertures, strict=True):
        cv2.ellipse(frame, (64, 84), (14, round(aperture)), 0, 0, 360, (30, 10, 10), -1, cv2.LINE_AA)
    out = smoothed(frames, method, face_at(34, 34, 94, 108))

    def openings(clip: NDArray[np.generic]) -> NDArray[np.float64]:
        column = clip[:, 60:110, 64].astype(float).mean(axis=2)
        return np.clip((70 - column) / 50, 0, 1).sum(axis=1)

    assert openings(out).std() > 0.95 * openings(as_frames(frames)).std()


@pytest.mark.parametrize("method", METHODS)
def test_a_cut_to_another_scene_is_left_alone(method: SmoothingMethod) -> None:
    frames = np.repeat(textured()[None].astype(np.float32) * 0.6, 60, axis=0)
    frames[30:] = 255 - textured(seed=8)[None] * 0.8
    np.testing.assert_allclose(smoothed(frames, method), frames, atol=1.5)


def test_a_cut_between_scenes_of_the_same_brightness_starts_anew() -> None:
    frames = np.concatenate([np.repeat(textured(seed=seed)[None], 50, axis=0) for seed in (1, 9)]).astype(np.float32)
    np.testing.assert_allclose(smoothed(frames), frames, atol=1)


def test_a_light_that_is_switched_on_stays_on() -> None:
    frames = np.repeat(textured()[None].astype(np.float32), 100, axis=0)
    frames[50:] += 40
    np.testing.assert_allclose(smoothed(frames), frames, atol=1)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("into_black", [True, False])
def test_a_fade_keeps_its_course(seconds: float, into_black: bool) -> None:
    course = np.clip(1 - (np.arange(150) - 40) / (25 * seconds), 0, 1)
    if not into_black:
        course = 1 - course
    frames = textured()[None] * course[:, None, None, None]
    error = np.abs(brightness(smoothed(frames)) - brightness(as_frames(frames)))
    assert error.max() < 5
    assert error[90:150].mean() < 1 or seconds == 3.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("start", [0, 1, 7, 61, 119])
def test_any_frame_can_be_read_on_its_own(method: SmoothingMethod, start: int) -> None:
    rng = np.random.default_rng(4)
    frames = as_frames(textured(48, 64)[None] + rng.normal(0, 3, (120, 1, 1, 1)))
    everything = list(smooth(Clip(frames), method, 25, None).frames())
    assert len(everything) == 120
    for stop in (start, start + 1, start + 5, None):
        part = list(smooth(Clip(frames), method, 25, None).frames(start, stop))
        assert len(part) == len(everything[start:stop])
        assert all((a == b).all() for a, b in zip(part, everything[start:stop], strict=True))


def test_what_was_measured_once_is_not_read_again() -> None:
    clip = Clip(as_frames(np.repeat(textured(48, 64)[None], 300, axis=0)))
    evened = EvenedFrames(clip, outside(None, 48, 64), 25)
    list(evened.frames())
    clip.read = 0
    list(evened.frames(150, 151))
    assert clip.read <= 51  # what comes after the frame, for it could be the first time


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("count", "height", "width"), [(1, 64, 64), (2, 33, 97), (3, 1, 1), (5, 7, 200)])
def test_single_frames_and_odd_sizes_work(method: SmoothingMethod, count: int, height: int, width: int) -> None:
    frames = np.repeat(textured(height, width)[None], count, axis=0).astype(np.float32)
    np.testing.assert_allclose(smoothed(frames, method), frames, atol=1)


@pytest.mark.parametrize("method", METHODS)
def test_memory_does_not_grow_with_the_clip(method: SmoothingMethod) -> None:
    def peak(count: int) -> int:
        return peak_of(smooth(Endless(textured(96, 96), count, 0.2), method, 25, None))

    peak(60)
    assert peak(260) < peak(130) + 100_000


def test_moving_things_are_averaged_along_their_motion() -> None:
    rng = np.random.default_rng(6)
    scene = textured(96, 260)
    clean = np.stack([scene[:, 2 * i : 2 * i + 96] for i in range(40)]).astype(np.float32)
    noisy = as_frames(clean + rng.normal(0, 3, clean.shape))
    source = FlowAveragedFrames(Clip(noisy), np.ones((96, 96), np.float32))
    out = np.stack(list(source.frames())).astype(np.float32)
    inside = np.s_[3:, 8:-8, 8:-8]
    assert np.abs(out[inside] - clean[inside]).mean() < 0.8 * np.abs(noisy[inside] - clean[inside]).mean()
