"""The one fixture layer: a real ComfyUI server with this pack in it, and a real database, shared by all tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.database.redis_program import ServerProgram, find_server_program
from comfyui_sonic.queue_bridge.database.redis_server import RedisServer
from comfyui_sonic.queue_bridge.errors import InstanceError, RedisServerError
from comfyui_sonic.queue_bridge.execution.comfy_client import ComfyClient
from comfyui_sonic.queue_bridge.servers.instance import Instance, install_pack

from .bridge_fixture import Bridge, start_bridge
from .browser_fixture import chromium, find_chromium
from .card_fixture import SoftwareCard, compile_card, compiler
from .collector import Collector, run_collector
from .nvml_fixture import NvmlMachine, build_library
from .object_store import ObjectStore, run_object_store

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--recorded",
        type=Path,
        action="append",
        metavar="DIR",
        help="instead of those in tests/data: a folder with recorded numbers of the published Sonic (golden.json, "
        "*.safetensors, pictures, sounds); may be given several times",
    )
    parser.addoption(
        "--card", action="store_true", help="tests of the engine sonic compute on the graphics card, not the processor"
    )


def pytest_configure() -> None:
    """One thread for torch, here and in the servers: small networks lose much with more where others use the cores."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# What holds short times against limits runs while nothing else does, and so do tests that are marked so themselves.
ALONE_MODULES = {
    "test_chaos",
    "test_departure",
    "test_fleet",
    "test_fleet_in_comfyui",
    "test_hands_in_comfyui",
    "test_lease",
}


# What ComfyUI takes on a card by itself; on the processor it takes an attention that needs less memory and more time.
QUICKLY_ON_CPU = ("--cpu", "--use-pytorch-cross-attention")

# Where tests run side by side a worker takes one file after the other. These take a minute or two each; begun last,
# they would be waited for with nothing else left to do.
LONGEST_FILES = (
    "test_sonic_in_comfyui",
    "test_watch_in_comfyui",
    "test_sonic_through_the_queue",
    "test_bad_numbers",
    "test_recorded_numbers",
    "test_bridge_in_comfyui",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Fast tests first, then those that share the server, then the slow ones: a mistake shows within seconds."""
    for item in items:
        if item.path.stem in ALONE_MODULES:
            item.add_marker("alone")

    def cost(item: pytest.Item) -> int:
        if item.get_closest_marker("slow"):
            return 2
        return 1 if {"comfyui", "bridge"} & set(getattr(item, "fixturenames", ())) else 0

    items.sort(key=cost)
    if hasattr(config, "workerinput"):  # of pytest-xdist
        order = {name: place for place, name in enumerate(LONGEST_FILES)}
        items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def comfyui_path() -> Path:
    """The folder of ComfyUI's source: COMFYUI_PATH, or what quickstart.py has put beside the pack."""
    path = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".quickstart" / "ComfyUI")
    if not (path / "main.py").is_file():
        reason = f"There is no ComfyUI in '{path}'; set COMFYUI_PATH or run `python3 quickstart.py test`."
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def comfyui(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """A running ComfyUI with this pack: ``address``, ``input_directory``, ``output_directory``, ``log_file``."""
    instance = Instance(comfyui_path, tmp_path_factory.mktemp("comfyui"), arguments=QUICKLY_ON_CPU)
    install_pack(ROOT, instance.base_directory / "custom_nodes")
    try:
        with instance:
            yield instance
    except InstanceError as error:
        pytest.fail(str(error))
    finally:
        log_copy = os.environ.get("COMFYUI_TEST_LOG")
        if log_copy and instance.log_file.exists():
            shutil.copyfile(instance.log_file, log_copy)


@pytest.fixture
async def client(comfyui: Instance) -> AsyncIterator[ComfyClient]:
    """A fresh client of the session's server."""
    async with ComfyClient(comfyui.address) as client:
        yield client


@pytest.fixture(scope="session")
def bridge(
    comfyui_path: Path,
    redis_url: str,
    object_store: ObjectStore,
    collector: Collector,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Bridge]:
    """Two ComfyUI servers that take jobs from one queue, shared by all tests of a session."""
    yield from start_bridge(comfyui_path, redis_url, tmp_path_factory.mktemp("bridge"), object_store, collector)


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """A collector of traces, shared by all tests, each with a trace of its own."""
    yield from run_collector()


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """A running S3 server, shared by all tests, each with keys of its own."""
    yield from run_object_store()


@pytest.fixture(scope="session")
def redis_program() -> ServerProgram:
    """The database server that this machine can start; without one the test is skipped, and fails with CI=true."""
    try:
        return find_server_program()
    except RedisServerError as error:
        if os.environ.get("CI") and os.name == "posix":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def redis_server(redis_program: ServerProgram) -> Iterator[RedisServer]:
    """A running database on a unix socket, shared by all tests, each with keys of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="sonic-") as folder,  # a short path, as sockets need it
        RedisServer(Path(folder), program=redis_program, outlives_us=False) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def redis_url(redis_server: RedisServer) -> str:
    """The address of the session's database; a test takes a queue name of its own and empties nothing."""
    return redis_server.url


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stand-in for NVIDIA's management library."""
    return build_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def cards(nvml_library: Path, tmp_path: Path) -> NvmlMachine:
    """A machine whose NVIDIA cards a test makes up."""
    return NvmlMachine(nvml_library, tmp_path / "cards", tmp_path / "said")


@pytest.fixture(scope="session")
def software_card(tmp_path_factory: pytest.TempPathFactory) -> SoftwareCard:
    """A device that stands where a card does; without a compiler the test is skipped, and fails with CI=true."""
    if compiler() is None:
        reason = "There is no C++ compiler (c++) on the path."
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return compile_card(tmp_path_factory.mktemp("software_card"))


@pytest.fixture(scope="session")
def browser() -> Iterator[str]:
    """A running Chromium, by its address; without one the test is skipped, and fails with CI=true."""
    program = find_chromium()
    if program is None:
        reason = "There is no Chromium on the path; install one, or name it with CHROMIUM."
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with chromium(program) as address:
        yield address
