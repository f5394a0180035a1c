"""The end of every graph that makes a clip: frames become a video while they are made, and it says what made them.

Whoever reads the images makes the frames; whoever wants the video makes them, too. So the video is made here where the
graph goes on from it, which shows its progress on this node, and else only when somebody asks for it after all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..sonic.engine import EngineChoice
from ..sonic.frames import FrameSource
from ..sonic.labels import aigc_mark
from ..sonic.memory import sonic_memory
from ..sonic.prepared import PreparedData
from ..sonic.schedule import latent_frames
from ..sonic.video import write_mp4
from .frame_tensor import FrameTensor
from .marks import producer_or_set
from .progress import FrameProgress, raise_if_interrupted, told
from .rendered_video import RenderedVideo
from .sockets import audio_of


def clip_outputs() -> list[io.Output]:
    """The outputs of a node that ends with `finished`."""
    return [
        io.Image.Output(display_name="images", tooltip="All frames; they are made when they are read."),
        io.Audio.Output(display_name="audio", tooltip="The part of the sound that is spoken, as it was."),
        io.Float.Output(display_name="fps"),
        io.Video.Output(display_name="video", tooltip="The finished video with its sound, for Save Video."),
    ]


HIDDEN = [io.Hidden.unique_id, io.Hidden.prompt]  # of a node that ends with `finished`
_VIDEO = 3  # of the outputs


def finished(
    source: FrameSource,
    prepared: PreparedData,
    fps: float,
    choice: EngineChoice,
    settings: Mapping[str, Any],
    progress: FrameProgress,
    hidden: Any,
) -> io.NodeOutput:
    """The outputs of a clip. settings: are kept in the video's metadata beside the report. hidden: what HIDDEN gave."""
    report = {
        "engine": choice.name,
        "reason": choice.reason,
        "frames": source.count,
        "fps": fps,
        "seconds": round(prepared.seconds, 3),
        "notes": list(prepared.notes),
    }
    metadata = {
        "sonic": json.dumps({**report, "settings": dict(settings)}, ensure_ascii=False),
        **aigc_mark(producer_or_set()),
    }

    def render(path: Path, progress: FrameProgress) -> None:
        write_mp4(path, source.frames(), fps, prepared.sound, metadata, progress)

    video = RenderedVideo(lambda path: render(path, FrameProgress(source.count)))
    if _is_used(hidden.prompt, hidden.unique_id, _VIDEO):
        video.render(lambda path: render(path, progress))
    return io.NodeOutput(
        FrameTensor(source, raise_if_interrupted, metadata),
        audio_of(prepared.sound),
        fps,
        video,
        ui={"sonic": [report], **told(hidden.unique_id, _lines(report, choice, prepared))},
    )


def _is_used(prompt: Mapping[str, Any] | None, node_id: str | None, output: int) -> bool:
    """Whether a node of the prompt takes this output; True where that cannot be told."""
    if not prompt or node_id not in prompt:
        return True
    wire = [node_id, output]
    return any(wire in node.get("inputs", {}).values() for node in prompt.values())


def engine_lines(choice: EngineChoice, prepared: PreparedData) -> list[str]:
    """Which engine makes the clip, why, and what of a card's memory it takes."""
    height, width = prepared.picture.shape[:2]
    memory = "none"
    if choice.name == "sonic":
        memory = f"{sonic_memory(width, height, latent_frames(len(prepared.speech)))} + weights"
    return [f"Engine: {choice.name}", choice.reason, f"Memory of the card: {memory}."]


def _lines(report: Mapping[str, Any], choice: EngineChoice, prepared: PreparedData) -> list[str]:
    size = f"{report['frames']} frames at {report['fps']:g} frames a second, {report['seconds']:.2f} s of sound"
    return [*engine_lines(choice, prepared), size, *report["notes"]]
