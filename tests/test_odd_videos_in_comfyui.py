"""Videos as nobody would wish them, through every node of post-processing in a real ComfyUI, and measured after."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from comfyui_sonic.command import main
from comfyui_sonic.sonic.audio import read_sound
from comfyui_sonic.sonic.engine import choose_engine, render
from comfyui_sonic.sonic.frames import Frame
from comfyui_sonic.sonic.options import InferenceOptions, PrepareOptions
from comfyui_sonic.sonic.portrait import read_picture
from comfyui_sonic.sonic.prepare import prepare
from comfyui_sonic.sonic.prepared import Sound
from PIL import Image

from .test_nodes_in_comfyui import PORTRAIT, VOICE, Graph, Server, readme_graph, server, unique

__all__ = ["server"]  # a fixture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

FPS, TARGET = 25, 30.0
COUNT = 56  # a little over two seconds, so that lip sync can be judged
RATE = 16000


@dataclass(frozen=True)
class Made:
    """A clip with the moment in seconds at which each frame begins."""

    frames: Sequence[Frame]
    times: Sequence[float]
    sound: Sound


@pytest.fixture(scope="module")
def spoken() -> Made:
    """The draft engine's clip of a close-up, 256 pixels a side."""
    voice = read_sound(VOICE)
    options = PrepareOptions(duration_s=COUNT / FPS, min_resolution=256)
    prepared = prepare(read_picture(PORTRAIT), voice, options)
    clip = render(prepared, InferenceOptions(fps=FPS), choose_engine("draft", []))
    frames = list(clip.frames())
    return Made(frames, [index / FPS for index in range(len(frames))], prepared.sound)


def without_a_face_in_the_middle(clip: Made) -> Made:
    frames = [*clip.frames[:20], *[np.full_like(clip.frames[0], 127)] * 12, *clip.frames[32:]]
    return Made(frames, clip.times, clip.sound)


def with_music(clip: Made) -> Made:
    moments = np.arange(round(len(clip.frames) / FPS * RATE)) / RATE
    notes = 220 * 2 ** (np.random.default_rng(0).integers(0, 12, 32)[(moments * 4).astype(int)] / 12)
    music = (0.2 * np.sin(2 * np.pi * np.cumsum(notes) / RATE)).astype(np.float32)
    return Made(clip.frames, clip.times, Sound(music[None], RATE))


def of_one_frame(clip: Made) -> Made:
    samples = clip.sound.sample_rate // FPS
    return Made(clip.frames[:1], [0.0], Sound(clip.sound.waveform[:, 4000 : 4000 + samples], clip.sound.sample_rate))


def of_an_odd_size(clip: Made) -> Made:
    return Made([cv2.resize(frame, (233, 251)) for frame in clip.frames], clip.times, clip.sound)


def write(path: Path, clip: Made) -> None:
    """Every pixel and every moment as they are."""
    with av.open(str(path), "w", format="matroska") as container:
        height, width = clip.frames[0].shape[:2]
        stream = container.add_stream("ffv1", rate=FPS, options={"level": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
        stream.codec_context.time_base = Fraction(1, 1000)
        track = container.add_stream("pcm_s16le", rate=clip.sound.sample_rate, layout="mono")
        for frame, time in zip(clip.frames, clip.times, strict=True):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        samples = np.clip(np.rint(clip.sound.waveform[:1] * 32767), -32768, 32767).astype(np.int16)
        sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="s16", layout="mono")
        sound.sample_rate = clip.sound.sample_rate
        container.mux(track.encode(sound))
        container.mux(track.encode(None))


def everything(name: str) -> Graph:
    """All that post-processing can do to a video."""
    return {
        "load": {"class_type": "LoadVideo", "inputs": {"file": name}},
        "parts": {"class_type": "GetVideoComponents", "inputs": {"video": ["load", 0]}},
        "post": {
            "class_type": "SONIC_PostProcess",
            "inputs": {
                "images": ["parts", 0],
                "audio": ["parts", 1],
                "fps": ["parts", 2],
                "temporal_smoothing": True,
                "lip_sync_correction": True,
                "smoothing_method": "both",
                "close_mouth_in_silence": True,
            },
        },
        "retimed": {
            "class_type": "SONIC_Interpolate",
            "inputs": {"images": ["post", 0], "fps": ["parts", 2], "target_fps": TARGET, "method": "flow"},
        },
        "save": saving(images=["retimed", 0], audio=["post", 1], fps=["retimed", 1]),
    }


def saving(**inputs: Any) -> dict[str, Any]:
    settings = {"filename_prefix": unique("odd"), "codec": "h264", "crf": -1}
    return {"class_type": "SONIC_SaveVideo", "inputs": {**settings, **inputs}}


def checked(capsys: pytest.CaptureFixture[str], *videos: Path) -> list[dict[str, Any]]:
    """What ``sonic-queue check`` says of each video."""
    assert main(["check", "--json", *map(str, videos)]) in (0, 1)
    return list(json.loads(capsys.readouterr().out).values())


CASES: dict[str, tuple[Callable[[Made], Made], str]] = {
    "no face in the middle": (without_a_face_in_the_middle, "The frames are smoothed in time"),
    "music without speech": (with_music, "cannot be told for sure"),
    "one frame": (of_one_frame, "cannot be told for sure"),
    "odd size": (of_an_odd_size, "the mouth is spared"),
}


@pytest.mark.parametrize("case", CASES)
async def test_every_node_takes_this_video_and_it_can_be_measured_before_and_after(
    server: Server, spoken: Made, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, said = CASES[case]
    clip = make(spoken)
    name = unique("odd.mkv")
    write(server.base / "input" / name, clip)
    outcome = await server.run(everything(name))
    assert outcome.error == ""
    assert any(said in line for line in outcome.outputs["post"]["text"]), outcome.outputs["post"]["text"]
    before, after = checked(capsys, server.base / "input" / name, server.saved(outcome))
    assert (before["frames"], after["frames"]) == (len(clip.frames), round(len(clip.frames) * TARGET / FPS))
    if case == "no face in the middle":
        assert before["face_lost_frames"] >= 12 and after["face_lost_frames"] >= 12
        assert all("No face is seen" in report["falls_short"][0] for report in (before, after))
    else:
        assert before["face_lost_frames"] == after["face_lost_frames"] == 0
    if case in ("music without speech", "one frame"):
        assert not before["sync_is_sure"] and not after["sync_is_sure"]
    if case == "odd size":
        with av.open(str(server.saved(outcome))) as container:
            assert (container.streams.video[0].width, container.streams.video[0].height) == (234, 252)


async def test_the_frames_of_a_varying_rate_keep_their_moments_in_the_saved_video(
    server: Server, spoken: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = [index for index in range(COUNT) if index < FPS or index % 7 == 0]
    bright = FPS + 10  # index from which on a corner is white
    frames = [spoken.frames[index].copy() for index in kept]
    for index, frame in zip(kept, frames, strict=True):
        frame[:32, :32] = 255 if index >= bright else 0
    name = unique("varying.mkv")
    write(server.base / "input" / name, Made(frames, [index / FPS for index in kept], spoken.sound))
    graph = {
        "load": {"class_type": "LoadVideo", "inputs": {"file": name}},
        "save": saving(video=["load", 0]),
    }
    outcome = await server.run(graph)
    assert outcome.error == ""
    with av.open(str(server.saved(outcome))) as container:
        shown = [(frame.time or 0.0, frame.to_ndarray(format="gray")) for frame in container.decode(video=0)]
    assert np.diff([time for time, _ in shown]) == pytest.approx(1 / FPS, abs=2e-3)
    assert min(time for time, frame in shown if frame[:28, :28].mean() > 120) == pytest.approx(bright / FPS, abs=0.05)
    before, after = checked(capsys, server.base / "input" / name, server.saved(outcome))
    assert before["seconds"] == after["seconds"] == pytest.approx((kept[-1] + 1) / FPS, abs=0.05)
    assert before["sync_offset_ms"] == pytest.approx(after["sync_offset_ms"], abs=20)


async def test_a_crop_goes_back_into_a_picture_that_is_smaller_than_it(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    small = unique("small.png")
    Image.open(PORTRAIT).convert("RGB").resize((141, 141)).save(server.base / "input" / small)
    tiny = unique("tiny.png")
    Image.new("RGB", (40, 30), (90, 110, 130)).save(server.base / "input" / tiny)
    graph = readme_graph(small, server.put(unique("voice.wav"), VOICE), 0.4)
    graph["prepare"]["inputs"]["crop"] = "crop to face"  # of some 80 pixels, made 256
    graph["tiny"] = {"class_type": "LoadImage", "inputs": {"image": tiny}}
    for name, inputs in (("whole", {}), ("behind", {"background": ["tiny", 0]})):
        graph[name] = {
            "class_type": "SONIC_Composite",
            "inputs": {"images": ["speak", 0], "preprocessed_data": ["prepare", 0], **inputs},
        }
        graph[f"save {name}"] = saving(images=[name, 0], codec="lossless")
    outcome = await server.run(graph)
    assert outcome.error == ""
    for name, size in (("whole", (141, 141)), ("behind", (40, 30))):
        with av.open(str(server.saved(outcome, f"save {name}"))) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == 10 and frames[0].shape[1::-1] == size
    (report,) = checked(capsys, server.saved(outcome, "save whole"))
    assert report["frames"] == 10 and report["face_lost_frames"] == 0
