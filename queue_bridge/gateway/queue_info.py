"""The queue as a whole: how many tasks are where, who works, what lies in the dead letter."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from ..unserved import alerts
from .context import Asked
from .fields import Field
from .task_view import task_view

DEAD = (Field("limit", "integer", "at most so many, the latest first", low=1, high=200, default=50),)
LOOKED_AT = 2000
INSTANCE = ("name", "host", "tiers", "engines", "device", "draining", "unhealthy", "running")


async def show_queue(request: web.Request, asked: Asked) -> web.Response:
    view = asked.gateway.view
    counts = await view.counts()
    said = alerts(counts.waiting, await view.instances())
    answer = {
        "waiting": counts.waiting,
        "queued": counts.queued,
        "running": counts.running,
        "retrying": counts.retrying,
        "dead": counts.dead,
        "totals": counts.totals,
        "alerts": list(said.values()),
    }
    return web.json_response(answer)


async def show_instances(request: web.Request, asked: Asked) -> web.Response:
    """What runs where is told to administrators only, since it is somebody's task."""
    is_admin = "admin" in asked.caller.scopes
    names = INSTANCE if is_admin else tuple(name for name in INSTANCE if name != "running")
    found = [{name: one.get(name) for name in names} for one in await asked.gateway.view.instances()]
    return web.json_response({"instances": found})


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
