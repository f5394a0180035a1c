"""Who may import whom: the arrows of docs/architecture.md, read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "sonic": {"sonic"},
    "nodes": {"nodes", "sonic"},
    "queue_bridge": {"queue_bridge"},
    "command.py": {"queue_bridge", "sonic"},
}
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "server", "execution", "nodes"}
SOURCES = [*(path for part in ALLOWED for path in sorted((ROOT / part).rglob("*.py"))), ROOT / "command.py"]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in SOURCES}


def imports(path: Path, *, at_import_time: bool = False) -> Iterator[tuple[str, bool]]:
    """(dotted name from the pack's root, whether it is one of ours) of every import in a file.

    at_import_time: only those that run when the module is imported, not those inside a function or for types only.
    """
    package = list(path.relative_to(ROOT).parent.parts)

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            types_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            if at_import_time and (types_only or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)):
                continue
            yield child
            yield from walk(child)

    for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or "", False
        elif isinstance(node, ast.ImportFrom):
            climbed = package[: len(package) - node.level + 1]
            assert node.level <= len(package) + 1, f"{path} climbs out of the pack"
            base = [*climbed, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                full = ".".join([*base, alias.name])
                yield (full if full in MODULES else ".".join(base)), True


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_each_part_imports_only_what_its_arrows_allow(path: Path) -> None:
    part = path.relative_to(ROOT).parts[0]
    for name, ours in imports(path):
        top = name.split(".")[0]
        if ours:
            assert top in ALLOWED[part], f"{path.name} imports {name}"
        else:
            assert top not in {"comfyui_sonic", "sonic", "queue_bridge"}, f"{path.name} imports {name} absolutely"
            allowed = part == "nodes" or path.is_relative_to(ROOT / "sonic" / "native")
            assert allowed or top not in COMFYUI, f"{path.name} imports ComfyUI's {name}"


def test_nobody_imports_the_command() -> None:
    for path in [ROOT / "__init__.py", ROOT / "quickstart.py", *SOURCES]:
        assert "command" not in {name.split(".")[0] for name, ours in imports(path) if ours}, path


def test_the_command_line_is_read_without_loading_torch() -> None:
    for name in ("model_commands", "model_places", "model_files", "tensor_file", "checkpoints", "unet_layout"):
        for module, ours in imports(ROOT / "sonic" / f"{name}.py", at_import_time=True):
            assert ours or module.split(".")[0] in sys.stdlib_module_names, f"{name} imports {module}"


def test_sonic_knows_neither_redis_nor_http() -> None:
    for path in (ROOT / "sonic").rglob("*.py"):
        forbidden = {"redis", "aiohttp", "requests", "urllib", "httpx", "socket"}
        assert forbidden.isdisjoint(name.split(".")[0] for name, _ in imports(path)), path


# What decides; everything else of the bridge is an edge to Redis, HTTP, ComfyUI, the terminal or processes.
PLAIN_LIBRARIES = {
    ("packed", "orjson"),
    ("packed", "zstandard"),
    ("web_address", "yarl"),
    ("webhook", "standardwebhooks"),
}  # texts in, values out
BRIDGE_CORE = [
    *(
        "config",
        "errors",
        "job",
        "job_files",
        "start_folders",
        "job_progress",
        "keys",
        "packed",
        "presence",
        "prompt_events",
        "prompt_queue",
    ),
    *(
        "alerts",
        "capacity",
        "figures",
        "fleet_scale",
        "health",
        "raw_prompt",
        "scaling",
        "workflow_match",
    ),
    *("fetch_limits", "job_prompt", "local_turns", "mail", "quality_gate", "storage_places", "web_address", "webhook"),
    *("retry", "scripts", "states", "templates", "tiers", "orders", "manifest", "archive", "pairing", "watch_folder"),
    *("raw_prompt", "template_check", "workflow_match"),
]


def test_the_core_of_the_bridge_needs_next_to_the_standard_library_nothing_that_talks() -> None:
    places = {path.stem: path for path in (ROOT / "queue_bridge").rglob("*.py") if "gateway" not in path.parts}
    for name in BRIDGE_CORE:
        for module, ours in imports(places[name]):
            if ours:
                assert module.rpartition(".")[2] in BRIDGE_CORE, f"{name} imports {module}"
            else:
                known = module.split(".")[0] in sys.stdlib_module_names or (name, module) in PLAIN_LIBRARIES
                assert known, f"{name} imports {module}"


# Below are those that it may need, above who may need it. The files beside the rooms are below them all, but for those
# that put everything together.
ROOMS = (
    *("database", "intake", "places", "queue", "messages", "pipelines", "servers", "execution", "oversight"),
    *("commands", "gateway"),
)
ENTRIES = {"__main__", "attach", "celery_app", "cli"}


def test_the_rooms_of_the_bridge_need_those_below_them_only() -> None:
    floors = {name: number for number, name in enumerate(ROOMS, 1)}

    def floor(name: str) -> int:
        first = name.split(".")[1]
        return floors.get(first, len(ROOMS) + 1 if first in ENTRIES else 0)

    for path in (ROOT / "queue_bridge").rglob("*.py"):
        name = name_of(path)
        for found, ours in imports(path):
            if ours and name != "queue_bridge":
                assert floor(found) <= floor(name), f"{name} needs {found}"


def test_the_root_imports_nothing_of_ours_before_comfyui_asks() -> None:
    assert not list(imports(ROOT / "__init__.py", at_import_time=True))


@pytest.mark.parametrize(
    "name",
    [
        "quickstart.py",
        "queue_bridge/intake/archive.py",
        "queue_bridge/servers/instance.py",
        "queue_bridge/intake/manifest.py",
        "queue_bridge/intake/orders.py",
        "queue_bridge/intake/pairing.py",
    ],
)
def test_what_runs_before_anything_is_installed_needs_the_standard_library_only(name: str) -> None:
    for module, ours in imports(ROOT / name):
        assert ours or module.split(".")[0] in sys.stdlib_module_names, module


def test_no_module_reaches_itself_through_its_imports() -> None:
    arrows = {
        name: {found for found, ours in imports(path, at_import_time=True) if ours and found in MODULES} - {name}
        for name, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way, name])
        if name not in done:
            for below in arrows[name]:
                visit(below, (*way, name))
            done.add(name)

    for name in arrows:
        visit(name, ())
