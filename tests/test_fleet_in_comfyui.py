"""`sonic-queue fleet` with real ComfyUI servers: more of them, one killed, fewer, started anew, all ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfyui_sonic.queue_bridge.config import load_settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.errors import FleetError
from comfyui_sonic.queue_bridge.job import new_job_id
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Store
from comfyui_sonic.queue_bridge.servers.fleet_state import told
from comfyui_sonic.queue_bridge.servers.instance import install_pack
from comfyui_sonic.queue_bridge.states import State

from .bridge_fixture import ROOT, Bridge, BridgeQueue, environment
from .test_instance import process_lives

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="signals and process groups are POSIX's"),
]
SETTINGS = {"UP_JOBS": "1", "DOWN_IDLE_S": "2", "COOLDOWN_S": "0", "BACKOFF_S": "0.1"}


async def until(holds: Callable[[dict[str, Any]], bool], folder: Path, seconds: float = 120.0) -> dict[str, Any]:
    """What the fleet tells, as soon as that holds."""
    deadline = time.monotonic() + seconds
    state: dict[str, Any] = {}
    while time.monotonic() < deadline:
        try:
            state = told(folder)
        except FleetError:  # it has not begun yet
            pass
        else:
            if holds(state):
                return state
        await asyncio.sleep(0.05)
    raise AssertionError(state)


async def test_a_fleet_grows_with_the_backlog_mends_itself_shrinks_and_starts_anew_and_no_job_is_lost(
    comfyui_path: Path, redis_url: str, tmp_path: Path
) -> None:
    orders, folder, models = tmp_path / "orders", tmp_path / "fleet", tmp_path / "models"
    for new in (orders, models / "sonic"):
        new.mkdir(parents=True)
    variables = environment(redis_url, f"fleet-{new_job_id()}", "box", orders)
    variables |= {f"SONIC_QUEUE_FLEET_{name}": value for name, value in SETTINGS.items()}
    for label in ("cpu0", "cpu1"):
        install_pack(ROOT / "tests" / "comfyui_pack", folder / "instances" / label / "custom_nodes", "test_nodes")
    command = [sys.executable, "-m", "comfyui_sonic.queue_bridge.cli", "fleet"]
    options = ["--comfyui", comfyui_path, "--models", models, "--cpu", 2, "--min", 1, "--port", 0, "--folder", folder]
    all_variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    settings = load_settings(variables)
    store = Store(connect(redis_url), settings)
    queue = BridgeQueue(Bridge({}, orders, settings), store, QueueView(store.client, store.keys, redis_url))

    async def held(name: str) -> str:
        """A job that every start of works on until it is let go, so that no machine is too slow to be caught at it."""
        return await queue.submit(orders, name, workflow="misbehave", how="wait", times=9, seconds=300.0)

    def let_go(*names: str) -> None:
        for name in names:
            (orders / f"{name}.go").touch()

    fleet = subprocess.Popen([*command, *map(str, options)], env=all_variables)
    try:
        # The backlog brings the second one.
        names = ("one", "two", "three")
        jobs = [await held(name) for name in names]
        state = await until(lambda one: len({i["running"] for i in one["instances"]} & set(jobs)) == 2, folder)
        assert (folder / "instances" / "cpu0" / "models").resolve() == models
        # One is killed while it has a job, and that job ends all the same.
        (victim, _) = state["instances"]
        os.killpg(victim["process"], signal.SIGKILL)
        state = await until(lambda one: one["serving"] == 2 and any(i["last_end"] for i in one["instances"]), folder)
        (mended,) = [one for one in state["instances"] if one["last_end"]]
        told_of = (mended["name"], mended["starts"], mended["last_end"])
        assert told_of == (victim["name"], 2, "It ended by signal 9.")
        let_go(*names)
        records = await queue.ended(*jobs)
        assert {record.state for record in records.values()} == {State.COMPLETED}
        assert [entry["instance"] for entry in records[victim["running"]].history] == [victim["name"]]
        # Nothing is left to do: one leaves, and the queue's view knows.
        state = await until(lambda one: [i["phase"] for i in one["instances"]].count("off") == 1, folder)
        (left,) = [one for one in state["instances"] if one["phase"] == "serving"]
        assert [one["name"] for one in await queue.view.instances()] == [left["name"]]
        # Started anew, when its job has ended.
        task_id = await held("during")
        await until(lambda one: task_id in [i["running"] for i in one["instances"]], folder)
        restart = [*command, "restart", "--folder", str(folder)]
        asked = subprocess.Popen(restart, env=all_variables, stdout=subprocess.PIPE, text=True)
        await until(lambda one: one["restarts_asked"] == 1, folder)
        let_go("during")
        (said, _) = await asyncio.to_thread(asked.communicate)
        assert (asked.returncode, said) == (0, "Every server has been started anew.\n")
        (again,) = [one for one in told(folder)["instances"] if one["phase"] == "serving"]
        assert (again["name"], again["process"] != left["process"]) == (left["name"], True)
        record = (await queue.view.jobs([task_id]))[task_id]
        assert (record.state, record.attempt) == (State.COMPLETED, 1), "it was not cut off"
        fleet.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(fleet.wait, 30) == 0
        assert not process_lives(again["process"])
    finally:
        fleet.kill()
        fleet.wait()
        await store.close()
