"""Draws the graphs of this folder, which ComfyUI lists under Workflow > Browse Templates.

    python workflows/draw.py http://127.0.0.1:8188     (a running ComfyUI with this pack: its nodes say their inputs)

Each graph below says only its nodes, what differs from their defaults, and what is connected; places, sizes and the
order of widgets follow. A test holds the files against the nodes of a real server.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

WIDTH, GAP, TITLE, MARGIN = 330, 50, 40, 20  # pixels of the canvas
SLOT, WIDGET = 20, 24
PREVIEW = {"SONIC_LoadPortrait": 300, "SONIC_LoadVoice": 80, "LoadAudio": 80, "SONIC_SaveVideo": 260}
TOLD = {"SONIC_PreData": 110, "SONIC_Inference": 120, "SONIC_PostProcess": 110, "SONIC_Composite": 80,
        "SONIC_Interpolate": 80}  # fmt: skip
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
NOTE_COLOURS = {"color": "#432", "bgcolor": "#653"}


@dataclass(frozen=True)
class Out:
    """An output of another node, by its name."""

    node: str
    output: str


@dataclass(frozen=True)
class Node:
    """inputs: what is connected (Out) or differs from the default."""

    key: str
    type: str
    title: str
    inputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Nodes in columns under one heading."""

    title: str
    columns: Sequence[Sequence[Node]]


@dataclass(frozen=True)
class Graph:
    """bands: groups in a row, the rows below each other. last: groups to the right of all rows."""

    note: str
    bands: Sequence[Sequence[Group]]
    last: Sequence[Group] = ()


def portrait(key: str = "portrait", image: str = "eileen_collins.png", title: str = "The portrait") -> Node:
    return Node(key, "SONIC_LoadPortrait", title, {"image": image})


def voice(key: str = "voice", audio: str = "eileen_collins_welcome.wav", title: str = "The voice") -> Node:
    return Node(key, "SONIC_LoadVoice", title, {"audio": audio})


def prepare(key: str = "prepare", image: str = "portrait", audio: Out | None = None, **inputs: Any) -> Node:
    connected = {"image": Out(image, "image"), "audio": audio or Out("voice", "audio")}
    return Node(key, "SONIC_PreData", "Find the face", {**connected, **inputs})


def speak(key: str = "speak", data: str = "prepare", **inputs: Any) -> Node:
    return Node(key, "SONIC_Inference", "Speak", {"preprocessed_data": Out(data, "preprocessed_data"), **inputs})


def finish(**inputs: Any) -> Node:
    clip = {name: Out("speak", name) for name in ("images", "audio", "fps")}
    return Node("finish", "SONIC_PostProcess", "Calm the frames, check the lip sync", {**clip, **inputs})


def save(prefix: str, **inputs: Any) -> Node:
    return Node("save", "SONIC_SaveVideo", "Save", {"filename_prefix": prefix, **inputs})


MATERIAL = Group("Picture and voice", [[portrait(), voice()]])

GRAPHS: Mapping[str, Graph] = {
    "quick_draft": Graph(
        "## Quick draft\n\n"
        "One portrait and one recording become a video, on any computer: the engine **draft** needs no download and no "
        "graphics card.\n\n"
        "Choose your own picture and recording on the left (two of the pack's `examples/batch` are named), then run.",
        [
            [
                MATERIAL,
                Group("Speak", [[prepare()], [speak(engine="draft")]]),
                Group("Save", [[save("video/draft", video=Out("speak", "video"))]]),
            ]
        ],
    ),
    "sonic": Graph(
        "## Sonic\n\n"
        "The published diffusion model, which needs its files (`sonic-queue models` lists what is missing) and a "
        "graphics card. 25 steps are usual; twice the resolution takes about four times as long.\n\n"
        "Without the files this stops with a sentence that names them; the engine **auto** takes draft then.",
        [
            [
                MATERIAL,
                Group(
                    "Speak",
                    [
                        [Node("model", "SONIC_Loader", "Load Sonic"), prepare()],
                        [speak(engine="sonic", model=Out("model", "model"))],
                    ],
                ),
                Group("Finish", [[finish()]]),
                Group(
                    "Save",
                    [
                        [
                            save(
                                "video/sonic",
                                images=Out("finish", "images"),
                                audio=Out("finish", "audio"),
                                fps=Out("speak", "fps"),
                            )
                        ]
                    ],
                ),
            ]
        ],
    ),
    "finish_and_composite": Graph(
        "## Finish and composite\n\n"
        "Only a square around the face is made, so that all pixels go to the face; **Composite** lays it back into the "
        "whole picture. Before that the clip is smoothed and its lip sync checked, after it **Interpolate** brings it "
        "to 50 frames a second.\n\n"
        "The engine is **auto**: Sonic when its files are there, else draft.",
        [
            [
                MATERIAL,
                Group("Speak", [[prepare(crop="crop to face", min_resolution=512)], [speak()]]),
                Group(
                    "Finish",
                    [
                        [finish()],
                        [
                            Node(
                                "whole",
                                "SONIC_Composite",
                                "Back into the whole picture",
                                {
                                    "images": Out("finish", "images"),
                                    "preprocessed_data": Out("prepare", "preprocessed_data"),
                                },
                            ),
                            Node(
                                "smoother",
                                "SONIC_Interpolate",
                                "To 50 frames a second",
                                {"images": Out("whole", "images"), "fps": Out("speak", "fps"), "target_fps": 50.0},
                            ),
                        ],
                    ],
                ),
                Group(
                    "Save",
                    [
                        [
                            save(
                                "video/composite",
                                images=Out("smoother", "images"),
                                audio=Out("finish", "audio"),
                                fps=Out("smoother", "fps"),
                            )
                        ]
                    ],
                ),
            ]
        ],
    ),
    "long_audio": Graph(
        "## Long recordings\n\n"
        "**duration** 0 takes the whole recording. Memory does not grow with it, as the finished **video** goes to "
        "Save and nothing else reads the frames. A node that takes **images** and keeps them (such as Save Image) "
        "would need them all at once.\n\n"
        "To try a part first, set **duration** to a few seconds. With Sonic, the node says before it begins whether "
        "the clip fits into the card's memory.",
        [
            [
                Group("Picture and voice", [[portrait(), voice(audio="eileen_collins_问候.wav")]]),
                Group("Speak", [[prepare(duration=0.0)], [speak()]]),
                Group("Save", [[save("video/long", video=Out("speak", "video"))]]),
            ]
        ],
    ),
    "two_people": Graph(
        "## Two people, one after the other\n\n"
        "Each has a portrait and a recording of their own. ComfyUI's **Batch Images** puts the second clip behind the "
        "first, cut to its size, and **Audio Concat** does the same with the sound.\n\n"
        "Both clips must have the same fps. All frames are in memory here: keep such videos to a minute or so.",
        [
            [
                Group(
                    "First person",
                    [
                        [portrait("portrait_1"), voice("voice_1")],
                        [prepare("prepare_1", "portrait_1", Out("voice_1", "audio"))],
                        [speak("speak_1", "prepare_1")],
                    ],
                )
            ],
            [
                Group(
                    "Second person",
                    [
                        [portrait("portrait_2", "painted_anna.png"), voice("voice_2", "painted_anna.wav")],
                        [prepare("prepare_2", "portrait_2", Out("voice_2", "audio"))],
                        [speak("speak_2", "prepare_2")],
                    ],
                )
            ],
        ],
        [
            Group(
                "One video of both",
                [
                    [
                        Node(
                            "frames",
                            "ImageBatch",
                            "The second clip's frames after the first's",
                            {"image1": Out("speak_1", "images"), "image2": Out("speak_2", "images")},
                        ),
                        Node(
                            "sound",
                            "AudioConcat",
                            "Its sound likewise",
                            {"audio1": Out("speak_1", "audio"), "audio2": Out("speak_2", "audio")},
                        ),
                    ],
                    [
                        save(
                            "video/two_people",
                            images=Out("frames", "IMAGE"),
                            audio=Out("sound", "AUDIO"),
                            fps=Out("speak_1", "fps"),
                        )
                    ],
                ],
            )
        ],
    ),
    "speech_first": Graph(
        "## Speech from text, then the video\n\n"
        "Put any text-to-speech node in the place of **Load Audio**: connect its **AUDIO** output to **audio** of "
        "*Find the face*, and delete Load Audio. Nothing else changes: rate, channels and loudness are brought in "
        "order there.\n\n"
        "As it is, it runs with a recording, so that the rest can be tried before a speech node is chosen.",
        [
            [
                Group(
                    "Picture and speech",
                    [
                        [
                            portrait(image="painted_anna.png"),
                            Node("speech", "LoadAudio", "Put a speech node in my place", {"audio": "painted_anna.wav"}),
                        ]
                    ],
                ),
                Group("Speak", [[prepare(audio=Out("speech", "AUDIO"))], [speak()]]),
                Group("Save", [[save("video/speech", video=Out("speak", "video"))]]),
            ]
        ],
    ),
}


def draw(graph: Graph, node_types: Mapping[str, Json]) -> Json:
    """The graph in ComfyUI's form. node_types: the server's /object_info."""
    canvas = _Canvas(node_types)
    note = Node("note", "MarkdownNote", "About this graph", {"": graph.note})
    left, right = canvas.place([[note]], MARGIN, MARGIN + 2 * TITLE)[0], 0
    bottom = MARGIN
    for band in graph.bands:
        at, top = left + GAP, bottom
        for group in band:
            at, lower = canvas.group(group, at, top)
            bottom = max(bottom, lower + GAP)
        right = max(right, at)
    for group in graph.last:
        right, _ = canvas.group(group, right, MARGIN)
    return canvas.finished()


class _Canvas:
    def __init__(self, node_types: Mapping[str, Json]) -> None:
        self._types = node_types
        self._nodes: dict[str, tuple[Node, Json]] = {}
        self._groups: list[Json] = []

    def group(self, group: Group, left: int, top: int) -> tuple[int, int]:
        """Places it; returns where the next one begins to the right, and its lower end."""
        right, bottom = self.place(group.columns, left + MARGIN, top + 2 * TITLE)
        box = [left, top, right + MARGIN - left, bottom + MARGIN - top]
        self._groups.append({"id": len(self._groups) + 1, "title": group.title, "bounding": box, "color": "#3f789e",
                             "font_size": 24, "flags": {}})  # fmt: skip
        return right + MARGIN + GAP // 2, bottom + MARGIN

    def place(self, columns: Sequence[Sequence[Node]], left: int, top: int) -> tuple[int, int]:
        """Places nodes in columns; returns the right and lower end."""
        lowest = top
        for column in columns:
            y = top
            for node in column:
                drawn = self._box(node, left, y)
                self._nodes[node.key] = (node, drawn)
                lowest = max(lowest, y + drawn["size"][1])
                y += drawn["size"][1] + TITLE + MARGIN
            left += WIDTH + GAP
        return left - GAP, lowest

    def _box(self, node: Node, x: int, y: int) -> Json:
        index = len(self._nodes)
        drawn: Json = {"id": index + 1, "type": node.type, "pos": [x, y], "size": [WIDTH, 0], "flags": {},
                       "order": index, "mode": 0, "inputs": [], "outputs": [], "title": node.title}  # fmt: skip
        if node.type == "MarkdownNote":
            text = node.inputs[""]
            lines = sum(1 + len(line) // 42 for line in text.splitlines())
            return {**drawn, "size": [WIDTH, 60 + 22 * lines], "properties": {}, "widgets_values": [text],
                    **NOTE_COLOURS}  # fmt: skip
        about = self._types[node.type]
        ours = node.type.startswith("SONIC_")
        drawn["properties"] = {
            "Node name for S&R": node.type,
            "cnr_id": "sonic-talking-head" if ours else "comfy-core",
        }
        for name, type_, more, optional in _inputs_of(about):
            given = node.inputs.get(name)
            if is_widget(type_):
                drawn.setdefault("widgets_values", []).extend(_values(given, type_, more))
            elif not isinstance(given, Out) and not optional:
                raise ValueError(f"{node.key}: {name} is not connected")
        unknown = set(node.inputs) - {name for name, *_ in _inputs_of(about)}
        if unknown:
            raise ValueError(f"{node.key}: {node.type} has no {unknown}")
        # As ComfyUI writes them: the sockets first, then those widgets that are connected.
        drawn["inputs"] = sorted(
            (
                {"name": name, "type": _type_name(type_), "link": None}
                | ({"shape": 7} if optional else {})
                | ({"widget": {"name": name}} if is_widget(type_) else {})
                for name, type_, _, optional in _inputs_of(about)
                if not is_widget(type_) or isinstance(node.inputs.get(name), Out)
            ),
            key=lambda one: "widget" in one,
        )
        names = about.get("output_name") or about["output"]
        drawn["outputs"] = [{"name": n, "type": t, "links": None} for n, t in zip(names, about["output"], strict=True)]
        slots = max(len(drawn["inputs"]), len(drawn["outputs"]))
        height = SLOT * slots + WIDGET * len(drawn.get("widgets_values", ())) + 16
        drawn["size"][1] = height + PREVIEW.get(node.type, 0) + TOLD.get(node.type, 0)
        return drawn

    def finished(self) -> Json:
        links: list[list[Any]] = []
        for node, drawn in self._nodes.values():
            for slot, socket in enumerate(drawn["inputs"]):
                wire = node.inputs.get(socket["name"])
                if not isinstance(wire, Out):
                    continue
                source = self._nodes[wire.node][1]
                names = [one["name"] for one in source["outputs"]]
                number = names.index(wire.output)
                links.append(
                    [len(links) + 1, source["id"], number, drawn["id"], slot, source["outputs"][number]["type"]]
                )
                socket["link"] = len(links)
                source["outputs"][number]["links"] = [*(source["outputs"][number]["links"] or []), len(links)]
        nodes = [drawn for _, drawn in self._nodes.values()]
        return {"last_node_id": len(nodes), "last_link_id": len(links), "nodes": nodes, "links": links,
                "groups": self._groups, "config": {}, "extra": {"ds": {"scale": 0.6, "offset": [100, 120]}},
                "version": 0.4}  # fmt: skip


def _inputs_of(about: Json) -> Iterator[tuple[str, Any, Json, bool]]:
    """Name, type, details and whether it may be left out, in the order in which ComfyUI makes them."""
    for kind in ("required", "optional"):
        for name, described in about["input"].get(kind, {}).items():
            yield name, described[0], described[1] if len(described) > 1 else {}, kind == "optional"


def is_widget(type_: Any) -> bool:
    """Whether ComfyUI shows an input of this type as a field; a list of choices is one."""
    return isinstance(type_, list) or type_ in WIDGET_TYPES


def _type_name(type_: Any) -> str:
    return "COMBO" if isinstance(type_, list) else str(type_)


def _values(given: Any, type_: Any, more: Json) -> list[Any]:
    """The values that the fields of one input keep: a seed has a second field."""
    value = given
    if given is None or isinstance(given, Out):
        options = type_ if isinstance(type_, list) else more.get("options", [])
        value = more.get("default", options[0] if options else None)
    return [value, "fixed"] if more.get("control_after_generate") else [value]


def as_text(graph: Json) -> str:
    """JSON that shows in a comparison what has changed: a line for each node, link and group."""
    parts = []
    for key, value in graph.items():
        if isinstance(value, list):
            rows = ",\n".join(f"    {json.dumps(one, ensure_ascii=False)}" for one in value)
            parts.append(f"  {json.dumps(key)}: [\n{rows}\n  ]")
        else:
            parts.append(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(address: str) -> None:
    with urllib.request.urlopen(f"{address.rstrip('/')}/object_info") as answer:
        node_types = json.load(answer)
    for name, graph in GRAPHS.items():
        place = Path(__file__).with_name(f"{name}.json")
        place.write_text(as_text(draw(graph, node_types)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8188")
