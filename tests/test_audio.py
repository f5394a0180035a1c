"""Every kind of sound people have is read whole, or refused with one sentence."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from comfyui_sonic.queue_bridge.gateway import media
from comfyui_sonic.queue_bridge.places.sound_length import sound_length_s
from comfyui_sonic.sonic.audio import check_sound, loudest_moment, read_sound, speech_for_models, used_part
from comfyui_sonic.sonic.errors import BadSound
from comfyui_sonic.sonic.prepared import Sound
from numpy.typing import NDArray

VOICE = Path(__file__).parent / "data" / "voice.wav"


def tone(seconds: float, rate: int, channels: int = 1, level: float = 0.3) -> NDArray[np.float32]:
    wave = level * np.sin(2 * np.pi * 200 * np.arange(round(seconds * rate)) / rate)
    return np.stack([wave * (1 - 0.5 * channel) for channel in range(channels)]).astype(np.float32)


def save(path: Path, waveform: NDArray[np.float32], rate: int, codec: str, container_format: str) -> Path:
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono" if len(waveform) == 1 else "stereo")
        frame = av.AudioFrame.from_ndarray(waveform, format="fltp", layout=stream.layout.name)
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "rate", "channels", "codec", "container_format"),
    [
        ("stereo 8 kHz.wav", 8000, 2, "pcm_s16le", "wav"),
        ("浮点 96k.wav", 96000, 1, "pcm_f32le", "wav"),
        ("mp3 with a wrong extension.wav", 44100, 1, "libmp3lame", "mp3"),
        ("🎤.flac", 48000, 2, "flac", "flac"),
        ("no extension", 22050, 1, "pcm_u8", "wav"),
        ("a.m4a", 48000, 2, "aac", "mp4"),
    ],
)
def test_a_sound_is_read_whatever_its_format_and_name(
    tmp_path: Path, name: str, rate: int, channels: int, codec: str, container_format: str
) -> None:
    waveform = tone(1.5, rate, channels)
    sound = read_sound(save(tmp_path / name, waveform, rate, codec, container_format))
    assert sound.sample_rate == rate and sound.waveform.dtype == np.float32
    assert sound.waveform.shape[0] == channels
    assert sound.seconds == pytest.approx(1.5, abs=0.06)  # MP3 and AAC come in blocks
    middle = sound.waveform[:, rate // 2 : rate]
    assert np.abs(middle).max(axis=1) == pytest.approx(np.abs(waveform).max(axis=1), abs=0.03)
    check_sound(sound)


def with_tag(wav: bytes, title: bytes) -> bytes:
    """The same WAV with a title of these bytes, as players of another age wrote it (RIFF, LIST INFO)."""
    title += b"\0" * (2 - len(title) % 2)
    info = b"INFOINAM" + struct.pack("<I", len(title)) + title
    tagged = wav + b"LIST" + struct.pack("<I", len(info)) + info
    return tagged[:4] + struct.pack("<I", len(tagged) - 8) + tagged[8:]


def test_a_title_in_another_encoding_does_no_harm(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", tone(0.5, 16000), 16000, "pcm_s16le", "wav")
    whole = read_sound(path)
    path.write_bytes(with_tag(path.read_bytes(), "café".encode("latin-1")))
    assert np.array_equal(read_sound(path).waveform, whole.waveform)
    assert sound_length_s(path) == pytest.approx(0.5)
    assert media.sound(path) == (".wav", pytest.approx(0.5))


def test_pcm_is_read_exactly(tmp_path: Path) -> None:
    waveform = tone(0.5, 96000)
    sound = read_sound(save(tmp_path / "a.wav", waveform, 96000, "pcm_f32le", "wav"))
    np.testing.assert_array_equal(sound.waveform, waveform)


def test_a_text_file_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "notes 中文.wav"
    path.write_text("Dear diary, " * 100)
    with pytest.raises(BadSound, match=r"'notes 中文\.wav' is not a sound"):
        read_sound(path)


def test_a_0_byte_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    with pytest.raises(BadSound, match=r"'a\.wav' is an empty file"):
        read_sound(tmp_path / "a.wav")


def test_a_picture_holds_no_sound(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    with pytest.raises(BadSound, match="no sound track"):
        read_sound(tmp_path / "a.png")


def test_a_wav_header_without_samples_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(VOICE.read_bytes()[:44])
    with pytest.raises(BadSound, match=r"'a\.wav'"):
        read_sound(tmp_path / "a.wav")


def test_a_sound_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSound, match=r"'anna\.wav' is not there"):
        read_sound(tmp_path / "anna.wav")


def test_a_tenth_of_a_second_is_enough() -> None:
    check_sound(Sound(tone(0.1, 8000), 8000))


@pytest.mark.parametrize(
    ("waveform", "sentence"),
    [
        (np.zeros((1, 0), np.float32), "empty"),
        (tone(0.01, 16000), "only 10.0 ms"),
        (np.full((1, 16000), np.nan, np.float32), "no numbers"),
        (np.full((1, 16000), np.inf, np.float32), "no numbers"),
        (np.zeros((2, 16000), np.float32), "digital silence"),
        (np.full((1, 16000), 0.5, np.float32), "digital silence"),
        (tone(1.0, 16000, level=1e-4), r"loudest moment is at -83 dBFS"),
        (np.zeros(16000, np.float32), "shape"),
    ],
)
def test_a_sound_that_nobody_could_speak_is_refused(waveform: NDArray[np.float32], sentence: str) -> None:
    with pytest.raises(BadSound, match=sentence):
        check_sound(Sound(waveform, 16000))


def test_one_quiet_word_in_a_long_silence_is_not_silence() -> None:
    waveform = np.zeros((1, 160_000), np.float32)
    waveform[:, 80_000:84_000] = tone(0.25, 16000, level=0.01)
    check_sound(Sound(waveform, 16000))
    assert loudest_moment(Sound(waveform, 16000)) == pytest.approx(-43, abs=0.5)


def test_zero_seconds_means_all_of_the_sound() -> None:
    sound = Sound(tone(2.0, 8000), 8000)
    assert used_part(sound, 0) == (sound, None)


def test_a_duration_cuts_the_sound_and_a_longer_one_than_the_sound_is_corrected_and_said_so() -> None:
    sound = Sound(tone(2.0, 8000), 8000)
    part, note = used_part(sound, 0.5)
    assert part.seconds == 0.5 and note is None
    part, note = used_part(sound, 20)
    assert part is sound
    assert note == "The duration of 20 s is longer than the sound; all 2.00 s of it are used."


@pytest.mark.parametrize(("rate", "channels"), [(8000, 2), (16000, 1), (44100, 6), (96000, 1)])
def test_models_hear_16_khz_mono(rate: int, channels: int) -> None:
    sound = Sound(np.repeat(tone(1.0, rate), channels, axis=0), rate)
    speech = speech_for_models(sound)
    assert speech.shape == (16000,) and speech.dtype == np.float32
    inner = slice(2000, 14000)
    np.testing.assert_allclose(speech[inner], tone(1.0, 16000)[0, inner], atol=2e-3)


def test_a_real_voice_is_read() -> None:
    sound: Any = read_sound(VOICE)
    assert sound.sample_rate == 22050 and 3 < sound.seconds < 6
    check_sound(sound)
