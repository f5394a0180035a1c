"""``sonic-queue run --local``: one video by the engine draft in this process, with a moving line."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from .errors import BadSetting, EngineUnavailable
from .one_video import Wanted, make_video
from .options import InferenceOptions, PrepareOptions

OF_THE_QUEUE = ("priority", "workflow", "callback", "consent_id")


def run_here(arguments: argparse.Namespace) -> int:
    """Make the video that the arguments of ``run`` ask for. Raises SonicError."""
    if arguments.engine == "sonic":
        raise EngineUnavailable(
            "The engine 'sonic' runs inside ComfyUI only; name one that has Sonic's files with --comfyui DIR (or "
            "COMFYUI_PATH), leave --local out and give the queue of one (--url), or choose --engine draft."
        )
    for name in OF_THE_QUEUE:
        if getattr(arguments, name):
            raise BadSetting(f"--{name.replace('_', '-')}", "belongs to a job in the queue; leave it or --local out.")
    audio = Path(arguments.audio)
    output = Path(arguments.output) if arguments.output else audio.with_suffix(".mp4")
    started = time.monotonic()
    # Where nothing moves there is no need to draw it.
    console = Console(stderr=True, markup=False, highlight=False)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        line = progress.add_task(output.name, total=None)
        report = make_video(
            Path(arguments.image),
            audio,
            output,
            _wanted(arguments),
            lambda done, total: progress.update(line, completed=done, total=total),
        )
    seconds = round(time.monotonic() - started, 1)
    if arguments.json:
        told = {"output_path": str(output.absolute()), "wall_seconds": seconds, **report}
        sys.stdout.write(json.dumps(told, ensure_ascii=False) + "\n")
    else:
        said = f"{report['seconds']:g} s of video by the engine {report['engine']} in {seconds:g} s."
        sys.stdout.write("\n".join([*report["notes"], said, str(output.absolute()), ""]))
    return 0


def _wanted(arguments: argparse.Namespace) -> Wanted:
    def said(**names: str) -> dict[str, object]:
        values = {field: getattr(arguments, name) for field, name in names.items()}
        return {field: value for field, value in values.items() if value is not None}

    preparing = said(duration_s="duration", min_resolution="resolution", expand_ratio="expand_ratio")
    drawing = said(inference_steps="steps", dynamic_scale="dynamic_scale", motion_scale="motion_scale", seed="seed")
    return Wanted(
        PrepareOptions(**preparing),  # type: ignore[arg-type]  # argparse has made them numbers
        InferenceOptions(engine="draft", **drawing),  # type: ignore[arg-type]
        smooth=bool(arguments.smooth),
        correct_lip=bool(arguments.correct_lip),
    )
