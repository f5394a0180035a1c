"""A prompt that a client has sent whole, without a template: only of node classes that the operator allows.

It is checked where it comes in, and again by the instance that is to run it, since whoever can write to the queue's
database could put one there: that must not mean running code on a machine with a card.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from ..errors import BadJob, BadWorkflow
from ..job import RAW, files_in
from .template_check import is_link
from .templates import Template

PREFIX = "filename_prefix"  # the input of ComfyUI's saving nodes that says where to


def check_classes(prompt: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Raises BadWorkflow for a node class that is not allowed, BadJob where there is no prompt."""
    if not prompt:
        raise BadJob("prompt", "is missing.")
    for node_id, node in prompt.items():
        if node["class_type"] not in allowed:
            shown = str(node["class_type"])[:100]
            raise BadWorkflow.at(
                node_id, "class_type", f"'{shown}' is not allowed here; an operator adds it to raw_nodes."
            )


def template_of(prompt: Mapping[str, Any], allowed: Collection[str]) -> Template:
    """The prompt as a template of its own, without parameters. Raises as ``check_classes``."""
    check_classes(prompt, allowed)
    filled = {name: places for name, (_, places) in files_in(prompt).items()}
    filled["output_prefix"] = tuple(
        (node_id, PREFIX)
        for node_id, node in prompt.items()
        if PREFIX in node["inputs"] and not is_link(node["inputs"][PREFIX])
    )
    return Template(RAW, prompt, MappingProxyType({}), MappingProxyType(filled))


def lane_values(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """``resolution`` and ``engine`` of a prompt as far as its inputs say them: what decides where it can run."""
    sides, found = [], {}
    for node in prompt.values():
        inputs = node["inputs"]
        if _is_size(inputs.get("width")) and _is_size(inputs.get("height")):
            sides.append(min(inputs["width"], inputs["height"]))
        sides += [inputs[name] for name in ("resolution", "min_resolution") if _is_size(inputs.get(name))]
        if isinstance(inputs.get("engine"), str):
            found["engine"] = inputs["engine"]
    return found | ({"resolution": max(sides)} if sides else {})


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 20
