"""The MP4 holds every frame and the whole sound, in step, and appears only when it is whole."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from comfyui_sonic.sonic.audio import read_sound, speech_for_models
from comfyui_sonic.sonic.errors import CannotWrite
from comfyui_sonic.sonic.frames import Frame, frame_count
from comfyui_sonic.sonic.prepared import Sound
from comfyui_sonic.sonic.video import copy_mp4, encoder_rate, write_mp4


def moving_bar(count: int, height: int = 64, width: int = 96) -> Iterator[Frame]:
    for index in range(count):
        frame = np.full((height, width, 3), (30, 120, 200), np.uint8)
        frame[:, (index * 2) % width : (index * 2) % width + 8] = (220, 60, 40)
        yield frame


def speech_like(seconds: float, rate: int, channels: int = 1) -> Sound:
    """Noise below 2 kHz that comes and goes: survives AAC, and shows any shift."""
    rng = np.random.default_rng(7)
    slow = np.interp(
        np.arange(round(seconds * rate)) / rate,
        np.arange(0, seconds + 1, 1 / 4000),
        rng.standard_normal(len(np.arange(0, seconds + 1, 1 / 4000))),
    )
    loud = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * np.arange(len(slow)) / rate)
    return Sound(np.repeat((0.15 * slow * loud).astype(np.float32)[None], channels, axis=0), rate)


def decode(path: Path) -> tuple[list[av.VideoFrame], dict[str, str]]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0)), dict(container.metadata)


def track_seconds(path: Path) -> dict[str, float]:
    with av.open(str(path)) as container:
        return {stream.type: float(stream.duration * stream.time_base) for stream in container.streams}


@pytest.mark.parametrize(
    ("seconds", "rate", "channels", "fps"),
    [
        (0.1, 16000, 1, 25.0),
        (1.03, 8000, 2, 25.0),
        (2.345, 22050, 1, 25.0),
        (1.51, 44100, 1, 29.97),
        (1.0, 48000, 2, 12.5),
        (0.77, 96000, 1, 60.0),
        (1.2, 48000, 6, 25.0),
        (0.9, 11111, 1, 23.976),
    ],
)
def test_the_video_covers_the_sound_which_is_whole_and_in_step(
    tmp_path: Path, seconds: float, rate: int, channels: int, fps: float
) -> None:
    sound = speech_like(seconds, rate, channels)
    count = frame_count(sound.seconds, fps)
    path = tmp_path / "out 中文 🙂.mp4"
    assert write_mp4(path, moving_bar(count), fps, sound) == count

    frames, _ = decode(path)
    assert len(frames) == count
    assert [frame.time for frame in frames] == pytest.approx([index / fps for index in range(count)], abs=1e-3)
    lasts = track_seconds(path)
    assert lasts["video"] == pytest.approx(count / fps, abs=2e-3)
    assert sound.seconds - 1e-3 <= lasts["audio"] <= sound.seconds + 1 / fps

    heard, said = speech_for_models(read_sound(path)), speech_for_models(sound)
    assert len(heard) >= len(said) - 16
    common = min(len(heard), len(said)) - 64
    assert np.corrcoef(heard[:common], said[:common])[0, 1] > 0.98
    tail = slice(common - 400, common)
    assert np.corrcoef(heard[tail], said[tail])[0, 1] > 0.9


def test_colours_survive(tmp_path: Path) -> None:
    frame = np.zeros((64, 96, 3), np.uint8)
    colours = np.array(
        [(230, 30, 30), (30, 200, 60), (20, 40, 220), (224, 172, 150), (250, 250, 250), (5, 5, 5)], np.uint8
    )
    for index, colour in enumerate(colours):
        frame[:, index * 16 : index * 16 + 16] = colour
    write_mp4(tmp_path / "a.mp4", [frame] * 5, 25)
    decoded = decode(tmp_path / "a.mp4")[0][2].to_ndarray(format="rgb24")
    np.testing.assert_allclose(decoded[32, 8::16].astype(int), colours.astype(int), atol=6)


def test_an_odd_side_grows_by_one_repeated_row(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", moving_bar(3, height=33, width=65), 25)
    assert (decode(tmp_path / "a.mp4")[0][0].height, decode(tmp_path / "a.mp4")[0][0].width) == (34, 66)


def test_metadata_of_any_name_is_kept_and_the_index_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_mp4(path, moving_bar(3), 25, metadata={"sonic": '{"engine": "draft"}', "注": "说明"})
    metadata = decode(path)[1]
    assert metadata["sonic"] == '{"engine": "draft"}' and metadata["注"] == "说明"
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_a_copy_keeps_pictures_and_sound_bit_for_bit_and_adds_metadata(tmp_path: Path) -> None:
    source, target = tmp_path / "a.mp4", tmp_path / "b.mp4"
    write_mp4(source, moving_bar(26), 25, speech_like(1.03, 8000), {"sonic": "1", "same": "old"})
    copy_mp4(source, target, {"prompt": "{}", "same": "new"})
    (old, _), (new, metadata) = decode(source), decode(target)
    assert all((a.to_ndarray() == b.to_ndarray()).all() and a.time == b.time for a, b in zip(old, new, strict=True))
    np.testing.assert_array_equal(read_sound(source).waveform, read_sound(target).waveform)
    assert (metadata["sonic"], metadata["prompt"], metadata["same"]) == ("1", "{}", "new")
    assert track_seconds(source) == track_seconds(target)


def test_a_copy_of_a_video_that_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="no longer there"):
        copy_mp4(tmp_path / "gone.mp4", tmp_path / "b.mp4")
    assert list(tmp_path.iterdir()) == []


def test_each_frame_is_told_in_order(tmp_path: Path) -> None:
    told: list[int] = []
    write_mp4(tmp_path / "a.mp4", moving_bar(7), 25, on_frame=lambda index, frame: told.append(index))
    assert told == list(range(7))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_or_an_error_leaves_nothing_behind_and_an_older_video_as_it_was(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"older")

    def stop(index: int, frame: Frame) -> None:
        if index == 5:
            raise error

    with pytest.raises(error):
        write_mp4(path, moving_bar(100), 25, speech_like(4, 16000), on_frame=stop)
    assert os.listdir(tmp_path) == ["a.mp4"]  # noqa: PTH208
    assert path.read_bytes() == b"older"


def test_a_folder_that_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="cannot be written: No such file or directory"):
        write_mp4(tmp_path / "none" / "a.mp4", moving_bar(3), 25)


def test_no_frame_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="no frame"):
        write_mp4(tmp_path / "a.mp4", [], 25)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rate", "stored"), [(8000, 48000), (22050, 44100), (44100, 44100), (96000, 48000), (88200, 44100)]
)
def test_the_sound_is_stored_at_a_rate_that_players_know(rate: int, stored: int) -> None:
    assert encoder_rate(rate) == stored


def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    def peak(seconds: float) -> Any:
        sound = speech_like(seconds, 48000)
        tracemalloc.start()
        write_mp4(tmp_path / "a.mp4", moving_bar(round(seconds * 25)), 25, sound)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    assert peak(20) < peak(2) * 1.5
