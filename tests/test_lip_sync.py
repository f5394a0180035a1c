"""Lip sync finds a planted delay, keeps still when it is not sure, and never loses speech when it moves the sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from comfyui_sonic.sonic.audio import read_sound, speech_for_models
from comfyui_sonic.sonic.draft.mouth_shapes import mouth_shapes
from comfyui_sonic.sonic.draft.performance import jaw_opening
from comfyui_sonic.sonic.engine import choose_engine, render
from comfyui_sonic.sonic.options import InferenceOptions, PrepareOptions
from comfyui_sonic.sonic.portrait import read_picture
from comfyui_sonic.sonic.postprocess import lip_sync
from comfyui_sonic.sonic.postprocess.lip_sync import measure_sync, mouth_openings, possible_shift, shift_sound
from comfyui_sonic.sonic.prepare import prepare
from comfyui_sonic.sonic.prepared import Sound
from numpy.typing import NDArray

from .clips import Clip

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples" / "batch"
VOICES = ("eileen_collins_welcome.wav", "eileen_collins_问候.wav", "close_up.mp3", "painted_anna.wav")


def moved(waveform: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    """``samples`` later (negative: earlier), as long as before; what falls off an end is lost."""
    out = np.zeros_like(waveform)
    if samples >= 0:
        out[samples:] = waveform[: len(waveform) - samples]
    else:
        out[:samples] = waveform[-samples:]
    return out


def openings_for(speech: NDArray[np.float32], fps: float = 25.0, seed: int = 0) -> NDArray[np.float32]:
    """How a mouth would open for the speech, with the noise of a measurement."""
    frames = int(len(speech) / 16000 * fps)
    opening = 0.08 * jaw_opening(mouth_shapes(speech, fps, frames))
    noise = np.random.default_rng(seed).normal(0, 0.006, frames)
    return (opening + noise).astype(np.float32)


@pytest.mark.parametrize("voice", VOICES)
@pytest.mark.parametrize("delay_ms", [-160, -80, 0, 35, 80, 160])
def test_a_planted_delay_is_found_to_within_10_ms(voice: str, delay_ms: int) -> None:
    speech = speech_for_models(read_sound(EXAMPLES / voice))
    estimate = measure_sync(openings_for(speech), 25, moved(speech, -16 * delay_ms))
    assert estimate.is_sure
    assert estimate.offset_s * 1000 == pytest.approx(delay_ms, abs=10)
    assert estimate.correction_s == (0 if delay_ms == 0 else estimate.offset_s)


def syllables(seconds: float, fps: float, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """16 kHz noise in syllables, which the mouth network takes for no speech, and a mouth that follows its loudness."""
    rng = np.random.default_rng(seed)
    count = int(seconds * 16000)
    knots = np.clip(rng.normal(0.25, 0.35, int(seconds * 8) + 2), 0, 1)
    loudness = np.interp(np.arange(count) / 2000, np.arange(len(knots)), knots)
    speech = (0.3 * loudness * rng.standard_normal(count)).astype(np.float32)
    times = (np.arange(round(seconds * fps)) + 0.5) / fps
    openings = np.sqrt(np.interp(times, np.arange(count) / 16000, loudness)) * 0.1 + rng.normal(0, 0.01, len(times))
    return speech, openings.astype(np.float32)


def test_the_sound_of_another_clip_changes_nothing() -> None:
    wrong = [measure_sync(syllables(8, 25, seed)[1], 25, syllables(8, 25, seed + 100)[0]) for seed in range(12)]
    speech = [speech_for_models(read_sound(EXAMPLES / voice)) for voice in VOICES]
    wrong += [
        measure_sync(openings_for(one), 25, other)
        for number, one in enumerate(speech)
        for other in speech[:number] + speech[number + 1 :]
    ]
    assert sum(estimate.correction_s != 0 for estimate in wrong) <= 2


def test_music_without_speech_changes_nothing() -> None:
    times = np.arange(16000 * 8) / 16000
    notes = 220 * 2 ** (np.random.default_rng(0).integers(0, 12, 32)[(times * 4).astype(int)] / 12)
    music = (0.2 * np.sin(2 * np.pi * np.cumsum(notes) / 16000)).astype(np.float32)
    speech = speech_for_models(read_sound(EXAMPLES / VOICES[3]))[: len(music)]
    assert measure_sync(openings_for(speech), 25, music).correction_s == 0


@pytest.mark.parametrize(
    ("openings", "speech"),
    [
        (np.full(200, 0.05, np.float32), np.random.default_rng(0).standard_normal(128_000).astype(np.float32)),
        (np.full(200, np.nan, np.float32), np.random.default_rng(0).standard_normal(128_000).astype(np.float32)),
        (np.random.default_rng(0).uniform(0, 0.1, 200).astype(np.float32), np.zeros(128_000, np.float32)),
        (np.random.default_rng(0).uniform(0, 0.1, 20).astype(np.float32), np.ones(12_800, np.float32)),
        (np.array([0.05], np.float32), np.ones(640, np.float32)),
    ],
    ids=["still mouth", "no face", "silence", "too short", "one frame"],
)
def test_what_cannot_be_judged_changes_nothing(openings: NDArray[np.float32], speech: NDArray[np.float32]) -> None:
    assert measure_sync(openings, 25, speech).correction_s == 0


def test_frames_without_a_face_in_the_middle_do_not_matter() -> None:
    speech = speech_for_models(read_sound(EXAMPLES / VOICES[3]))
    openings = openings_for(speech)
    openings[40:70] = np.nan
    assert measure_sync(openings, 25, moved(speech, -1280)).offset_s == pytest.approx(0.08, abs=0.01)


def test_a_face_that_is_gone_for_a_while_is_found_again() -> None:
    picture = read_picture(EXAMPLES / "eileen_collins.png")
    frames = np.repeat(picture[None], 5, axis=0)
    frames[2] = 128
    openings = mouth_openings(Clip(frames).frames())
    assert np.isnan(openings).tolist() == [False, False, True, False, False]


def test_later_the_sound_gets_longer_unless_its_end_is_silent() -> None:
    loud = Sound(np.array([[1, 1, 1, 1]], np.float32), 4)
    assert shift_sound(loud, 0.5).waveform.tolist() == [[0, 0, 1, 1, 1, 1]]
    ends_silent = Sound(np.array([[1, 1, 1, 0]], np.float32), 4)
    assert shift_sound(ends_silent, 0.25).waveform.tolist() == [[0, 1, 1, 1]]
    assert shift_sound(ends_silent, 0.5).waveform.tolist() == [[0, 0, 1, 1, 1]]
    assert shift_sound(loud, 0).waveform.tolist() == loud.waveform.tolist()


def test_earlier_only_silence_is_dropped_and_the_length_stays() -> None:
    sound = Sound(np.array([[0, 0, 1, 1], [0, 0, 1, -1]], np.float32), 4)
    assert shift_sound(sound, -0.25).waveform.tolist() == [[0, 1, 1, 0], [0, 1, -1, 0]]
    assert possible_shift(sound, -0.75) == -0.5
    assert shift_sound(sound, -0.75).waveform.tolist() == [[1, 1, 0, 0], [1, -1, 0, 0]]
    assert possible_shift(Sound(np.ones((1, 4), np.float32), 4), -0.25) == 0


@pytest.mark.parametrize("shift_ms", [-500, -80, 80, 500])
def test_no_speech_is_lost_by_a_shift(shift_ms: int) -> None:
    sound = read_sound(EXAMPLES / "painted_anna.wav")
    energy = float(np.square(sound.waveform, dtype=np.float64).sum())
    shifted = shift_sound(sound, shift_ms / 1000)
    assert float(np.square(shifted.waveform, dtype=np.float64).sum()) == pytest.approx(energy, rel=1e-3)
    assert shifted.waveform.shape[1] >= sound.waveform.shape[1]


@pytest.mark.slow
def test_a_delay_planted_into_a_finished_clip_is_found_and_taken_out() -> None:
    voice = read_sound(ROOT / "tests" / "data" / "voice.wav")
    picture = read_picture(EXAMPLES / "eileen_collins.png")
    prepared = prepare(picture, voice, PrepareOptions(min_resolution=256))
    openings = mouth_openings(render(prepared, InferenceOptions(), choose_engine("draft", [])).frames())
    assert np.isfinite(openings).all()
    assert measure_sync(openings, 25, prepared.speech).offset_s == pytest.approx(0, abs=0.01)
    for delay_s in (-0.08, 0.08):
        planted = Sound(moved(voice.waveform[0], round(delay_s * voice.sample_rate))[None], voice.sample_rate)
        estimate = measure_sync(openings, 25, speech_for_models(planted))
        assert estimate.offset_s == pytest.approx(-delay_s, abs=0.01)
        corrected = shift_sound(planted, estimate.correction_s)
        assert abs(measure_sync(openings, 25, speech_for_models(corrected)).offset_s) <= 0.02


def test_where_no_face_is_seen_it_is_looked_for_now_and_then_only(monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[int] = []
    monkeypatch.setattr(lip_sync, "find_faces", lambda frame, check: searches.append(int(frame[0, 0, 0])) or [])
    openings = mouth_openings(np.full((64, 64, 3), number, np.uint8) for number in range(100))
    assert np.isnan(openings).all() and len(openings) == 100
    assert searches[:4] == [0, 2, 6, 14] and len(searches) < 20
