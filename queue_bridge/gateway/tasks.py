"""Tasks over HTTP: made, looked at, cancelled, started again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from ..commands.operator_commands import SENTENCES
from ..job import ID, JobRecord
from ..states import State
from .body import TASK_BYTES, content_type, read_json
from .context import Asked, record_of
from .fields import Field, checked, invalid
from .listing import submitted_jobs
from .new_tasks import (
    FILES,
    TASK,
    Identity,
    NewTask,
    check_batch,
    digest_of,
    form_fields,
    identified,
    looked_into,
    new_id,
    new_task,
    queued,
    with_duration,
)
from .operations import JSON, MULTIPART
from .problem import Problem
from .task_view import STATES, links_of, task_view
from .uploads import Upload, received

LOOKED_AT = 2000  # jobs, for one page of a list
MEGABYTE = 1_000_000
LIST = (
    Field("state", "string", "only tasks in this state", choices=STATES),
    Field("batch", "string", "only tasks of this batch, in the order of submission", pattern=ID.pattern),
    Field("name", "string", "only tasks in whose name or id this occurs, whatever its case", low=1, high=200),
    Field("limit", "integer", "at most so many", low=1, high=200, default=50),
    Field("cursor", "string", "`next` of the page before", pattern=rf"[0-9]{{1,15}}-[0-9]{{1,10}}_{ID.pattern}"),
)


async def create_task(request: web.Request, asked: Asked) -> web.Response:
    if content_type(request, JSON, MULTIPART) == MULTIPART:
        return await _create_with_files(request, asked)
    gateway, caller = asked.gateway, asked.caller
    body = await read_json(request, TASK_BYTES, gateway.settings.gateway_read_s)
    fields = checked(TASK, body)
    await check_batch(gateway, caller, fields.get("batch", ""))
    own_id = fields.get("task_id", "")
    task = await asyncio.to_thread(new_task, gateway, caller, fields, own_id or new_id("tsk"))
    fresh_id = task.submission.spec.task_id
    found = await identified(gateway, caller, request, digest_of(["task", fields]), fresh_id, own_id)
    if found.id != fresh_id:
        task = await asyncio.to_thread(new_task, gateway, caller, fields, found.id)
    await queued(asked, [task], found)
    return _accepted(found, task, [])


async def _create_with_files(request: web.Request, asked: Asked) -> web.Response:
    gateway, caller = asked.gateway, asked.caller
    limit, pause_s = round(gateway.settings.gateway_upload_mb * MEGABYTE), gateway.settings.gateway_read_s
    fresh_id = new_id("tsk")
    async with received(request, gateway.places, fresh_id, FILES, limit, pause_s) as upload:
        fields = form_fields(upload.texts, TASK)
        for name in FILES:
            if name in upload.files and (name in fields or f"{name}_url" in fields):
                raise invalid(name, "is given twice.")
        await check_batch(gateway, caller, fields.get("batch", ""))
        fields = {"name": upload.names.get("audio", ""), **fields}
        digest = digest_of(["task", upload.texts, upload.digests])
        return await queue_upload(request, asked, upload, fields, digest, fresh_id)


async def queue_upload(
    request: web.Request,
    asked: Asked,
    upload: Upload,
    fields: Mapping[str, Any],
    digest: str,
    fresh_id: str,
    warnings: Sequence[str] = (),
) -> web.Response:
    """Answer with the task that the files of a request become. digest: of all that it says. Raises Problem.

    warnings: sentences for its client, beside those about its files and parameters.
    """
    gateway, caller = asked.gateway, asked.caller
    suffixes, seconds = await asyncio.to_thread(looked_into, upload)
    whole, said = with_duration(fields, seconds)
    own_id = whole.get("task_id", "")

    def task_with(task_id: str) -> NewTask:
        upload.is_of(task_id)
        files = {name: upload.folder / f"{name}{suffix}" for name, suffix in suffixes.items()}
        return new_task(gateway, caller, whole, task_id, files)

    task = await asyncio.to_thread(task_with, own_id or fresh_id)
    found = await identified(gateway, caller, request, digest, own_id or fresh_id, own_id)
    if found.id != task.submission.spec.task_id:
        task = await asyncio.to_thread(task_with, found.id)
    await upload.keep(suffixes)
    (answer,) = await queued(asked, [task], found)
    if not answer.made:
        await upload.drop()
    return _accepted(found, task, [*warnings, *said])


def _accepted(found: Identity, task: NewTask, said: list[str]) -> web.Response:
    links = links_of(found.id)
    answer = {
        "task_id": found.id,
        "status": "accepted",
        "repeated": not found.first,
        "warnings": [*said, *task.warnings],
        "links": links,
    }
    return web.json_response(answer, status=202, headers={"Location": links["self"]})


async def list_tasks(request: web.Request, asked: Asked) -> web.Response:
    gateway, caller, query = asked.gateway, asked.caller, asked.query
    batch_id, limit = query["batch"], query["limit"]
    place, _, task_id = (query["cursor"] or "").partition("_")
    callers = await gateway.view.callers() if "admin" in caller.scopes else [caller.id]
    since_ms = None
    if batch_id:
        counts = await gateway.view.batch(batch_id)
        owner = await gateway.view.batch_caller(batch_id)
        if not counts or not caller.sees(owner):
            return web.json_response({"tasks": [], "next": None})
        callers, since_ms = [owner], counts.get("submitted_ms", 0)
    after = (place, task_id) if place else None
    tasks: list[dict[str, Any]] = []
    seen, last = 0, after
    jobs = submitted_jobs(gateway.view, callers, after=after, since_ms=since_ms, most=LOOKED_AT)
    async with contextlib.aclosing(jobs):
        async for place_here, record in jobs:
            seen, last = seen + 1, place_here
            if record and _fits(record, query):
                tasks.append(task_view(record, gateway.places))
            if len(tasks) == limit:
                break
    more = last and (len(tasks) == limit or seen >= LOOKED_AT)
    return web.json_response({"tasks": tasks, "next": "_".join(last) if more and last else None})


def _fits(record: JobRecord, query: Mapping[str, Any]) -> bool:
    named = (query["name"] or "").casefold()
    return (
        (not query["state"] or record.state == query["state"])
        and (not query["batch"] or record.spec.batch == query["batch"])
        and (not named or named in record.spec.name.casefold() or named in record.task_id.casefold())
    )


async def show_task(request: web.Request, asked: Asked) -> web.Response:
    return web.json_response(task_view(await record_of(request, asked), asked.gateway.places))


async def cancel_task(request: web.Request, asked: Asked) -> web.Response:
    gateway, record = asked.gateway, await record_of(request, asked)
    answer = (await gateway.store.cancel([record.task_id]))[record.task_id]
    if answer == "missing":
        raise Problem("not-found", "There is no such task, or it is no longer kept.")
    if answer not in ("cancelled", "cancelling"):
        sentence = SENTENCES[answer].format(owner=record.owner or "its server")
        raise Problem("conflict", sentence[0].upper() + sentence[1:], state=answer)
    status = 200 if answer == "cancelled" else 202
    return web.json_response({"task_id": record.task_id, "status": answer}, status=status)


async def retry_task(request: web.Request, asked: Asked) -> web.Response:
    gateway, record = asked.gateway, await record_of(request, asked)
    answer = await gateway.store.restart(record.task_id)
    if answer == "missing":
        raise Problem("not-found", "There is no such task, or it is no longer kept.")
    if isinstance(answer, State):
        detail = f"It is {answer}; only a failed or cancelled task starts again."
        raise Problem("conflict", detail, state=str(answer))
    links = links_of(record.task_id)
    said = {"task_id": record.task_id, "status": "accepted", "links": links}
    return web.json_response(said, status=202, headers={"Location": links["self"]})
