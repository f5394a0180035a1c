"""Every graph and template of the pack against a real server: its nodes, their inputs, and a video of some of them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import av
import pytest
from comfyui_sonic.queue_bridge import cli
from comfyui_sonic.queue_bridge.execution.comfy_client import ComfyClient
from comfyui_sonic.queue_bridge.pipelines.template_check import (
    NodeTypes,
    choices_of,
    faults_of,
    graph_faults,
    inputs_of,
    is_link,
)
from comfyui_sonic.queue_bridge.pipelines.templates import SHIPPED, load_templates
from comfyui_sonic.queue_bridge.servers.instance import Instance
from comfyui_sonic.sonic.older_graphs import KINDS, convert_graph
from PIL import Image

from .browser_graph import SHOWN_ONLY, WIDGETS, as_prompt, widgets_of
from .older_pack import exported, saved

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / "workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
TEMPLATES = sorted(path.stem for path in SHIPPED.glob("*.json"))
Json = dict[str, Any]


def graph_named(name: str) -> Json:
    graph: Json = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    return graph


@pytest.fixture(scope="module")
def material(comfyui: Instance) -> None:
    """The examples, under the names that the graphs have."""
    for file in (ROOT / "examples" / "batch").iterdir():
        shutil.copyfile(file, comfyui.input_directory / file.name)
    shutil.copyfile(ROOT / "examples" / "batch" / "eileen_collins.png", comfyui.input_directory / "portrait.png")
    shutil.copyfile(ROOT / "tests" / "data" / "voice.wav", comfyui.input_directory / "voice.wav")


@pytest.fixture
async def node_types(comfyui: Instance, material: None) -> NodeTypes:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{comfyui.address}/object_info") as answer,
    ):
        found: NodeTypes = await answer.json()
    return found


async def test_the_browser_is_offered_every_graph_with_its_picture_and_the_script_of_load_voice(
    comfyui: Instance,
) -> None:
    address = f"http://{comfyui.address}"
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{address}/api/workflow_templates") as answer:
            offered = await answer.json()
        assert {pack: sorted(names) for pack, names in offered.items()}["comfyui_sonic"] == NAMES
        for name in NAMES:
            async with session.get(f"{address}/api/workflow_templates/comfyui_sonic/{name}.json") as answer:
                assert await answer.json() == graph_named(name)
            async with session.get(f"{address}/api/workflow_templates/comfyui_sonic/{name}.jpg") as answer:
                assert answer.status == 200 and len(await answer.read()) < 40_000
            assert min(Image.open(WORKFLOWS / f"{name}.jpg").size) >= 256
        async with session.get(f"{address}/extensions/comfyui_sonic/load_voice.js") as answer:
            assert "AUDIO_UI" in await answer.text()


async def test_the_graphs_are_those_that_the_script_draws_from_this_servers_nodes(node_types: NodeTypes) -> None:
    script = drawing_script()
    assert sorted(script.GRAPHS) == NAMES
    for name, graph in script.GRAPHS.items():
        drawn = script.as_text(script.draw(graph, node_types))
        assert drawn == (WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"), f"draw workflows/{name}.json again"


def drawing_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_workflows", WORKFLOWS / "draw.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
async def test_a_graph_fits_the_nodes_of_the_server(node_types: NodeTypes, name: str) -> None:
    assert_fits(graph_named(name), node_types)


def assert_fits(graph: Json, node_types: NodeTypes) -> None:
    """Types, fields, sockets and links, both ends of each; and the prompt that the browser would send of it."""
    by_id = {node["id"]: node for node in graph["nodes"]}
    links = {link[0]: link for link in graph["links"]}
    for node in graph["nodes"]:
        if node["type"] in SHOWN_ONLY:
            continue
        described = node_types[node["type"]]
        fields = widgets_of(described)
        # Loaders of files have further fields in the browser, at the end, for their buttons. ComfyUI's own nodes get
        # further ones in later versions, which a graph may leave at what they are by themselves.
        values = node.get("widgets_values") or []
        assert len(values) <= len(fields) or node["type"].startswith("Load"), node
        by_itself = {given for given, _, details, _ in inputs_of(described) if "default" in details}
        assert by_itself.issuperset(fields[len(values) :]), node
        types = {given: type_ for given, type_, _, _ in inputs_of(described)}
        for slot, socket in enumerate(node["inputs"]):
            assert socket["name"] in types, socket
            assert ("widget" in socket) == (isinstance(types[socket["name"]], list) or types[socket["name"]] in WIDGETS)
            if socket["link"] is not None:
                assert links[socket["link"]][3:5] == [node["id"], slot]
                assert links[socket["link"]][5] == types[socket["name"]]
        names = described.get("output_name") or described["output"]
        outputs = list(zip(names, described["output"], strict=True))
        known = [(one["name"], one["type"]) for one in node["outputs"]]
        assert known == outputs[: len(known)], node
        if node["type"].startswith("SONIC"):
            assert (len(values), known) == (len(fields), outputs), node
        for slot, output in enumerate(node["outputs"]):
            for link in output["links"] or ():
                assert links[link][1:3] == [node["id"], slot]
    for _, origin, slot, target, at, type_ in graph["links"]:
        assert by_id[origin]["outputs"][slot]["type"] == type_ and by_id[target]["inputs"][at]["link"] is not None
    prompt = as_prompt(graph, node_types)
    assert graph_faults(prompt, node_types) == []
    assert_values_within(prompt, node_types)


def assert_values_within(prompt: Json, node_types: NodeTypes) -> None:
    for node in prompt.values():
        for name, type_, details, _ in inputs_of(node_types[node["class_type"]]):
            value = node["inputs"].get(name)
            if value is None or is_link(value):
                continue
            if type_ in ("INT", "FLOAT"):
                assert details.get("min", value) <= value <= details.get("max", value), (node, name)
            elif (choices := choices_of(type_, details)) is not None:
                assert value in choices, (node, name)
            elif type_ in ("STRING", "BOOLEAN"):
                assert isinstance(value, str if type_ == "STRING" else bool), (node, name)


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_is_explained_and_nothing_lies_on_anything_else(name: str) -> None:
    graph = graph_named(name)
    boxes = {node["id"]: (*node["pos"], *node["size"]) for node in graph["nodes"]}
    notes = [node for node in graph["nodes"] if node["type"] == "MarkdownNote"]
    assert len(notes) == 1 and 2 <= len(notes[0]["widgets_values"][0].split("\n\n")) <= 4
    assert all(node["title"] for node in graph["nodes"])
    for one, other in combinations(boxes.values(), 2):
        assert apart(one, other, 30)
    groups = [tuple(group["bounding"]) for group in graph["groups"]]
    assert all(apart(one, other, 0) for one, other in combinations(groups, 2))
    for node in graph["nodes"]:
        inside = sum(within(boxes[node["id"]], group) for group in groups)
        assert inside == (0 if node["type"] == "MarkdownNote" else 1)


def apart(one: Any, other: Any, title: int) -> bool:
    """Whether two boxes (x, y, width, height) with a heading of this height above them do not touch."""
    x, y, width, height = one
    u, v, breadth, depth = other
    return bool(x + width <= u or u + breadth <= x or y + height <= v - title or v + depth <= y - title)


def within(one: Any, group: Any) -> bool:
    x, y, width, height = one
    u, v, breadth, depth = group
    return bool(u <= x and v <= y and x + width <= u + breadth and y + height <= v + depth)


@pytest.mark.parametrize(("name", "frames"), [("quick_draft", 10), ("two_people", 20), ("finish_and_composite", 20)])
async def test_a_graph_makes_a_video(client: ComfyClient, node_types: NodeTypes, tmp_path: Path, name: str,
                                     frames: int) -> None:  # fmt: skip
    prompt = short(as_prompt(graph_named(name), node_types))
    (file,) = (await client.run(prompt)).files()
    with av.open(str(await client.download(file, tmp_path / "video.mp4"))) as video:
        assert sum(1 for _ in video.decode(video=0)) == frames
        assert len(video.streams.audio) == 1


def short(prompt: Json) -> Json:
    """The same for 0.4 s in small, by the engine that needs no files."""
    for node in prompt.values():
        if node["class_type"] == "SONIC_PreData":
            node["inputs"] |= {"duration": 0.4, "min_resolution": 256}
        elif node["class_type"] == "SONIC_Inference":
            node["inputs"]["engine"] = "draft"
            node["inputs"].pop("model", None)
    return {node_id: node for node_id, node in prompt.items() if node["class_type"] != "SONIC_Loader"}


@pytest.mark.parametrize("name", TEMPLATES)
async def test_a_template_and_its_limits_fit_the_nodes_of_the_server(node_types: NodeTypes, name: str) -> None:
    template = load_templates([SHIPPED])[name]
    assert faults_of(name, template.graph, node_types) == []
    assert_values_within({**template.graph}, node_types)
    for parameter in template.parameters.values():
        for node_id, name_of_input in parameter.places:
            described = node_types[template.graph[node_id]["class_type"]]
            type_, details = next((t, d) for n, t, d, _ in inputs_of(described) if n == name_of_input)
            choices = choices_of(type_, details)
            if choices is not None:
                assert set(parameter.choices) == set(choices)
            elif type_ in ("INT", "FLOAT"):
                assert (parameter.type == "int") == (type_ == "INT")
                assert parameter.minimum is not None and parameter.minimum >= details["min"]
                assert parameter.maximum is not None and parameter.maximum <= details["max"]
            else:
                assert parameter.type == {"BOOLEAN": "bool", "STRING": "text"}[type_]


def test_the_command_asks_a_server_which_nodes_it_has(
    comfyui: Instance, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = exported() | {"35": {"class_type": "Clean / all", "inputs": {"anything": ["33", 0]}}}
    (tmp_path / "older.json").write_text(json.dumps(graph))
    assert cli.main(["template", "check", str(tmp_path / "older.json"), "--server", comfyui.address]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "this ComfyUI has no node" in line] == [
        "Node 35: this ComfyUI has no node 'Clean / all'; install the pack that it comes with.",
        "Node 31: this ComfyUI has no node 'SONICSampler'; install the pack that it comes with.",
        "Node 34: this ComfyUI has no node 'SONICTLoader'; install the pack that it comes with.",
    ]
    shipped = str(SHIPPED / "portrait_in_picture.json")
    assert cli.main(["template", "check", shipped, "--server", f"http://{comfyui.address}/"]) == 0
    assert "It can be used; it takes a picture and a sound." in capsys.readouterr().out
    assert cli.main(["template", "check", shipped, "--server", "127.0.0.1:9"]) == 1
    assert "does not answer" in capsys.readouterr().err


async def test_a_converted_graph_of_the_older_pack_fits_the_server_and_makes_a_video(
    client: ComfyClient, node_types: NodeTypes, tmp_path: Path
) -> None:
    assert_fits(convert_graph(saved()).graph, node_types)
    prompt = convert_graph(exported()).graph
    assert graph_faults(prompt, node_types) == []
    assert_values_within(prompt, node_types)
    for kind in KINDS.values():
        described = node_types[kind.becomes]
        assert widgets_of(described) == list(kind.fields)
        assert list(zip(described["output_name"], described["output"], strict=True)) == list(kind.outputs)
    (file,) = (await client.run(short(prompt))).files()
    with av.open(str(await client.download(file, tmp_path / "video.mp4"))) as video:
        assert video.streams.video[0].average_rate == 24
        assert sum(1 for _ in video.decode(video=0)) == 10
