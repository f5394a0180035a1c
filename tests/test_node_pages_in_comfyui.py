"""What a browser is told of our nodes by a real ComfyUI: help pages, names in Chinese, and where its files lie."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from comfyui_sonic.queue_bridge.servers.instance import Instance

ROOT = Path(__file__).resolve().parent.parent
LOCALES = ROOT / "locales"
ADDED_BY_THE_BROWSER = {"image_upload": "upload", "audio_upload": "upload", "control_after_generate": None}
OLDER_NAMES = {"Sonic_PreData": "SONIC_PreData", "Sonic_Inference": "SONIC_Inference"}

Json = dict[str, Any]


@pytest.fixture
async def nodes(comfyui: Instance) -> Json:
    """Our nodes by id, as /object_info describes them."""
    described = await answered(comfyui, "/object_info")
    found = {name: node for name, node in described.items() if name.upper().startswith("SONIC_")}
    assert len(found) > 10
    return found


async def answered(comfyui: Instance, path: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(f"http://{comfyui.address}{path}") as answer:
        assert answer.status == 200, path
        return await answer.json() if answer.content_type == "application/json" else await answer.text()


def inputs_of(node: Json) -> Json:
    """The details of every input by its name."""
    kinds = [node["input"].get(kind, {}) for kind in ("required", "optional")]
    return {name: (given[1] if len(given) > 1 else {}) for kind in kinds for name, given in kind.items()}


async def test_every_node_has_a_help_page_in_both_languages_that_names_its_inputs_and_outputs(
    comfyui: Instance, nodes: Json
) -> None:
    chinese = (await answered(comfyui, "/i18n"))["zh"]["nodeDefs"]
    for name, node in nodes.items():
        folder = f"/extensions/{quote(node['python_module'].partition('.')[2])}/docs/"
        english, translated = [await answered(comfyui, f"{folder}{page}.md") for page in (name, f"{name}/zh")]
        assert english.startswith(f"# {node['display_name']}") and "## Inputs" in english
        assert translated.startswith(f"# {chinese[name]['display_name']}") and "## 输入" in translated
        sockets = {*inputs_of(node), *node["output_name"]}
        for page in (english, translated):
            assert set(re.findall(r"^- .*?`(\w+)`[:：] ?\S", page, re.M)) >= sockets, name


def test_no_help_page_is_left_over_and_each_is_there_twice() -> None:
    folder = ROOT / "web" / "comfyui" / "docs"
    english = {page.stem for page in folder.glob("*.md")}
    assert english == {page.parent.name for page in folder.glob("*/*.md")}
    assert {page.name for page in folder.glob("*/*.md")} == {"zh.md"}


async def test_every_node_input_and_output_has_its_chinese_name_and_none_is_left_over(
    comfyui: Instance, nodes: Json
) -> None:
    chinese = (await answered(comfyui, "/i18n"))["zh"]["nodeDefs"]
    ours = {name: told for name, told in chinese.items() if name.upper().startswith("SONIC_")}
    assert set(ours) == set(nodes)
    for name, node in nodes.items():
        told = ours[name]
        assert told["display_name"] and told["description"]
        given = inputs_of(node)
        added = {
            field or mark
            for details in given.values()
            for mark, field in ADDED_BY_THE_BROWSER.items()
            if details.get(mark)
        }
        assert set(told["inputs"]) == set(given) | added, name
        assert set(told.get("outputs", {})) == {str(index) for index in range(len(node["output"]))}, name
        for field, details in given.items():
            assert told["inputs"][field]["name"]
            assert bool(told["inputs"][field].get("tooltip")) == bool(details.get("tooltip")), (name, field)
        for index, tooltip in enumerate(node["output_tooltips"]):
            assert told["outputs"][str(index)]["name"]
            assert bool(told["outputs"][str(index)].get("tooltip")) == bool(tooltip), (name, index)
    for older, newer in OLDER_NAMES.items():
        assert ours[older] == ours[newer]


def test_english_says_only_what_the_nodes_do_not() -> None:
    """A browser takes what a language lacks from the nodes; a copy of their texts could only go out of step."""
    assert not (LOCALES / "en" / "nodeDefs.json").exists()
    english, chinese = (json.loads((LOCALES / name / "main.json").read_text("utf-8")) for name in ("en", "zh"))
    assert set(english["dataTypes"]) == set(chinese["dataTypes"]) == {"SONIC_PREDATA", "SONIC_MODEL"}


def texts_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in texts_in(inner)]
    return [value]


@pytest.mark.parametrize("file", sorted(LOCALES.glob("*/*.json")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_translation_has_no_letter_that_the_browser_takes_for_its_own(file: Path) -> None:
    """vue-i18n reads { } @ | as signs of its own, and shows nothing where they are none."""
    assert [text for text in texts_in(json.loads(file.read_text("utf-8"))) if set(text) & set("{}@|")] == []


def test_no_file_for_the_browser_names_the_folder_of_the_pack() -> None:
    for file in (ROOT / "web" / "comfyui").rglob("*.js"):
        assert not re.search(r"extensions/[\w-]", file.read_text(encoding="utf-8")), file


def test_an_installed_package_has_every_file_that_a_browser_is_given() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    carried = {file for pattern in settings["package-data"]["comfyui_sonic"] for file in ROOT.glob(pattern)}
    given = [file for folder in ("web", "locales") for file in (ROOT / folder).rglob("*") if file.is_file()]
    assert [file for file in given if file not in carried] == []


def test_comfyui_reads_from_the_project_what_the_registry_asks_for(comfyui_path: Path) -> None:
    code = (
        "import json, sys; from comfy_config.config_parser import extract_node_configuration as read;"
        "print(json.dumps(read(sys.argv[1]).model_dump()))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)], cwd=comfyui_path, capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 0, answer.stderr
    read = json.loads(answer.stdout.splitlines()[-1])
    project, registry = read["project"], read["tool_comfy"]
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", project["name"]) and re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["license"]["text"] == "Apache-2.0" and project["requires_python"].startswith(">=3.")
    assert project["supported_os"] == ["OS Independent"] and project["supported_comfyui_version"] == ">=0.3.64"
    assert registry["publisher_id"] and registry["display_name"] == "Sonic Talking Head"
    assert not registry["web"]  # it would serve the files under a name of its own, where no help page is looked for
