"""The graph in somebody's browser as a job: which portrait and recording it names, and what it says of the parameters.

A graph that is a template is that job. Of any other one the default template takes what it has in common with it: the
portrait and the recording that the same node is given, and the values of parameters where they are not connected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import BadWorkflow
from ..job import DEFAULT_TEMPLATE, Value
from .template_check import is_link
from .templates import Template, template_named
from .workflow_match import Workflow, checked_workflow, matched

FILES = ("image", "audio")
WORDS = {"image": "portrait", "audio": "recording"}


@dataclass(frozen=True)
class GraphMaterial:
    """files: names in ComfyUI's input folder, as its nodes have them, by field. warning: a sentence, or ''."""

    template: str
    config: Mapping[str, Value]
    files: Mapping[str, str]
    warning: str = ""


def material_of(prompt: object, templates: Mapping[str, Template]) -> GraphMaterial:
    """prompt: in ComfyUI's API format. Raises BadWorkflow that says what the graph lacks."""
    workflow = checked_workflow(prompt)
    try:
        found = matched(workflow, templates)
        if all(isinstance(found.filled.get(name), str) for name in FILES):
            return GraphMaterial(found.template.name, found.config, {name: found.filled[name] for name in FILES})
    except BadWorkflow:
        pass
    template = template_named(templates, DEFAULT_TEMPLATE)
    files = {name: _file(name, template, workflow) for name in FILES}
    said = _nodes_that_differ(template, workflow)
    return GraphMaterial(template.name, _config(template, workflow), files, said)


def _file(name: str, template: Template, workflow: Workflow) -> str:
    """The file that the template's consumer of a portrait, or a recording, is given in this graph."""
    (filled_id, name_of_input), *_ = template.filled[name]
    consumer, slot = next(
        (str(node["class_type"]), key)
        for node in template.graph.values()
        for key, value in node["inputs"].items()
        if isinstance(value, list) and is_link(value) and value[0] == filled_id
    )
    there = [node for node in workflow.values() if node["class_type"] == consumer]
    if len(there) != 1:
        many = "no node" if not there else f"{len(there)} nodes"
        raise BadWorkflow(f"The graph has {many} of the type {consumer}, and one is needed to know its {WORDS[name]}.")
    link = there[0]["inputs"].get(slot)
    source = workflow[link[0]] if isinstance(link, list) and is_link(link) and link[0] in workflow else {}
    value = source.get("inputs", {}).get(name_of_input)
    if not isinstance(value, str) or not value:
        by = f", but a {source['class_type']}" if source else ""
        raise BadWorkflow(
            f"The {WORDS[name]} of the graph is no file that a node loads{by}; run this graph here instead."
        )
    return value


def _config(template: Template, workflow: Workflow) -> dict[str, Value]:
    """What the graph says of the template's parameters, in nodes of which both have one."""
    config: dict[str, Value] = {}
    for name, parameter in template.parameters.items():
        for node_id, name_of_input in parameter.places:
            kind = template.graph[node_id]["class_type"]
            there = [node["inputs"] for node in workflow.values() if node["class_type"] == kind]
            value: Any = there[0].get(name_of_input) if len(there) == 1 else None
            if isinstance(value, bool | int | float | str):
                config[name] = value
    return config


def _nodes_that_differ(template: Template, workflow: Workflow) -> str:
    ours = {str(node["class_type"]) for node in template.graph.values()}
    theirs = {str(node["class_type"]) for node in workflow.values()}
    loaders = {str(template.graph[node_id]["class_type"]) for name in FILES for node_id, _ in template.filled[name]}
    added, missing = sorted(ours - theirs - loaders), sorted(theirs - ours - {"LoadImage", "LoadAudio"})
    parts = [f"without {', '.join(missing)}"] * bool(missing) + [f"with {', '.join(added)}"] * bool(added)
    return f"The job runs the template '{template.name}': as the graph, but {' and '.join(parts)}." if parts else ""
