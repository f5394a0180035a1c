"""A mouth that stands open closes where nobody speaks, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from comfyui_sonic.sonic.audio import MODEL_RATE, read_sound, speech_for_models
from comfyui_sonic.sonic.draft.performance import Performance
from comfyui_sonic.sonic.draft.render import DraftClip, render_draft
from comfyui_sonic.sonic.frames import Frame
from comfyui_sonic.sonic.options import InferenceOptions, PrepareOptions
from comfyui_sonic.sonic.portrait import read_picture
from comfyui_sonic.sonic.postprocess.lip_sync import mouth_openings
from comfyui_sonic.sonic.postprocess.silence_gate import ClosedMouthFrames, close_mouth, silence_curve
from comfyui_sonic.sonic.prepare import prepare
from comfyui_sonic.sonic.prepared import Face

ROOT = Path(__file__).parent.parent
NAMES = ("jaw", "wide", "round", "pressed", "teeth", "blink", "shift_u", "shift_v", "roll", "yaw", "pitch")


@pytest.fixture(scope="module")
def open_mouthed() -> tuple[DraftClip, Face]:
    """A portrait whose mouth stands half open for 50 frames; the first is at rest."""
    voice = read_sound(ROOT / "tests" / "data" / "voice.wav")
    prepared = prepare(read_picture(ROOT / "examples" / "batch" / "close_up.png"), voice, PrepareOptions())
    clip = render_draft(prepared, InferenceOptions())
    still = np.zeros(50, np.float32)
    jaw = np.full(50, 0.5, np.float32)
    jaw[0] = 0
    performance = Performance(closing=1.0, **{**dict.fromkeys(NAMES, still), "jaw": jaw})
    assert prepared.face is not None
    return DraftClip(clip.picture, clip.geometry, performance), prepared.face


def with_pause() -> np.ndarray:
    """A second of speech, a second and a half of nothing, a second of speech."""
    speech = speech_for_models(read_sound(ROOT / "tests" / "data" / "voice.wav"))
    said = speech[24960 : 24960 + MODEL_RATE]
    return np.concatenate([said, np.zeros(MODEL_RATE * 3 // 2, np.float32), said])


def test_the_mouth_is_shut_in_the_pause_and_free_before_and_after() -> None:
    shut = silence_curve(with_pause(), 25, 88)
    assert shut[:26].max() == 0 and shut[62:].max() == 0
    assert shut[36:55].min() > 0.95
    assert np.abs(np.diff(shut)).max() < 0.5  # softly


def test_after_the_sound_nobody_speaks_and_in_silence_alone_the_mouth_is_shut() -> None:
    assert silence_curve(np.zeros(32000, np.float32), 25, 50).min() == 1
    assert silence_curve(np.zeros(0, np.float32), 25, 50).min() == 1
    assert silence_curve(with_pause()[:MODEL_RATE], 25, 75)[-20:].min() == 1


def test_an_open_mouth_closes_to_what_it_is_at_rest(open_mouthed: tuple[DraftClip, Face]) -> None:
    clip, face = open_mouthed
    at_rest, as_made = mouth_openings(clip.frames(0, 2))
    closed = ClosedMouthFrames(clip, face, np.ones(50, np.float32), float(at_rest))
    (after,) = mouth_openings(closed.frames(10, 11))
    assert as_made > at_rest + 0.02
    assert after - at_rest < 0.35 * (as_made - at_rest)
    changed = np.abs(next(closed.frames(10, 11)).astype(int) - clip.frame(10)).max(axis=2) > 0
    rows = np.flatnonzero(changed.any(axis=1))
    assert rows.min() > face.landmarks[2, 1] and rows.max() < face.landmarks[152, 1] + 30  # between nose and chin


def test_frames_with_speech_are_untouched_and_any_frame_can_be_read_on_its_own(
    open_mouthed: tuple[DraftClip, Face],
) -> None:
    clip, face = open_mouthed
    shut = np.zeros(50, np.float32)
    shut[20:24] = 1
    closed = ClosedMouthFrames(clip, face, shut, 0.0)
    frames = list(closed.frames(18, 26))
    for index in (18, 19, 24, 25):
        np.testing.assert_array_equal(frames[index - 18], clip.frame(index))
    (alone,) = closed.frames(21, 22)
    np.testing.assert_array_equal(alone, frames[3])


def test_a_frame_without_a_face_stays(open_mouthed: tuple[DraftClip, Face]) -> None:
    clip, face = open_mouthed

    class Interrupted:
        count, height, width = 2, clip.height, clip.width

        def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
            yield from [np.full((clip.height, clip.width, 3), 90, np.uint8), clip.frame(5)][start:stop]

    blank, spoken = ClosedMouthFrames(Interrupted(), face, np.ones(2, np.float32), 0.0).frames()
    assert (blank == 90).all()
    assert (spoken != clip.frame(5)).any()


def test_a_closed_mouth_is_left_alone(open_mouthed: tuple[DraftClip, Face]) -> None:
    clip, face = open_mouthed
    frame = clip.frame(0)
    assert close_mouth(frame, face, 1.0, 1.0) is frame
