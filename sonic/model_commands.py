"""The commands ``models`` and ``convert``: the files of the engine sonic, for whoever sets it up.

Exit status: 0 when all is well, 1 when a file is missing or wrong (``models``) or was not converted (``convert``).
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import MissingWeights, SonicError
from .model_files import SAFETENSORS, Conversion, FileState, as_size, convert, pytorch_files, survey, target_of
from .model_places import model_folders


def add_model_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Puts both commands onto a command line; each has its function as the default ``run``."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--comfyui", type=Path, metavar="DIR", help="the ComfyUI whose models are meant")
    common.add_argument(
        "--models", type=Path, action="append", default=[], metavar="DIR",
        help="a folder of models, with 'sonic' and 'checkpoints' in it; may be repeated "
        "(default: --comfyui, COMFYUI_PATH, or the ComfyUI that this pack is installed in)",
    )  # fmt: skip
    common.add_argument("--json", action="store_true", help="print JSON instead of text")

    models = commands.add_parser("models", parents=[common], help="the files that the engine sonic needs")
    models.set_defaults(run=show_models)

    converting = commands.add_parser("convert", parents=[common], help="Sonic's PyTorch files become safetensors")
    converting.add_argument("files", nargs="*", type=Path, metavar="FILE", help=".pth or .pkl (default: all there are)")
    converting.add_argument("--output", type=Path, metavar="DIR", help="where to (default: beside each file)")
    converting.add_argument("--again", action="store_true", help="replace what was converted before")
    converting.set_defaults(run=convert_files)


def main(argv: Sequence[str] | None = None) -> int:
    """Both commands without those of the queue, for a checkout that is not installed; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    parser = argparse.ArgumentParser(prog="python -m sonic", description="The files of the engine sonic.")
    add_model_commands(parser.add_subparsers(dest="command", required=True, metavar="COMMAND"))
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # ends us the same tidy way
    try:
        status: int = arguments.run(arguments)
    except SonicError as error:
        if arguments.json:
            _print_json({"error": str(error)})
        else:
            sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped.\n")
        return 128 + signal.SIGINT
    return status


# --- models ----------------------------------------------------------------------------------------------------------


def show_models(arguments: argparse.Namespace) -> int:
    """``models``: a line for each file that is needed, and what to do about those that are not right."""
    states = survey(model_folders(arguments.models, arguments.comfyui))
    if arguments.json:
        _print_json({"ready": all(s.usable for s in states), "files": [_as_json(s) for s in states]})
    else:
        _print(_table([("part", "state", "size", "expected", "file"), *(_row(state) for state in states)]))
        for state in states:
            for line in _advice(state):
                _print(line)
        _print(_sum(states))
    return 0 if all(state.usable for state in states) else 1


def _as_json(state: FileState) -> dict[str, object]:
    return {
        "part": state.part,
        "names": list(state.names),
        "belongs": str(state.belongs),
        "path": str(state.path) if state.path else None,
        "expected_bytes": list(state.expected_bytes),
        "found_bytes": state.found_bytes,
        "problem": state.problem,
        "elsewhere": str(state.elsewhere) if state.elsewhere else None,
        "usable": state.usable,
    }


def _row(state: FileState) -> tuple[str, ...]:
    word = "there" if state.usable else "wrong" if state.path else "missing"
    size = as_size(state.found_bytes) if state.path else "-"
    half, full = map(as_size, state.expected_bytes)
    return state.part, word, size, f"{half} or {full}", str(state.path or state.belongs)


def _advice(state: FileState) -> list[str]:
    if state.problem:
        return [f"{state.path} {state.problem}"]
    if state.elsewhere:
        return [f"{state.elsewhere} is where the engine does not look; move it to {state.belongs}."]
    return []


def _sum(states: Sequence[FileState]) -> str:
    bad = [state for state in states if not state.usable]
    if not bad:
        return "Everything that the engine sonic needs is there."
    verb = "is" if len(bad) == 1 else "are"
    return f"{len(bad)} of {len(states)} files {verb} missing or wrong; until then the engine 'draft' makes the videos."


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows]
    return "\n".join(lines)


# --- convert ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Progress:
    """Percent in a terminal, nothing elsewhere."""

    name: str

    def __call__(self, written: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if written == total else ""
            sys.stderr.write(f"\r{self.name}  {100 * written // total} %{end}")
            sys.stderr.flush()


def convert_files(arguments: argparse.Namespace) -> int:
    """``convert``: the named files, or all that are there and not converted yet."""
    for source in arguments.files or _to_convert(arguments):
        done = convert(source, arguments.output, again=arguments.again, on_written=_Progress(source.name))
        if arguments.json:
            _print_json(_conversion_as_json(done))
        else:
            _print(_conversion_line(done))
    return 0


def _to_convert(arguments: argparse.Namespace) -> list[Path]:
    folders = model_folders(arguments.models, arguments.comfyui)
    found = list(pytorch_files(folders).values())
    missing = [s.belongs for s in survey(folders) if s.path is None and s.belongs.suffix != SAFETENSORS]
    if not found and missing:
        raise MissingWeights("sonic", missing)
    waiting = [path for path in found if arguments.again or not target_of(path, arguments.output).exists()]
    for path in found:
        if path not in waiting and not arguments.json:
            _print(f"{path}: converted before, to {target_of(path, arguments.output)}")
    if not found and not arguments.json:
        _print("There is nothing to convert: all files are safetensors.")
    return waiting


def _conversion_line(done: Conversion) -> str:
    before, after = as_size(done.source_bytes), as_size(done.target_bytes)
    needless = "; the first is no longer needed" if done.target.parent == done.source.parent else ""
    return f"{done.source} ({before}) -> {done.target} ({after}){needless}"


def _conversion_as_json(done: Conversion) -> dict[str, object]:
    return {
        "part": done.part,
        "source": str(done.source),
        "target": str(done.target),
        "source_bytes": done.source_bytes,
        "target_bytes": done.target_bytes,
    }


def _print_json(value: object) -> None:
    _print(json.dumps(value, ensure_ascii=False))


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
