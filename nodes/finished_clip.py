"""The end of every graph that makes a clip: frames become a video while they are made, and it says what made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io

from ..sonic.engine import EngineChoice
from ..sonic.frames import FrameSource
from ..sonic.labels import aigc_mark
from ..sonic.prepared import PreparedData
from ..sonic.video import write_mp4
from .frame_tensor import FrameTensor
from .marks import producer_or_set
from .progress import FrameProgress, raise_if_interrupted
from .rendered_video import RenderedVideo, new_temp_video
from .sockets import audio_of


def clip_outputs() -> list[io.Output]:
    """The outputs of a node that ends with `finished`."""
    return [
        io.Image.Output(display_name="images", tooltip="All frames; they are made when they are read."),
        io.Audio.Output(display_name="audio", tooltip="The part of the sound that is spoken, as it was."),
        io.Float.Output(display_name="fps"),
        io.Video.Output(display_name="video", tooltip="The finished video with its sound, for Save Video."),
    ]


def finished(
    source: FrameSource,
    prepared: PreparedData,
    fps: float,
    choice: EngineChoice,
    settings: Mapping[str, Any],
    progress: FrameProgress,
) -> io.NodeOutput:
    """Makes all frames and the video of them. settings: are kept in the video's metadata beside the report."""
    report = {
        "engine": choice.name,
        "reason": choice.reason,
        "frames": source.count,
        "fps": fps,
        "seconds": round(prepared.seconds, 3),
        "notes": list(prepared.notes),
    }
    path = new_temp_video()
    metadata = {
        "sonic": json.dumps({**report, "settings": dict(settings)}, ensure_ascii=False),
        **aigc_mark(producer_or_set()),
    }
    write_mp4(path, source.frames(), fps, prepared.sound, metadata, progress)
    return io.NodeOutput(
        FrameTensor(source, raise_if_interrupted),
        audio_of(prepared.sound),
        fps,
        RenderedVideo(path),
        ui={"sonic": [report], "text": _lines(report)},
    )


def _lines(report: Mapping[str, Any]) -> list[str]:
    size = f"{report['frames']} frames at {report['fps']:g} frames a second, {report['seconds']:.2f} s of sound"
    return [f"Engine: {report['engine']}", report["reason"], size, *report["notes"]]
