"""What is measured of a finished video, and what is said of one that falls short."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from comfyui_sonic.command import main
from comfyui_sonic.sonic.audio import read_sound
from comfyui_sonic.sonic.engine import choose_engine, render
from comfyui_sonic.sonic.errors import BadVideo
from comfyui_sonic.sonic.frames import Frame
from comfyui_sonic.sonic.options import InferenceOptions, PrepareOptions
from comfyui_sonic.sonic.portrait import read_picture
from comfyui_sonic.sonic.postprocess.lip_sync import LONGEST_PAUSE
from comfyui_sonic.sonic.prepare import prepare
from comfyui_sonic.sonic.prepared import Sound
from comfyui_sonic.sonic.quality import Quality, measure_quality
from comfyui_sonic.sonic.video import write_mp4
from comfyui_sonic.sonic.video_source import open_video

ROOT = Path(__file__).parent.parent
SECONDS = 3.0


@pytest.fixture(scope="module")
def spoken() -> tuple[list[Frame], Sound]:
    """A clip of the draft engine and its sound, with a second of silence behind it."""
    sound = read_sound(ROOT / "tests" / "data" / "voice.wav")
    samples = sound.waveform[:, : int((SECONDS - 1) * sound.sample_rate)]
    pause = np.zeros((samples.shape[0], sound.sample_rate), np.float32)
    sound = Sound(np.concatenate([samples, pause], axis=1), sound.sample_rate)
    picture = read_picture(ROOT / "examples" / "batch" / "close_up.png")
    prepared = prepare(picture, sound, PrepareOptions(min_resolution=256))
    clip = render(prepared, InferenceOptions(), choose_engine("draft", []))
    return list(clip.frames()), sound


@pytest.fixture(scope="module")
def good(spoken: tuple[list[Frame], Sound]) -> Quality:
    frames, sound = spoken
    return measure_quality(frames, 25.0, sound)


def test_a_good_clip_falls_short_of_nothing(good: Quality) -> None:
    assert good.falls_short == ()
    assert good.frames == 75 and good.seconds == SECONDS and good.face_lost_frames == 0
    assert good.sync_offset_ms is not None and abs(good.sync_offset_ms) <= 40
    assert good.open_in_silence is not None and good.open_in_silence < 0.3
    assert good.mouth_amplitude is not None and good.mouth_amplitude > 0.01


@pytest.mark.slow
def test_planted_flicker_is_seen_and_named(spoken: tuple[list[Frame], Sound], good: Quality) -> None:
    frames, sound = spoken
    gains = 1 + 0.03 * np.random.default_rng(1).standard_normal(len(frames))
    flickering = [np.clip(frame * gain, 0, 255).astype(np.uint8) for frame, gain in zip(frames, gains, strict=True)]
    found = measure_quality(flickering, 25.0, sound)
    assert found.flicker_percent > 2 > 10 * good.flicker_percent
    assert any("flickers" in sentence for sentence in found.falls_short)


@pytest.mark.slow
def test_a_mouth_that_is_open_where_nobody_speaks_is_seen(spoken: tuple[list[Frame], Sound], good: Quality) -> None:
    frames, sound = spoken
    silent = Sound(sound.waveform.copy(), sound.sample_rate)
    middle = sound.waveform.shape[1] // 3
    silent.waveform[:, middle : 2 * middle] = 0  # where the mouth goes on speaking
    silent.waveform[:, 2 * middle :] = sound.waveform[:, : sound.waveform.shape[1] - 2 * middle]
    found = measure_quality(frames, 25.0, silent)
    assert found.open_in_silence is not None and good.open_in_silence is not None
    assert found.open_in_silence > good.open_in_silence + 0.1


@pytest.mark.slow
def test_frames_without_a_face_are_counted_and_named(spoken: tuple[list[Frame], Sound]) -> None:
    frames, sound = spoken
    grey = np.full_like(frames[0], 127)
    found = measure_quality([*frames[:30], *[grey] * 12, *frames[42:]], 25.0, sound)
    assert 12 <= found.face_lost_frames <= 12 + LONGEST_PAUSE
    assert f"No face is seen in {found.face_lost_frames} of 75 frames." in found.falls_short


@pytest.mark.slow
def test_nothing_is_said_of_a_sync_that_cannot_be_known(spoken: tuple[list[Frame], Sound]) -> None:
    frames, _ = spoken
    for sound in (None, Sound(np.zeros((1, 48000), np.float32), 16000)):
        found = measure_quality(frames, 25.0, sound)
        assert found.sync_offset_ms is None and not found.sync_is_sure
        assert not any("sound" in sentence or "speech" in sentence for sentence in found.falls_short)
    assert measure_quality(frames[:1], 25.0, None).frames == 1


def varying(path: Path, times: list[float], sizes: list[int]) -> None:
    """A video whose frames begin at these times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = sizes[0]
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, (time, size) in enumerate(zip(times, sizes, strict=True)):
            frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), 20 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_frames_of_a_varying_rate_come_at_a_constant_one(tmp_path: Path) -> None:
    varying(tmp_path / "a.mkv", [0.0, 0.04, 0.08, 0.28, 0.32], [64] * 5)
    video = open_video(tmp_path / "a.mkv")
    levels = [round(frame.mean() / 20) for frame in video.frames()]
    assert abs(len(levels) / video.fps - 0.36) < 0.1
    held = levels.count(2) / video.fps
    assert levels == sorted(levels) and abs(held - 0.2) < 0.1


def refused(path: Path) -> Iterator[str]:
    with pytest.raises(BadVideo) as caught:
        list(open_video(path).frames())
    yield str(caught.value)


@pytest.mark.parametrize("what", ["missing", "empty", "text", "sound only"])
def test_what_is_no_video_is_named_in_one_sentence(what: str, tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    if what == "sound only":
        path = ROOT / "tests" / "data" / "voice.wav"
    elif what != "missing":
        path.write_bytes(b"" if what == "empty" else b"no video\n" * 100)
    (sentence,) = refused(path)
    assert path.name in sentence and "\n" not in sentence


@pytest.mark.slow
def test_the_command_prints_what_it_finds_and_its_status_says_whether_it_is_enough(
    spoken: tuple[list[Frame], Sound], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, sound = spoken
    good, bad = tmp_path / "good.mp4", tmp_path / "bad.mp4"
    write_mp4(good, frames, 25.0, sound, {"sonic": json.dumps({"engine": "draft"})})
    write_mp4(bad, [np.full_like(frames[0], 90)] * 30, 25.0, sound)
    assert main(["check", str(good), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)[str(good)]
    assert report["engine"] == "draft" and report["frames"] == 75 and report["falls_short"] == []
    assert main(["check", str(bad)]) == 1
    assert "No face is seen in 30 of 30 frames." in capsys.readouterr().out
    assert main(["check", str(tmp_path / "none.mp4")]) != 0
    assert "is no longer there" in capsys.readouterr().err
