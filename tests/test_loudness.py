"""Loudness is that of BS.1770, and quiet recordings move the mouth as loud ones do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from comfyui_sonic.sonic.audio import MODEL_RATE, read_sound, speech_for_models
from comfyui_sonic.sonic.draft.mouth_shapes import mouth_shapes
from comfyui_sonic.sonic.loudness import TARGET_LUFS, _k_weighting, at_usual_loudness, integrated_loudness
from comfyui_sonic.sonic.options import PrepareOptions
from comfyui_sonic.sonic.portrait import read_picture
from comfyui_sonic.sonic.prepare import prepare
from comfyui_sonic.sonic.prepared import Sound
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent
VOICE = ROOT / "tests" / "data" / "voice.wav"


def tone(dbfs: float, seconds: float, rate: int = MODEL_RATE, hz: float = 1000.0) -> NDArray[np.float32]:
    wave = np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    return (10 ** (dbfs / 20) * wave).astype(np.float32)


def speech_at(lufs: float) -> NDArray[np.float32]:
    speech = speech_for_models(read_sound(VOICE))
    gain = 10 ** ((lufs - integrated_loudness(speech, MODEL_RATE)) / 20)
    return np.asarray(speech * np.float32(gain), np.float32)


def test_the_filters_at_48_khz_are_the_standards_own() -> None:
    shelf, high_pass = _k_weighting(48000)
    np.testing.assert_allclose(shelf[:3], [1.53512485958697, -2.69169618940638, 1.19839281085285], atol=1e-7)
    np.testing.assert_allclose(shelf[4:], [-1.69065929318241, 0.73248077421585], atol=1e-7)
    np.testing.assert_allclose(high_pass, [1, -2, 1, 1, -1.99004745483398, 0.99007225036621], atol=1e-7)


@pytest.mark.parametrize("rate", [16000, 22050, 44100, 48000])
def test_a_tone_of_1_khz_in_one_channel_reads_3_db_below_its_peak(rate: int) -> None:
    assert integrated_loudness(tone(-23.0, 5, rate), rate) == pytest.approx(-26.0, abs=0.1)


def test_pauses_do_not_count() -> None:
    # Case 3 of EBU Tech 3341, in one channel: quiet parts around a loud one are gated out.
    parts = [tone(-36, 10), tone(-23, 60), tone(-36, 10)]
    assert integrated_loudness(np.concatenate(parts), MODEL_RATE) == pytest.approx(-26.0, abs=0.1)


@pytest.mark.parametrize("lufs", [-55.0, -45.0, -30.0, -12.0])
def test_speech_of_any_loudness_comes_to_the_usual_one(lufs: float) -> None:
    speech = at_usual_loudness(speech_at(lufs), MODEL_RATE)
    assert speech.dtype == np.float32
    assert integrated_loudness(speech, MODEL_RATE) == pytest.approx(TARGET_LUFS, abs=0.1)


@pytest.mark.parametrize(
    "speech",
    [np.zeros(32000, np.float32), tone(-30, 0.39), tone(-90, 2), np.zeros(0, np.float32)],
    ids=["silence", "too short", "too quiet", "nothing"],
)
def test_what_has_no_loudness_stays_as_it_is(speech: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(at_usual_loudness(speech, MODEL_RATE), speech)


def test_a_recording_of_minutes_is_read_in_pieces_without_a_seam() -> None:
    long = np.tile(speech_at(-30), 20)
    assert len(long) > 2 * 2**20 // 2
    assert integrated_loudness(long, MODEL_RATE) == pytest.approx(-30, abs=0.2)


def test_the_models_hear_the_usual_loudness_and_the_video_keeps_the_sound_as_recorded() -> None:
    sound = read_sound(VOICE)
    quiet = Sound(sound.waveform * np.float32(0.01), sound.sample_rate)
    picture = read_picture(ROOT / "examples" / "batch" / "eileen_collins.png")
    prepared = prepare(picture, quiet, PrepareOptions(min_resolution=256))
    assert prepared.sound is quiet
    assert integrated_loudness(prepared.speech, MODEL_RATE) == pytest.approx(TARGET_LUFS, abs=0.1)


def test_a_quiet_recording_moves_the_mouth_as_a_loud_one_does() -> None:
    frames = 100
    loud = mouth_shapes(at_usual_loudness(speech_at(-18), MODEL_RATE), 25, frames)
    quiet = mouth_shapes(at_usual_loudness(speech_at(-45), MODEL_RATE), 25, frames)
    very_quiet = mouth_shapes(at_usual_loudness(speech_at(-60), MODEL_RATE), 25, frames)
    np.testing.assert_allclose(quiet, loud, atol=1e-3)
    np.testing.assert_allclose(very_quiet, loud, atol=1e-3)
    as_recorded = mouth_shapes(speech_at(-60), 25, frames)
    assert np.abs(as_recorded - loud).max() > 0.05  # without it, the mouth of so quiet a speech is another one
