"""Makes a video of every pair in a folder with one ComfyUI server, and says what became of each.

    python -m comfyui_sonic.queue_bridge.run_folder --comfyui DIR --base-directory DIR FOLDER

Exit status: 0 when every usable pair became a video and there was at least one; what cannot be used (an unpaired
file, a picture that is none) is reported and does not count. 1 when a usable pair failed or nothing was made, 2 for a
wrong argument, 130 after Ctrl-C and 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import kept_server
from .comfy_client import ComfyClient, Graph, Progress, PromptResult
from .console import JobLine, table
from .errors import BridgeError, InstanceError, PromptFailed, PromptRejected
from .instance import Instance, install_pack
from .pairing import Pair, Pairing, pair_folder

PACK = Path(__file__).resolve().parent.parent
TEMPLATE = PACK / "workflows" / "api" / "portrait_speaks.json"
OUR_NODES = ("SONIC_LoadPortrait", "SONIC_LoadVoice", "SONIC_PreData", "SONIC_Inference")
# How long the nodes of the template take beside each other, for a progress that moves evenly.
WEIGHTS = {"SONIC_LoadPortrait": 2.0, "SONIC_LoadVoice": 1.0, "SONIC_PreData": 7.0, "SONIC_Inference": 85.0}

Outcome = Literal["made", "skipped", "failed"]


@dataclass(frozen=True)
class Row:
    """What became of one pair or file. file: the video, or what was skipped. notes: sentences."""

    file: str
    outcome: Outcome
    video_seconds: float | None = None
    wall_seconds: float | None = None
    engine: str = ""
    notes: str = ""


def fill_template(template: Graph, portrait: str, voice: str, prefix: str) -> dict[str, Any]:
    """The graph of one pair; ``portrait`` and ``voice`` are names in ComfyUI's input folder."""
    graph: dict[str, Any] = json.loads(json.dumps(template))
    graph["portrait"]["inputs"]["image"] = portrait
    graph["voice"]["inputs"]["audio"] = voice
    graph["save"]["inputs"]["filename_prefix"] = prefix
    return graph


async def run_pairs(address: str, pairing: Pairing, output: Path, *, run_id: str | None = None) -> list[Row]:
    """Make the videos of all pairs one after the other on the server at ``address``; returns a row for each file."""
    run_id = run_id or f"sonic/{uuid.uuid4().hex}"
    template = json.loads(TEMPLATE.read_text(encoding="utf-8"))
    rows = []
    async with ComfyClient(address) as client:
        missing = sorted(set(OUR_NODES) - set(await client.node_types(*OUR_NODES)))
        if missing:
            raise InstanceError(f"The ComfyUI at {address} did not load this pack ({', '.join(missing)} missing).")
        for number, pair in enumerate(pairing.pairs, 1):
            line = JobLine(f"[{number}/{len(pairing.pairs)}] {pair.name}")
            row = await _run_pair(client, template, pair, output, f"{run_id}/{number}", line)
            rows.append(row)
            line.end(f"done in {row.wall_seconds:.1f} s" if row.outcome == "made" else f"{row.outcome}: {row.notes}")
    return rows + [Row(item.path.name, "skipped", notes=item.reason) for item in pairing.left_out]


async def _run_pair(
    client: ComfyClient, template: Graph, pair: Pair, output: Path, job_folder: str, line: JobLine
) -> Row:
    started = time.monotonic()
    place = output / f"{pair.name}.mp4"
    names = f"{pair.portrait.name} + {pair.voice.name}"

    def show(progress: Progress) -> None:
        steps = f" {progress.value:.0f}/{progress.total:.0f}" if progress.total > 1 else ""
        line.show(progress.fraction, progress.stage + steps)

    try:
        line.show(0.0, "Upload")
        # One folder for the pictures of a run, so that ComfyUI keeps a portrait that several voices share.
        run_folder = job_folder.rpartition("/")[0]
        portrait = await client.upload(pair.portrait, subfolder=run_folder)
        voice = await client.upload(pair.voice, subfolder=run_folder)
        graph = fill_template(template, portrait, voice, job_folder)
        result = await client.run(graph, on_progress=show, weights=WEIGHTS)
        files = result.files()
        if not files:
            return Row(names, "failed", notes="ComfyUI finished without a video.")
        await client.download(files[-1], place)
    except (PromptRejected, PromptFailed) as error:
        return Row(names, "skipped" if error.bad_input else "failed", notes=str(error))
    except BridgeError as error:
        return Row(names, "failed", notes=str(error))
    report = engine_report(result)
    here = Path.cwd()
    return Row(
        str(place.relative_to(here) if place.is_relative_to(here) else place),
        "made",
        video_seconds=report.get("seconds"),
        wall_seconds=time.monotonic() - started,
        engine=str(report.get("engine", "")),
        notes=" ".join(report.get("notes", ())),
    )


def engine_report(result: PromptResult) -> dict[str, Any]:
    """What SONIC_Inference told the UI about its work; empty when it told nothing."""
    for output in result.outputs.values():
        for entry in output.get("sonic", ()):
            if isinstance(entry, dict):
                return entry
    return {}


def summary(rows: Sequence[Row]) -> str:
    """The closing table and one line of counts."""

    def seconds(value: float | None) -> str:
        return "" if value is None else f"{value:.1f}"

    heads = ("file", "result", "video s", "wall s", "engine", "notes")
    cells = [
        (row.file, row.outcome, seconds(row.video_seconds), seconds(row.wall_seconds), row.engine, row.notes)
        for row in rows
    ]
    counts = {outcome: sum(row.outcome == outcome for row in rows) for outcome in ("made", "skipped", "failed")}
    return table(heads, cells) + "\n\n" + ", ".join(f"{count} {outcome}" for outcome, count in counts.items())


def exit_status(rows: Sequence[Row]) -> int:
    """0 when something was made and nothing usable failed."""
    outcomes = [row.outcome for row in rows]
    return 0 if "made" in outcomes and "failed" not in outcomes else 1


@contextlib.contextmanager
def serving(instance: Instance, *, keep: bool) -> Iterator[str]:
    """A server for the time of the block: one that was kept up, or a new one that ends with it unless it is kept."""
    running = kept_server.running_server(instance.base_directory)
    if running:
        if not running.kept:
            raise InstanceError(f"Another run is using '{instance.base_directory}'; wait for it to end.")
        yield running.address
        return
    install_pack(PACK, instance.base_directory / "custom_nodes")
    done = False
    try:
        instance.start()
        kept_server.remember(instance, kept=keep)
        instance.wait_until_ready()
        yield instance.address
        done = True
    finally:
        if not (done and keep):
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave the server behind
            instance.stop()
            kept_server.forget(instance.base_directory)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_folder", description="Make a video of every pair in a folder.")
    parser.add_argument("folder", type=Path, nargs="?", help="a folder of pictures and recordings")
    parser.add_argument("--output", type=Path, default=Path("output"), help="where the MP4s go")
    parser.add_argument("--comfyui", type=Path, help="the folder with ComfyUI's main.py")
    parser.add_argument("--base-directory", type=Path, required=True, help="a folder of its own for the server")
    parser.add_argument("--port", type=int, default=0, help="the server's port; 0 takes a free one")
    parser.add_argument("--keep", action="store_true", help="leave the server up")
    parser.add_argument("--stop", action="store_true", help="only stop a server that was left up")
    parser.add_argument("--stop-command", default="", help=argparse.SUPPRESS)  # what a person types to stop it
    arguments = parser.parse_args(argv)
    if not arguments.stop and not (arguments.folder and arguments.comfyui):
        parser.error("a folder and --comfyui are needed")
    return arguments


def _run(arguments: argparse.Namespace) -> int:
    if arguments.stop:
        stopped = kept_server.stop_running(arguments.base_directory)
        _say(f"The ComfyUI at {stopped.address} has ended." if stopped else "No ComfyUI was left up here.")
        return 0
    pairing = pair_folder(arguments.folder)
    if not pairing.pairs:
        rows = [Row(item.path.name, "skipped", notes=item.reason) for item in pairing.left_out]
        _say((summary(rows) + "\n" if rows else "") + f"There is no pair to make a video of in '{arguments.folder}'.")
        return 1
    instance = Instance(arguments.comfyui, arguments.base_directory, port=arguments.port, outlives_us=arguments.keep)
    run_id = f"sonic/{uuid.uuid4().hex}"
    started = time.monotonic()
    _say("Starting ComfyUI ...")
    try:
        with serving(instance, keep=arguments.keep) as address:
            _say(f"ComfyUI answers at http://{address} after {time.monotonic() - started:.1f} s.")
            rows = asyncio.run(run_pairs(address, pairing, arguments.output, run_id=run_id))
            _say("\n" + summary(rows))
            if arguments.keep:
                _say(f"\nComfyUI stays up at http://{address}. Stop it with: {arguments.stop_command or '--stop'}")
    finally:
        for folder in (instance.input_directory, instance.output_directory):
            shutil.rmtree(folder / run_id, ignore_errors=True)
    return exit_status(rows)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = _arguments(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    received = []

    def end(number: int, _frame: object) -> None:
        received.append(number)
        signal.raise_signal(signal.SIGINT)

    # Started in the background of a shell, SIGINT would be ignored; SIGTERM is to tidy up as Ctrl-C does.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, end)
    try:
        return _run(arguments)
    except BridgeError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("\nStopped.")
        return 128 + (received[0] if received else signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
