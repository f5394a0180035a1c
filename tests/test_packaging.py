"""What the Comfy registry asks of pyproject.toml is given, or left to whoever publishes.

Source: docs.comfy.org/registry/specifications, and comfy-cli 1.23's reader of it.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REQUIRED = ("project.name", "project.version", "project.urls.Repository", "tool.comfy.PublisherId")
ADDRESSES = ("project.urls.Repository", "tool.comfy.Icon", "tool.comfy.Banner")
SYSTEMS = ("OS Independent", "Microsoft :: Windows", "POSIX :: Linux", "MacOS")


def given(name: str) -> Any:
    found: Any = PROJECT
    for part in name.split("."):
        found = found.get(part, {})
    return found or None


def section_on_publishing() -> str:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text.partition("## Publishing to the registry")[2].partition("\n## ")[0]


def test_the_name_is_one_that_the_registry_takes() -> None:
    name = given("project.name")
    assert re.fullmatch(r"[A-Za-z](?:[A-Za-z0-9]|[-_.](?=[A-Za-z0-9]))*", name)  # no two signs in a row
    assert len(name) < 100
    assert "comfyui" not in name.lower()  # advised against


def test_the_version_and_what_is_needed_are_in_the_forms_that_the_registry_reads() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", given("project.version"))
    assert SpecifierSet(given("project.requires-python")) and SpecifierSet(given("tool.comfy.requires-comfyui"))
    systems = [one.removeprefix("Operating System :: ") for one in given("project.classifiers")]
    assert any(one in SYSTEMS for one in systems)
    assert given("project.license") == "Apache-2.0" and (ROOT / "LICENSE").is_file()
    assert given("project.description") and given("tool.comfy.DisplayName")
    # The registry's client reads no dynamic dependencies; ComfyUI's manager installs this file.
    assert given("tool.setuptools.dynamic.dependencies") == {"file": ["requirements.txt"]}


@pytest.mark.parametrize("name", sorted({*REQUIRED, *ADDRESSES}))
def test_what_is_not_given_is_named_among_what_the_publisher_fills_in(name: str) -> None:
    assert given(name) or f"`{name.rpartition('.')[2]}`" in section_on_publishing()


@pytest.mark.parametrize("name", ADDRESSES)
def test_an_address_that_is_given_is_nobodys_example(name: str) -> None:
    address = given(name)
    assert address is None or re.fullmatch(r"https://[\w.-]+\.\w+/\S+", address)
    assert not re.search(r"example|username|your[-_]|CHANGE|TODO", address or "")


def test_the_icon_that_the_publisher_is_pointed_to_is_there() -> None:
    [icon] = re.findall(r"`([\w/.-]+\.svg)`", section_on_publishing())
    assert (ROOT / icon).read_text(encoding="utf-8").startswith("<svg")
