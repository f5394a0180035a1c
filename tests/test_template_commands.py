"""A pipeline of other nodes becomes a kind of job: sonic-queue template list, check and add."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfyui_sonic.queue_bridge import cli
from comfyui_sonic.queue_bridge.errors import TemplateError
from comfyui_sonic.queue_bridge.pipelines.template_check import NOT_EXPORTED, faults_of
from comfyui_sonic.queue_bridge.pipelines.template_declaration import Declaration, declared
from comfyui_sonic.queue_bridge.pipelines.templates import load_templates, parse_template

ROOT = Path(__file__).resolve().parent.parent
Command = Callable[..., int]


def foreign() -> dict[str, Any]:
    """A pipeline as ComfyUI exports it, of nodes that this pack does not have."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "face.png"}, "_meta": {"title": "Load Image"}},
        "2": {"class_type": "LoadAudio", "inputs": {"audio": "speech.wav"}},
        "3": {
            "class_type": "FloatTalk",
            "inputs": {"image": ["1", 0], "audio": ["2", 0], "steps": 10, "strength": 1, "mood": "calm"},
        },
        "4": {"class_type": "CreateVideo", "inputs": {"images": ["3", 0], "audio": ["2", 0], "fps": 25.0}},
        "5": {"class_type": "SaveVideo", "inputs": {"video": ["4", 0], "filename_prefix": "video/talk"}},
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }


NODE_TYPES: dict[str, dict[str, Any]] = {
    "LoadImage": {"input": {"required": {"image": [["other.png"], {"image_upload": True}]}}},
    "LoadAudio": {"input": {"required": {"audio": ["COMBO", {"options": [], "audio_upload": True}]}}},
    "FloatTalk": {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "audio": ["AUDIO", {}],
                "steps": ["INT", {"default": 10, "min": 1, "max": 64}],
                "mood": [["calm", "glad"]],
            },
            "optional": {"strength": ["FLOAT", {"min": 0, "max": 2}]},
        }
    },
    "CreateVideo": {"input": {"required": {"images": ["IMAGE"], "fps": ["FLOAT", {}]}}},
    "SaveVideo": {"input": {"required": {"video": ["VIDEO"], "filename_prefix": ["STRING"]}}, "output_node": True},
    "PreviewImage": {"input": {"required": {"images": ["IMAGE"]}}, "output_node": True},
}


def test_what_loads_and_saves_is_found_and_the_servers_limits_are_taken() -> None:
    said = Declaration(["steps=3.steps", "strength=3.strength", "style=3.mood"])
    graph = declared(foreign(), said, NODE_TYPES)
    assert faults_of("talk", graph, NODE_TYPES) == []
    template = parse_template("talk", graph)
    assert template.result_node == "5"
    assert template.filled == {"image": (("1", "image"),), "audio": (("2", "audio"),),
                               "output_prefix": (("5", "filename_prefix"),)}  # fmt: skip
    steps, strength, style = (template.parameters[name] for name in ("steps", "strength", "style"))
    assert (steps.type, steps.minimum, steps.maximum) == ("int", 1, 64)
    assert (strength.type, strength.default, strength.maximum) == ("float", 1.0, 2)
    assert (style.choices, style.places) == (("calm", "glad"), (("3", "mood"),))
    assert graph["1"]["_meta"]["title"] == "Load Image"


def test_without_a_server_types_are_those_of_the_values_and_limits_are_given() -> None:
    said = Declaration(["steps=3.steps:1..64/2", "strength=3.strength:float:0..2", "mood=3.mood:calm,glad"])
    parameters = parse_template("talk", declared(foreign(), said)).parameters
    assert (parameters["steps"].maximum, parameters["steps"].multiple_of) == (64, 2)
    assert (parameters["strength"].type, parameters["strength"].minimum) == ("float", 0)
    assert parameters["mood"].choices == ("calm", "glad")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Declaration(["steps"]), "'steps' is not NAME=NODE.INPUT"),
        (Declaration(["steps=9.steps"]), "there is no node 9; the nodes are 1, 2, 3, 4, 5, 6"),
        (Declaration(["steps=3.step"]), "node 3 has no input 'step', but audio, image, mood, steps, strength"),
        (Declaration(["picture=3.image"]), "'image' of node 3 is connected to node 1; set it there"),
        (Declaration(["audio=3.mood"]), "'audio' is a field of every job"),
        (Declaration(["steps=3.steps:int:many"]), "'many' in 'steps=3.steps:int:many' is not LOW..HIGH"),
        (Declaration(["steps=3.steps:int:20..50"]), "its own default is refused"),
        (Declaration(result="7"), "--result: there is no node 7"),
        (Declaration(image="1"), "--image: '1' is not NODE.INPUT"),
    ],
)
def test_a_wrong_declaration_is_one_sentence(said: Declaration, words: str) -> None:
    with pytest.raises(TemplateError, match=words):
        parse_template("talk", declared(foreign(), said))


def test_what_is_ambiguous_is_asked_for() -> None:
    graph = foreign() | {"7": {"class_type": "LoadImage", "inputs": {"image": "logo.png"}}}
    with pytest.raises(TemplateError, match=r"kind image: 1\.image, 7\.image; name the job's with --image"):
        declared(graph, Declaration())
    assert parse_template("t", declared(graph, Declaration(image="1.image"))).filled["image"] == (("1", "image"),)
    graph = foreign() | {"7": {"class_type": "SaveVideo", "inputs": {"video": ["4", 0], "filename_prefix": "b"}}}
    with pytest.raises(TemplateError, match=r"those that may are: 5 \(SaveVideo\), 7 \(SaveVideo\)"):
        declared(graph, Declaration())
    template = parse_template("t", declared(graph, Declaration(result="7")))
    assert template.result_node == "7" and len(template.filled["output_prefix"]) == 2


def test_every_fault_of_an_export_is_a_sentence_of_its_own() -> None:
    graph = foreign()
    graph["3"]["inputs"]["audio"] = ["8", 0]
    graph["3"]["inputs"]["mood"] = "angry"
    del graph["3"]["inputs"]["steps"]
    graph["4"]["class_type"] = "MakeVideo"
    graph["3"]["_meta"] = {"parameters": {"stepz": {"type": "int"}}, "result": True}
    assert faults_of("talk", graph, NODE_TYPES) == [
        "The template 'talk', node 3: it has no input 'stepz', which its parameters name.",
        "The template 'talk' has no input of type output_prefix, so its files would mix.",
        "Node 3: its input 'audio' is connected to node 8, which is not there.",
        "Node 4: this ComfyUI has no node 'MakeVideo'; install the pack that it comes with.",
        "Node 3 (FloatTalk): its input 'steps' is missing.",
        "Node 3 (FloatTalk): 'angry' is none of the choices of 'mood' on this server, which are calm, glad.",
        "Node 3: it is marked as the result and saves no file, as it is no output node.",
    ]
    without = {node_id: node for node_id, node in foreign().items() if node_id not in ("5", "6")}
    assert "It has no output node, so it would make nothing; add one that saves a video." in faults_of(
        "talk", without, NODE_TYPES
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The templates' folder that is set; the pipeline lies beside it."""
    (tmp_path / "talk.json").write_text(json.dumps(foreign()))
    monkeypatch.setenv("SONIC_QUEUE_TEMPLATES", str(tmp_path / "templates"))
    (tmp_path / "templates").mkdir()
    return tmp_path / "templates"


def test_an_exported_pipeline_is_checked_and_added_and_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(folder.parent / "talk.json")
    assert cli.main(["template", "check", file]) == 1
    assert 'must mark one node with "result": true' in capsys.readouterr().out
    assert cli.main(["template", "add", file, "--parameter", "steps=3.steps:1..64"]) == 0
    assert "it takes a picture and a sound" in capsys.readouterr().out
    assert list(load_templates([folder])["talk"].parameters) == ["steps"]
    assert "_meta" not in json.loads((folder / "talk.json").read_text())["4"]
    assert cli.main(["template", "check", str(folder / "talk.json")]) == 0
    assert "Whether a server has its nodes is told with --server" in capsys.readouterr().out
    assert cli.main(["template", "list"]) == 0
    listed = capsys.readouterr().out
    assert "1 to 64" in listed and "256 to 1536 in steps of 64" in listed and "portrait_in_picture" in listed
    assert cli.main(["template", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["talk"]["parameters"]["steps"]["default"] == 10


def test_a_name_is_taken_once_and_nothing_is_left_of_what_was_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(folder.parent / "talk.json")
    assert cli.main(["template", "add", file]) == 0
    assert cli.main(["template", "add", file]) == 1
    assert "There is a template 'talk' already" in capsys.readouterr().err
    assert cli.main(["template", "add", file, "--replace"]) == 0
    assert cli.main(["template", "add", file, "--name", "portrait_speaks"]) == 1
    assert cli.main(["template", "add", file, "--name", "a/b"]) == 1
    assert [path.name for path in folder.iterdir()] == ["talk.json"]


def test_a_graph_as_the_browser_saves_it_is_told_from_an_export(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["template", "add", str(ROOT / "workflows" / "quick_draft.json")]) == 1
    assert NOT_EXPORTED in capsys.readouterr().out
    (folder.parent / "bad.json").write_text("{")
    assert cli.main(["template", "check", str(folder.parent / "bad.json")]) == 1
    assert "is no JSON file" in capsys.readouterr().err
    assert list(folder.iterdir()) == []
