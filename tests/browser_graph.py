"""A graph as the browser saves it becomes a prompt, as the browser does when it sends it. For tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfyui_sonic.queue_bridge.pipelines.template_check import NodeTypes, choices_of, inputs_of

Json = dict[str, Any]
SHOWN_ONLY = ("Note", "MarkdownNote")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def widgets_of(described: Mapping[str, Any]) -> list[str]:
    """The names of a node's fields in the order of widgets_values; '' for the second field of a seed."""
    names: list[str] = []
    for name, type_, details, _ in inputs_of(described):
        if choices_of(type_, details) is not None or type_ in WIDGETS:
            names += [name, ""] if details.get("control_after_generate") else [name]
    return names


def as_prompt(graph: Json, node_types: NodeTypes) -> dict[str, Json]:
    """The prompt of a graph, by the ids of its nodes as texts."""
    links = {link[0]: link for link in graph["links"]}
    prompt: dict[str, Json] = {}
    for node in graph["nodes"]:
        if node["type"] in SHOWN_ONLY:
            continue
        values = zip(widgets_of(node_types[node["type"]]), node.get("widgets_values", []), strict=False)
        inputs = {name: value for name, value in values if name}
        for socket in node["inputs"]:
            if socket["link"] is not None:
                _, origin, slot, *_ = links[socket["link"]]
                inputs[socket["name"]] = [str(origin), slot]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt
