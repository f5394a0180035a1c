"""Puts the bridge into the ComfyUI server that loads this pack, when it is configured; without, this does nothing.

A bridge that cannot start says in one sentence why, and the nodes work on. ComfyUI never calls the hooks for a
server's end, so nothing here relies on them: what is left behind is found again by its lease.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import logging
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .config import Settings, load_settings
from .database.redis_connection import connect, safe_url
from .errors import BridgeError
from .execution.ahead import Checks
from .execution.comfy_client import ComfyClient
from .execution.dead_starts import DeadStarts
from .execution.departure import depart_on_sigterm
from .execution.device_load import device_load
from .execution.lease import LeaseKeeper
from .execution.old_results import OldResults
from .execution.prompt_queue import PromptQueueRunner
from .execution.unserved import Unserved
from .execution.wishes import Leaving
from .execution.worker import Worker
from .health import UNHEALTHY, Health
from .messages.deliver import deliver
from .messages.outbox import Outbox
from .oversight.alert_watch import AlertWatch
from .pipelines.templates import SHIPPED, load_templates
from .places.job_files import JobFiles
from .places.job_places import JobPlaces
from .places.start_folders import Owner
from .places.storage import Storage
from .prompt_events import PromptRunner, SavedFile
from .quality_gate import Measure
from .queue.presence import Identity
from .queue.queue_view import QueueView
from .queue.store import Store
from .storage_places import is_object
from .tiers import TIERS, lanes_of
from .tracing import Tracing, tracing_for

log = logging.getLogger("sonic.attach")

PROBE_S = 300.0  # how soon an object store that could not be used is tried again
LARGEST_TIER_BYTES = 7.5 * 2**30  # a card sold as 8 GB serves the largest tier


def attach(engines: Callable[[], Sequence[str]], checks: Checks, measure: Measure) -> None:
    """Start the bridge with the server when it is configured.

    engines: those that can run here, asked at start. checks: how the files of a waiting job are tried. measure: how
    good a finished video is.
    """
    try:
        settings = load_settings()
    except BridgeError as error:
        log.warning("The queue bridge is off. %s", error)
        return
    if not settings.url:
        return
    server = getattr(importlib.import_module("server").PromptServer, "instance", None)
    if server is None:  # ComfyUI used as a library
        return

    async def start(_application: object) -> None:
        try:
            await _start(server, settings, engines(), checks, measure)
        except BridgeError as error:
            log.warning("The queue bridge is off. %s", error)
        except Exception:
            log.exception("The queue bridge is off, because of an error that was not foreseen.")

    server.app.on_startup.append(start)


async def _start(server: Any, settings: Settings, engines: Sequence[str], checks: Checks, measure: Measure) -> None:
    folder_paths = importlib.import_module("folder_paths")
    arguments = importlib.import_module("comfy.cli_args").args
    devices = importlib.import_module("comfy.model_management")
    identity = Identity(settings.instance or f"{platform.node() or 'comfyui'}-{arguments.port}")
    templates = load_templates((SHIPPED, *settings.templates))
    tiers = settings.tiers or _tiers_of(devices)
    leaving = Leaving()
    health = Health()
    storage_trouble: dict[str, str] = {}
    load = device_load(_uuids_of(devices))

    def describe() -> dict[str, Any]:
        return {
            "tiers": list(tiers),
            "engines": list(engines),
            "workflows": sorted(templates),
            "port": arguments.port,
            "draining": leaving.asked,
            "python": platform.python_version(),
            "unhealthy": health.trouble,
            "storage": dict(storage_trouble),
            **_device(devices, health),
            **load(),
        }

    store = Store(connect(settings.url), settings)
    tracing = tracing_for(settings, "sonic-instance", identity.name)
    atexit.register(tracing.close)
    keeper = LeaseKeeper(settings, identity, describe)
    folders = (Path(folder_paths.get_input_directory()), Path(folder_paths.get_output_directory()))
    places, storage = _places(settings, folders, identity)
    worker = Worker(
        store,
        keeper,
        identity,
        await _runner(server, arguments, settings.local_share),
        places,
        templates,
        lanes_of(tiers, engines),
        lambda file: _path_of(folder_paths, file),
        leaving,
        checks,
        health,
        measure,
        tracing,
    )
    log.info("queue bridge: instance '%s', queue '%s' at %s", identity.name, settings.queue, safe_url(settings.url))
    keeper.start()
    atexit.register(keeper.leave)
    task = asyncio.create_task(_work(worker, keeper, health, settings, tracing), name="sonic_worker")
    task.add_done_callback(_say_why)
    depart_on_sigterm(leaving, task, settings.grace_s)
    view = QueueView(store.client, store.keys, settings.url)
    outbox = Outbox(store)
    beside = [asyncio.create_task(Unserved(view, tell=outbox.tell_unserved).run(), name="sonic_unserved")]
    beside.append(asyncio.create_task(AlertWatch(store, view, settings.alert_limits).run(), name="sonic_alerts"))
    if settings.notify:
        beside.append(asyncio.create_task(deliver(outbox, settings, tracing), name="sonic_deliver"))
    beside.append(asyncio.create_task(_probe(storage, identity, storage_trouble), name="sonic_storage_probe"))
    beside.append(asyncio.create_task(DeadStarts(view, places).run(), name="sonic_dead_starts"))
    if settings.results_days:
        beside.append(asyncio.create_task(OldResults(store, places).run(), name="sonic_old_results"))
    task.add_done_callback(lambda _: [one.cancel() for one in beside])


def _places(settings: Settings, folders: tuple[Path, Path], identity: Identity) -> tuple[JobPlaces, Storage]:
    local_results = [Path(settings.results)] if settings.results and not is_object(settings.results) else []
    owner = Owner.of(f"{safe_url(settings.url)} {settings.queue}", identity.boot)
    files = JobFiles((*settings.roots, *local_results), *folders, owner)
    storage = Storage(settings.places, settings.limits)
    return JobPlaces(files, storage, settings.results, settings.reach, settings.limits), storage


async def _probe(storage: Storage, identity: Identity, trouble: dict[str, str]) -> None:
    """Try every bucket, until all can be used, so that a wrong key is told at the start and not by the first job.

    Jobs are taken all the same: which ones need such a bucket is not known before they are claimed, and one that does
    is tried again, here or elsewhere, as with a folder that is away.
    """
    while found := await storage.probe(identity.boot[:8]):
        for bucket in found.keys() - trouble.keys():
            log.warning("%s Jobs that need it are tried again, here or elsewhere.", found[bucket])
        trouble.clear()
        trouble.update(found)
        await asyncio.sleep(PROBE_S)
    trouble.clear()


async def _work(worker: Worker, keeper: LeaseKeeper, health: Health, settings: Settings, tracing: Tracing) -> None:
    """Take jobs; once this server can run none any more, end it, so that whoever started it can start another."""
    await worker.run()
    if health.trouble and settings.exit_when_unhealthy:
        await asyncio.to_thread(keeper.leave)
        await asyncio.to_thread(tracing.close)
        log.error("This server ends (exit status %d): %s", UNHEALTHY, health.trouble)
        logging.shutdown()
        os._exit(UNHEALTHY)  # the thread that runs prompts may hang, and would hold up any other way out


async def _runner(server: Any, arguments: Any, local_share: int) -> PromptRunner:
    execution, nodes = importlib.import_module("execution"), importlib.import_module("nodes")
    if PromptQueueRunner.fits(server, execution.validate_prompt):
        runner = PromptQueueRunner(server, execution.validate_prompt, nodes.interrupt_processing, local_share)
        runner.listen()
        return runner
    log.warning("This ComfyUI's prompt queue is not the one that is known here; the bridge uses its HTTP interface.")
    return await ComfyClient(f"127.0.0.1:{arguments.port}").__aenter__()


def _path_of(folder_paths: Any, file: SavedFile) -> Path:
    return Path(folder_paths.get_directory_by_type(file.type)) / file.subfolder / file.filename


def _tiers_of(devices: Any) -> tuple[int, ...]:
    """What the card's memory allows; a machine without a card computes in its main memory and serves all."""
    device = devices.get_torch_device()
    if device.type == "cpu" or devices.get_total_memory(device) >= LARGEST_TIER_BYTES:
        return TIERS
    return TIERS[:-1]


def _uuids_of(devices: Any) -> tuple[str, ...]:
    """What the card may be called, by which no setting changes as it does its number; nothing without one of NVIDIA."""
    device = devices.get_torch_device()
    if device.type != "cuda":
        return ()
    # A part of a divided card (MIG) has an id of its own. Of two, CUDA takes the first only.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip()
    parts = (visible,) if visible.startswith("MIG-") else ()
    found = getattr(importlib.import_module("torch").cuda.get_device_properties(device), "uuid", "")
    return (*parts, f"GPU-{found}", f"MIG-{found}") if found else parts


def _device(devices: Any, health: Health) -> dict[str, Any]:
    if health.trouble:  # a broken card cannot even be asked for its memory
        return {}
    device = devices.get_torch_device()
    return {
        "device": devices.get_torch_device_name(device),
        "memory_total": int(devices.get_total_memory(device)),
        "memory_free": int(devices.get_free_memory(device)),
    }


def _say_why(task: asyncio.Task[None]) -> None:
    """A worker that ends by itself would leave the queue without a word."""
    if not task.cancelled() and (error := task.exception()):
        log.error("The queue bridge has stopped because of an error that was not foreseen.", exc_info=error)
