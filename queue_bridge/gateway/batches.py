"""Batches over HTTP: many tasks in one request, as a list or as a ZIP of pictures and recordings."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from ..errors import JobError, PairingError
from ..intake.archive import Limits, unpack
from ..intake.orders import Order, Orders, read_orders
from ..job import ID
from ..queue.keys import OWN_BATCH
from ..states import TERMINAL
from .api_keys import Caller
from .body import BATCH_BYTES, content_type, read_json
from .context import Asked, Gateway, batch_of
from .fields import Field, checked, invalid
from .listing import jobs_of_batch
from .new_tasks import (
    DEFAULTS,
    TASK,
    Identity,
    NewTask,
    check_batch,
    digest_of,
    form_fields,
    id_in_batch,
    identified,
    new_id,
    new_task,
    queued,
)
from .operations import JSON, MULTIPART
from .problem import Problem
from .task_view import time_text
from .tasks import MEGABYTE
from .uploads import Upload, received, received_whole

ZIP = "application/zip"
MOST_TASKS = 1000  # of a list; a ZIP may hold more
UNPACKED = 4  # times what an upload may have
CANCEL_A_CALL = 100
EVERY = 10_000_000
# Of a batch, the tasks say nothing that makes them a request of their own.
TASK_OF_BATCH = tuple(one for one in TASK if one.name not in {"task_id", "batch"})
BATCH = (
    Field("tasks", "array", "the tasks", required=True, low=1, high=MOST_TASKS),
    Field("batch_id", "string", "an id of the client's own choice", pattern=ID.pattern),
)
LIST = (
    Field("limit", "integer", "at most so many", low=1, high=200, default=50),
    Field("cursor", "string", "`next` of the page before", pattern=rf"[0-9]{{1,15}}_{ID.pattern}"),
)
COUNTS = ("total", "completed", "failed", "cancelled")


async def create_batch(request: web.Request, asked: Asked) -> web.Response:
    if content_type(request, JSON, MULTIPART, ZIP) != JSON:
        return await _create_from_zip(request, asked)
    gateway, caller = asked.gateway, asked.caller
    body = checked(BATCH, await read_json(request, BATCH_BYTES, gateway.settings.gateway_read_s))
    wanted = [checked(TASK_OF_BATCH, fields, f"tasks[{at}].") for at, fields in enumerate(body["tasks"])]
    own_id = body.get("batch_id", "")
    fresh_id = own_id or new_id("batch")
    await check_batch(gateway, caller, fresh_id)
    tasks = await asyncio.to_thread(_tasks_of_list, gateway, caller, fresh_id, wanted)
    found = await identified(gateway, caller, request, digest_of(["batch", body]), fresh_id, own_id)
    if found.id != fresh_id:
        tasks = await asyncio.to_thread(_tasks_of_list, gateway, caller, found.id, wanted)
    await queued(asked, tasks, found)
    return _accepted(found, tasks, [])


def _tasks_of_list(
    gateway: Gateway, caller: Caller, batch_id: str, wanted: Sequence[Mapping[str, Any]]
) -> list[NewTask]:
    tasks = []
    for at, fields in enumerate(wanted):
        try:
            tasks.append(new_task(gateway, caller, {**fields, "batch": batch_id}, id_in_batch(batch_id, at)))
        except Problem as problem:
            raise invalid(f"tasks[{at}]", problem.detail) from problem
    return tasks


async def _create_from_zip(request: web.Request, asked: Asked) -> web.Response:
    gateway = asked.gateway
    limit, pause_s = round(gateway.settings.gateway_upload_mb * MEGABYTE), gateway.settings.gateway_read_s
    fresh_id = new_id("batch")
    if request.content_type == ZIP:
        reading = received_whole(request, gateway.places, fresh_id, "archive", limit, pause_s)
    else:
        reading = received(request, gateway.places, fresh_id, ("archive",), limit, pause_s)
    async with reading as upload:
        if "archive" not in upload.files:
            raise invalid("archive", "is missing; send the ZIP in this field of the form.")
        return await _queue_zip(request, asked, upload, fresh_id)


async def _queue_zip(request: web.Request, asked: Asked, upload: Upload, fresh_id: str) -> web.Response:
    gateway, caller = asked.gateway, asked.caller
    defaults = form_fields(upload.texts, DEFAULTS)
    orders, digest = (
        await asyncio.to_thread(_orders_of, gateway, upload),
        digest_of(["zip", upload.texts, upload.digests]),
    )
    tasks, left_out = await asyncio.to_thread(_tasks_of_orders, gateway, caller, fresh_id, orders, upload, defaults)
    if not tasks:
        raise Problem("invalid", "There is nothing in the ZIP to make a video of.", left_out=left_out)
    found = await identified(gateway, caller, request, digest, fresh_id)
    if found.id != fresh_id:
        tasks, left_out = await asyncio.to_thread(_tasks_of_orders, gateway, caller, found.id, orders, upload, defaults)
    await upload.keep({})
    answers = await queued(asked, tasks, found)
    if not any(answer.made for answer in answers):
        await upload.drop()
    return _accepted(found, tasks, left_out)


def _orders_of(gateway: Gateway, upload: Upload) -> Orders:
    """What a ZIP asks for, unpacked beside it. Raises Problem."""
    archive = upload.files["archive"]
    limit = round(UNPACKED * gateway.settings.gateway_upload_mb * MEGABYTE)
    try:
        return read_orders(unpack(archive, Limits(unpacked_bytes=limit)), gateway.places.results)
    except PairingError as error:
        text = str(error).replace(f"{upload.part.resolve()}/", "").replace(f"{upload.part}/", "")
        raise invalid("archive", text) from error
    finally:
        archive.unlink(missing_ok=True)


def _tasks_of_orders(
    gateway: Gateway, caller: Caller, batch_id: str, orders: Orders, upload: Upload, defaults: Mapping[str, Any]
) -> tuple[list[NewTask], list[dict[str, str]]]:
    """The tasks, and what is left out and why, as by ``sonic-queue submit``."""
    tasks = []
    left_out = [{"file": item.path.name, "reason": item.reason} for item in orders.left_out]
    folder = upload.part.resolve()
    upload.is_of(batch_id)
    for at, order in enumerate(orders.orders):
        task_id = id_in_batch(batch_id, at)
        files = {
            "image": upload.folder / order.portrait.resolve().relative_to(folder),
            "audio": upload.folder / order.voice.resolve().relative_to(folder),
            "output": gateway.places.results / batch_id / f"{order.name}.mp4",
        }
        try:
            tasks.append(new_task(gateway, caller, _fields_of(order, batch_id, defaults), task_id, files))
        except (Problem, JobError) as error:
            left_out.append({"file": order.voice.name, "reason": str(error)})
    return tasks, left_out


def _fields_of(order: Order, batch_id: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    said = {"priority": order.priority, "workflow": order.template, "consent_id": order.consent_id}
    return {
        **defaults,
        **{name: value for name, value in said.items() if value},
        "config": {**defaults.get("config", {}), **order.config},
        "name": order.name[:200],
        "batch": batch_id,
    }


def _accepted(found: Identity, tasks: Sequence[NewTask], left_out: list[dict[str, str]]) -> web.Response:
    own = f"/v1/batches/{found.id}"
    answer = {
        "batch_id": found.id,
        "status": "accepted",
        "repeated": not found.first,
        "task_ids": [task.submission.spec.task_id for task in tasks],
        "warnings": [
            {"task_id": task.submission.spec.task_id, "warning": warning} for task in tasks for warning in task.warnings
        ],
        "left_out": left_out,
        "links": {"self": own, "events": f"{own}/events", "tasks": f"/v1/tasks?batch={found.id}"},
    }
    return web.json_response(answer, status=202, headers={"Location": own})


def batch_view(batch_id: str, counts: Mapping[str, int]) -> dict[str, Any]:
    """The counts of a batch for its client."""
    found = {name: counts.get(name, 0) for name in COUNTS}
    unended = found["total"] - sum(found[name] for name in COUNTS[1:])
    own = f"/v1/batches/{batch_id}"
    links = {"self": own, "events": f"{own}/events", "tasks": f"/v1/tasks?batch={batch_id}"}
    return {"batch_id": batch_id, **found, "unended": max(0, unended), "links": links}


async def list_batches(request: web.Request, asked: Asked) -> web.Response:
    gateway, caller, limit = asked.gateway, asked.caller, asked.query["limit"]
    ms, _, last = (asked.query["cursor"] or "").partition("_")
    callers = await gateway.view.callers() if "admin" in caller.scopes else [caller.id]
    found = await gateway.view.batches(callers, limit, after=(int(ms), last) if ms else None)
    batches = [
        {**batch_view(batch_id, counts), "submitted_at": time_text(counts.get("submitted_ms", 0) / 1000)}
        for _, batch_id, counts in found
        if counts and not batch_id.startswith(OWN_BATCH)
    ]
    after = f"{found[-1][0]}_{found[-1][1]}" if len(found) == limit else None
    return web.json_response({"batches": batches, "next": after})


async def show_batch(request: web.Request, asked: Asked) -> web.Response:
    return web.json_response(batch_view(*await batch_of(request, asked)))


async def cancel_batch(request: web.Request, asked: Asked) -> web.Response:
    gateway, (batch_id, counts) = asked.gateway, await batch_of(request, asked)
    records = await jobs_of_batch(gateway.view, batch_id, counts, EVERY)
    live = [record.task_id for record in records if record.state not in TERMINAL]
    answers: dict[str, str] = {}
    for start in range(0, len(live), CANCEL_A_CALL):
        answers |= await gateway.store.cancel(live[start : start + CANCEL_A_CALL])
    given = list(answers.values())
    said = {name: given.count(name) for name in ("cancelled", "cancelling")}
    return web.json_response({"batch_id": batch_id, **said, "others": len(given) - sum(said.values())})
