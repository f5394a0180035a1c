"""Job templates: prompts whose nodes say what a job may set."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from comfyui_sonic.queue_bridge.errors import BadJob, TemplateError
from comfyui_sonic.queue_bridge.pipelines.templates import Template, load_templates, parse_template, template_named

API = Path(__file__).resolve().parent.parent / "workflows" / "api"
FILES = {"image": "sonic/j/a.png", "audio": "sonic/j/a.wav", "output_prefix": "sonic/j/1/video"}


@pytest.fixture(scope="module")
def speaks() -> Template:
    return load_templates([API])["portrait_speaks"]


def test_a_job_without_parameters_gets_the_templates_own_values(speaks: Template) -> None:
    values, warnings = speaks.check({})
    graph = speaks.fill(values, **FILES)
    assert warnings == []
    assert graph["prepare"]["inputs"]["min_resolution"] == 512
    assert graph["speak"]["inputs"]["engine"] == "auto"
    assert graph["portrait"]["inputs"]["image"] == FILES["image"]
    assert graph["voice"]["inputs"]["audio"] == FILES["audio"]
    assert graph["save"]["inputs"]["filename_prefix"] == FILES["output_prefix"]


def test_a_parameter_reaches_the_input_it_names_and_filling_changes_no_template(speaks: Template) -> None:
    before = copy.deepcopy(speaks.graph)
    values, _ = speaks.check({"resolution": 768, "seed": 0, "dynamic_scale": 1})
    graph = speaks.fill(values, **FILES)
    assert graph["prepare"]["inputs"]["min_resolution"] == 768
    assert graph["speak"]["inputs"]["seed"] == 0
    assert isinstance(graph["speak"]["inputs"]["dynamic_scale"], float)
    assert speaks.graph == before


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"resolution": 500}, r"config\.resolution: 500 is not a multiple of 64\."),
        ({"resolution": 4096}, r"config\.resolution: 4096 is outside 256 to 1536\."),
        ({"resolution": "big"}, r"config\.resolution: 'big' is no number\."),
        ({"resolution": True}, r"config\.resolution: 'True' is no number\."),
        ({"seed": 1.5}, r"config\.seed: 1\.5 is no whole number\."),
        ({"fps": float("nan")}, r"config\.fps: 'nan' is no number\."),
        ({"engine": "magic"}, r"config\.engine: 'magic' is not one of auto, sonic, draft\."),
        ({"engine": 3}, r"config\.engine: '3' is no text\."),
        (
            {"sharpness": 1},
            r"config\.sharpness: the template 'portrait_speaks' has no such parameter, but close",
        ),
    ],
)
def test_a_wrong_parameter_is_one_sentence(speaks: Template, config: dict[str, Any], words: str) -> None:
    with pytest.raises(BadJob, match=f"^{words}"):
        speaks.check(config)


def test_a_value_that_is_seldom_meant_is_run_with_a_warning(speaks: Template) -> None:
    _, warnings = speaks.check({"inference_steps": 60, "expand_ratio": 0.5})
    assert warnings == ["expand_ratio is 0.5; 0.15 to 0.2 is usual.", "inference_steps is 60; 10 to 30 is usual."]


def test_every_shipped_template_is_one(speaks: Template) -> None:
    assert speaks.result_node == "save"
    assert speaks.weights["SONIC_Inference"] > speaks.weights["SONIC_PreData"]


def minimal() -> dict[str, Any]:
    meta = {"result": True, "parameters": {"prefix": {"type": "output_prefix"}, "n": {"type": "int", "minimum": 1}}}
    return {"1": {"class_type": "Save", "inputs": {"prefix": "x", "n": 3}, "_meta": meta}}


def changed(**meta: Any) -> dict[str, Any]:
    graph = minimal()
    graph["1"]["_meta"] |= meta
    return graph


PREFIX = {"type": "output_prefix"}


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ([], "is no prompt in ComfyUI's API format"),
        ({"1": {"inputs": {}}}, "node 1: a node needs class_type and inputs"),
        (changed(result=False), 'must mark one node with "result": true, and marks 0'),
        (changed(parameters={}), "has no input of type output_prefix"),
        (changed(parameters={"prefix": PREFIX, "m": {"type": "int"}}), "it has no input 'm'"),
        (changed(parameters={"prefix": PREFIX, "n": {"type": "number"}}), "'number' is no type of a parameter"),
        (changed(parameters={"prefix": PREFIX, "n": {"type": "int", "min": 1}}), "a parameter has no 'min'"),
        (changed(parameters={"prefix": PREFIX, "n": {"type": "int", "minimum": 5}}), "its own default is refused"),
        (
            changed(parameters={"prefix": PREFIX, "n": {"type": "int", "minimum": "a"}}),
            "'a' as minimum of 'n' is no num",
        ),
        (changed(parameters={"prefix": PREFIX, "n": {"type": "int", "usual": [1]}}), "must be two numbers"),
        (changed(parameters={"prefix": PREFIX, "n": {"type": "text", "choices": "ab"}}), "must be a list of texts"),
        (changed(parameters={"prefix": PREFIX, "n": 7}), "must be a JSON object"),
        (changed(parameters=[]), "must be JSON objects"),
        (changed(weight="much"), "its weight 'much' is no number"),
    ],
)
def test_a_file_that_is_no_template_says_what_is_wrong(graph: object, words: str) -> None:
    with pytest.raises(TemplateError, match=words):
        parse_template("mine", graph)


def test_a_parameter_may_set_several_inputs_but_only_of_one_kind() -> None:
    graph = minimal() | {"2": {"class_type": "X", "inputs": {"n": 3}, "_meta": {"parameters": {"n": {"type": "int"}}}}}
    template = parse_template("mine", graph)
    filled = template.fill({"n": 7}, **FILES)
    assert (filled["1"]["inputs"]["n"], filled["2"]["inputs"]["n"]) == (7, 7)
    graph["2"]["inputs"]["n"] = 4
    with pytest.raises(TemplateError, match="has another type or default elsewhere"):
        parse_template("mine", graph)


def test_an_operators_folder_adds_templates_and_a_broken_one_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(minimal()))
    templates = load_templates([API, tmp_path])
    assert set(templates) >= {"mine", "portrait_speaks"}
    with pytest.raises(
        TemplateError, match=r"no template 'other' here, but mine, portrait_in_picture, portrait_speaks\."
    ):
        template_named(templates, "other")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(TemplateError, match=r"bad\.json' cannot be read"):
        load_templates([tmp_path])
