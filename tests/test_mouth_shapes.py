"""Speech -> mouth shapes, with the shipped weights."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import torch
from comfyui_sonic.sonic.draft import mouth_shapes as module
from comfyui_sonic.sonic.draft.log_mel import log_mel, normalise
from comfyui_sonic.sonic.draft.mouth_shapes import MOUTH_SHAPES, WEIGHTS, MouthNetwork, load_network, mouth_shapes
from comfyui_sonic.sonic.errors import BadSetting, BadSound, MissingWeights
from numpy.typing import NDArray

OPEN, CLOSED, SILENCE = (MOUTH_SHAPES.index(name) for name in ("open", "closed", "silence"))
RATE = 16_000
needs_espeak = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None, reason="espeakng-loader is not installed"
)


def vowel(seconds: float, pitch: float = 120.0) -> NDArray[np.float32]:
    """A buzz through three resonances: a plain 'ah'."""
    time = np.arange(round(seconds * RATE)) / RATE
    sound = np.zeros_like(time)
    for harmonic in np.arange(pitch, 5000.0, pitch):
        loud = sum(1 / (1 + ((harmonic - formant) / 90.0) ** 2) for formant in (750.0, 1200.0, 2500.0))
        sound += loud * np.sin(2 * np.pi * harmonic * time)
    return (0.2 * sound / np.abs(sound).max()).astype(np.float32)


def syllables(count: int = 6) -> NDArray[np.float32]:
    before, gap = np.zeros(round(0.6 * RATE), np.float32), np.zeros(round(0.2 * RATE), np.float32)
    return np.concatenate([before, *[part for _ in range(count) for part in (vowel(0.2), gap)]])


def test_silence_leaves_the_mouth_closed() -> None:
    shapes = mouth_shapes(np.zeros(2 * RATE, np.float32), 25, 50)
    assert shapes[:, OPEN].max() < 0.1
    assert shapes[:, SILENCE].min() > 0.8


@pytest.mark.parametrize("gain", [0.003, 0.05, 0.5])
def test_noise_however_loud_does_not_open_the_mouth(gain: float) -> None:
    noise = gain * np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32)
    assert mouth_shapes(noise, 25, 75)[:, OPEN].max() < 0.2


def test_a_vowel_opens_the_mouth_and_the_gap_after_it_closes_it() -> None:
    sound = np.concatenate([np.zeros(RATE, np.float32), vowel(0.4), np.zeros(RATE, np.float32)])
    opening = mouth_shapes(sound, 25, 60)[:, OPEN]
    assert opening[27:34].max() > 0.4
    assert max(opening[:20].max(), opening[40:].max()) < 0.1


@pytest.mark.parametrize("gain", [0.05, 4.0])
def test_loudness_changes_nothing(gain: float) -> None:
    sound = syllables()
    assert np.abs(mouth_shapes(gain * sound, 25, 60) - mouth_shapes(sound, 25, 60)).max() < 0.01


def test_a_sound_that_starts_ten_frames_later_moves_the_mouth_ten_frames_later() -> None:
    sound = syllables()
    late = np.concatenate([np.zeros(round(0.4 * RATE), np.float32), sound])
    assert np.abs(mouth_shapes(late, 25, 70)[10:] - mouth_shapes(sound, 25, 60)).max() < 0.01


def test_blocks_give_the_same_curves_as_the_whole() -> None:
    features = normalise(torch.from_numpy(log_mel(syllables(30)))).numpy()
    whole, blocks = (module._curves(features, load_network(), block) for block in (10_000, 77))
    assert np.abs(whole - blocks).max() < 1e-5


@pytest.mark.parametrize("samples", [1, 100, RATE // 10])
def test_a_very_short_sound_gives_every_frame(samples: int) -> None:
    shapes = mouth_shapes(vowel(0.2)[:samples], 25, 3)
    assert shapes.shape == (3, 6)
    assert np.isfinite(shapes).all()


@pytest.mark.parametrize("fps", [1.0, 23.976, 25.0, 60.0, 120.0])
def test_every_frame_rate_gives_values_from_0_to_1(fps: float) -> None:
    sound = syllables()
    shapes = mouth_shapes(sound, fps, round(len(sound) / RATE * fps))
    assert shapes.dtype == np.float32
    assert 0.0 <= shapes.min() <= shapes.max() <= 1.0


def test_the_same_sound_gives_the_same_shapes() -> None:
    assert np.array_equal(mouth_shapes(syllables(), 25, 60), mouth_shapes(syllables(), 25, 60))


def test_frames_after_the_sound_are_silent() -> None:
    shapes = mouth_shapes(vowel(0.4), 25, 30)
    assert shapes[12:, OPEN].max() < 0.01
    assert shapes[12:, SILENCE].min() > 0.99


def test_a_network_never_seen_says_which_file_is_missing(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(MissingWeights, match=r"other\.safetensors"):
        load_network(tmp_path / "other.safetensors")


def test_no_sound_and_no_frames_are_named() -> None:
    with pytest.raises(BadSound):
        mouth_shapes(np.zeros(0, np.float32), 25, 1)
    with pytest.raises(BadSound):
        mouth_shapes(np.full(100, np.nan, np.float32), 25, 1)
    with pytest.raises(BadSetting):
        mouth_shapes(np.zeros(100, np.float32), 0, 1)


def test_the_weights_are_below_one_megabyte() -> None:
    assert WEIGHTS.stat().st_size < 1_000_000


@needs_espeak
@pytest.mark.slow
def test_lips_close_on_the_bilabials_of_a_voice_never_heard_in_training() -> None:
    from comfyui_sonic.sonic.draft.training.scores import score
    from comfyui_sonic.sonic.draft.training.synthesis import record, unseen_voices_plan

    values = score([record(utterance) for utterance in unseen_voices_plan(12, 5)], mouth_shapes)
    assert values["r_open"] > 0.8
    assert values["bilabial_auc"] > 0.9


@needs_espeak
@pytest.mark.slow
def test_a_minute_of_training_from_nothing_already_learns() -> None:
    from comfyui_sonic.sonic.draft.training.scores import score
    from comfyui_sonic.sonic.draft.training.synthesis import (
        espeak_plan,
        flite_plan,
        record,
        synthesise,
        unseen_voices_plan,
    )
    from comfyui_sonic.sonic.draft.training.train import Recipe, train

    judged = [record(utterance) for utterance in unseen_voices_plan(8, 6)]
    espeak = synthesise(espeak_plan(150, 7))
    flite = synthesise(flite_plan(20, 8)) if shutil.which("flite") else []
    torch.set_num_threads(1)
    network: MouthNetwork = train(Recipe(steps=60, batch=16, check_every=60), espeak, flite, judged)
    values = score(judged, lambda speech, fps, frames: mouth_shapes(speech, fps, frames, network))
    assert values["r_open"] > 0.4


@needs_espeak
@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills with a signal")
def test_a_speech_process_that_dies_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    from comfyui_sonic.sonic.draft.training.synthesis import espeak_plan, synthesise

    others = set(psutil.Process().children(recursive=True))  # servers of other tests
    with ThreadPoolExecutor(1) as pool:
        speaking = pool.submit(synthesise, espeak_plan(40, 9), 1)
        killed = False
        while not (killed or speaking.done()):
            for process in set(psutil.Process().children(recursive=True)) - others:
                if process.ppid() != os.getpid():  # a child of the fork server: it speaks
                    process.kill()
                    killed = True
                    break
            time.sleep(0.01)
        assert len(speaking.result(timeout=120)) == 40
    assert killed
    assert "ended with -9 (attempt 1" in caplog.text
