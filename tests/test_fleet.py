"""A fleet's processes and its queue: real ones of both, but servers that only join the queue, as ComfyUI takes long."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from comfyui_sonic.queue_bridge.cli import parser
from comfyui_sonic.queue_bridge.commands.fleet_command import fleet_status, plan_of
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.errors import BridgeError, FleetError
from comfyui_sonic.queue_bridge.job import new_job_id
from comfyui_sonic.queue_bridge.queue.keys import Keys
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Store
from comfyui_sonic.queue_bridge.servers.devices import Device
from comfyui_sonic.queue_bridge.servers.fleet import Fleet, Plan
from comfyui_sonic.queue_bridge.servers.fleet_folders import lay_out
from comfyui_sonic.queue_bridge.servers.fleet_place import Phase
from comfyui_sonic.queue_bridge.servers.fleet_state import owned, tell, told
from comfyui_sonic.queue_bridge.servers.log_files import turn, turn_if_large

from .test_instance import process_lives

posix = pytest.mark.skipif(os.name != "posix", reason="signals and process groups are POSIX's")
ROOT = Path(__file__).resolve().parent.parent

# Stands where ComfyUI's main.py is: it joins the queue as the bridge does and does nothing else. A file `behave` in
# its base directory says what it does instead: exit with a status, or stay out of the queue.
STAND_IN = """
import signal, sys, time
from pathlib import Path
base = Path(sys.argv[sys.argv.index("--base-directory") + 1])
behave = (base / "behave").read_text() if (base / "behave").exists() else ""
if behave.startswith("exit"):
    sys.exit(int(behave.split()[1]))
if behave == "out":
    print("The queue bridge is off. SONIC_QUEUE_TIERS: 3 is not one of 512, 768, 1024.", flush=True)
    time.sleep(600)

sys.path[:0] = {path!r}
import asyncio, json
from comfyui_sonic.queue_bridge.config import load_settings
from comfyui_sonic.queue_bridge.queue.presence import Identity, registration
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.queue.store import Store

async def register(store, me):
    known = json.loads((base / "card.json").read_text()) if (base / "card.json").exists() else {{}}
    values = registration(me, store.settings.lease_s, known, predecessor_is_dead=True)
    await store._call("register", *values)

async def main():
    settings = load_settings()
    store = Store(connect(settings.url), settings)
    me = Identity(settings.instance)
    leaving = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.set)
    while not leaving.is_set():
        await register(store, me)
        try:
            await asyncio.wait_for(leaving.wait(), 0.5)
        except TimeoutError:
            pass

asyncio.run(main())
"""


@dataclass
class Running:
    """A fleet that runs in this process, and its queue."""

    fleet: Fleet
    view: QueueView
    folder: Path

    async def until(self, holds: Callable[[], bool], seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, json.dumps(self.fleet.told(), indent=1)
            await asyncio.sleep(0.02)

    def serving(self) -> int:
        return sum(server.place.phase is Phase.SERVING for server in self.fleet.servers)

    def process(self, number: int) -> int:
        instance = self.fleet.servers[number].instance
        assert instance
        assert instance.process
        return instance.process.pid


Run = Callable[..., contextlib.AbstractAsyncContextManager[Running]]


@pytest.fixture
def run(redis_url: str, tmp_path: Path) -> Run:
    """Starts a fleet of stand-ins on a queue of its own; ends it behind the block."""
    comfyui = tmp_path / "comfyui"
    (comfyui / "models").mkdir(parents=True)
    (comfyui / "main.py").write_text(STAND_IN.format(path=sys.path))

    @contextlib.asynccontextmanager
    async def start(count: int = 1, behave: str = "", **changed: Any) -> AsyncIterator[Running]:
        quick = {"lease_s": 2.0, "heartbeat_s": 0.5, "grace_s": 2.0, "fleet_backoff_s": 0.05, "fleet_lost_s": 1.0}
        settings = Settings(url=redis_url, queue=f"fleet-{new_job_id()}", instance="box", **(quick | changed))
        folder = tmp_path / "fleet"
        devices = tuple(Device(f"gpu{n}", f"GPU-{n}", "a card") for n in range(count))
        plan = Plan(comfyui, folder, devices, count, count, models=comfyui / "models")
        for device in devices[: 1 if behave else 0]:
            (folder / "instances" / device.label).mkdir(parents=True)
            (folder / "instances" / device.label / "behave").write_text(behave)
        client = connect(redis_url)
        view = QueueView(client, Keys(settings.prefix), redis_url)
        fleet = Fleet(plan, settings, view)
        os.environ["SONIC_QUEUE_QUEUE"] = settings.queue
        with owned(folder):
            task = asyncio.create_task(fleet.run())
            try:
                yield Running(fleet, view, folder)
            finally:
                fleet.leave()
                await asyncio.wait_for(task, 15)
                del os.environ["SONIC_QUEUE_QUEUE"]
                await client.aclose()

    return start


@posix
@pytest.mark.slow
async def test_each_card_has_a_server_that_is_back_at_once_when_it_is_killed_and_all_leave_in_good_order(
    run: Run,
) -> None:
    async with run(2) as running:
        await running.until(lambda: running.serving() == 2)
        assert [one["name"] for one in told(running.folder)["instances"]] == ["box-gpu0", "box-gpu1"]
        assert {one["name"] for one in await running.view.instances()} == {"box-gpu0", "box-gpu1"}
        for number in range(2):
            environment = Path(f"/proc/{running.process(number)}/environ").read_bytes().split(b"\0")
            assert f"CUDA_VISIBLE_DEVICES=GPU-{number}".encode() in environment
        with pytest.raises(FleetError, match=r"^Another fleet runs in '.*'; each one needs"), owned(running.folder):
            pass
        os.killpg(running.process(0), signal.SIGKILL)
        await running.until(lambda: running.fleet.servers[0].place.starts == 2 and running.serving() == 2)
        assert running.fleet.servers[0].place.last_end == "It ended by signal 9."
        processes = [running.process(n) for n in range(2)]
    assert not any(map(process_lives, processes))
    assert [server.place.phase for server in running.fleet.servers] == [Phase.OFF, Phase.OFF]
    with pytest.raises(FleetError, match=r"^No fleet runs in '"):
        told(running.folder)


@posix
@pytest.mark.slow
async def test_each_cards_load_is_told_beside_its_server_and_no_more_when_that_has_ended(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown() -> list[str]:
        assert fleet_status(parser().parse_args(["fleet", "status", "--folder", str(running.folder)])) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("box-gpu")]

    async with run(2) as running:
        await running.until(lambda: running.serving() == 2)
        assert not any("%" in line for line in shown())
        for number, used in enumerate((0.73, 0.0)):
            card = running.folder / "instances" / f"gpu{number}" / "card.json"
            card.write_text(json.dumps({"gpu_used": used, "gpu_memory_used": 19_000_000_000}))
        await running.until(lambda: all(server.load for server in running.fleet.servers))
        first, second = shown()
        assert "73 %, 19.0 GB" in first
        assert "0 %, 19.0 GB" in second
        assert told(running.folder)["instances"][0]["gpu_used"] == 0.73
        (running.folder / "instances" / "gpu0" / "card.json").unlink()
        os.killpg(running.process(0), signal.SIGKILL)
        await running.until(lambda: running.fleet.servers[0].place.starts == 2 and running.serving() == 2)
        first, second = shown()
        assert "%" not in first
        assert "0 %, 19.0 GB" in second


@posix
@pytest.mark.slow
async def test_a_server_that_an_operator_has_drained_is_not_among_those_that_take_jobs(
    run: Run, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with run(2) as running:
        await running.until(lambda: running.fleet.told()["serving"] == 2)
        store = Store(connect(redis_url), Settings(url=redis_url, queue=os.environ["SONIC_QUEUE_QUEUE"]))
        await store.drain("box-gpu1", 60)
        await running.until(lambda: running.fleet.told()["serving"] == 1)
        assert fleet_status(parser().parse_args(["fleet", "status", "--folder", str(running.folder)])) == 0
        said = capsys.readouterr().out
        assert said.startswith("1 of 2 servers take jobs")
        assert said.count("takes no jobs") == 1
        await store.undrain("box-gpu1")
        await running.until(lambda: running.fleet.told()["serving"] == 2)
        await store.close()


@posix
@pytest.mark.slow
async def test_a_rolling_restart_takes_one_at_a_time_and_stops_at_the_first_that_does_not_come_back(run: Run) -> None:
    async with run(2) as running:
        await running.until(lambda: running.serving() == 2)
        before = [running.process(n) for n in range(2)]
        least = 2

        def done() -> bool:
            nonlocal least
            least = min(least, running.serving())
            return running.fleet.told()["restarts_done"] == 1

        running.fleet.restart()
        await running.until(done)
        assert (least, running.serving(), running.fleet.told()["says"]) == (1, 2, [])
        assert not {running.process(n) for n in range(2)} & set(before)
        other = running.process(1)
        (running.folder / "instances" / "gpu0" / "behave").write_text("exit 3")
        running.fleet.restart()
        await running.until(lambda: running.fleet.told()["restarts_done"] == 2)
        trouble = running.fleet.told()["restart_trouble"]
        assert trouble.startswith("box-gpu0 did not come back, so the others were not started anew. It ended with exit")
        assert running.process(1) == other


@posix
@pytest.mark.slow
async def test_what_fails_again_and_again_is_a_sentence_with_its_last_words(run: Run) -> None:
    async with run(1, behave="exit 3") as running:
        await running.until(lambda: bool(running.fleet.told()["says"]))
        (sentence,) = running.fleet.told()["says"]
        assert "box-gpu0 fails again and again, 5 times in a row. It ended with exit status 3. " in sentence
        assert "Its log is " in sentence


@posix
@pytest.mark.slow
async def test_one_that_stays_out_of_the_queue_is_started_again_and_its_log_says_why(run: Run) -> None:
    async with run(1, behave="out", fleet_start_s=2.0) as running:
        await running.until(lambda: running.fleet.servers[0].place.failures > 0)
        last_end = running.fleet.servers[0].place.last_end
        assert last_end.startswith(
            "It did not join the queue for 2 s, and was ended. The queue bridge is off. SONIC_QUEUE_TIERS: 3 is not"
        )


@posix
@pytest.mark.slow
def test_the_servers_end_when_the_fleet_is_killed(redis_url: str, tmp_path: Path) -> None:
    comfyui = tmp_path / "comfyui"
    (comfyui / "models").mkdir(parents=True)
    (comfyui / "main.py").write_text("import time\ntime.sleep(600)\n")
    folder = tmp_path / "fleet"
    script = (  # no server on the processor, which begins with torch and takes long
        "import sys; from comfyui_sonic.queue_bridge import cli; "
        "from comfyui_sonic.queue_bridge.commands import fleet_command as f; "
        "from comfyui_sonic.queue_bridge.servers.devices import Device; "
        "f.processors = lambda count: [Device('gpu0', 'GPU-0')]; sys.exit(cli.main())"
    )
    command = [sys.executable, "-c", script, "fleet", "--comfyui", comfyui, "--folder", folder, "--cpu", "1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "SONIC_QUEUE_URL": redis_url}
    fleet = subprocess.Popen([*map(str, command), "--port", "0"], env=environment, stderr=subprocess.DEVNULL)
    try:
        process = None
        deadline = time.monotonic() + 20
        while not process:
            assert time.monotonic() < deadline
            assert fleet.poll() is None
            with contextlib.suppress(FleetError):
                process = told(folder)["instances"][0]["process"]
            time.sleep(0.05)
        assert process_lives(process)
    finally:
        fleet.kill()
        fleet.wait()
    deadline = time.monotonic() + 10
    while process_lives(process):
        assert time.monotonic() < deadline, "the server outlived its fleet"
        time.sleep(0.05)


# --- what is asked for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--comfyui: name the folder with ComfyUI's main.py."),
        (("--comfyui", "{empty}"), "There is no ComfyUI in '{empty}': main.py is missing there."),
        (("--comfyui", "{comfyui}"), "The folder '{comfyui}/models' for models is not there; name another one with"),
        (
            ("--comfyui", "{comfyui}", "--models", "{empty}", "--cpu", "2", "--max", "3"),
            "--max: 3 is outside 1 to 2, the",
        ),
        (
            ("--comfyui", "{comfyui}", "--models", "{empty}", "--cpu", "2", "--max", "1", "--min", "2"),
            "--min: 2 is outside",
        ),
        (("--comfyui", "{comfyui}", "--models", "{empty}", "--cpu", "65"), "--cpu: 65 is outside 0 to 64."),
        (
            ("--comfyui", "{comfyui}", "--models", "{empty}", "--cpu", "2", "--port", "80"),
            "--port: 80 is outside 1024 to",
        ),
    ],
)
def test_what_cannot_be_run_is_one_sentence(options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    places = {"empty": tmp_path / "empty", "comfyui": tmp_path / "comfyui"}
    for place in places.values():
        place.mkdir()
    (places["comfyui"] / "main.py").touch()
    arguments = parser().parse_args(["fleet", *(option.format(**places) for option in options)])
    with pytest.raises(BridgeError) as raised:
        plan_of(arguments)
    assert str(raised.value).startswith(words.format(**places))


def test_as_a_rule_every_device_has_a_server_and_a_range_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "main.py").touch()
    given = [
        "fleet",
        "--comfyui",
        str(tmp_path),
        "--models",
        str(tmp_path),
        "--cpu",
        "3",
        "--arguments",
        "--fast --x 'a b'",
    ]
    plan = plan_of(parser().parse_args(given))
    assert (plan.low, plan.high, plan.port, plan.arguments) == (3, 3, 8188, ("--fast", "--x", "a b"))
    plan = plan_of(parser().parse_args([*given, "--min", "0", "--max", "2"]))
    assert (plan.low, plan.high) == (0, 2)


# --- folders, logs ---------------------------------------------------------------------------------------------------


def test_every_model_of_the_shared_folder_is_found_and_so_is_every_node_pack(tmp_path: Path) -> None:
    comfyui, models, pack = tmp_path / "comfyui", tmp_path / "nas", tmp_path / "pack"
    for folder in (comfyui / "custom_nodes" / "other", models / "sonic", pack):
        folder.mkdir(parents=True)
    (comfyui / "custom_nodes" / "one.py").touch()
    (comfyui / "custom_nodes" / "old.disabled").mkdir()
    (models / "sonic" / "unet.safetensors").touch()
    for _ in range(2):
        lay_out(tmp_path / "base", comfyui, models, pack)
        assert (tmp_path / "base" / "models" / "sonic" / "unet.safetensors").exists()
        assert sorted(p.name for p in (tmp_path / "base" / "custom_nodes").iterdir()) == [
            "comfyui_sonic",
            "one.py",
            "other",
        ]
    (comfyui / "custom_nodes" / "one.py").unlink()
    lay_out(tmp_path / "base", comfyui, tmp_path / "comfyui", pack)
    assert not (tmp_path / "base" / "custom_nodes" / "one.py").is_symlink()
    assert (tmp_path / "base" / "models").resolve() == tmp_path / "comfyui"


def test_this_pack_is_not_loaded_twice_where_comfyui_has_it(tmp_path: Path) -> None:
    comfyui, pack = tmp_path / "comfyui", tmp_path / "pack"
    for folder in (comfyui / "custom_nodes", comfyui / "models", pack):
        folder.mkdir(parents=True)
    (comfyui / "custom_nodes" / "Sonic").symlink_to(pack, target_is_directory=True)
    lay_out(tmp_path / "base", comfyui, comfyui / "models", pack)
    assert [p.name for p in (tmp_path / "base" / "custom_nodes").iterdir()] == ["Sonic"]


def test_models_that_are_there_already_are_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "base" / "models" / "sonic").mkdir(parents=True)
    (tmp_path / "models").mkdir()
    with pytest.raises(FleetError, match=r"models' is in the way of a link to '.*'; move it elsewhere\.$"):
        lay_out(tmp_path / "base", tmp_path, tmp_path / "models", tmp_path)


def test_a_log_is_cut_while_its_program_writes_and_the_older_ones_move_on(tmp_path: Path) -> None:
    file = tmp_path / "gpu0.log"
    with file.open("ab", buffering=0) as writer:
        for number in range(4):
            writer.write(f"part {number}".encode())
            assert turn_if_large(file, 3, kept=2)
            assert not turn_if_large(file, 3, kept=2)
        writer.write(b"new")
    assert file.read_text() == "new"
    turn(file, kept=2)
    assert sorted((p.name, p.read_text()) for p in tmp_path.iterdir()) == [
        ("gpu0.log.1", "new"),
        ("gpu0.log.2", "part 3"),
    ]


def test_what_a_dead_fleet_has_told_is_not_believed(tmp_path: Path) -> None:
    tell(tmp_path, {"process": 1})
    with pytest.raises(FleetError, match=r"^No fleet runs in '"):
        told(tmp_path)
