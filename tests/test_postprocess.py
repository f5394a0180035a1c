"""Smoothing takes flicker and leaves motion; lip sync finds a planted delay and keeps still when it is not sure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from comfyui_sonic.sonic.audio import read_sound, speech_for_models
from comfyui_sonic.sonic.engine import choose_engine, render
from comfyui_sonic.sonic.frames import Frame
from comfyui_sonic.sonic.options import InferenceOptions, PrepareOptions
from comfyui_sonic.sonic.portrait import read_picture
from comfyui_sonic.sonic.postprocess.lip_sync import measure_sync, mouth_openings, shift_sound
from comfyui_sonic.sonic.postprocess.smoothing import SmoothedFrames
from comfyui_sonic.sonic.prepare import prepare
from comfyui_sonic.sonic.prepared import Sound
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent


class Clip:
    """Frames in memory as a FrameSource; remembers the most frames that were read at once."""

    def __init__(self, frames: NDArray[np.uint8]) -> None:
        self.count, self.height, self.width = frames.shape[:3]
        self._frames = frames

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        for frame in self._frames[start:stop]:
            yield frame.copy()


def still_picture() -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    coarse = rng.uniform(60, 180, (8, 8, 3))
    return np.kron(coarse, np.ones((12, 12, 1))).astype(np.float32)


def flicker_index(frames: NDArray[np.uint8], part: tuple[slice, slice] = (slice(None), slice(None))) -> float:
    """Standard deviation of the change of mean brightness from frame to frame."""
    brightness = frames[:, part[0], part[1]].astype(np.float64).mean(axis=(1, 2, 3))
    return float(np.diff(brightness).std())


def smoothed(frames: NDArray[np.float32], face: tuple[float, float, float, float] | None = None) -> NDArray[np.uint8]:
    clip = Clip(np.clip(np.rint(frames), 0, 255).astype(np.uint8))
    return np.stack(list(SmoothedFrames(clip, face).frames()))


def test_a_planted_flicker_falls_to_a_third_or_less() -> None:
    rng = np.random.default_rng(1)
    frames = still_picture()[None] + rng.normal(0, 3, 60)[:, None, None, None]
    before = flicker_index(np.rint(frames).astype(np.uint8))
    assert flicker_index(smoothed(frames)) < before / 3


def test_a_step_in_brightness_becomes_a_ramp() -> None:
    frames = np.repeat(still_picture()[None], 40, axis=0)
    frames[20:] += 6
    steps = np.abs(np.diff(smoothed(frames).astype(float).mean(axis=(1, 2, 3))))
    assert steps.max() < 1.5


def test_noise_on_what_stands_still_gets_less() -> None:
    rng = np.random.default_rng(2)
    frames = still_picture()[None] + rng.normal(0, 2, (30, 96, 96, 3))
    before = np.rint(frames).std(axis=0).mean()
    assert smoothed(frames)[2:-2].std(axis=0).mean() < 0.8 * before


def test_a_moving_edge_keeps_its_sharpness() -> None:
    frames = np.full((30, 64, 128, 3), 60.0, np.float32)
    for index in range(30):
        frames[index, :, 20 + 3 * index :] = 180.0
    out = smoothed(frames)
    np.testing.assert_allclose(out, frames, atol=2)


def test_the_face_and_the_mouth_are_spared() -> None:
    rng = np.random.default_rng(5)
    frames = np.repeat(still_picture()[None], 30, axis=0)
    frames[:, 40:56, 40:56] += rng.normal(0, 3, (30, 16, 16, 3))  # the finest motion of a mouth
    out = smoothed(frames, face=(36, 36, 60, 60))
    np.testing.assert_allclose(out[:, 40:56, 40:56], np.rint(frames[:, 40:56, 40:56]), atol=1)


def test_a_cut_to_another_scene_is_left_alone() -> None:
    frames = np.repeat(still_picture()[None] * 0.4, 30, axis=0)
    frames[15:] += 100
    np.testing.assert_allclose(smoothed(frames), frames, atol=1.5)


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 3), (5, 6), (7, 15), (18, 20), (0, None), (19, None), (5, 5)])
def test_any_frame_can_be_read_on_its_own(start: int, stop: int | None) -> None:
    rng = np.random.default_rng(4)
    frames = (still_picture()[None] + rng.normal(0, 3, (20, 1, 1, 1))).astype(np.uint8)
    source = SmoothedFrames(Clip(frames), None)
    everything = list(source.frames())
    assert len(everything) == 20
    part = list(source.frames(start, stop))
    assert len(part) == len(everything[start:stop])
    assert all((a == b).all() for a, b in zip(part, everything[start:stop], strict=True))


def speech_with_openings(seconds: float, fps: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """16 kHz noise in syllables, and the mouth that follows its loudness, with noise of its own."""
    rng = np.random.default_rng(seed)
    count = int(seconds * 16000)
    knots = np.clip(rng.normal(0.25, 0.35, int(seconds * 8) + 2), 0, 1)
    loudness = np.interp(np.arange(count) / 2000, np.arange(len(knots)), knots)
    speech = (0.3 * loudness * rng.standard_normal(count)).astype(np.float32)
    times = (np.arange(round(seconds * fps)) + 0.5) / fps
    openings = np.sqrt(np.interp(times, np.arange(count) / 16000, loudness)) * 0.1 + rng.normal(0, 0.01, len(times))
    return speech, openings.astype(np.float32)


@pytest.mark.parametrize("delay_ms", [-160, -80, 0, 80, 160])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_delay_is_found_to_within_20_ms(delay_ms: int, seed: int) -> None:
    speech, openings = speech_with_openings(8, 25, seed)
    late_mouth = shift_sound(Sound(speech[None], 16000), -delay_ms / 1000)
    estimate = measure_sync(openings, 25, late_mouth.waveform[0])
    assert estimate.is_sure
    assert estimate.offset_s * 1000 == pytest.approx(delay_ms, abs=20)
    assert estimate.correction_s == (0 if delay_ms == 0 else estimate.offset_s)
    corrected = shift_sound(late_mouth, estimate.correction_s)
    after = measure_sync(openings, 25, corrected.waveform[0])
    assert abs(after.offset_s) <= 0.02
    assert after.as_it_is >= estimate.as_it_is - 0.01


def test_the_sound_of_another_clip_changes_nothing() -> None:
    wrong = [
        measure_sync(speech_with_openings(8, 25, seed)[1], 25, speech_with_openings(8, 25, seed + 100)[0])
        for seed in range(12)
    ]
    assert sum(estimate.correction_s != 0 for estimate in wrong) <= 1


@pytest.mark.parametrize(
    ("openings", "speech"),
    [
        (np.full(200, 0.05, np.float32), np.random.default_rng(0).standard_normal(128_000).astype(np.float32)),
        (np.full(200, np.nan, np.float32), np.random.default_rng(0).standard_normal(128_000).astype(np.float32)),
        (np.random.default_rng(0).uniform(0, 0.1, 200).astype(np.float32), np.zeros(128_000, np.float32)),
        (np.random.default_rng(0).uniform(0, 0.1, 20).astype(np.float32), np.ones(12_800, np.float32)),
    ],
    ids=["still mouth", "no face", "silence", "too short"],
)
def test_what_cannot_be_judged_changes_nothing(openings: NDArray[np.float32], speech: NDArray[np.float32]) -> None:
    assert measure_sync(openings, 25, speech).correction_s == 0


def test_a_shifted_sound_is_as_long_as_before() -> None:
    sound = Sound(np.arange(1, 9, dtype=np.float32)[None], 8)
    assert shift_sound(sound, 0.25).waveform.tolist() == [[0, 0, 1, 2, 3, 4, 5, 6]]
    assert shift_sound(sound, -0.25).waveform.tolist() == [[3, 4, 5, 6, 7, 8, 0, 0]]
    assert shift_sound(sound, 0).waveform.tolist() == sound.waveform.tolist()


@pytest.mark.slow
def test_a_delay_planted_into_a_finished_clip_is_found_and_taken_out() -> None:
    voice = read_sound(ROOT / "tests" / "data" / "voice.wav")
    picture = read_picture(ROOT / "examples" / "batch" / "eileen_collins.png")
    prepared = prepare(picture, voice, PrepareOptions(min_resolution=256))
    openings = mouth_openings(render(prepared, InferenceOptions(), choose_engine("draft", [])).frames())
    assert np.isfinite(openings).all()
    as_made = measure_sync(openings, 25, prepared.speech)
    assert as_made.is_sure and as_made.correction_s == 0
    for delay_s in (-0.12, 0.12):
        planted = shift_sound(voice, delay_s)
        estimate = measure_sync(openings, 25, speech_for_models(planted))
        assert estimate.correction_s == pytest.approx(-delay_s + as_made.offset_s, abs=0.02)
