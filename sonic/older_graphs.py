"""Graphs that were saved for the older Sonic pack (SONICTLoader, SONIC_PreData, SONICSampler) become graphs of ours.

Both forms are read: the one that the browser saves, and the one that is sent to /prompt (File > Export (API)). What
means something else here than there is said in sentences. Nothing of ComfyUI is imported.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any

from .checkpoints import SONIC_FILES
from .errors import BadGraph
from .options import MIN_RESOLUTION, PUBLISHED_SEED, SIZE_STEP

Json = dict[str, Any]

DEFAULT_SIZE = 512
MOST_STEPS = 100
LONGEST_S = 24 * 3600
CHECKPOINTS = next(file.names for file in SONIC_FILES if file.part == "svd")
# What the older loaders took from these, ours reads by itself; they go when nothing else uses them.
SUPPLIERS = frozenset(
    {"ImageOnlyCheckpointLoader", "CheckpointLoaderSimple", "CLIPVisionLoader", "VAELoader", "Reroute"}
)


@dataclass(frozen=True)
class Converted:
    """graph: in the form that it came in. differences: what is no longer as it was, a sentence each."""

    graph: Json
    differences: tuple[str, ...]


@dataclass
class _Values:
    """The fields of one older node on their way into ours. was: by older name, only what was said there."""

    was: Mapping[str, Any]
    said: list[str] = field(default_factory=list)

    def number(self, name: str, default: float) -> float:
        value = self.was.get(name, default)
        return default if isinstance(value, bool) or not isinstance(value, int | float) else value


@dataclass(frozen=True)
class _Kind:
    """How one node type is converted.

    inputs: older name -> ours, for what stays connected or set. sockets, fields, outputs: of ours, in their order;
    a field '' is the second one of a seed. slots: number of the older output -> of ours, None where there is none.
    older_fields: the order in which the browser saved them. values: sets ours out of the older ones.
    """

    becomes: str
    inputs: Mapping[str, str]
    sockets: tuple[tuple[str, str], ...]
    fields: tuple[str, ...]
    outputs: tuple[tuple[str, str], ...]
    slots: tuple[int | None, ...]
    older_fields: tuple[str, ...]
    values: Callable[[_Values], Json]


def _loader_values(older: _Values) -> Json:
    unet = older.was.get("sonic_unet", "unet.pth")
    if unet == "none" or not isinstance(unet, str):
        older.said.append("no video network was chosen; unet.pth is now.")
        unet = "unet.pth"
    if older.was.get("use_interframe") is False:
        older.said.append(
            "use_interframe was off, which gave 12.5 frames a second under another number; the video always has as "
            "many as fps says now."
        )
    dtype = older.was.get("dtype", "fp16")
    return {
        "unet": unet,
        "dtype": dtype if dtype in ("fp16", "bf16", "fp32") else "auto",
        "audio_scale": float(older.number("ip_audio_scale", 1.0)),
    }


def _prepare_values(older: _Values) -> Json:
    duration = older.number("duration", 0.0)
    if duration > LONGEST_S:
        older.said.append(f"duration {duration:g} stood for the whole recording, which is 0 now.")
        duration = 0.0
    asked = older.number("min_resolution", DEFAULT_SIZE)
    low, high = MIN_RESOLUTION
    size = min(max(int(asked) // SIZE_STEP * SIZE_STEP, low), high)
    if size != asked:
        older.said.append(
            f"min_resolution {asked:g} is {size} now; {low} to {high} in steps of {SIZE_STEP} is possible."
        )
    if "expand_ratio" in older.was:
        older.said.append(
            "expand_ratio had no effect there, as the whole picture was used, and it still is; to use the part around "
            "the face, set crop to 'crop to face', with expand_ratio as the margin."
        )
    return {
        "duration": float(duration),
        "min_resolution": size,
        "expand_ratio": 0.18,
        "crop": "whole picture",
        "on_no_face": "error",
        "face_index": 0,
    }


def _sampler_values(older: _Values) -> Json:
    seed = int(older.number("seed", PUBLISHED_SEED))
    if seed == 0:
        older.said.append(
            f"seed 0 was ignored there and {PUBLISHED_SEED} taken (or the seed of the run before); {PUBLISHED_SEED} is "
            "set now. Here 0 is a seed like any other."
        )
        seed = PUBLISHED_SEED
    asked = int(older.number("inference_steps", 25))
    steps = min(max(asked, 1), MOST_STEPS)
    if steps != asked:
        older.said.append(f"inference_steps {asked} is {steps} now; 1 to {MOST_STEPS} is possible.")
    older.said.append(
        "fps went into the network there, as its frame rate and the length of its windows, so that it changed "
        "the motion; here the network works as published, at 12.5, and fps is the rate of the video alone."
    )
    return {
        "inference_steps": steps,
        "dynamic_scale": float(older.number("dynamic_scale", 1.0)),
        "motion_scale": 1.0,
        "engine": "sonic",
        "seed": seed,
        "fps": float(older.number("fps", 25.0)),
    }


KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "SONICTLoader": _Kind(
            becomes="SONIC_Loader",
            inputs={"sonic_unet": "unet", "dtype": "dtype", "ip_audio_scale": "audio_scale"},
            sockets=(),
            fields=("unet", "dtype", "audio_scale"),
            outputs=(("model", "SONIC_MODEL"),),
            slots=(0, None),
            older_fields=("sonic_unet", "ip_audio_scale", "use_interframe", "dtype"),
            values=_loader_values,
        ),
        "SONIC_PreData": _Kind(
            becomes="SONIC_PreData",
            inputs={"image": "image", "audio": "audio", "duration": "duration", "min_resolution": "min_resolution"},
            sockets=(("image", "IMAGE"), ("audio", "AUDIO")),
            fields=("duration", "min_resolution", "expand_ratio", "crop", "on_no_face", "face_index"),
            outputs=(("preprocessed_data", "SONIC_PREDATA"),),
            slots=(0,),
            older_fields=("min_resolution", "duration", "expand_ratio"),
            values=_prepare_values,
        ),
        "SONICSampler": _Kind(
            becomes="SONIC_Inference",
            inputs={
                "data_dict": "preprocessed_data",
                "model": "model",
                "seed": "seed",
                "inference_steps": "inference_steps",
                "dynamic_scale": "dynamic_scale",
                "fps": "fps",
            },
            sockets=(("preprocessed_data", "SONIC_PREDATA"), ("model", "SONIC_MODEL")),
            fields=("inference_steps", "dynamic_scale", "motion_scale", "engine", "seed", "", "fps"),
            outputs=(("images", "IMAGE"), ("audio", "AUDIO"), ("fps", "FLOAT"), ("video", "VIDEO")),
            slots=(0, 2),
            older_fields=("seed", "", "inference_steps", "dynamic_scale", "fps"),
            values=_sampler_values,
        ),
    }
)
SOCKET_TYPES = MappingProxyType({"MODEL_SONIC": "SONIC_MODEL"})
ONLY_OLDER = frozenset({"clip_vision", "vae", "weight_dtype"})  # inputs that tell the older SONIC_PreData from ours


def convert_graph(graph: object) -> Converted:
    """The graph with our nodes in the places of the older ones.

    Raises BadGraph for what is no graph, and for one without a node of the older pack.
    """
    if not isinstance(graph, dict):
        raise BadGraph("This is no graph of ComfyUI: neither as the browser saves it nor as it is exported (API).")
    graph = copy.deepcopy(graph)
    said: list[str] = []
    if isinstance(graph.get("nodes"), list):
        levels = [graph, *graph.get("definitions", {}).get("subgraphs", [])]
        found = sum([_SavedGraph(level, said).convert() for level in levels])
    else:
        found = _convert_prompt(graph, said)
    if not found:
        raise BadGraph(
            f"There is no node of the older pack in it ({', '.join(KINDS)}, this one with clip_vision and vae), so "
            "there is nothing to convert."
        )
    return Converted(graph, tuple(dict.fromkeys(said)))


# --- as it is sent to /prompt ----------------------------------------------------------------------------------------


def _convert_prompt(graph: Json, said: list[str]) -> int:
    nodes = {node_id: node for node_id, node in graph.items() if isinstance(node, dict) and "class_type" in node}
    if len(nodes) < len(graph) or not all(isinstance(node.get("inputs"), dict) for node in nodes.values()):
        raise BadGraph("This is no graph of ComfyUI: not all of it are nodes with class_type and inputs.")
    older = {
        node_id: KINDS[node["class_type"]]
        for node_id, node in nodes.items()
        if node["class_type"] in KINDS and (node["class_type"] != "SONIC_PreData" or ONLY_OLDER & node["inputs"].keys())
    }
    before = _suppliers_in_use(nodes)
    for node_id, kind in older.items():
        _convert_prompt_node(node_id, nodes[node_id], kind, said)
    for node_id, node in nodes.items():
        for name, value in list(node["inputs"].items()):
            if not (_is_wire(value) and value[0] in older):
                continue
            slots = older[value[0]].slots
            slot = slots[value[1]] if value[1] < len(slots) else None
            if slot is None:
                del node["inputs"][name]
                said.append(
                    f"Node {node_id} ({node['class_type']}): '{name}' took what is no longer made; connect it anew."
                )
            else:
                node["inputs"][name] = [value[0], slot]
    while unused := sorted(before - _suppliers_in_use(nodes)):
        for node_id in unused:
            said.extend(_about_supplier(node_id, nodes[node_id]["class_type"], list(nodes[node_id]["inputs"].values())))
            del nodes[node_id], graph[node_id]
            before.discard(node_id)
    return len(older)


def _convert_prompt_node(node_id: str, node: Json, kind: _Kind, said: list[str]) -> None:
    was = node["inputs"]
    values = _Values({name: value for name, value in was.items() if not _is_wire(value)})
    wires = {kind.inputs[name]: value for name, value in was.items() if _is_wire(value) and name in kind.inputs}
    node["inputs"] = {**kind.values(values), **wires}
    said.extend(f"Node {node_id} ({node['class_type']}): {sentence}" for sentence in values.said)
    if node.get("_meta", {}).get("title") == node["class_type"]:
        node["_meta"]["title"] = kind.becomes
    node["class_type"] = kind.becomes


def _is_wire(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)


def _suppliers_in_use(nodes: Mapping[str, Json]) -> set[str]:
    used = {value[0] for node in nodes.values() for value in node["inputs"].values() if _is_wire(value)}
    return {node_id for node_id in used if node_id in nodes and nodes[node_id]["class_type"] in SUPPLIERS}


def _about_supplier(node_id: object, kind: str, values: list[Any]) -> Iterator[str]:
    """What is to be said of a node that has been taken out."""
    if kind == "Reroute":
        return
    sentence = (
        f"Node {node_id} ({kind}) is taken out: nothing else used it, and Sonic Loader finds its files by itself."
    )
    for name in values:
        if kind.startswith(("ImageOnly", "Checkpoint")) and isinstance(name, str):
            last = PurePosixPath(PureWindowsPath(name).as_posix())
            if str(last) not in CHECKPOINTS:
                sentence += f" It named '{name}'; put that into models/checkpoints as {CHECKPOINTS[0]}."
    yield sentence


# --- as the browser saves it -----------------------------------------------------------------------------------------

_LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


class _SavedGraph:
    """A graph, or a subgraph of it. Its links are lists in the older form and objects in the newer one."""

    def __init__(self, level: Json, said: list[str]) -> None:
        self._level = level
        self._said = said
        self._nodes: dict[Any, Json] = {node["id"]: node for node in level["nodes"]}

    def convert(self) -> int:
        older = [node for node in self._nodes.values() if self._is_older(node)]
        if not older:
            return 0
        before = self._suppliers_in_use()
        for node in older:
            self._convert_node(node, KINDS[node["type"]])
        self._rename_sockets()
        while unused := before - self._suppliers_in_use():
            for node_id in sorted(unused, key=str):
                self._take_out(node_id)
                before.discard(node_id)
        return len(older)

    def _is_older(self, node: Json) -> bool:
        names = {one["name"] for one in node.get("inputs") or ()}
        return node.get("type") in KINDS and (node["type"] != "SONIC_PreData" or bool(ONLY_OLDER & names))

    def _convert_node(self, node: Json, kind: _Kind) -> None:
        where = f"Node {node['id']} ({node['type']})"
        wired = {one["name"]: one["link"] for one in node.get("inputs") or () if one.get("link") is not None}
        values = _Values(self._older_values(node, kind, where, wired))
        ours = kind.values(values)
        self._said.extend(f"{where}: {sentence}" for sentence in values.said)
        control = values.was.get("")
        node["widgets_values"] = [
            ours[name] if name else control if isinstance(control, str) else "fixed" for name in kind.fields
        ]
        inputs: list[Json] = [{"name": name, "type": type_, "link": None} for name, type_ in kind.sockets]
        for name, link in wired.items():
            new = kind.inputs.get(name)
            if new is None:
                self._cut(link)
                continue
            socket = next((one for one in inputs if one["name"] == new), None)
            if socket is None:
                socket = {"name": new, "type": self._type_of(link), "widget": {"name": new}, "link": None}
                inputs.append(socket)
            socket["link"] = link
        for slot, socket in enumerate(inputs):
            if socket["link"] is not None:
                self._set(socket["link"], target_slot=slot)
        outputs: list[Json] = [{"name": name, "type": type_, "links": None} for name, type_ in kind.outputs]
        for number, older in enumerate(node.get("outputs") or ()):
            becomes = kind.slots[number] if number < len(kind.slots) else None
            for link in list(older.get("links") or ()):
                if becomes is None:
                    self._cut(link)
                else:
                    outputs[becomes]["links"] = [*(outputs[becomes]["links"] or []), link]
                    self._set(link, origin_slot=becomes)
        node["inputs"], node["outputs"] = inputs, outputs
        node["properties"] = {"Node name for S&R": kind.becomes, "cnr_id": "sonic-talking-head"}
        if node.get("title") == node["type"]:
            node["title"] = kind.becomes
        node["type"] = kind.becomes

    def _older_values(self, node: Json, kind: _Kind, where: str, wired: Mapping[str, Any]) -> Json:
        saved = node.get("widgets_values")
        if isinstance(saved, dict):
            return {name: value for name, value in saved.items() if name not in wired}
        if not isinstance(saved, list) or len(saved) != len(kind.older_fields):
            if saved:
                self._said.append(
                    f"{where}: its values are those of another version of the older pack and are set to the usual "
                    f"ones; they were {', '.join(map(str, saved))}."
                )
            return {}
        return {name: value for name, value in zip(kind.older_fields, saved, strict=True) if name not in wired}

    def _rename_sockets(self) -> None:
        slots = [one for node in self._nodes.values() for side in ("inputs", "outputs") for one in node.get(side) or ()]
        slots += [one for side in ("inputs", "outputs") for one in self._level.get(side) or ()]  # of a subgraph
        for slot in slots:
            slot["type"] = SOCKET_TYPES.get(slot.get("type"), slot.get("type"))
        for link in self._level["links"]:
            if (type_ := SOCKET_TYPES.get(_get(link, "type"))) is not None:
                _put(link, "type", type_)

    def _suppliers_in_use(self) -> set[Any]:
        return {
            node_id
            for node_id, node in self._nodes.items()
            if node["type"] in SUPPLIERS and any(one.get("links") for one in node.get("outputs") or ())
        }

    def _take_out(self, node_id: Any) -> None:
        node = self._nodes.pop(node_id)
        for one in node.get("inputs") or ():
            if one.get("link") is not None:
                self._cut(one["link"])
        self._level["nodes"].remove(node)
        self._said.extend(_about_supplier(node_id, node["type"], list(node.get("widgets_values") or ())))

    def _link(self, link_id: Any) -> Any:
        return next((one for one in self._level["links"] if _get(one, "id") == link_id), None)

    def _type_of(self, link_id: Any) -> Any:
        link = self._link(link_id)
        return _get(link, "type") if link is not None else "*"

    def _set(self, link_id: Any, **values: Any) -> None:
        link = self._link(link_id)
        for name, value in values.items():
            if link is not None:
                _put(link, name, value)

    def _cut(self, link_id: Any) -> None:
        """Takes out a link at both its ends."""
        self._level["links"] = [one for one in self._level["links"] if _get(one, "id") != link_id]
        for node in self._nodes.values():
            for one in node.get("inputs") or ():
                if one.get("link") == link_id:
                    one["link"] = None
            for one in node.get("outputs") or ():
                if link_id in (one.get("links") or ()):
                    one["links"] = [other for other in one["links"] if other != link_id] or None
        for side in ("inputs", "outputs"):
            for one in self._level.get(side) or ():  # of a subgraph
                if link_id in one.get("linkIds", ()):
                    one["linkIds"].remove(link_id)


def _get(link: Any, name: str) -> Any:
    return link[_LINK.index(name)] if isinstance(link, list) else link.get(name)


def _put(link: Any, name: str, value: Any) -> None:
    link[_LINK.index(name) if isinstance(link, list) else name] = value
