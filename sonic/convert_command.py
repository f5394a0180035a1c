"""The command ``convert-workflow``: a graph of the older Sonic pack becomes one of ours.

Exit status: 0 when it was converted, 1 when it was not.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .errors import BadGraph, CannotWrite
from .older_graphs import convert_graph


def add_convert_workflow_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Puts it onto a command line, with its function as the default ``run``."""
    command = commands.add_parser(
        "convert-workflow", help="a graph of the older Sonic pack (SONICTLoader, SONICSampler) becomes one of ours"
    )
    command.add_argument("graph", type=Path, metavar="IN", help="JSON, as the browser saves or exports it")
    command.add_argument("output", type=Path, nargs="?", metavar="OUT", help="where to (default: IN.converted.json)")
    command.add_argument("--again", action="store_true", help="replace what is at OUT")
    command.add_argument("--json", action="store_true", help="print JSON instead of text")
    command.set_defaults(run=convert_workflow)


def convert_workflow(arguments: argparse.Namespace) -> int:
    """Writes the converted graph and says what differs. Raises BadGraph and CannotWrite."""
    source: Path = arguments.graph
    place: Path = arguments.output or source.with_name(f"{source.stem}.converted.json")
    if place.exists() and not arguments.again:
        raise CannotWrite(f"'{place}' is there already; name another place, or give --again.")
    try:
        graph = json.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadGraph(f"'{source}' cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:  # no JSON, or no UTF-8
        raise BadGraph(f"'{source}' is no JSON file: {error}.") from error
    try:
        converted = convert_graph(graph)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise BadGraph(
            f"'{source}' is no graph that ComfyUI has saved: something is missing in it ({error})."
        ) from error
    try:
        place.write_text(json.dumps(converted.graph, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"'{place}' cannot be written: {error.strerror or error}.") from error
    if arguments.json:
        told = {"converted": str(place), "differences": list(converted.differences)}
        sys.stdout.write(json.dumps(told, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in (f"{place} is written.", *converted.differences)))
    return 0
