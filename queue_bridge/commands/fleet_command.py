"""``sonic-queue fleet``: one ComfyUI for each card of this machine, with ``fleet status`` and ``fleet restart``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shlex
import signal
import time
from pathlib import Path
from typing import Any

from ..config import Settings
from ..console import card_in_use, console_for, print_json, print_table
from ..database.redis_connection import check_server, connect
from ..errors import FleetError, InstanceError
from ..queue.keys import Keys
from ..queue.queue_view import QueueView
from ..servers.devices import Device, cards, processors
from ..servers.fleet import Fleet, Plan
from ..servers.fleet_state import owned, told

WAIT_S = 0.2
FOLDER = Path("sonic-fleet")


def add_fleet_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the command line. common: the options that all commands share."""
    fleet = commands.add_parser("fleet", parents=[common], help="one ComfyUI for each card of this machine")
    fleet.add_argument("action", nargs="?", choices=["run", "status", "restart"], default="run",
                       help="run them (the default), show them, or start each anew in turn")  # fmt: skip
    fleet.add_argument("--folder", type=Path, default=FOLDER, help=f"where all of it lies (default: {FOLDER})")
    fleet.add_argument("--comfyui", type=Path, help="the folder with ComfyUI's main.py")
    fleet.add_argument("--models", type=Path, help="the models of all servers (default: those of --comfyui)")
    fleet.add_argument("--gpus", metavar="all|LIST", help="cards, by number or UUID (default: all)")
    fleet.add_argument("--cpu", type=int, default=0, metavar="N", help="servers on the processor; alone, no cards")
    fleet.add_argument("--min", type=int, metavar="N", help="servers at least (default: one for each device)")
    fleet.add_argument("--max", type=int, metavar="N", help="servers at most (default: one for each device)")
    fleet.add_argument("--port", type=int, default=8188, help="of the first server; 0: free ones (default: 8188)")
    fleet.add_argument("--arguments", default="", metavar="TEXT", help="further arguments of each ComfyUI")
    fleet.add_argument("--no-wait", action="store_true", help="with restart: return at once")


def fleet(arguments: argparse.Namespace, settings: Settings) -> int:
    """Run the fleet until SIGTERM or Ctrl-C."""
    plan = plan_of(arguments)
    logging.getLogger("sonic.fleet").setLevel(logging.INFO)
    with owned(plan.folder):
        asyncio.run(_run(plan, settings, as_json=arguments.json))
    return 0


async def _run(plan: Plan, settings: Settings, *, as_json: bool) -> None:
    client = connect(settings.url)
    try:
        await check_server(client, settings.url)
        running = Fleet(plan, settings, QueueView(client, Keys(settings.prefix), settings.url))
        _heed_signals(running)
        if as_json:
            print_json({"process": os.getpid(), "folder": str(plan.folder)})
        await running.run()
    finally:
        await client.aclose()


def _heed_signals(running: Fleet) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, running.leave)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(running.leave))
    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, running.restart)


def plan_of(arguments: argparse.Namespace) -> Plan:
    """What is asked for, checked. Raises FleetError or InstanceError with what is wrong."""
    if arguments.comfyui is None:
        raise FleetError("--comfyui: name the folder with ComfyUI's main.py.")
    comfyui = arguments.comfyui.absolute()
    if not (comfyui / "main.py").is_file():
        raise InstanceError(f"There is no ComfyUI in '{comfyui}': main.py is missing there.")
    models = (arguments.models or comfyui / "models").absolute()
    if not models.is_dir():
        raise FleetError(f"The folder '{models}' for models is not there; name another one with --models.")
    devices = tuple(_devices(arguments))
    high = len(devices) if arguments.max is None else arguments.max
    low = high if arguments.min is None else arguments.min
    if not 1 <= high <= len(devices):
        raise FleetError(f"--max: {high} is outside 1 to {len(devices)}, the number of devices.")
    if not 0 <= low <= high:
        raise FleetError(f"--min: {low} is outside 0 to {high}.")
    if arguments.port and not 1024 <= arguments.port <= 65535 - len(devices):
        raise FleetError(f"--port: {arguments.port} is outside 1024 to {65535 - len(devices)}.")
    return Plan(
        comfyui=comfyui,
        folder=arguments.folder.absolute(),
        devices=devices,
        low=low,
        high=high,
        port=arguments.port,
        models=models,
        arguments=tuple(shlex.split(arguments.arguments)),
    )


def _devices(arguments: argparse.Namespace) -> list[Device]:
    if not 0 <= arguments.cpu <= 64:
        raise FleetError(f"--cpu: {arguments.cpu} is outside 0 to 64.")
    wanted = arguments.gpus or ("" if arguments.cpu else "all")
    return [*(cards(wanted) if wanted else []), *processors(arguments.cpu)]


def fleet_status(arguments: argparse.Namespace) -> int:
    """Show what the fleet of a folder tells; the status is 1 when something is wrong with it."""
    state = told(arguments.folder.absolute())
    if arguments.json:
        print_json(state)
        return 1 if state["says"] else 0
    console = console_for()
    waiting = sum(state["waiting"].values())
    console.print(
        f"{state['serving']} of {state['wanted']} servers take jobs from the queue '{state['queue']}' "
        f"({state['min']} to {state['max']}); {waiting} jobs wait."
    )
    rows = [
        (
            one["name"],
            one["device"],
            one["phase"] if one["takes_jobs"] or one["phase"] != "serving" else "takes no jobs",
            _for(one["since_s"]),
            card_in_use(one),
            one["running"],
            str(max(0, one["starts"] - 1)),
            one["address"],
            one["last_end"] if one["failures"] else "",
        )
        for one in state["instances"]
    ]
    print_table(console, ("instance", "device", "state", "for", "in use", "running", "restarts", "address", ""), rows)
    if state["last_change"]:
        console.print(f"Last change: {state['last_change']}.")
    for sentence in state["says"]:
        console.print(sentence)
    return 1 if state["says"] else 0


def fleet_restart(arguments: argparse.Namespace) -> int:
    """Have every server started anew, one after the other; waits for the last one."""
    if not hasattr(signal, "SIGHUP"):
        raise FleetError("There is no rolling restart on Windows; end the fleet and start it again.")
    folder = arguments.folder.absolute()
    before = told(folder)
    os.kill(before["process"], signal.SIGHUP)
    state = before
    # Whoever asks while a round is going on waits for the next one.
    while not arguments.no_wait and state["restarts_done"] <= before["restarts_asked"]:
        time.sleep(WAIT_S)
        state = told(folder)
    trouble = "" if arguments.no_wait else state["restart_trouble"]
    said = trouble or ("The servers start anew." if arguments.no_wait else "Every server has been started anew.")
    if arguments.json:
        print_json({"restarted": not trouble and not arguments.no_wait, "says": said})
    else:
        console_for().print(said)
    return 1 if trouble else 0


def _for(since_s: float | None) -> str:
    seconds = max(0, round(time.time() - since_s)) if since_s else None
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
