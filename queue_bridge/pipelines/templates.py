"""Job templates: a ComfyUI prompt (API format) whose nodes say which of their inputs a job may set, and within what.

A template is an ordinary prompt: it runs through /prompt as it is. What a job may set stands in the ``_meta`` that
ComfyUI leaves alone:

    "_meta": {
      "title": "Find the face",
      "weight": 7,                                   how long this node takes beside the others, for the progress
      "result": true,                                the node whose file is the job's video
      "parameters": {"min_resolution": {"name": "resolution", "type": "int", "minimum": 256, "maximum": 1536}}
    }

``parameters`` is keyed by the node's input. The types are int, float, text, choice, bool, and three that the bridge
fills itself: image, audio (names in ComfyUI's input folder) and output_prefix. The value in ``inputs`` is the default.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import BadJob, TemplateError
from ..job import Value

Graph = dict[str, dict[str, Any]]
SHIPPED = Path(__file__).resolve().parent.parent.parent / "workflows" / "api"  # the templates that come with the pack
FILLED_BY_THE_BRIDGE = ("image", "audio", "output_prefix")
TYPES = ("int", "float", "text", "choice", "bool")


@dataclass(frozen=True)
class Parameter:
    """One thing that a job may set.

    minimum, maximum, multiple_of: of numbers. usual: (low, high) outside of which a job is run with a warning.
    places: (node id, input) of everything it sets.
    """

    name: str
    type: str
    default: Value
    minimum: float | None = None
    maximum: float | None = None
    multiple_of: int | None = None
    usual: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    places: tuple[tuple[str, str], ...] = ()

    def check(self, value: object) -> Value:
        """The value in this parameter's type; raises BadJob when it is none or outside of what is allowed."""
        where = f"config.{self.name}"
        if self.type == "bool":
            if not isinstance(value, bool):
                raise BadJob(where, f"'{value}' is not true or false.")
            return value
        if self.type in ("text", "choice"):
            if not isinstance(value, str):
                raise BadJob(where, f"'{value}' is no text.")
            if self.choices and value not in self.choices:
                raise BadJob(where, f"'{value}' is not one of {', '.join(self.choices)}.")
            return value
        return self._number(where, value)

    def warning(self, value: Value) -> str:
        """A sentence about a value that is allowed but seldom meant, or ''."""
        if self.usual and isinstance(value, int | float) and not self.usual[0] <= value <= self.usual[1]:
            return f"{self.name} is {value:g}; {self.usual[0]:g} to {self.usual[1]:g} is usual."
        return ""

    def _number(self, where: str, value: object) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadJob(where, f"'{value}' is no number.")
        if self.type == "int" and value != int(value):
            raise BadJob(where, f"{value:g} is no whole number.")
        low = self.minimum if self.minimum is not None else -math.inf
        high = self.maximum if self.maximum is not None else math.inf
        if not low <= value <= high:
            raise BadJob(where, f"{value:g} is outside {low:g} to {high:g}.")
        if self.multiple_of and value % self.multiple_of:
            raise BadJob(where, f"{value:g} is not a multiple of {self.multiple_of}.")
        return int(value) if self.type == "int" else float(value)


@dataclass(frozen=True)
class Template:
    """A checked template. weights: node type -> its share of the time. result_node: whose file is the video."""

    name: str
    graph: Mapping[str, Mapping[str, Any]]
    parameters: Mapping[str, Parameter]
    filled: Mapping[str, tuple[tuple[str, str], ...]]
    weights: Mapping[str, float] = field(default_factory=dict)
    result_node: str = ""

    def check(self, config: Mapping[str, Value]) -> tuple[dict[str, Value], list[str]]:
        """Every parameter with its value, and warnings. Raises BadJob for a wrong one."""
        unknown = sorted(set(config) - set(self.parameters))
        if unknown:
            known = ", ".join(sorted(self.parameters))
            raise BadJob(f"config.{unknown[0]}", f"the template '{self.name}' has no such parameter, but {known}.")
        values = {name: one.check(config.get(name, one.default)) for name, one in self.parameters.items()}
        warnings = [text for name, one in self.parameters.items() if (text := one.warning(values[name]))]
        return values, warnings

    def fill(self, values: Mapping[str, Value], *, output_prefix: str, **files: str) -> Graph:
        """The prompt of one job; ``values`` as ``check`` gave them, image, audio and so on as in ComfyUI's folders."""
        graph: Graph = copy.deepcopy({node_id: dict(node) for node_id, node in self.graph.items()})
        given = {**files, "output_prefix": output_prefix}
        for name, places in self.filled.items():
            for node_id, name_of_input in places:
                graph[node_id]["inputs"][name_of_input] = given[name]
        for name, value in values.items():
            for node_id, name_of_input in self.parameters[name].places:
                graph[node_id]["inputs"][name_of_input] = value
        return graph


@dataclass(frozen=True)
class TemplateFaults:
    """What keeps a graph from being a template, a sentence each; at least one."""

    faults: tuple[str, ...]


def parse_template(name: str, graph: object) -> Template:
    """A template out of its JSON. Raises TemplateError that says what is wrong first and at which node."""
    found = read_template(name, graph)
    if isinstance(found, TemplateFaults):
        raise TemplateError(found.faults[0])
    return found


def read_template(name: str, graph: object) -> Template | TemplateFaults:
    """A template out of its JSON, or everything that is wrong with it."""
    if not isinstance(graph, dict) or not graph:
        return TemplateFaults((f"The template '{name}' is no prompt in ComfyUI's API format (File > Export (API)).",))
    read = _Reading()
    for node_id, node in graph.items():
        read.node(f"The template '{name}', node {node_id}", node_id, node)
    faults = list(read.faults)
    if len(read.results) != 1:
        faults.append(f"The template '{name}' must mark one node with \"result\": true, and marks {len(read.results)}.")
    if "output_prefix" not in read.filled:
        faults.append(f"The template '{name}' has no input of type output_prefix, so its files would mix.")
    if faults:
        return TemplateFaults(tuple(faults))
    return Template(
        name, graph, MappingProxyType(read.parameters), MappingProxyType(read.filled), read.weights, read.results[0]
    )


@dataclass
class _Reading:
    """What has been found in the nodes so far."""

    parameters: dict[str, Parameter] = field(default_factory=dict)
    filled: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    results: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def node(self, where: str, node_id: str, node: object) -> None:
        if not isinstance(node, dict) or "class_type" not in node or not isinstance(node.get("inputs"), dict):
            self.faults.append(f"{where}: a node needs class_type and inputs.")
            return
        meta = node.get("_meta") or {}
        described_inputs = meta.get("parameters", {}) if isinstance(meta, dict) else None
        if not isinstance(described_inputs, dict):
            self.faults.append(f"{where}: its _meta, and the parameters in it, must be JSON objects.")
            return
        if "weight" in meta:
            if isinstance(meta["weight"], int | float) and meta["weight"] >= 0:
                self.weights[str(node["class_type"])] = float(meta["weight"])
            else:
                self.faults.append(f"{where}: its weight '{meta['weight']}' is no number of at least 0.")
        if meta.get("result"):
            self.results.append(node_id)
        for name_of_input, described in described_inputs.items():
            try:
                self._input(where, (node_id, name_of_input), described, node["inputs"])
            except TemplateError as error:
                self.faults.append(str(error))

    def _input(self, where: str, place: tuple[str, str], described: object, inputs: Mapping[str, Any]) -> None:
        name_of_input = place[1]
        if name_of_input not in inputs:
            raise TemplateError(f"{where}: it has no input '{name_of_input}', which its parameters name.")
        if not isinstance(described, dict):
            raise TemplateError(f"{where}: what its parameters say of '{name_of_input}' must be a JSON object.")
        if described.get("type") in FILLED_BY_THE_BRIDGE:
            self.filled[described["type"]] = (*self.filled.get(described["type"], ()), place)
            return
        one = _parameter(where, name_of_input, described, inputs[name_of_input], (place,))
        earlier = self.parameters.get(one.name)
        if earlier and (earlier.type, earlier.default) != (one.type, one.default):
            raise TemplateError(f"{where}: the parameter '{one.name}' has another type or default elsewhere.")
        self.parameters[one.name] = _joined(earlier, one)


def _parameter(
    where: str, name_of_input: str, described: Mapping[str, Any], default: object, places: tuple[tuple[str, str], ...]
) -> Parameter:
    kind = described.get("type")
    if kind not in TYPES:
        known = ", ".join((*TYPES, *FILLED_BY_THE_BRIDGE))
        raise TemplateError(f"{where}: '{kind}' is no type of a parameter; the types are {known}.")
    known_keys = {"name", "type", "minimum", "maximum", "multiple_of", "usual", "choices"}
    if unknown := sorted(set(described) - known_keys):
        raise TemplateError(f"{where}: a parameter has no '{unknown[0]}', but {', '.join(sorted(known_keys))}.")
    for key in ("minimum", "maximum", "multiple_of"):
        if isinstance(described.get(key), bool) or not isinstance(described.get(key, 0), int | float):
            raise TemplateError(f"{where}: '{described[key]}' as {key} of '{name_of_input}' is no number.")
    choices, usual = described.get("choices", []), described.get("usual")
    if not isinstance(choices, list) or not all(isinstance(one, str) for one in choices):
        raise TemplateError(f"{where}: the choices of '{name_of_input}' must be a list of texts.")
    if usual is not None and not (
        isinstance(usual, list) and [type(one) in (int, float) for one in usual] == [True] * 2
    ):
        raise TemplateError(f"{where}: what is usual for '{name_of_input}' must be two numbers.")
    one = Parameter(
        name=str(described.get("name", name_of_input)),
        type=kind,
        default=default if isinstance(default, bool | int | float | str) else "",
        minimum=described.get("minimum"),
        maximum=described.get("maximum"),
        multiple_of=described.get("multiple_of"),
        usual=(float(usual[0]), float(usual[1])) if usual else None,
        choices=tuple(choices),
        places=places,
    )
    try:
        one.check(default)
    except BadJob as error:
        raise TemplateError(f"{where}: its own default is refused ({error})") from error
    return one


def _joined(earlier: Parameter | None, one: Parameter) -> Parameter:
    if earlier is None:
        return one
    return Parameter(**{**one.__dict__, "places": earlier.places + one.places})


def load_templates(folders: Iterable[Path]) -> dict[str, Template]:
    """Every ``*.json`` directly in these folders, by name without suffix; a later folder replaces an earlier one's.

    Raises TemplateError for a folder that cannot be read and for a file that is no template.
    """
    templates = {}
    for folder in folders:
        try:
            files = sorted(path for path in folder.iterdir() if path.suffix == ".json")
        except OSError as error:
            raise TemplateError(f"The templates' folder '{folder}' cannot be read: {error.strerror}.") from error
        for path in files:
            try:
                graph = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise TemplateError(f"The template '{path}' cannot be read: {error}.") from error
            templates[path.stem] = parse_template(path.stem, graph)
    return templates


def template_named(templates: Mapping[str, Template], name: str) -> Template:
    """The template that a job names; TemplateError lists those that there are."""
    if name not in templates:
        raise TemplateError(f"workflow: there is no template '{name}' here, but {', '.join(sorted(templates))}.")
    return templates[name]
