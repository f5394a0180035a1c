"""Graphs of the older Sonic pack become ours, and what differs is said."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from comfyui_sonic import command
from comfyui_sonic.sonic.errors import BadGraph
from comfyui_sonic.sonic.older_graphs import ONLY_OLDER, convert_graph

from .older_pack import exported, saved


def node(graph: dict[str, Any], number: int) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in graph["nodes"] if one["id"] == number)
    return found


def test_an_exported_graph_keeps_its_values_and_connections() -> None:
    graph = convert_graph(exported()).graph
    assert graph["34"] == {
        "class_type": "SONIC_Loader",
        "inputs": {"unet": "unet.pth", "dtype": "fp16", "audio_scale": 1.0},
        "_meta": {"title": "SONIC_Loader"},
    }
    assert graph["33"]["inputs"] == {
        "image": ["18", 0], "audio": ["26", 0], "duration": 0.0, "min_resolution": 576, "expand_ratio": 0.18,
        "crop": "whole picture", "on_no_face": "error", "face_index": 0,
    }  # fmt: skip
    assert graph["33"]["_meta"]["title"] == "The face"
    assert graph["31"]["inputs"] == {
        "preprocessed_data": ["33", 0], "model": ["34", 0], "inference_steps": 25, "dynamic_scale": 1.0,
        "motion_scale": 1.0, "engine": "sonic", "seed": 72589, "fps": 24.0,
    }  # fmt: skip
    assert graph["21"]["inputs"] == {"images": ["31", 0], "fps": ["31", 2], "audio": ["26", 0]}
    assert set(exported()) - set(graph) == {"32"}


def test_what_differs_is_said_once_and_by_node() -> None:
    told = convert_graph(exported()).differences
    words = ("Node 33 (SONIC_PreData): duration 99999 stood for the whole", "expand_ratio had no effect",
             "Node 31 (SONICSampler): seed 0 was ignored", "fps went into the network",
             "named 'video/svd_xt_1_1.safetensors'")  # fmt: skip
    assert [word in sentence for word, sentence in zip(words, told, strict=True)] == [True] * 5


def test_a_node_that_stands_between_stays_between() -> None:
    older = exported(data_dict=["35", 0])
    older["35"] = {"class_type": "easy cleanGpuUsed", "inputs": {"anything": ["33", 0]}}
    graph = convert_graph(older).graph
    assert graph["31"]["inputs"]["preprocessed_data"] == ["35", 0]
    assert graph["35"]["inputs"]["anything"] == ["33", 0]


def test_a_checkpoint_that_something_else_uses_stays() -> None:
    older = exported()
    older["40"] = {"class_type": "KSampler", "inputs": {"model": ["32", 0]}}
    converted = convert_graph(older)
    assert "32" in converted.graph
    assert not any("taken out" in sentence for sentence in converted.differences)


def test_connected_values_stay_connected() -> None:
    older = exported(seed=["50", 0], fps=["51", 0])
    converted = convert_graph(older)
    assert converted.graph["31"]["inputs"]["seed"] == ["50", 0]
    assert converted.graph["31"]["inputs"]["fps"] == ["51", 0]
    assert not any("seed 0" in sentence for sentence in converted.differences)


@pytest.mark.parametrize("links_as_objects", [False, True])
def test_a_saved_graph_keeps_its_values_places_and_connections(links_as_objects: bool) -> None:
    before = saved(links_as_objects)
    untouched = copy.deepcopy(before)
    converted = convert_graph(before)
    graph = converted.graph
    assert before == untouched
    assert [one["type"] for one in graph["nodes"]] == [
        "LoadImage", "LoadAudio", "SONIC_Loader", "SONIC_PreData", "SONIC_Inference", "CreateVideo", "SaveVideo",
        "Note",
    ]  # fmt: skip
    assert node(graph, 14)["widgets_values"] == ["unet.pth", "bf16", 1.2]
    assert node(graph, 17)["widgets_values"] == [3.0, 256, 0.18, "whole picture", "error", 0]
    assert node(graph, 15)["widgets_values"] == [100, 1.3, 1.0, "sonic", 443489271, "randomize", 25.0]
    assert node(graph, 17)["pos"] == node(untouched, 17)["pos"]
    links = [tuple(one.values()) if links_as_objects else tuple(one) for one in graph["links"]]
    assert [link[1:] for link in links] == [
        (19, 0, 17, 1, "AUDIO"), (18, 0, 17, 0, "IMAGE"), (14, 0, 15, 1, "SONIC_MODEL"),
        (17, 0, 15, 0, "SONIC_PREDATA"),
        (15, 0, 21, 0, "IMAGE"), (19, 0, 21, 1, "AUDIO"), (15, 2, 21, 2, "FLOAT"), (21, 0, 20, 0, "VIDEO"),
    ]  # fmt: skip
    assert_consistent(graph, links)
    said = " ".join(converted.differences)
    for words in ("use_interframe was off", "min_resolution 100 is 256 now", "inference_steps 200 is 100 now"):
        assert words in said


def assert_consistent(graph: dict[str, Any], links: list[tuple[Any, ...]]) -> None:
    """Both ends of every link name it, and nothing names a link that is not there."""
    ends = {(link[0], link[3], link[4]) for link in links}
    assert ends == {
        (socket["link"], one["id"], slot)
        for one in graph["nodes"]
        for slot, socket in enumerate(one["inputs"])
        if socket["link"] is not None
    }
    starts = {(link[0], link[1], link[2]) for link in links}
    assert starts == {
        (link, one["id"], slot)
        for one in graph["nodes"]
        for slot, socket in enumerate(one["outputs"])
        for link in socket["links"] or ()
    }


def test_a_value_with_a_socket_of_its_own_stays_connected_in_a_saved_graph() -> None:
    older = saved()
    sampler = node(older, 15)
    sampler["inputs"].append({"name": "seed", "type": "INT", "widget": {"name": "seed"}, "link": 99})
    older["nodes"].append({"id": 30, "type": "PrimitiveInt", "inputs": [], "outputs": [{"name": "INT", "type": "INT",
                           "links": [99]}]})  # fmt: skip
    older["links"].append([99, 30, 0, 15, 2, "INT"])
    graph = convert_graph(older).graph
    seed = node(graph, 15)["inputs"][2]
    assert (seed["name"], seed["widget"], seed["link"]) == ("seed", {"name": "seed"}, 99)
    assert_consistent(graph, [tuple(link) for link in graph["links"]])


def test_nodes_inside_a_subgraph_are_converted() -> None:
    inner = saved(links_as_objects=True)
    outer = {
        "nodes": [{"id": 1, "type": "an-id"}],
        "links": [],
        "definitions": {"subgraphs": [{"id": "an-id", **inner}]},
    }
    graph = convert_graph(outer).graph
    types = {one["type"] for one in graph["definitions"]["subgraphs"][0]["nodes"]}
    assert {"SONIC_Inference", "SONIC_Loader"} <= types and "SONICSampler" not in types


def test_values_of_another_version_are_said_and_not_guessed() -> None:
    older = saved()
    node(older, 17)["widgets_values"] = [512, 0.5]
    converted = convert_graph(older)
    assert node(converted.graph, 17)["widgets_values"][:2] == [0.0, 512]
    assert any("set to the usual ones; they were 512, 0.5" in sentence for sentence in converted.differences)


@pytest.mark.parametrize("graph", [[], {}, {"1": {"class_type": "LoadImage", "inputs": {}}}, {"1": 3}, {"nodes": []}])
def test_what_has_nothing_of_the_older_pack_is_refused_in_a_sentence(graph: Any) -> None:
    with pytest.raises(BadGraph, match=r"nothing to convert|no graph of ComfyUI"):
        convert_graph(graph)


def test_a_graph_of_ours_is_not_taken_for_an_older_one() -> None:
    ours = convert_graph(exported()).graph
    assert not ONLY_OLDER & ours["33"]["inputs"].keys()
    with pytest.raises(BadGraph, match="nothing to convert"):
        convert_graph(ours)


def test_the_command_writes_beside_the_file_and_says_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "talk.json"
    file.write_text(json.dumps(saved()))
    assert command.main(["convert-workflow", str(file)]) == 0
    out = capsys.readouterr().out
    assert "talk.converted.json is written." in out and "expand_ratio had no effect there" in out
    assert json.loads((tmp_path / "talk.converted.json").read_text()) == convert_graph(saved()).graph
    assert command.main(["convert-workflow", str(file)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert command.main(["convert-workflow", str(file), "--again", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"]
    file.write_text('{"nodes": [{}], "links": []}')
    assert command.main(["convert-workflow", str(file), "--again"]) == 1
    assert "is no graph that ComfyUI has saved" in capsys.readouterr().err
