"""What lies in deploy/ for systemd and Compose: well-formed, and true of this program."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from comfyui_sonic.queue_bridge.cli import parser
from comfyui_sonic.queue_bridge.config import Settings, load_settings
from comfyui_sonic.queue_bridge.servers.fleet_place import MORE_S

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "deploy" / "systemd" / "sonic-fleet.service"
COMPOSE = ROOT / "deploy" / "compose" / "compose.yaml"
PROCESSOR = ROOT / "deploy" / "compose" / "processor.yaml"
DOCKERFILE = ROOT / "deploy" / "compose" / "Dockerfile"


class Unit(configparser.RawConfigParser):
    """A unit file; names are case-sensitive there."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture
def unit() -> Unit:
    found = Unit(strict=True, interpolation=None)
    found.read_string(UNIT.read_text(encoding="utf-8"))
    return found


def interpolated(text: str, variables: dict[str, str]) -> str:
    """What Compose makes of ${NAME:-default}, ${NAME:?message} and $$."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name, _, default = match[1].partition(":")
        if name in variables:
            return variables[name]
        assert default.startswith("-"), f"{name} has no default"
        return default[1:]

    return re.sub(r"\$\$|\$\{([^}]+)\}", value, text)


@pytest.fixture
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(interpolated(COMPOSE.read_text(encoding="utf-8"), {"QUEUE_PASSWORD": "s3"}))
    return found


class Overriding(yaml.SafeLoader):
    """What ``!reset`` takes out of the other file is nothing here."""


Overriding.add_constructor("!reset", lambda loader, node: None)


def seconds(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(s|m)?", text).groups()  # type: ignore[union-attr]
    return int(number) * (60 if unit == "m" else 1)


def test_the_commands_of_unit_and_compose_are_commands_of_this_program(unit: Unit, compose: dict[str, Any]) -> None:
    in_unit = shlex.split(unit["Service"]["ExecStart"])
    commands = [in_unit, compose["services"]["fleet"]["command"], compose["services"]["gateway"]["command"]]
    commands.append(compose["services"]["fleet"]["healthcheck"]["test"][1:])
    on_processor = yaml.load(PROCESSOR.read_text(encoding="utf-8"), Overriding)["services"]["fleet"]
    assert (on_processor["deploy"], on_processor["command"][-2:]) == (None, ["--cpu", "2"])
    commands.append(on_processor["command"])
    for program, *arguments in commands:
        assert Path(program).name == "sonic-queue"
        parser().parse_args(arguments)  # exits otherwise


def test_whoever_ends_a_fleet_waits_longer_than_its_grace(unit: Unit, compose: dict[str, Any]) -> None:
    needed = Settings().grace_s + 2 * MORE_S
    assert seconds(unit["Service"]["TimeoutStopSec"]) > needed
    assert seconds(compose["services"]["fleet"]["stop_grace_period"]) > needed


def test_the_unit_leaves_ending_the_servers_to_the_fleet_and_starts_it_again(unit: Unit) -> None:
    service = unit["Service"]
    assert (service["KillMode"], service["Restart"]) == ("mixed", "always")
    assert service["ExecReload"].split()[1] == "-HUP"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8")
    there = re.sub(r"^ExecStart=\S+", f"ExecStart={shutil.which('true')}", text, flags=re.M)
    (tmp_path / UNIT.name).write_text(there)
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT.name)]
    said = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"})
    assert (said.returncode, said.stderr) == (0, "")


def test_the_settings_in_the_environment_are_settings(compose: dict[str, Any]) -> None:
    for name in ("fleet", "gateway"):
        settings = load_settings(compose["services"][name]["environment"])
        assert settings.url == "redis://:s3@queue:6379/0"
        mounted = [volume.split(":")[1] for volume in compose["services"][name]["volumes"]]
        assert all(str(root) in mounted for root in settings.roots)
    assert load_settings(compose["services"]["gateway"]["environment"]).gateway_folder.startswith("/data/")


def test_the_queue_of_compose_keeps_its_data_and_the_fleet_has_the_cards(compose: dict[str, Any]) -> None:
    queue = compose["services"]["queue"]
    command = " ".join(queue["command"])
    assert "--appendonly yes --appendfsync always" in command
    assert "noeviction" in command
    assert "queue:/data" in queue["volumes"]
    (cards,) = compose["services"]["fleet"]["deploy"]["resources"]["reservations"]["devices"]
    assert (cards["driver"], cards["capabilities"]) == ("nvidia", ["gpu"])
    used = {volume.split(":")[0] for one in compose["services"].values() for volume in one["volumes"]}
    assert set(compose["volumes"]) == {name for name in used if not name.startswith(".")}


def test_images_are_named_plainly_and_with_a_version(compose: dict[str, Any]) -> None:
    named = [service["image"] for service in compose["services"].values()]
    named += re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(encoding="utf-8"), re.M)
    for image in set(named) - {"sonic"}:
        assert re.fullmatch(r"([a-z0-9-]+/)?[a-z0-9-]+:[a-z0-9.-]+", image), image


def test_the_image_is_set_up_as_the_tests_are() -> None:
    text, source = DOCKERFILE.read_text(encoding="utf-8"), (ROOT / "quickstart.py").read_text(encoding="utf-8")
    (torch,) = re.findall(r"torch==(\S+)", text)
    assert f'TORCH = "{torch}"' in source
    assert "quickstart.set_up()" in text
    assert "\ndef set_up(" in source
    left_out = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", ".quickstart"} <= set(left_out)


def test_the_compose_file_is_one_by_the_specification(compose: dict[str, Any]) -> None:
    """Where the package compose-spec is installed."""
    specification = pytest.importorskip("compose_spec")
    without_extensions = {name: value for name, value in compose.items() if not name.startswith("x-")}
    parsed = specification.PyCompose.from_json(json.dumps(without_extensions))
    assert sorted(parsed.service_names()) == ["fleet", "gateway", "queue"]
