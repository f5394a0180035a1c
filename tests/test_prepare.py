"""Picture and sound are made ready as asked, and what was corrected is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from comfyui_sonic.sonic.audio import read_sound
from comfyui_sonic.sonic.errors import BadPortrait, BadSetting, BadSound, NoFace
from comfyui_sonic.sonic.frames import Frame
from comfyui_sonic.sonic.options import PrepareOptions
from comfyui_sonic.sonic.portrait import read_picture, resize
from comfyui_sonic.sonic.prepare import prepare
from comfyui_sonic.sonic.prepared import Face, Sound

ROOT = Path(__file__).parent.parent
UPPER_LIP = 13


def face_at(x1: float, y1: float, x2: float, y2: float) -> Face:
    landmarks = np.tile(np.array([(x1 + x2) / 2, (y1 + y2) / 2, -10], np.float32), (468, 1))
    return Face((x1, y1, x2, y2), landmarks, 0.99)


def no_face(picture: Frame) -> list[Face]:
    return []


def three_faces(picture: Frame) -> list[Face]:
    return [face_at(100, 100, 300, 300), face_at(400, 100, 500, 200), face_at(520, 100, 560, 140)]


@pytest.fixture(scope="module")
def portrait() -> Frame:
    return read_picture(ROOT / "examples" / "batch" / "eileen_collins.png")


@pytest.fixture(scope="module")
def voice() -> Sound:
    return read_sound(ROOT / "tests" / "data" / "voice.wav")


def test_a_portrait_and_a_voice_are_made_ready(portrait: Frame, voice: Sound) -> None:
    prepared = prepare(portrait, voice, PrepareOptions())
    assert prepared.picture.shape == (512, 512, 3) and prepared.picture.dtype == np.uint8
    assert prepared.original_size == (portrait.shape[1], portrait.shape[0])
    assert prepared.crop_box == (0, 0, *prepared.original_size)
    assert prepared.sound is voice
    assert len(prepared.speech) == pytest.approx(voice.seconds * 16000, abs=1)
    assert prepared.face is not None and prepared.face.score > 0.5
    assert prepared.notes == ()


def test_the_face_is_where_it_was_after_the_crop(portrait: Frame, voice: Sound) -> None:
    whole = prepare(portrait, voice, PrepareOptions())
    cropped = prepare(portrait, voice, PrepareOptions(crop="crop to face", min_resolution=256))
    assert whole.face is not None and cropped.face is not None
    assert cropped.picture.shape[0] == 256
    x, y = cropped.face.landmarks[UPPER_LIP, :2]
    left, top, right, bottom = cropped.crop_box
    back = (left + x * (right - left) / cropped.picture.shape[1], top + y * (bottom - top) / cropped.picture.shape[0])
    scale = portrait.shape[1] / whole.picture.shape[1]
    np.testing.assert_allclose(back, whole.face.landmarks[UPPER_LIP, :2] * scale, atol=0.5)


def test_a_wide_picture_keeps_its_shape_to_the_nearest_64_pixels(voice: Sound) -> None:
    prepared = prepare(np.zeros((480, 640, 3), np.uint8), voice, PrepareOptions(), three_faces)
    assert prepared.picture.shape == (512, 704, 3)
    assert prepared.face is not None
    assert prepared.face.box == pytest.approx((110, 106.67, 330, 320), abs=0.1)


def test_of_three_faces_the_largest_speaks_and_it_is_said_so(voice: Sound) -> None:
    prepared = prepare(np.zeros((512, 640, 3), np.uint8), voice, PrepareOptions(), three_faces)
    assert prepared.face is not None and prepared.face.box[0] == pytest.approx(100)
    assert prepared.notes == ("3 faces were found; number 0 by size, counted from 0, speaks.",)
    prepared = prepare(np.zeros((512, 640, 3), np.uint8), voice, PrepareOptions(face_index=2), three_faces)
    assert prepared.face is not None and prepared.face.box[0] == pytest.approx(520)


def test_a_face_number_that_is_not_there_is_refused_with_how_many_there_are(voice: Sound) -> None:
    with pytest.raises(NoFace, match=r"number 3 .* only 3 faces were found"):
        prepare(np.zeros((512, 640, 3), np.uint8), voice, PrepareOptions(face_index=3), three_faces)


def test_a_picture_without_a_face_is_refused_in_one_sentence(voice: Sound) -> None:
    with pytest.raises(NoFace, match="No face was found"):
        prepare(np.full((256, 256, 3), 90, np.uint8), voice, PrepareOptions())


def test_a_picture_without_a_face_may_be_used_whole(voice: Sound) -> None:
    options = PrepareOptions(on_no_face="whole picture", crop="crop to face")
    prepared = prepare(np.zeros((300, 300, 3), np.uint8), voice, options, no_face)
    assert prepared.face is None
    assert prepared.crop_box == (0, 0, 300, 300)
    assert "No face" in prepared.notes[0]


def test_an_upside_down_face_is_found_or_refused_but_never_taken_for_an_upright_one(
    portrait: Frame, voice: Sound
) -> None:
    try:
        prepared = prepare(np.ascontiguousarray(portrait[::-1, ::-1]), voice, PrepareOptions())
    except NoFace:
        return
    assert prepared.face is not None
    chin, forehead = prepared.face.landmarks[152, 1], prepared.face.landmarks[10, 1]
    assert chin < forehead


def test_three_people_in_one_picture_are_found(portrait: Frame, voice: Sound) -> None:
    smaller = resize(portrait, (400, 400))
    picture = np.zeros((512, 512 + 2 * 400, 3), np.uint8)
    picture[:, :512] = portrait
    picture[:400, 512:912] = smaller
    picture[-400:, 912:] = smaller
    prepared = prepare(picture, voice, PrepareOptions())
    assert prepared.notes[0].startswith("3 faces were found")
    assert prepared.face is not None and prepared.face.box[2] < 512


def test_a_longer_duration_than_the_sound_is_corrected_and_said_so(portrait: Frame, voice: Sound) -> None:
    prepared = prepare(portrait, voice, PrepareOptions(duration_s=60), three_faces)
    assert prepared.seconds == voice.seconds
    assert "longer than the sound" in prepared.notes[0]


def test_a_duration_cuts_sound_and_speech_alike(portrait: Frame, voice: Sound) -> None:
    prepared = prepare(portrait, voice, PrepareOptions(duration_s=1.5), three_faces)
    assert prepared.seconds == pytest.approx(1.5, abs=1e-4)
    assert len(prepared.speech) == 24000


def test_silence_is_refused_before_the_picture_is_looked_at(portrait: Frame) -> None:
    with pytest.raises(BadSound, match="silent"):
        prepare(portrait, Sound(np.zeros((1, 16000), np.float32), 16000), PrepareOptions(), no_face)


def test_a_duration_that_ends_before_the_first_word_is_silence(portrait: Frame, voice: Sound) -> None:
    late = Sound(np.concatenate([np.zeros((1, 44100), np.float32), voice.waveform], axis=1), voice.sample_rate)
    with pytest.raises(BadSound, match="silent"):
        prepare(portrait, late, PrepareOptions(duration_s=1), three_faces)


def test_a_ribbon_of_a_picture_is_refused_with_both_sizes(voice: Sound) -> None:
    with pytest.raises(BadPortrait, match="4096 a side"):
        prepare(np.zeros((200, 4096, 3), np.uint8), voice, PrepareOptions(), three_faces)


@pytest.mark.parametrize(
    "settings", [{"min_resolution": 500}, {"min_resolution": 2048}, {"expand_ratio": 2}, {"duration_s": -1}]
)
def test_a_setting_outside_its_range_is_refused_by_name(settings: dict[str, float]) -> None:
    with pytest.raises(BadSetting, match=next(iter(settings)).removesuffix("_s")):
        PrepareOptions(**settings)  # type: ignore[arg-type]
