"""Context windows and the schedule: exact numbers."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from comfyui_sonic.sonic.schedule import (
    MODEL_FPS,
    audio_units,
    karras_sigmas,
    latent_frames,
    source_position,
)
from comfyui_sonic.sonic.windows import context_windows, rounds, window_count
from hypothesis import given
from hypothesis import strategies as st


def test_windows_part_the_clip_and_move_by_seven_frames_a_step() -> None:
    assert list(context_windows(50, 0)) == [tuple(range(25)), tuple(range(25, 50))]
    assert next(context_windows(50, 1))[:9] == (43, 44, 45, 46, 47, 48, 49, 0, 1)


def test_the_last_window_reaches_into_the_beginning() -> None:
    assert list(context_windows(60, 0))[2] == (*range(50, 60), *range(15))


def test_a_short_clip_repeats_within_its_window() -> None:
    assert list(context_windows(10, 0)) == [(*range(10), *range(10), *range(5))]
    assert list(context_windows(1, 3)) == [(0,) * 25]


@given(frames=st.integers(1, 400), step=st.integers(0, 100))
def test_every_frame_is_in_a_window_and_neighbours_stay_neighbours(frames: int, step: int) -> None:
    windows = list(context_windows(frames, step))
    assert len(windows) == window_count(frames) == -(-frames // 25)
    counts = Counter(frame for window in windows for frame in window)
    assert set(counts) == set(range(frames))
    assert sum(counts.values()) == 25 * len(windows)
    assert max(counts.values()) <= max(2, -(-25 // frames))
    for window in windows:
        assert all((after - before) % frames == 1 % frames for before, after in pairwise(window))


@given(frames=st.integers(1, 60), step=st.integers(0, 9))
def test_in_a_round_of_a_window_no_frame_comes_up_twice(frames: int, step: int) -> None:
    for window in context_windows(frames, step):
        parts = [window[places] for places in rounds(window)]
        assert tuple(frame for part in parts for frame in part) == window
        assert all(len(set(part)) == len(part) for part in parts)
        assert len(parts) == (1 if frames >= 25 else -(-25 // frames))


def test_one_step_goes_from_all_noise_to_none() -> None:
    assert karras_sigmas(1) == [pytest.approx(700.0), 0.0]


def test_speech_makes_a_frame_every_80_ms_and_at_least_one() -> None:
    assert [latent_frames(samples) for samples in (320, 1280, 2559, 2560, 48_000, 160_000)] == [1, 1, 1, 2, 37, 125]
    assert audio_units(48_000) == 75


@pytest.mark.parametrize("fps", [25.0, 12.5, 30.0, 24.0, 60.0, 7.0])
def test_a_frame_of_the_video_lies_where_its_time_is(fps: float) -> None:
    frames, finest = 125, 8
    for index in range(round(10 * fps)):
        frame, part = source_position(index, fps, frames, finest)
        wanted = min(index / fps * MODEL_FPS, frames - 1)
        assert abs(frame + part / finest - wanted) <= 1 / 16 + 1e-9
        assert 0 <= frame < frames and 0 <= part < finest


def test_at_25_fps_every_second_frame_is_halfway() -> None:
    assert [source_position(index, 25.0, 37, 8) for index in range(4)] == [(0, 0), (0, 4), (1, 0), (1, 4)]
    assert source_position(74, 25.0, 37, 8) == (36, 0)
