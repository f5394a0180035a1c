"""What is wrong with a job template, or with the export of a pipeline that is to become one: a sentence for each fault.

``node_types`` below is what a ComfyUI says of its nodes at /object_info: by class, the inputs as ``[type, details]``
in ``required`` and ``optional``, and whether it is an output node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .templates import TemplateFaults, read_template

NodeTypes = Mapping[str, Mapping[str, Any]]
NOT_EXPORTED = (
    "It is a graph as the browser saves it; ComfyUI's File > Export (API) writes the form that can be run as a job."
)


def faults_of(name: str, graph: object, node_types: NodeTypes | None = None) -> list[str]:
    """Every fault of a template; with ``node_types`` those too that only a server can tell. Empty: it can be used."""
    if is_saved_by_the_browser(graph):
        return [NOT_EXPORTED]
    found = read_template(name, graph)
    faults = list(found.faults) if isinstance(found, TemplateFaults) else []
    return faults + graph_faults(graph, node_types)


def is_saved_by_the_browser(graph: object) -> bool:
    """Whether it has nodes and links in lists of their own, as the browser keeps them."""
    return isinstance(graph, dict) and isinstance(graph.get("nodes"), list) and "links" in graph


def graph_faults(graph: object, node_types: NodeTypes | None = None) -> list[str]:
    """What would keep the prompt from running, whatever its parameters are."""
    nodes = nodes_of(graph)
    faults = [fault for node_id, node in nodes.items() for fault in _broken_links(node_id, node, nodes)]
    if node_types is None or not nodes:
        return faults
    known = {node_id: node for node_id, node in nodes.items() if node["class_type"] in node_types}
    for kind in sorted({str(node["class_type"]) for node in nodes.values()} - set(node_types)):
        where = ", ".join(node_id for node_id, node in nodes.items() if node["class_type"] == kind)
        faults.append(f"Node {where}: this ComfyUI has no node '{kind}'; install the pack that it comes with.")
    for node_id, node in known.items():
        faults += _input_faults(node_id, node, node_types[node["class_type"]])
    if not any(node_types[node["class_type"]].get("output_node") for node in known.values()):
        faults.append("It has no output node, so it would make nothing; add one that saves a video.")
    results = [node_id for node_id, node in known.items() if _meta(node).get("result")]
    faults += [
        f"Node {node_id}: it is marked as the result and saves no file, as it is no output node."
        for node_id in results
        if not node_types[nodes[node_id]["class_type"]].get("output_node")
    ]
    return faults


def nodes_of(graph: object) -> dict[str, dict[str, Any]]:
    """The nodes that have a class and inputs, by id."""
    entries = graph.items() if isinstance(graph, dict) else ()
    return {
        str(node_id): node
        for node_id, node in entries
        if isinstance(node, dict) and "class_type" in node and isinstance(node.get("inputs"), dict)
    }


def inputs_of(described: Mapping[str, Any]) -> Iterator[tuple[str, Any, Mapping[str, Any], bool]]:
    """Name, type, details and whether it is required, of each input of a node type; a list as type means choices."""
    for kind in ("required", "optional"):
        for name, entry in described.get("input", {}).get(kind, {}).items():
            details = entry[1] if len(entry) > 1 and isinstance(entry[1], dict) else {}
            yield name, entry[0], details, kind == "required"


def choices_of(type_: Any, details: Mapping[str, Any]) -> list[Any] | None:
    """What an input may be chosen from, in ComfyUI's older and newer form; None when it is no choice."""
    if isinstance(type_, list):
        return type_
    if type_ == "COMBO":
        return list(details.get("options", ()))
    return None


def is_link(value: object) -> bool:
    """Whether an input is connected: [node id, number of its output]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def _meta(node: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = node.get("_meta")
    return meta if isinstance(meta, dict) else {}


def _broken_links(node_id: str, node: Mapping[str, Any], nodes: Mapping[str, Any]) -> Iterator[str]:
    for name, value in node["inputs"].items():
        if is_link(value) and value[0] not in nodes:
            yield f"Node {node_id}: its input '{name}' is connected to node {value[0]}, which is not there."


def _input_faults(node_id: str, node: Mapping[str, Any], described: Mapping[str, Any]) -> Iterator[str]:
    parameters = _meta(node).get("parameters")
    set_by_jobs = parameters if isinstance(parameters, dict) else {}
    for name, type_, details, required in inputs_of(described):
        if name not in node["inputs"]:
            if required:
                yield f"Node {node_id} ({node['class_type']}): its input '{name}' is missing."
            continue
        choices = choices_of(type_, details)
        value = node["inputs"][name]
        is_file = any(key.endswith("_upload") for key in details) or set_by_jobs.get(name, {}).get("type") in (
            "image",
            "audio",
        )
        if choices and not is_file and not is_link(value) and value not in choices:
            yield (
                f"Node {node_id} ({node['class_type']}): '{value}' is none of the choices of '{name}' on this server, "
                f"which are {_listed(choices)}."
            )


def _listed(choices: list[Any]) -> str:
    shown = ", ".join(str(one) for one in choices[:8])
    return shown if len(choices) <= 8 else f"{shown} and {len(choices) - 8} more"
