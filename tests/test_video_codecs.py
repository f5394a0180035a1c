"""Each kind of video comes back with its frames, its time, its colours and its marks, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from comfyui_sonic.sonic import video_codecs
from comfyui_sonic.sonic.audio import read_sound
from comfyui_sonic.sonic.errors import BadSetting, BadVideo, CannotWrite
from comfyui_sonic.sonic.frames import Frame
from comfyui_sonic.sonic.prepared import Sound
from comfyui_sonic.sonic.video import write_mp4
from comfyui_sonic.sonic.video_codecs import CODEC_NAMES, Encoder, Output, VideoCodec, encoder_of, output_of
from comfyui_sonic.sonic.video_source import open_video

# name in the file, tag of the sample entry, pixel format, largest error of a flat colour
SEEN = {
    "h264": ("h264", "avc1", "yuv420p", 6),
    "hevc": ("hevc", "hvc1", "yuv420p", 8),
    "av1": ("av1", "av01", "yuv420p", 10),
    "lossless": ("h264", "avc1", "gbrp", 0),
}


@pytest.fixture(params=CODEC_NAMES)
def output(request: pytest.FixtureRequest) -> Output:
    try:
        return output_of(request.param)
    except BadSetting as error:
        pytest.skip(str(error))


def clip(count: int, height: int = 64, width: int = 96) -> list[Frame]:
    frames = []
    for index in range(count):
        frame = np.full((height, width, 3), (200, 60, 40), np.uint8)
        frame[:, width // 2 :] = (30, 90, 200)
        frame[:8, :8] = index * 7 % 256
        frames.append(frame)
    return frames


def tone(seconds: float, rate: int = 48000) -> Sound:
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return Sound(wave.astype(np.float32)[None], rate)


def decode(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


@pytest.mark.parametrize("fps", [25.0, 29.97])
def test_every_frame_comes_back_at_its_time_in_its_colours(tmp_path: Path, output: Output, fps: float) -> None:
    path, frames = tmp_path / "a.mp4", clip(31)
    assert write_mp4(path, frames, fps, tone(1.0), {"sonic": "{}"}, output=output) == 31
    name, tag, pix_fmt, error = SEEN[output.codec.name]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        sound = container.streams.audio[0]
        assert (stream.codec_context.name.removeprefix("lib").split("_")[0], pix_fmt) == (
            "dav1d" if name == "av1" and "dav1d" in stream.codec_context.name else name,
            stream.codec_context.pix_fmt,
        )
        assert stream.codec_context.codec_tag == tag
        assert float(stream.average_rate or 0) == pytest.approx(fps, abs=0.005)
        assert float((stream.duration or 0) * Fraction(stream.time_base or 0)) == pytest.approx(31 / fps, abs=2e-3)
        assert (sound.codec_context.name, sound.rate) == ("aac", 48000)
        assert container.metadata["sonic"] == "{}"
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")

    decoded = decode(path)
    assert [frame.time for frame in decoded] == pytest.approx([index / fps for index in range(31)], abs=1e-3)
    assert decoded[0].color_primaries == decoded[0].color_trc == 1
    assert decoded[0].colorspace == (0 if pix_fmt == "gbrp" else 1)
    pixels = decoded[15].to_ndarray(format="rgb24")
    np.testing.assert_allclose(pixels[40, [20, 80]].astype(int), frames[15][40, [20, 80]].astype(int), atol=error)


def test_lossless_gives_every_pixel_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (35, 51, 3)).astype(np.uint8) for _ in range(4)]
    write_mp4(tmp_path / "a.mp4", frames, 25, output=output_of("lossless"))
    for written, read in zip(frames, decode(tmp_path / "a.mp4"), strict=True):
        np.testing.assert_array_equal(read.to_ndarray(format="rgb24"), written)


def test_an_odd_size_and_a_single_frame_are_written(tmp_path: Path, output: Output) -> None:
    write_mp4(tmp_path / "a.mp4", clip(1, 67, 97), 25, output=output)
    (frame,) = decode(tmp_path / "a.mp4")
    assert (frame.height, frame.width) == ((68, 98) if output.codec.is_subsampled else (67, 97))


WRITE_SHORT_CLIPS = """
    import sys
    from pathlib import Path

    import numpy as np
    from comfyui_sonic.sonic.video import write_mp4
    from comfyui_sonic.sonic.video_codecs import output_of

    for count in (1, 2, 3):
        frames = [np.full((64, 96, 3), 80 * index, np.uint8) for index in range(count)]
        write_mp4(Path(sys.argv[1]) / f"{count}.mp4", frames, 10000, output=output_of("hevc"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="this system's memory comes as it is")
def test_what_lies_in_memory_decides_nothing_about_a_clip_of_one_or_two_pictures(tmp_path: Path) -> None:
    """glibc fills the memory that it hands out, so what libx265 does not set has a value that no MP4 can hold.

    At so high a rate that value reaches the container as it is; at others it may be too large for FFmpeg to scale it,
    which then sets another.
    """
    script = [sys.executable, "-c", textwrap.dedent(WRITE_SHORT_CLIPS), str(tmp_path)]
    filled = os.environ | {"MALLOC_PERTURB_": "90"}
    done = subprocess.run(script, env=filled, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for count in (1, 2, 3):
        times = [frame.time for frame in decode(tmp_path / f"{count}.mp4")]
        assert times == pytest.approx([0.0, 1e-4, 2e-4][:count], abs=1e-6)


def test_a_higher_crf_makes_a_smaller_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (64, 96, 3)).astype(np.uint8) for _ in range(5)]

    def size(name: str, crf: int) -> int:
        write_mp4(tmp_path / "a.mp4", frames, 25, output=output_of(name, crf))
        return (tmp_path / "a.mp4").stat().st_size

    for name in ("h264", "hevc", "av1"):
        assert size(name, 45) < 0.7 * size(name, 10)


def test_pictures_smaller_than_a_codec_takes_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="av1 takes pictures from 64 pixels a side, and these have 96 x 32"):
        write_mp4(tmp_path / "a.mp4", clip(2, 32, 96), 25, output=output_of("av1"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "crf", "words"),
    [
        ("prores", -1, "codec: 'prores' is none of h264, hevc, av1, lossless."),
        ("h264", 52, "crf: 52 is outside 0 to 51"),
        ("av1", -2, "crf: -2 is outside 0 to 63"),
        ("lossless", 18, "crf: lossless has no quality to choose"),
    ],
)
def test_a_wrong_choice_is_one_sentence(name: str, crf: int, words: str) -> None:
    with pytest.raises(BadSetting) as raised:
        output_of(name, crf)
    assert str(raised.value).startswith(words)


def test_the_first_encoder_that_is_there_is_taken_and_a_missing_one_is_named() -> None:
    there = VideoCodec("h264", (Encoder("libnowhere"), Encoder("libx264")), 18, 51)
    assert encoder_of(there).name == "libx264"
    nowhere = VideoCodec("av1", (Encoder("libnowhere"), Encoder("libneither")), 18, 51)
    with pytest.raises(BadSetting, match=r"av1 needs the encoder libnowhere or libneither, which PyAV .* not have"):
        encoder_of(nowhere)


def test_a_missing_encoder_is_found_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_codecs, "_ALL", (VideoCodec("hevc", (Encoder("libnowhere"),), 20, 51),))
    with pytest.raises(BadSetting, match="libnowhere"):
        output_of("hevc")


# ---- disks and folders ----------------------------------------------------------------------------------------------

WRITE_WITH_LITTLE_ROOM = """
    import resource, sys
    from pathlib import Path
    import numpy as np
    from comfyui_sonic.sonic.errors import CannotWrite
    from comfyui_sonic.sonic.prepared import Sound
    from comfyui_sonic.sonic.video import copy_mp4, write_mp4

    path, source = Path(sys.argv[1]), Path(sys.argv[2])
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (64, 64, 3)).astype(np.uint8) for _ in range(12)]
    sound = Sound(rng.standard_normal((1, 24000)).astype(np.float32) * 0.1, 48000)
    write_mp4(source, frames, 25, sound)
    whole = source.stat().st_size
    for room in (0, 100, whole // 3, whole - 2000, whole - 700, whole - 100, whole - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        for make in (lambda: write_mp4(path, frames, 25, sound), lambda: copy_mp4(source, path)):
            try:
                make()
                print(f"written with {room} of {whole} bytes")
            except CannotWrite as error:
                assert "cannot be written: File too large" in str(error), error
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole, resource.RLIM_INFINITY))
    write_mp4(path, frames, 25, sound)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs limits of a process")
def test_wherever_the_room_ends_nothing_is_left_and_it_is_said(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    script = [sys.executable, "-c", textwrap.dedent(WRITE_WITH_LITTLE_ROOM), str(place / "a.mp4")]
    done = subprocess.run([*script, str(tmp_path / "source.mp4")], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert [path.name for path in place.iterdir()] == ["a.mp4"]  # of the last one, which had room
    assert len(decode(place / "a.mp4")) == 12


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KB; only where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_said_with_what_to_do_and_left_as_it_was(small_disk: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (128, 128, 3)).astype(np.uint8) for _ in range(25)]
    with pytest.raises(CannotWrite, match="No space left on device; free some space on that disk"):
        write_mp4(small_disk / "a.mp4", noise, 25)
    assert list(small_disk.iterdir()) == []


def test_a_name_that_is_taken_by_a_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(CannotWrite, match=r"a.mp4' cannot be written: Is a directory"):
        write_mp4(tmp_path / "a.mp4", clip(2), 25)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user who is not root")
def test_a_folder_that_is_not_writable_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CannotWrite, match="Permission denied; let the user that ComfyUI runs as write there"):
        write_mp4(tmp_path / "a.mp4", clip(2), 25)


def test_a_seal_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_mp4(tmp_path / "a.mp4", clip(2), 25, seal=fail)
    assert list(tmp_path.iterdir()) == []


# ---- reading it again -----------------------------------------------------------------------------------------------


def test_a_video_is_read_frame_by_frame_with_its_sound_and_what_was_written_into_it(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_mp4(path, clip(13), 29.97, tone(0.4), {"AIGC": json.dumps({"Label": "1"})})
    video = open_video(path)
    assert (video.width, video.height, video.count, video.is_plain, video.is_turned) == (96, 64, 13, True, False)
    assert video.fps == pytest.approx(29.97, abs=0.005)
    assert dict(video.metadata) == {"AIGC": '{"Label": "1"}'}
    assert sum(1 for frame in video.frames() if frame.shape == (64, 96, 3)) == 13
    sound = video.sound()
    assert sound is not None and sound.seconds == pytest.approx(read_sound(path).seconds)


def test_only_what_the_nodes_write_counts_as_plain(tmp_path: Path) -> None:
    for name, plain in (("h264", True), ("hevc", False), ("lossless", False)):
        write_mp4(tmp_path / "a.mp4", clip(2), 25, output=output_of(name))
        assert open_video(tmp_path / "a.mp4").is_plain is plain
    assert open_video(tmp_path / "a.mp4").sound() is None


def test_what_is_no_video_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadVideo, match="no longer there"):
        open_video(tmp_path / "gone.mp4")
    (tmp_path / "text.mp4").write_text("hello" * 99)
    with pytest.raises(BadVideo, match="is no video that can be read"):
        open_video(tmp_path / "text.mp4")
    voice = Path(__file__).parent / "data" / "voice.wav"
    with pytest.raises(BadVideo, match="holds no pictures"):
        open_video(voice)


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system knows no such scheduling")
def test_no_encoder_puts_this_process_before_all_others(output: Output, tmp_path: Path) -> None:
    def watched() -> Iterator[Frame]:
        for frame in clip(4):
            threads = [int(task.name) for task in Path("/proc/self/task").iterdir()]
            assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_OTHER}
            yield frame

    write_mp4(tmp_path / "a.mp4", watched(), 25.0, output=output)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
