"""A workflow as a client sends it (ComfyUI's API format): which job template it is, and what it says of its parameters.

It is a template when it has the same nodes, connected in the same way, whatever their ids are, and differs from it only
in inputs that a job may set. What it says then becomes the parameters of an ordinary job.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, permutations
from typing import Any

from ..errors import BadWorkflow
from ..job import DEFAULT_TEMPLATE, Value
from .template_check import is_link
from .templates import Template

Workflow = Mapping[str, Mapping[str, Any]]
Pairs = dict[str, str]  # the template's node -> the workflow's

MOST_NODES = 1000
MOST_TRIES = 64  # of telling apart nodes of one type that nothing is connected to
ASSET = "core/ASSET"  # the type of a reference to an uploaded file, in the place of a file's name


@dataclass(frozen=True)
class Matched:
    """A workflow that is a template.

    nodes: the template's node -> the workflow's. config: what the workflow says of parameters, not checked yet.
    filled: what it has in the places of image, audio and output_prefix.
    """

    template: Template
    nodes: Mapping[str, str]
    config: Mapping[str, Value]
    filled: Mapping[str, Any]

    def place_of(self, name: str) -> tuple[str, str]:
        """Where in the workflow a parameter, or what the bridge fills in, is set: node and input."""
        parameter = self.template.parameters.get(name)
        places = parameter.places if parameter else self.template.filled.get(name, ())
        node_id, name_of_input = places[0] if places else ("", "")
        return self.nodes.get(node_id, ""), name_of_input


@dataclass(frozen=True)
class _Difference:
    node_id: str
    name: str
    reason: str


def asset_id_of(value: object) -> str | None:
    """The id of the uploaded file that stands in an input; '' for a reference that is none, None for another value."""
    if not isinstance(value, dict) or value.get("__type") != ASSET:
        return None
    info = value.get("info")
    found = info.get("id") if isinstance(info, dict) else None
    return found if isinstance(found, str) else ""


def checked_workflow(workflow: object) -> Workflow:
    """The workflow itself. Raises BadWorkflow when it is none that could run."""
    if not isinstance(workflow, dict) or not workflow:
        raise BadWorkflow("The workflow is no prompt in ComfyUI's API format (File > Export (API)).")
    if len(workflow) > MOST_NODES:
        raise BadWorkflow(f"The workflow has {len(workflow)} nodes, and {MOST_NODES} are the limit.")
    for node_id, node in workflow.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            raise BadWorkflow.at(node_id, "class_type", "is missing.")
        if not isinstance(node.get("inputs"), dict):
            raise BadWorkflow.at(node_id, "inputs", "is missing.")
    for node_id, node in workflow.items():
        for name, value in node["inputs"].items():
            if is_link(value) and value[0] not in workflow:
                raise BadWorkflow.at(node_id, name, f"is connected to the node '{value[0]}', which is not there.")
    return workflow


def in_order(workflow: Workflow) -> list[str]:
    """The nodes in an order in which each comes behind those that it is connected to, as they are likely to run."""
    found: dict[str, None] = {}
    for start in workflow:
        todo, begun = [start], set()
        while todo:
            node_id = todo[-1]
            inputs = workflow[node_id]["inputs"].values()
            before = [link[0] for value in inputs if (link := _link(value, workflow)) and link[0] not in found]
            if node_id in begun or not before:
                found.setdefault(todo.pop())
                continue
            begun.add(node_id)
            todo += [one for one in reversed(before) if one not in begun]
    return list(found)


def matched(workflow: Workflow, templates: Mapping[str, Template]) -> Matched:
    """The template that a checked workflow is. Raises BadWorkflow that says what is different.

    Of several that it could be the default one comes first, then those in the order of their names.
    """
    classes = _classes(workflow)
    nearest: _Difference | None = None
    for name in sorted(templates, key=lambda one: (one != DEFAULT_TEMPLATE, one)):
        if _classes(templates[name].graph) != classes:
            continue
        found = _compared(templates[name], workflow)
        if isinstance(found, Matched):
            return found
        nearest = nearest or found
    if nearest:
        raise BadWorkflow.at(nearest.node_id, nearest.name, nearest.reason)
    known = ", ".join(sorted(templates))
    raise BadWorkflow(f"The workflow has other nodes than every job template here; the templates are {known}.")


def _compared(template: Template, workflow: Workflow) -> Matched | _Difference:
    difference = _Difference("", "", "The nodes are connected in another way than in the template.")
    for sinks in islice(_sink_pairs(template.graph, workflow), MOST_TRIES):
        pairs: Pairs = {}
        wrong = _pair_up(template.graph, workflow, sinks, pairs)
        if wrong is None and len(pairs) == len(workflow):
            return _read(template, workflow, pairs)
        difference = wrong or difference
    return difference


def _sink_pairs(graph: Workflow, workflow: Workflow) -> Iterator[list[tuple[str, str]]]:
    """Every way in which nodes that nothing is connected to can be the same; next to always there is one."""
    ours, theirs = _sinks_by_class(graph), _sinks_by_class(workflow)
    if {name: len(found) for name, found in ours.items()} != {name: len(found) for name, found in theirs.items()}:
        return
    yield from _ways([(ours[name], theirs[name]) for name in sorted(ours)])


def _ways(groups: Sequence[tuple[list[str], list[str]]]) -> Iterator[list[tuple[str, str]]]:
    if not groups:
        yield []
        return
    (ours, theirs), *others = groups
    for chosen in permutations(theirs):
        for rest in _ways(others):
            yield [*zip(ours, chosen, strict=True), *rest]


def _sinks_by_class(graph: Workflow) -> dict[str, list[str]]:
    sources = {link[0] for node in graph.values() for value in node["inputs"].values() if (link := _link(value, graph))}
    found: dict[str, list[str]] = {}
    for node_id in sorted(set(graph) - sources):
        found.setdefault(str(graph[node_id]["class_type"]), []).append(node_id)
    return found


def _pair_up(graph: Workflow, workflow: Workflow, sinks: Iterable[tuple[str, str]], pairs: Pairs) -> _Difference | None:
    """Follow the connections from the last nodes to the first: each input has one source, so there is no choice."""
    todo, taken = list(sinks), set(pairs.values())
    while todo:
        ours, theirs = todo.pop()
        if pairs.get(ours) == theirs:
            continue
        same_class = graph[ours]["class_type"] == workflow[theirs]["class_type"]
        if ours in pairs or theirs in taken or not same_class:
            return _Difference(theirs, "", "is connected in another way than in the template.")
        pairs[ours] = theirs
        taken.add(theirs)
        for name, value in graph[ours]["inputs"].items():
            link, other = _link(value, graph), _link(workflow[theirs]["inputs"].get(name), workflow)
            if link is None and other is None:
                continue
            if link is None or other is None or link[1] != other[1]:
                said = "is connected" if link is None else "is not connected to the same output"
                return _Difference(theirs, name, f"{said}, other than in the template.")
            todo.append((link[0], other[0]))
    return None


def _read(template: Template, workflow: Workflow, pairs: Pairs) -> Matched | _Difference:
    """What the workflow says where a job may say something; everywhere else it has to say what the template says."""
    names = {place: name for name, one in template.parameters.items() for place in one.places}
    to_fill = {place: name for name, places in template.filled.items() for place in places}
    config: dict[str, Value] = {}
    filled: dict[str, Any] = {}
    for ours, theirs in pairs.items():
        fixed, given = template.graph[ours]["inputs"], workflow[theirs]["inputs"]
        for name in [*fixed, *(name for name in given if name not in fixed)]:
            place, value = (ours, name), given.get(name)
            if name not in fixed:
                return _Difference(theirs, name, "is no input of this node in the template.")
            if _link(fixed[name], template.graph) is not None:
                continue
            if place in names or place in to_fill:
                if name not in given:
                    continue
                found: dict[str, Any] = config if place in names else filled
                key = names.get(place) or to_fill[place]
                if place in names and not isinstance(value, bool | int | float | str):
                    return _Difference(theirs, name, "is no number, text, true or false.")
                if found.setdefault(key, value) != value:
                    return _Difference(theirs, name, "has another value than elsewhere, where it is to be the same.")
            elif value != fixed[name]:
                return _Difference(theirs, name, f"is '{fixed[name]}' in the template, and no job may change it.")
    return Matched(template, pairs, config, filled)


def _classes(graph: Workflow) -> Counter[str]:
    return Counter(str(node["class_type"]) for node in graph.values())


def _link(value: object, graph: Workflow) -> tuple[str, int] | None:
    """The node and the output that an input is connected to."""
    if isinstance(value, list) and is_link(value) and value[0] in graph:
        return value[0], value[1]
    return None
