"""What the documents promise exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
READMES = ("README.md", "README.zh-CN.md")
PAGES = [f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")]
DOCUMENTS = [*READMES, "queue_bridge/README.md", "CONTRIBUTING.md", "CHANGELOG.md", *PAGES]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_to_a_file_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", text_of(name))
    local = [link for link in links if "://" not in link]
    missing = [link for link in local if not ((ROOT / name).parent / link).exists()]
    assert missing == []


def test_both_readmes_have_the_same_headings_and_commands() -> None:
    english, chinese = map(text_of, READMES)
    for pattern in (r"^#+ ", r"python3 quickstart\.py(?: test)?"):
        assert len(re.findall(pattern, english, re.M)) == len(re.findall(pattern, chinese, re.M))


@pytest.mark.parametrize("name", READMES)
def test_the_commands_of_the_readme_exist(name: str) -> None:
    source = text_of("quickstart.py")
    for option in re.findall(r"`(--[a-z]+)", text_of(name)):
        assert f'"{option}"' in source or option == "--help", option
    assert "python3 quickstart.py test" in text_of(name)


def test_every_package_has_its_reason() -> None:
    lines = [line.partition("#")[0].strip() for line in text_of("requirements.txt").splitlines()]
    lines += tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]["test"]
    explained = text_of("docs/dependencies.md")
    packages = [re.split(r"[=<>~]", line)[0] for line in lines if line]
    assert [package for package in packages if f"`{package}`" not in explained] == []


def test_the_version_is_the_one_of_the_changelog() -> None:
    version = tomllib.loads(text_of("pyproject.toml"))["project"]["version"]
    assert f"## [{version}]" in text_of("CHANGELOG.md")
