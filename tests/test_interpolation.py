"""A clip at another rate: exact counts, motion in between, no blending across cuts, two frames in memory."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
import torch
from comfyui_sonic.sonic.errors import BadSetting
from comfyui_sonic.sonic.postprocess.interpolation import FrameInterpolation
from comfyui_sonic.sonic.postprocess.retiming import FlowBetween, RetimedFrames, RifeBetween
from numpy.typing import NDArray

from .clips import Clip, Endless, peak_of, textured


def moving(count: int, speed: float = 4.0, height: int = 128, width: int = 160) -> NDArray[np.uint8]:
    """A textured scene that moves to the left by ``speed`` pixels a frame."""
    scene = textured(height, width + 240)
    shifts = [np.array([[1, 0, -speed * index], [0, 1, 0]], np.float32) for index in range(count)]
    return np.stack([cv2.warpAffine(scene, shift, (width, height), flags=cv2.INTER_CUBIC) for shift in shifts])


def by_flow(frames: NDArray[np.uint8], fps: float, target: float) -> RetimedFrames:
    return RetimedFrames(Clip(frames), fps, target, FlowBetween(*frames.shape[1:3]))


@pytest.mark.parametrize(
    ("count", "fps", "target"),
    [(25, 25, 50), (25, 12.5, 25), (30, 30, 25), (31, 25, 24), (7, 25, 60), (50, 25, 10), (10, 25, 120), (1, 25, 60)],
)
def test_the_number_of_frames_is_that_of_the_seconds(count: int, fps: float, target: float) -> None:
    frames = np.repeat(textured(48, 64)[None], count, axis=0)
    out = list(by_flow(frames, fps, target).frames())
    assert len(out) == max(1, round(count / fps * target))
    np.testing.assert_allclose(out[-1], frames[-1], atol=1)


def test_a_frame_that_was_held_out_is_found_again_better_than_by_blending() -> None:
    frames = moving(9)
    out = list(by_flow(frames[::2], 12.5, 25).frames())
    inside = np.s_[16:-16, 16:-16]
    for index in (1, 3, 5, 7):
        truth = frames[index][inside].astype(float)
        error = np.abs(out[index][inside] - truth).mean()
        blended = (frames[index - 1][inside].astype(float) + frames[index + 1][inside]) / 2
        assert error < 1.0
        assert error < np.abs(blended - truth).mean() / 3


def test_frames_whose_moments_agree_are_kept_as_they_are() -> None:
    frames = moving(6)
    out = list(by_flow(frames, 25, 50).frames())
    for old, new in zip(frames, out[::2], strict=True):
        np.testing.assert_array_equal(old, new)


def test_every_frame_from_25_to_60_a_second_is_at_its_own_moment() -> None:
    truth = moving(24, speed=4.0 * 25 / 60)[:, 16:-16, 16:-16].astype(float)
    for index, frame in enumerate(by_flow(moving(12), 25, 60).frames(0, 24)):
        assert np.abs(frame[16:-16, 16:-16] - truth[index]).mean() < 1.0, index


def test_across_a_cut_nothing_is_blended() -> None:
    first, second = textured(96, 96, seed=1), 255 - textured(96, 96, seed=7)
    frames = np.concatenate([np.repeat(first[None], 3, axis=0), np.repeat(second[None], 3, axis=0)])
    for frame in by_flow(frames, 25, 100).frames():
        nearest = min(np.abs(frame.astype(int) - scene).max() for scene in (first, second))
        assert nearest <= 1


def test_a_change_of_brightness_is_no_cut() -> None:
    frames = np.stack([textured(96, 96), textured(96, 96) + np.uint8(24)])
    middle = list(by_flow(frames, 25, 50).frames())[1]
    assert 8 < float((middle.astype(int) - frames[0]).mean()) < 20


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (3, 4), (5, 11), (13, None), (6, 6), (19, 99)])
def test_any_frame_can_be_read_on_its_own(start: int, stop: int | None) -> None:
    source = by_flow(moving(9), 25, 60)
    everything = list(source.frames())
    part = list(source.frames(start, stop))
    assert len(part) == len(everything[start:stop])
    assert all((a == b).all() for a, b in zip(part, everything[start:stop], strict=True))


@pytest.mark.parametrize(("height", "width"), [(97, 131), (1, 1), (5, 300), (33, 17)])
def test_odd_and_tiny_sizes_work(height: int, width: int) -> None:
    frames = np.stack([textured(height, width, seed) for seed in (1, 1, 1)])
    out = list(by_flow(frames, 25, 50).frames())
    assert len(out) == 6
    assert all(frame.shape == (height, width, 3) for frame in out)


def test_only_two_frames_are_in_memory() -> None:
    def peak(count: int) -> int:
        return peak_of(RetimedFrames(Endless(textured(128, 160), count), 25, 50, FlowBetween(128, 160)))

    peak(5)
    assert peak(60) < peak(15) + 200_000


def test_a_rate_of_nothing_is_refused_in_a_sentence() -> None:
    with pytest.raises(BadSetting, match="both must be above 0"):
        by_flow(textured()[None], 25, 0)


class Halfway(torch.nn.Module):
    """Stands where RIFE's network stands: the mean of the two pictures."""

    def forward(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return (before + after) / 2


def test_the_network_is_asked_for_halves_of_halves_at_sides_it_can_take() -> None:
    asked = []

    class Watched(Halfway):
        def forward(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
            asked.append(tuple(before.shape))
            return super().forward(before, after)

    frames = np.stack([np.full((50, 70, 3), 100, np.uint8), np.full((50, 70, 3), 108, np.uint8)])
    rife = RifeBetween(50, 70, lambda: Watched(), torch.device("cpu"))  # type: ignore[arg-type,return-value]
    out = list(RetimedFrames(Clip(frames), 25, 100, rife).frames())
    assert [int(frame[20, 20, 0]) for frame in out] == [100, 102, 104, 106, 108, 108, 108, 108]
    assert set(asked) == {(1, 3, 64, 96)}
    assert len(asked) == 3


def test_the_network_of_rife_runs_on_an_odd_size() -> None:
    torch.manual_seed(0)
    network = FrameInterpolation(16, 11).eval()
    rife = RifeBetween(45, 61, lambda: network, torch.device("cpu"))
    started = time.monotonic()
    out = list(RetimedFrames(Clip(moving(3, 1.0, 45, 61)), 25, 50, rife).frames())
    assert [frame.shape for frame in out] == [(45, 61, 3)] * 6
    assert time.monotonic() - started < 20
