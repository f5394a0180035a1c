"""``sonic-queue run``: one picture and one recording become one video, through the queue; Ctrl-C cancels it."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from ..console import JobsDisplay, console_for, print_json
from ..errors import BadJob, QueueUnavailable
from ..execution.unserved import Unserved
from ..job import CLASS_OF, JobRecord, new_job_id
from ..pipelines.templates import Template
from ..queue.queue_view import QueueView
from ..queue.store import Store
from ..states import State
from ..tracing import Span
from .one_job import as_address, followed, result_of, submission_of

FLAGS: Mapping[str, tuple[Any, str]] = {
    "duration": (float, "seconds of the recording to use (default: all)"),
    "resolution": (int, "short side of the video in pixels (default: 512)"),
    "steps": (int, "denoising steps of the engine sonic (default: 25)"),
    "dynamic_scale": (float, "how far the mouth moves (default: 1.1)"),
    "motion_scale": (float, "how much the head moves (default: 1.05)"),
    "expand_ratio": (float, "margin around the face when the picture is cropped to it (default: 0.18)"),
    "seed": (int, "the same seed gives the same video"),
}
SWITCHES: Mapping[str, str] = {
    "smooth": "take flicker out of the frames",
    "correct_lip": "move the sound where the mouth runs ahead or behind",
}
PARAMETERS = (*FLAGS, *SWITCHES, "engine")
CANCEL_S = 10.0


def add_run_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the command line. common: the options that all commands share."""
    run = commands.add_parser("run", parents=[common], help="one picture and one recording into one video; waits")
    run.add_argument("--image", required=True, help="a picture with a face")
    run.add_argument("--audio", required=True, help="a recording")
    run.add_argument("--output", default="", help="the MP4 (default: beside the recording)")
    for name, (kind, meaning) in FLAGS.items():
        run.add_argument(*_spellings(name), dest=name, type=kind, help=meaning)
    for name, meaning in SWITCHES.items():
        run.add_argument(*_spellings(name), dest=name, type=_switch, nargs="?", const=True, help=meaning)
        run.add_argument(*_spellings(f"no_{name}"), dest=name, action="store_false", default=None, help="do not")
    run.add_argument("--engine", choices=["auto", "sonic", "draft"])
    run.add_argument("--priority", choices=sorted(CLASS_OF))
    run.add_argument("--workflow", help="job template")
    run.add_argument("--callback", metavar="URL", help="is told of the end (docs/webhooks.md)")
    run.add_argument("--consent-id", metavar="ID", help="where the consent of the person shown is found")
    run.add_argument(
        "--local", action="store_true", help="in this process, by the engine draft: no queue, no Redis, no ComfyUI"
    )
    run.add_argument(
        "--comfyui", type=Path, metavar="DIR",
        help="with --local: by a ComfyUI that is started for this video (default for --engine sonic: COMFYUI_PATH)",
    )  # fmt: skip
    run.add_argument("--models", type=Path, metavar="DIR", help="that ComfyUI's models (default: its own)")


def _spellings(name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")))


def _switch(text: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"'{text}' is not true or false")
    return words[text.lower()]


def check_files(arguments: argparse.Namespace) -> None:
    """Raises BadJob for a file that is not there, before anybody waits for it."""
    for name in ("comfyui", "models"):
        if getattr(arguments, name) and not arguments.local:
            raise BadJob(f"--{name}", "belongs to --local; the servers of a queue are there already.")
    if arguments.models and not arguments.models.is_dir():
        raise BadJob("--models", f"there is no folder '{arguments.models}'.")
    for name in ("image", "audio"):
        path = str(getattr(arguments, name))
        if "://" not in path and not Path(path).is_file():
            raise BadJob(f"--{name}", f"there is no file '{path}'.")


async def run_one(
    arguments: argparse.Namespace, store: Store, view: QueueView, templates: Mapping[str, Template], span: Span
) -> int:
    """Submit, show the progress, wait; raises VideoNotMade when there is no video in the end.

    span: of the command, below which the job's are.
    """
    check_files(arguments)
    console = console_for(sys.stderr if arguments.json else None)
    names = (*PARAMETERS, "priority", "workflow", "callback", "consent_id")
    options = {name: getattr(arguments, name) for name in names} | {"traceparent": span.traceparent}
    output = as_address(arguments.output) if arguments.output else ""
    one, warnings = submission_of(new_job_id(), arguments.image, arguments.audio, output, options, templates)
    for warning in warnings:
        console.print(warning)
    task_id, record = one.spec.task_id, None
    looking = asyncio.create_task(Unserved(view, console.print).run())
    try:
        with JobsDisplay(console) as display:
            display.add({task_id: one.spec.name})
            async for record in followed(one, store, view):
                display.update(record)
    except asyncio.CancelledError:
        # In a task of its own, since one that is being cancelled gets no answers any more.
        await asyncio.create_task(_cancel(store, task_id, console))
        raise
    finally:
        looking.cancel()
    return _tell(arguments, record, console)


async def _cancel(store: Store, task_id: str, console: Console) -> None:
    try:
        async with asyncio.timeout(CANCEL_S):
            answer = (await store.cancel([task_id]))[task_id]
    except (QueueUnavailable, TimeoutError):
        console.print(f"The job {task_id} could not be cancelled; do it with: sonic-queue cancel {task_id}")
    else:
        if answer in ("cancelled", "cancelling"):
            console.print(f"The job {task_id} is cancelled.")


def _tell(arguments: argparse.Namespace, record: JobRecord | None, console: Console) -> int:
    if arguments.json and record is not None:
        print_json(record.to_dict())
        return 0 if record.state is State.COMPLETED else 1
    result = result_of(record)
    for warning in result.get("warnings", ()):
        console.print(str(warning))
    console.print(f"{result['output_path']}")
    return 0
