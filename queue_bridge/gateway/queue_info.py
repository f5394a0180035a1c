"""The queue as a whole: how many tasks are where, who works, what lies in the dead letter."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from ..execution.unserved import alerts
from ..job import ID
from ..queue.queue_view import QueueView
from .api_keys import Caller
from .context import Asked, record_of
from .fields import Field
from .problem import Problem
from .task_view import task_view, time_text

DEAD = (Field("limit", "integer", "at most so many, the latest first", low=1, high=200, default=50),)
LOOKED_AT = 2000
FRESH_S = 0.5
INSTANCE = (
    *("name", "host", "tiers", "engines", "device", "memory_total", "memory_free", "gpu_used", "gpu_memory_used"),
    *("draining", "unhealthy", "running"),
)


@dataclass(frozen=True)
class Overview:
    """The queue and its instances at one time, for all callers. queue: as the gateway tells it."""

    queue: Mapping[str, Any]
    instances: Sequence[Mapping[str, Any]]

    def instances_for(self, caller: Caller) -> list[dict[str, Any]]:
        """What runs where is told to administrators only, since it is somebody's task."""
        names = INSTANCE if "admin" in caller.scopes else tuple(name for name in INSTANCE if name != "running")
        return [{name: one.get(name) for name in names} for one in self.instances]


async def overview_of(view: QueueView) -> Overview:
    """How it is now."""
    counts, instances, oldest_s = await view.counts(), await view.instances(), await view.oldest_s()
    oldest: dict[str, dict[str, str]] = {name: {} for name in counts.waiting}
    for (job_class, lane), seconds in oldest_s.items():
        oldest.setdefault(job_class, {})[lane] = time_text(seconds)
    queue = {
        "waiting": counts.waiting,
        "oldest": oldest,
        "queued": counts.queued,
        "running": counts.running,
        "retrying": counts.retrying,
        "dead": counts.dead,
        "totals": counts.totals,
        "alerts": list(alerts(counts.waiting, instances).values()),
    }
    return Overview(queue, instances)


class SharedOverview:
    """The same, looked up once for all who look at about the same time."""

    def __init__(self, view: QueueView) -> None:
        self._view = view
        self._lock = asyncio.Lock()
        self._known: Overview | None = None
        self._until_s = 0.0

    async def now(self) -> Overview:
        """At most FRESH_S old. Raises QueueUnavailable."""
        async with self._lock:
            clock = asyncio.get_running_loop().time
            if self._known is None or clock() >= self._until_s:
                self._known = await overview_of(self._view)
                self._until_s = clock() + FRESH_S
            return self._known


async def show_queue(request: web.Request, asked: Asked) -> web.Response:
    return web.json_response((await overview_of(asked.gateway.view)).queue)


async def show_instances(request: web.Request, asked: Asked) -> web.Response:
    found = await overview_of(asked.gateway.view)
    return web.json_response({"instances": found.instances_for(asked.caller)})


async def drain_instance(request: web.Request, asked: Asked) -> web.Response:
    """It takes no new task, and gives its own back after the grace of ``drain_grace_s``."""
    name, store = _instance_of(request), asked.gateway.store
    running = await store.drain(name, store.settings.drain_grace_s)
    if running is None:
        raise _no_instance()
    return web.json_response({"instance": name, "draining": True, "running": running})


async def undrain_instance(request: web.Request, asked: Asked) -> web.Response:
    """It takes tasks again; so it is also when it did already."""
    name = _instance_of(request)
    await asked.gateway.store.undrain(name)
    return web.json_response({"instance": name, "draining": False, "running": []})


def _instance_of(request: web.Request) -> str:
    name = request.match_info["instance"]
    if not ID.fullmatch(name):
        raise _no_instance()
    return name


def _no_instance() -> Problem:
    return Problem("not-found", "No ComfyUI of this name takes tasks from this queue now.")


async def show_dead(request: web.Request, asked: Asked) -> web.Response:
    gateway, caller, limit = asked.gateway, asked.caller, asked.query["limit"]
    tasks: list[dict[str, Any]] = []
    ids = (await gateway.view.dead())[:LOOKED_AT]
    for start in range(0, len(ids), limit):
        part = ids[start : start + limit]
        records = await gateway.view.jobs(part)
        seen = [records[one] for one in part if one in records and caller.sees(records[one].caller)]
        tasks += [task_view(record, gateway.places) for record in seen]
        if len(tasks) >= limit:
            break
    return web.json_response({"tasks": tasks[:limit]})


async def drop_dead(request: web.Request, asked: Asked) -> web.Response:
    """Out of the dead letter; the task stays failed."""
    record = await record_of(request, asked)
    answer = (await asked.gateway.store.drop([record.task_id]))[record.task_id]
    if answer == "missing":
        raise Problem("not-found", "There is no such task, or it is no longer kept.")
    if answer != "ok":
        raise Problem("conflict", f"It does not lie in the dead letter; it is {answer}.", state=answer)
    return web.json_response({"task_id": record.task_id, "status": "dropped"})
