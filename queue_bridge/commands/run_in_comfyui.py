"""``sonic-queue run --local --comfyui DIR``: one video by a ComfyUI that is started for it and ends with it.

Between them is a queue of their own, as between any submitter and its servers; it ends, too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..config import load_settings
from ..console import console_for
from ..database.redis_connection import connect
from ..database.redis_server import RedisServer
from ..errors import BadJob, FleetError, InstanceError
from ..pipelines.templates import SHIPPED, load_templates
from ..queue.queue_view import QueueView
from ..queue.store import Store
from ..servers.devices import Device, cards, processors
from ..servers.fleet_folders import lay_out
from ..servers.instance import Instance
from ..servers.local_fleet import NAME, PACK, REGISTER_S, why_it_takes_no_jobs
from ..tracing import PARENT_VARIABLE, NoTracing
from .run_one import run_one

CALLED = "local"
LOOK_S = 0.5


def run_in_comfyui(arguments: argparse.Namespace, comfyui: Path) -> int:
    """Make the video that the arguments of ``run`` ask for; answers the exit status.

    comfyui: the folder with ComfyUI's main.py, whose node packs are used, and its models unless the arguments name
    others; it is not written to. It runs on the first card, else on the processor. Raises BridgeError when it cannot be
    started, or there is no video.
    """
    if arguments.callback:
        raise BadJob("--callback", "needs a queue that goes on; leave it or --local out.")
    if not (comfyui / "main.py").is_file():
        raise InstanceError(f"There is no ComfyUI in '{comfyui}': main.py is missing there.")
    console = console_for(sys.stderr if arguments.json else None)
    with tempfile.TemporaryDirectory(prefix="sonic-run-", ignore_cleanup_errors=True) as folder:
        base, log_file = Path(folder) / "comfyui", Path(f"{folder}.log")
        lay_out(base, comfyui, arguments.models or comfyui / "models", PACK)
        named = False  # the log, in an error
        try:
            with RedisServer(Path(folder) / "queue", outlives_us=False) as queue:
                device = _device()
                console.print(f"Starting the ComfyUI in '{comfyui}' for this video ...")
                server = Instance(
                    comfyui,
                    base,
                    arguments=device.arguments,
                    log_file=log_file,
                    environment=device.environment() | _environment(arguments, queue.url),
                )
                with server:
                    return asyncio.run(_make(arguments, queue.url, server))
        except InstanceError as error:
            named = str(log_file) in str(error)
            raise
        finally:
            if not named:
                log_file.unlink(missing_ok=True)


def _device() -> Device:
    try:
        return cards("all")[0]
    except FleetError:
        return processors(1)[0]


def _environment(arguments: argparse.Namespace, url: str) -> dict[str, str]:
    output = arguments.output or arguments.audio
    named = [path for path in (arguments.image, arguments.audio, output) if "://" not in path]
    roots = dict.fromkeys(str(Path(path).absolute().parent) for path in named)
    return {"SONIC_QUEUE_URL": url, NAME: CALLED, "SONIC_QUEUE_ROOTS": os.pathsep.join(roots)}


async def _make(arguments: argparse.Namespace, url: str, server: Instance) -> int:
    settings = load_settings(url=url)
    templates = load_templates((SHIPPED, *settings.templates))
    store = Store(connect(url), settings)
    view = QueueView(store.client, store.keys, url)
    try:
        _check_engine(arguments, await _registered(view, server), server.comfyui)
        span = NoTracing().start("submit", os.environ.get(PARENT_VARIABLE, ""))
        making = asyncio.create_task(run_one(arguments, store, view, templates, span))
        watching = asyncio.create_task(_until_its_end(server))
        try:
            await asyncio.wait({making, watching}, return_when=asyncio.FIRST_COMPLETED)
            return watching.result() if watching.done() else making.result()
        finally:
            for task in (making, watching):
                task.cancel()
            await asyncio.gather(making, watching, return_exceptions=True)
    finally:
        await store.close()


async def _registered(view: QueueView, server: Instance) -> dict[str, Any]:
    """What the server says of itself, as soon as it takes jobs."""
    try:
        async with asyncio.timeout(REGISTER_S):
            while not (found := await view.instances()):
                await asyncio.sleep(LOOK_S / 2)
            return found[0]
    except TimeoutError:
        reason = why_it_takes_no_jobs(server.log_file) or "its log does not say why."
        raise InstanceError(f"The ComfyUI takes no job: {reason} Its log is {server.log_file}.") from None


def _check_engine(arguments: argparse.Namespace, found: dict[str, Any], comfyui: Path) -> None:
    engine = arguments.engine
    if engine in (None, "auto", *found.get("engines", ())):
        return
    looked = f"--models {arguments.models}" if arguments.models else f"--comfyui {comfyui}"
    raise InstanceError(
        f"The ComfyUI in '{comfyui}' cannot run the engine '{engine}'; `sonic-queue models {looked}` says which files "
        "are missing. --models names a folder of models elsewhere."
    )


async def _until_its_end(server: Instance) -> int:
    while server.is_alive():
        await asyncio.sleep(LOOK_S)
    raise InstanceError(f"ComfyUI has ended: {server.last_words()} Its log is {server.log_file}.")
