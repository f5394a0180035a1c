"""One video in this very process: prepared, drawn by the engine draft, finished, written; without any ComfyUI."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .audio import read_sound, speech_for_models
from .engine import choose_engine, render
from .frames import Frame, FrameSource, frame_count
from .labels import aigc_mark
from .options import InferenceOptions, PrepareOptions
from .portrait import read_picture
from .prepare import prepare
from .prepared import Face, Sound
from .video import write_mp4

PRODUCER = "SONIC_AIGC_PRODUCER"
MEASURED_S = 15.0  # of a clip, for lip sync
OnFrame = Callable[[int, int], None]  # how many frames are written, of how many


@dataclass(frozen=True)
class Wanted:
    """What is asked for. smooth, correct_lip: are seldom needed, as what the draft draws neither flickers nor lags."""

    prepare: PrepareOptions = field(default_factory=PrepareOptions)
    inference: InferenceOptions = field(default_factory=lambda: InferenceOptions(engine="draft"))
    smooth: bool = False
    correct_lip: bool = False


def make_video(image: Path, audio: Path, output: Path, wanted: Wanted, on_frame: OnFrame) -> dict[str, Any]:
    """Make the MP4, whole or not at all, and say what was made. What ``on_frame`` raises ends it. Raises SonicError."""
    prepared = prepare(read_picture(image), read_sound(audio), wanted.prepare)
    options = wanted.inference
    choice = choose_engine(options.engine, ())
    source = render(prepared, options, choice)
    sound = prepared.sound
    if wanted.correct_lip:
        sound = _in_step(source, options.fps, sound)
    if wanted.smooth:
        source = _smoothed(source, options.fps, prepared.face)
    report = {
        "engine": choice.name,
        "reason": choice.reason,
        "frames": frame_count(prepared.seconds, options.fps),
        "fps": options.fps,
        "seconds": round(prepared.seconds, 3),
        "notes": list(prepared.notes),
    }
    about = json.dumps({**report, "settings": asdict(options)}, ensure_ascii=False)
    metadata = {"sonic": about, **aigc_mark(os.environ.get(PRODUCER, "").strip())}
    total = source.count
    output.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(output, source.frames(), options.fps, sound, metadata, lambda index, _: on_frame(index + 1, total))
    return report


def _in_step(source: FrameSource, fps: float, sound: Sound) -> Sound:
    from .postprocess.lip_sync import measure_sync, mouth_openings, possible_shift, shift_sound

    count = min(source.count, max(1, int(MEASURED_S * fps)))
    openings = mouth_openings(_first(source, count))
    wanted_s = measure_sync(openings, fps, speech_for_models(sound)).correction_s
    return shift_sound(sound, possible_shift(sound, wanted_s)) if wanted_s else sound


def _first(source: FrameSource, count: int) -> Iterator[Frame]:
    yield from source.frames(0, count)


def _smoothed(source: FrameSource, fps: float, face: Face | None) -> FrameSource:
    from .postprocess.smoothing import smooth

    return smooth(source, "light", fps, face)
