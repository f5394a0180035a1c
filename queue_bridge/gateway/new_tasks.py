"""Requests become jobs: checked, given an id, and known again when the same request comes again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from ..errors import BacklogFull, JobError, QueueUnavailable
from ..job import CLASS_OF, DEFAULT_TEMPLATE, FIELDS, ID, LONGEST_CONSENT_ID, LONGEST_LABEL, MOST_LABELS
from ..pipelines.submission import checked_job
from ..queue.keys import OWN_BATCH
from ..queue.store import Accepted, Submission
from .api_keys import Caller
from .context import Asked, Gateway
from .fields import Field, checked, invalid
from .media import picture_suffix, sound
from .problem import Problem
from .uploads import Upload

IDEMPOTENCY_KEY = Field(
    "Idempotency-Key", "string", "the same key and content again find what the first request made", low=1, high=255
)
TRACEPARENT = Field("traceparent", "string", "the trace that the tasks belong to (W3C Trace Context)")
AGAIN_S = 0.2
_DESCRIBED = (
    Field("task_id", "string", "an id of the client's own choice", pattern=ID.pattern),
    Field("name", "string", "for people", high=200),
    Field("image", "string", "address of the portrait, such as file:///mnt/nas/anna.png", low=1, high=4096),
    Field("audio", "string", "address of the recording", low=1, high=4096),
    Field("image_url", "string", "another name of image", low=1, high=4096),
    Field("audio_url", "string", "another name of audio", low=1, high=4096),
    Field("output", "string", "where the video goes; without it the gateway keeps it", low=1, high=4096),
    Field("config", "object", "parameters of the template"),
    Field("priority", "string", "priority goes first", choices=tuple(sorted(CLASS_OF)), default="normal"),
    Field("workflow", "string", "the job template", low=1, high=200, default=DEFAULT_TEMPLATE),
    Field("batch", "string", "a batch of the client's own naming", pattern=ID.pattern),
    Field("consent_id", "string", "where the consent of the person shown is found", high=LONGEST_CONSENT_ID),
    Field("labels", "object", "names and texts by which its client finds it again", high=MOST_LABELS,
          schema={"additionalProperties": {"type": "string", "maxLength": LONGEST_LABEL}}),
)  # fmt: skip
# Every field that a job has; one that is not described here is a text.
# A prompt comes by the Comfy API only, and a trace as a header.
OTHERS = sorted(FIELDS - {"prompt", "traceparent"} - {one.name for one in _DESCRIBED})
TASK = (*_DESCRIBED, *(Field(name, "string", "") for name in OTHERS))
DEFAULTS = tuple(one for one in TASK if one.name in {"config", "priority", "workflow", "consent_id"})
FILES = ("image", "audio")
ADDRESSES = ("image", "audio", "image_url", "audio_url", "output", "callback")


@dataclass(frozen=True)
class NewTask:
    """A job to be queued. warnings: sentences for its client."""

    submission: Submission
    warnings: tuple[str, ...]


def new_id(kind: str) -> str:
    """An id that nobody can guess."""
    return f"{kind}_{secrets.token_hex(12)}"


def id_in_batch(batch_id: str, number: int) -> str:
    """The id of a batch's task, the same for the same request."""
    return f"tsk_{hashlib.sha256(f'{batch_id} {number}'.encode()).hexdigest()[:24]}"


def digest_of(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def form_fields(texts: Mapping[str, str], table: Sequence[Field]) -> dict[str, Any]:
    """The fields of a form as JSON would have them. Raises Problem."""
    from .body import parsed

    kinds = {field.name: field.kind for field in table}
    values = {
        name: parsed(text, f"The field '{name}'") if kinds.get(name) == "object" else text
        for name, text in texts.items()
    }
    return checked(table, values)


def new_task(
    gateway: Gateway, caller: Caller, fields: Mapping[str, Any], task_id: str, files: Mapping[str, Path] | None = None
) -> NewTask:
    """The job of checked fields, as it would be from a folder. Looks at paths, so not in the event loop.

    files: what the gateway has laid down itself, by field; also ``output``. Raises Problem "invalid".
    """
    places, own_batch = gateway.places, f"{OWN_BATCH}{caller.id}" if caller.id else ""
    laid = {name: path.as_uri() for name, path in (files or {}).items()}
    if not gateway.takes_addresses and (named := next((name for name in ADDRESSES if fields.get(name)), None)):
        raise invalid(named, "is not taken here; send the files themselves.")
    try:
        for name in ("image", "audio", "image_url", "audio_url"):
            if fields.get(name):
                places.check_address(fields[name], name)
        places.check_callback(fields.get("callback") or "")
        if fields.get("output"):
            places.check_output(fields["output"])
        asked = {**fields, "task_id": task_id, "batch": fields.get("batch") or own_batch}
        whole = {"output": places.result_of(task_id).as_uri(), **asked, **laid}
        job = checked_job(whole, gateway.templates, gateway.settings.raw_nodes)
    except (JobError, ValueError) as error:
        raise of_job_error(error) from error
    return NewTask(job.submission, job.warnings)


def of_job_error(error: Exception) -> Problem:
    """What is wrong with a job, for its client."""
    field, colon, rest = str(error).partition(": ")
    known = colon and re.fullmatch(r"[\w.-]{1,200}", field)
    return invalid(field, rest) if known else Problem("invalid", str(error))


def looked_into(upload: Upload) -> tuple[dict[str, str], float | None]:
    """The suffixes that fit what was uploaded, and the seconds of its sound. Raises Problem; not in the event loop."""
    suffixes, seconds = {}, None
    try:
        for name, path in upload.files.items():
            if name == "image":
                suffixes[name] = picture_suffix(path)
            elif name == "audio":
                suffixes[name], seconds = sound(path)
    except JobError as error:
        raise of_job_error(error) from error
    return suffixes, seconds


def with_duration(fields: Mapping[str, Any], seconds: float | None) -> tuple[dict[str, Any], list[str]]:
    """The fields with a stated duration that there really is, and what is to be said about that."""
    config = dict(fields.get("config") or {})
    stated = config.get("duration")
    if seconds is None or isinstance(stated, bool) or not isinstance(stated, int | float) or stated <= seconds:
        return dict(fields), []
    config["duration"] = round(seconds, 3)
    said = f"config.duration: {stated:g} s were asked for, and the recording has {seconds:.3f} s, so that counts."
    return {**fields, "config": config}, [said]


@dataclass(frozen=True)
class Identity:
    """Under which id a request is carried out. first: nothing says that the same one came before.

    name: under which it is remembered, or ''. chosen: the id is the client's own choice, so that there may be another.
    """

    id: str
    first: bool
    name: str = ""
    chosen: bool = False


async def identified(
    gateway: Gateway, caller: Caller, request: web.Request, digest: str, fresh_id: str, own_id: str = ""
) -> Identity:
    """The id of a request: the one that the same request had, else ``fresh_id``.

    own_id: chosen by the client, which makes a request known, too. Raises Problem "idempotency-key-reused".
    """
    key = request.headers.get(IDEMPOTENCY_KEY.name)
    if key is not None and (wrong := IDEMPOTENCY_KEY.wrong(key)):
        raise invalid(IDEMPOTENCY_KEY.name, wrong)
    if key is None and not own_id:
        return Identity(fresh_id, True)
    what = json.dumps([caller.id, "key", key] if key is not None else [caller.id, "id", own_id])
    name = hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()
    before = await gateway.store.remember_request(name, json.dumps([digest, fresh_id]))
    if before is None:
        return Identity(fresh_id, True, name, bool(own_id))
    digest_before, id_before = json.loads(before)
    if digest_before != digest:
        raise Problem("idempotency-key-reused", "Another request was sent with it; take a new key for a new request.")
    return Identity(id_before, False, name)


async def queued(asked: Asked, tasks: Sequence[NewTask], found: Identity) -> list[Accepted]:
    """Put the jobs of a request into the queue. Raises Problem when there are others with their ids."""
    gateway, caller = asked.gateway, asked.caller
    submissions = [_in_trace(task.submission, asked.traceparent) for task in tasks]
    whose = {"caller": caller.id, "backlog": caller.backlog}
    try:
        try:
            answers = await gateway.store.submit(submissions, **whose)  # type: ignore[arg-type]
        except QueueUnavailable:  # the answer may be lost, and asking again makes nothing twice
            await asyncio.sleep(AGAIN_S)
            return await gateway.store.submit(submissions, **whose)  # type: ignore[arg-type]
    except BacklogFull as error:
        detail = f"At most {caller.backlog} tasks of this key may be unfinished: {error}"
        raise Problem("backlog-full", detail, {"Retry-After": "10"}) from error
    there = next((answer.task_id for answer in answers if not answer.made), None)
    if there and ((found.first and found.chosen) or not await _is_of(gateway, caller, there)):
        await gateway.store.forget_request(found.name)
        raise Problem("conflict", "There is another task with this id.")
    return answers


def _in_trace(one: Submission, traceparent: str) -> Submission:
    return replace(one, spec=replace(one.spec, traceparent=traceparent)) if traceparent else one


async def _is_of(gateway: Gateway, caller: Caller, task_id: str) -> bool:
    record = await gateway.view.job(task_id)
    return record is None or record.caller == caller.id


async def check_batch(gateway: Gateway, caller: Caller, batch_id: str) -> None:
    """Raises Problem when a caller may put nothing into a batch."""
    if not batch_id:
        return
    if batch_id.startswith(OWN_BATCH):
        raise invalid("batch", f"may not begin with {OWN_BATCH}.")
    if await gateway.view.batch(batch_id) and not caller.sees(await gateway.view.batch_caller(batch_id)):
        raise invalid("batch", "is the name of a batch that is another caller's.")
