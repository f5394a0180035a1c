"""``sonic-queue template list``, ``check`` and ``add``: job templates for whoever runs a queue.

Exit status: 0 when all is well, 1 when a file is no template that can be used, or was not added.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import load_settings
from ..console import console_for, print_json, print_table
from ..errors import ConfigError, TemplateError
from ..execution.comfy_client import ComfyClient
from ..job import Value
from ..pipelines.template_check import NodeTypes, faults_of, is_saved_by_the_browser, nodes_of
from ..pipelines.template_declaration import Declaration, declared
from ..pipelines.templates import SHIPPED, Parameter, Template, load_templates, parse_template

NAME = re.compile(r"[\w-]+")


def add_template_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Puts them onto a command line; each has its function as the default ``run``."""
    template = commands.add_parser("template", help="kinds of jobs: list, check and add ComfyUI pipelines")
    actions = template.add_subparsers(dest="action", required=True, metavar="ACTION")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON instead of text")
    file = argparse.ArgumentParser(add_help=False, parents=[common])
    file.add_argument("file", type=Path, metavar="FILE", help="a prompt as File > Export (API) writes it")
    file.add_argument("--server", metavar="HOST:PORT", help="a ComfyUI that is asked about the nodes")

    listing = actions.add_parser("list", parents=[common], help="the templates and what their jobs may set")
    listing.set_defaults(run=list_templates)
    checking = actions.add_parser("check", parents=[file], help="what is wrong with a file, a sentence each")
    checking.set_defaults(run=check_template)
    adding = actions.add_parser("add", parents=[file], help="a pipeline becomes a kind of job")
    adding.add_argument("--name", help="what jobs call it (default: the file's name)")
    adding.add_argument("--parameter", action="append", default=[], metavar="NAME=NODE.INPUT[:TYPE][:LOW..HIGH]",
                        help="what a job may set, such as steps=3.steps:int:1..50 or style=7.style:choice:a,b; "
                        "type and limits are the server's with --server; may be repeated")  # fmt: skip
    adding.add_argument("--image", default="", metavar="NODE.INPUT", help="where the job's picture goes")
    adding.add_argument("--audio", default="", metavar="NODE.INPUT", help="where the job's sound goes")
    adding.add_argument("--result", default="", metavar="NODE", help="the node that saves the job's MP4")
    adding.add_argument("--folder", type=Path, help="where to (default: the first folder of the setting `templates`)")
    adding.add_argument("--replace", action="store_true", help="even if a template has this name")
    adding.set_defaults(run=add_template)


def list_templates(arguments: argparse.Namespace) -> int:
    """Prints every template with its parameters."""
    templates = load_templates((SHIPPED, *load_settings().templates))
    if arguments.json:
        print_json({name: _as_json(template) for name, template in templates.items()})
        return 0
    console = console_for()
    for name, template in templates.items():
        console.print(f"{name}: takes {_takes(template)}")
        _print_parameters(template)
        console.print()
    return 0


def check_template(arguments: argparse.Namespace) -> int:
    """Prints what is wrong with a file; the status is 1 when something is."""
    graph = _read(arguments.file)
    faults = faults_of(arguments.file.stem, graph, _node_types(arguments.server, graph))
    if arguments.json:
        print_json({"file": str(arguments.file), "faults": faults})
    elif faults:
        _print_lines(faults)
    else:
        template = parse_template(arguments.file.stem, graph)
        unasked = "" if arguments.server else " Whether a server has its nodes is told with --server."
        console_for().print(f"It can be used; it takes {_takes(template)}.{unasked}")
        _print_parameters(template)
    return int(bool(faults))


def add_template(arguments: argparse.Namespace) -> int:
    """Puts a pipeline into the templates' folder, unless something is wrong with it."""
    name = arguments.name or arguments.file.stem
    if not NAME.fullmatch(name):
        raise TemplateError(f"--name: '{name}' is no name of a template (letters, digits, '_' and '-'); give another.")
    graph = _read(arguments.file)
    place = _folder(arguments.folder) / f"{name}.json"
    if not arguments.replace and (place.exists() or (SHIPPED / place.name).exists()):
        raise TemplateError(f"There is a template '{name}' already; give another --name, or --replace.")
    node_types = _node_types(arguments.server, graph)
    if not is_saved_by_the_browser(graph) and isinstance(graph, dict):
        said = Declaration(arguments.parameter, arguments.image, arguments.audio, arguments.result)
        graph = declared(graph, said, node_types)
    faults = faults_of(name, graph, node_types)
    if faults:
        if arguments.json:
            print_json({"added": None, "faults": faults})
        else:
            _print_lines([*faults, "Nothing was added."])
        return 1
    template = parse_template(name, graph)
    _write(place, graph)
    if arguments.json:
        print_json({"added": str(place), "faults": [], name: _as_json(template)})
        return 0
    console_for().print(f"Jobs can name the template '{name}' now ({place}); it takes {_takes(template)}.")
    _print_parameters(template)
    console_for().print("Servers read their templates when they start: put the file where they look, and restart them.")
    return 0


def _read(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise TemplateError(f"'{file}' cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:  # no JSON, or no UTF-8
        raise TemplateError(f"'{file}' is no JSON file: {error}.") from error


def _write(place: Path, graph: object) -> None:
    """Whole or not at all, as a server may read the folder at this moment."""
    text = json.dumps(graph, ensure_ascii=False, indent=2) + "\n"
    unfinished: Path | None = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(prefix=f".{place.stem}-", suffix=".part", dir=place.parent)
        unfinished = Path(name)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        unfinished.chmod(0o644)  # the servers may run as another user
        unfinished.replace(place)
    except OSError as error:
        if unfinished:
            with contextlib.suppress(OSError):
                unfinished.unlink()
        raise TemplateError(f"The template cannot be written to '{place}': {error.strerror or error}.") from error


def _folder(given: Path | None) -> Path:
    if given:
        return given
    folders = load_settings().templates
    if not folders:
        raise ConfigError("templates", "no folder of templates is set; set SONIC_QUEUE_TEMPLATES, or give --folder.")
    return folders[0]


def _node_types(server: str | None, graph: object) -> NodeTypes | None:
    """What the server says of the classes of this graph; None without a server. Raises InstanceError."""
    if not server:
        return None
    names = sorted({str(node["class_type"]) for node in nodes_of(graph).values()})

    async def ask() -> NodeTypes:
        async with ComfyClient(server.removeprefix("http://").rstrip("/")) as client:
            return await client.node_types(*names)

    return asyncio.run(ask())


# --- shown -----------------------------------------------------------------------------------------------------------


def _takes(template: Template) -> str:
    files = {"image": "a picture", "audio": "a sound"}
    return " and ".join(said for kind, said in files.items() if kind in template.filled) or "no file of the job's"


def _print_lines(lines: Sequence[str]) -> None:
    console = console_for()
    for line in lines:
        console.print(line)


def _print_parameters(template: Template) -> None:
    if template.parameters:
        rows = [(one.name, one.type, allowed(one), _shown(one.default)) for one in template.parameters.values()]
        print_table(console_for(), ("parameter", "type", "allowed", "default"), rows)


def allowed(one: Parameter) -> str:
    """What a parameter may be, for a table: a range, the choices or ''."""
    if one.choices:
        return ", ".join(one.choices)
    if one.type not in ("int", "float") or (one.minimum is None and one.maximum is None and not one.multiple_of):
        return ""
    low = "" if one.minimum is None else _number(one.minimum)
    high = "" if one.maximum is None else _number(one.maximum)
    parts = [f"{low} to {high}" if low and high else f"{low} or more" if low else f"at most {high}" if high else ""]
    if one.multiple_of:
        parts.append(f"in steps of {one.multiple_of}")
    return " ".join(part for part in parts if part)


def _shown(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _as_json(template: Template) -> dict[str, Any]:
    parameters = {
        one.name: {"type": one.type, "default": one.default, "minimum": one.minimum, "maximum": one.maximum,
                   "multiple_of": one.multiple_of, "choices": list(one.choices)}
        for one in template.parameters.values()
    }  # fmt: skip
    return {"takes": sorted(set(template.filled) - {"output_prefix"}), "parameters": parameters}
