"""A pipeline that was exported from ComfyUI becomes a job template: its ``_meta`` is told what a job may set.

What is not said is found where there is only one possibility: the inputs that load a picture and a sound, the node
that saves the video, and every file name prefix.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..errors import TemplateError
from ..intake.manifest import FIELDS
from .template_check import NodeTypes, choices_of, inputs_of, is_link, nodes_of
from .templates import TYPES, Graph

# NAME=NODE.INPUT, then :TYPE and :LOW..HIGH/STEP or :CHOICE,CHOICE as far as they are needed
ASKED = re.compile(
    r"(?P<name>[A-Za-z][A-Za-z0-9_]*)=(?P<node>[^.=]+)\.(?P<input>[^:=]+)"
    rf"(?::(?P<type>{'|'.join(TYPES)}))?(?::(?P<limits>.+))?"
)
LIMITS = re.compile(r"(?P<minimum>-?[0-9.]+)?\.\.(?P<maximum>-?[0-9]+(?:\.[0-9]+)?)?(?:/(?P<multiple_of>[0-9]+))?")
PLACE = re.compile(r"(?P<node>[^.=]+)\.(?P<input>.+)")
PREFIX = "filename_prefix"
KINDS = MappingProxyType({"INT": "int", "FLOAT": "float", "BOOLEAN": "bool", "STRING": "text", "COMBO": "choice"})
# What loads a file of each kind: how a server marks such an input, and the usual nodes where no server is asked.
LOADERS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "image": ("image_upload", ("LoadImage", "SONIC_LoadPortrait")),
        "audio": ("audio_upload", ("LoadAudio", "SONIC_LoadVoice")),
    }
)


@dataclass(frozen=True)
class Declaration:
    """What is said by hand. image, audio: NODE.INPUT. result: a node id. parameters: as ASKED."""

    parameters: Sequence[str] = ()
    image: str = ""
    audio: str = ""
    result: str = ""


def declared(graph: Graph, said: Declaration, node_types: NodeTypes | None = None) -> Graph:
    """The graph with its parameters declared; what its ``_meta`` says already stays.

    node_types: the server's /object_info, which knows types, limits and choices. Raises TemplateError.
    """
    graph = copy.deepcopy(graph)
    nodes = nodes_of(graph)
    if len(nodes) < len(graph):
        odd = next(node_id for node_id in graph if node_id not in nodes)
        raise TemplateError(f"Node {odd}: a node needs class_type and inputs.")
    for kind, place in (("image", said.image), ("audio", said.audio)):
        _declare_loader(nodes, kind, place, node_types)
    _declare_result(nodes, said.result)
    for node in nodes.values():
        if isinstance(node["inputs"].get(PREFIX), str):
            _parameters_of(node).setdefault(PREFIX, {"type": "output_prefix"})
    for text in said.parameters:
        _declare_parameter(nodes, text, node_types)
    return graph


def _parameters_of(node: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = node.setdefault("_meta", {}).setdefault("parameters", {})
    return found


def _declare_loader(nodes: Graph, kind: str, place: str, node_types: NodeTypes | None) -> None:
    if place:
        node_id, name = _place(nodes, f"--{kind}", place)
        _parameters_of(nodes[node_id])[name] = {"type": kind}
        return
    said = (node.get("_meta", {}).get("parameters", {}) for node in nodes.values())
    if any(one.get("type") == kind for parameters in said for one in parameters.values()):
        return
    mark, usual = LOADERS[kind]
    found = [
        (node_id, name)
        for node_id, node in nodes.items()
        for name in (_marked(node_types, node, mark) if node_types else [kind] if node["class_type"] in usual else [])
        if name in node["inputs"] and not is_link(node["inputs"][name])
    ]
    if len(found) > 1:
        places = ", ".join(f"{node_id}.{name}" for node_id, name in found)
        raise TemplateError(f"Several inputs load a file of the kind {kind}: {places}; name the job's with --{kind}.")
    for node_id, name in found:
        _parameters_of(nodes[node_id])[name] = {"type": kind}


def _marked(node_types: NodeTypes, node: Mapping[str, Any], mark: str) -> list[str]:
    return [name for name, _, more, _ in inputs_of(node_types.get(node["class_type"], {})) if more.get(mark)]


def _declare_result(nodes: Graph, result: str) -> None:
    marked = [node_id for node_id, node in nodes.items() if node.get("_meta", {}).get("result")]
    if not result and marked:
        return
    if result and result not in nodes:
        raise TemplateError(f"--result: there is no node {result}; the nodes are {', '.join(nodes)}.")
    savers = [node_id for node_id, node in nodes.items() if PREFIX in node["inputs"] and "Video" in node["class_type"]]
    if not result and len(savers) != 1:
        listed = ", ".join(f"{node_id} ({nodes[node_id]['class_type']})" for node_id in savers) or "none was found"
        raise TemplateError(f"Say with --result which node saves the video; those that may are: {listed}.")
    for node_id in marked:
        del nodes[node_id]["_meta"]["result"]
    nodes[result or savers[0]].setdefault("_meta", {})["result"] = True


def _place(nodes: Graph, option: str, text: str) -> tuple[str, str]:
    found = PLACE.fullmatch(text)
    if not found:
        raise TemplateError(f"{option}: '{text}' is not NODE.INPUT, such as 3.seed.")
    node_id, name = found["node"], found["input"]
    if node_id not in nodes:
        raise TemplateError(f"{option}: there is no node {node_id}; the nodes are {', '.join(nodes)}.")
    inputs = nodes[node_id]["inputs"]
    if name not in inputs:
        raise TemplateError(f"{option}: node {node_id} has no input '{name}', but {', '.join(sorted(inputs))}.")
    if is_link(inputs[name]):
        raise TemplateError(
            f"{option}: '{name}' of node {node_id} is connected to node {inputs[name][0]}; set it there."
        )
    return node_id, name


def _declare_parameter(nodes: Graph, text: str, node_types: NodeTypes | None) -> None:
    asked = ASKED.fullmatch(text)
    if not asked:
        raise TemplateError(
            f"--parameter: '{text}' is not NAME=NODE.INPUT, with :TYPE and :LOW..HIGH or :CHOICE,CHOICE behind it "
            "where needed, such as steps=3.steps:int:1..50."
        )
    name = asked["name"]
    if name in FIELDS:
        raise TemplateError(f"--parameter: '{name}' is a field of every job; choose another name.")
    node_id, name_of_input = _place(nodes, "--parameter", f"{asked['node']}.{asked['input']}")
    node = nodes[node_id]
    described = _as_the_server_says(node, name_of_input, node_types)
    kind = asked["type"] or described.get("type") or _kind_of(node["inputs"][name_of_input])
    if described.get("type") != kind:
        described = {}
    described = {"name": name, "type": kind, **{key: value for key, value in described.items() if key != "type"}}
    if kind in ("int", "float") and isinstance(node["inputs"][name_of_input], int | float):
        number = node["inputs"][name_of_input]
        node["inputs"][name_of_input] = float(number) if kind == "float" else number
    if asked["limits"]:
        described |= _limits(text, kind, asked["limits"])
    if name == name_of_input:
        del described["name"]
    _parameters_of(node)[name_of_input] = described


def _as_the_server_says(node: Mapping[str, Any], name: str, node_types: NodeTypes | None) -> dict[str, Any]:
    for known, type_, details, _ in inputs_of((node_types or {}).get(node["class_type"], {})):
        if known != name:
            continue
        choices = choices_of(type_, details)
        if choices is not None:
            return {"type": "choice", "choices": choices} if all(isinstance(one, str) for one in choices) else {}
        if type_ not in KINDS:
            return {}
        limits = {
            ours: details[theirs] for ours, theirs in (("minimum", "min"), ("maximum", "max")) if theirs in details
        }
        return {"type": KINDS[type_], **(limits if type_ in ("INT", "FLOAT") else {})}
    return {}


def _kind_of(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    return "int" if isinstance(value, int) else "float" if isinstance(value, float) else "text"


def _limits(text: str, kind: str, limits: str) -> dict[str, Any]:
    if kind in ("choice", "text"):
        return {"type": "choice", "choices": limits.split(",")}
    found = LIMITS.fullmatch(limits)
    if kind == "bool" or not found:
        raise TemplateError(f"--parameter: '{limits}' in '{text}' is not LOW..HIGH, such as 1..50 or 256..1536/64.")
    return {key: int(value) if value.lstrip("-").isdigit() else float(value) for key, value in found.groupdict().items()
            if value}  # fmt: skip
