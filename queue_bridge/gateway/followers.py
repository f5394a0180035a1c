"""Server-sent events: where a task or batch is, then whatever happens to it, until its end."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from ..job import JobRecord
from ..states import TERMINAL
from .batches import EVERY, batch_view
from .context import Asked, Gateway, batch_of, record_of
from .event_stream import Event, Follower, is_end
from .fields import Field
from .listing import jobs_of_batch
from .task_view import task_view

HEARTBEAT_S = 15.0
AT_ONCE = 100  # events in one write
RETRY_MS = 2000  # after which a browser connects again
LOOKED_BACK = 20_000  # events, to resume; a follower who has missed more begins with a snapshot
EVENT_ID = re.compile(r"[0-9]{1,15}-[0-9]{1,10}")
LAST_EVENT = Field("Last-Event-ID", "string", "the id of the last event that was seen", pattern=EVENT_ID.pattern)
SHOWN = ("state", "cause", "stage")
NUMBERS = ("percent", "seconds_left")
HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventLine:
    """One follower's connection."""

    def __init__(self, request: web.Request, patience_s: float) -> None:
        self._request = request
        self._response = web.StreamResponse(headers=HEADERS)
        self._response.force_close()  # its end is the connection's
        self._patience_s = patience_s
        self._unsent: list[str] = []

    async def open(self) -> None:
        await self._response.prepare(self._request)
        self._unsent.append(f"retry: {RETRY_MS}\n\n")

    def send(self, kind: str, event_id: str, data: Mapping[str, Any]) -> None:
        """To be sent with what comes right after it: much happens at once when many tasks are followed.

        event_id: '' where nobody comes back to it.
        """
        said = json.dumps(data, ensure_ascii=False)
        named = f"id: {event_id}\n" if event_id else ""
        self._unsent.append(f"event: {kind}\n{named}data: {said}\n\n")

    def beat(self) -> None:
        self._unsent.append(": still here\n\n")

    async def flush(self) -> None:
        text, self._unsent = "".join(self._unsent), []
        async with asyncio.timeout(self._patience_s):  # who reads nothing holds no line
            await self._response.write(text.encode("utf-8", "replace"))

    async def next_of(self, follower: Follower) -> tuple[str, Event, JobRecord | None] | None:
        """What happens next, or None at the gateway's end.

        Raises TimeoutError when nothing does for HEARTBEAT_S, or when something was missed.
        """
        if self._unsent and (follower.events.empty() or len(self._unsent) >= AT_ONCE):
            await self.flush()
        if follower.missed:
            follower.missed = False
            raise TimeoutError
        async with asyncio.timeout(HEARTBEAT_S):
            return await follower.events.get()

    async def close(self) -> web.StreamResponse:
        await self.flush()
        await self._response.write_eof()
        return self._response


def shown(event: Event) -> dict[str, Any]:
    """What a client sees of an event."""
    found: dict[str, Any] = {"task_id": event.get("job", "")}
    found |= {name: event[name] for name in SHOWN if name in event}
    found |= {name: float(event[name]) for name in NUMBERS if event.get(name)}
    return found | {"at_ms": int(event.get("at", 0))}


def last_id(request: web.Request) -> str:
    """The last event that a client says it has seen, or ''."""
    given = request.headers.get("Last-Event-ID", "")
    return given if EVENT_ID.fullmatch(given) else ""


async def task_events(request: web.Request, asked: Asked) -> web.StreamResponse:
    gateway, found = asked.gateway, await record_of(request, asked)
    task_id, seen = found.task_id, last_id(request)
    await gateway.events.ready()
    with gateway.events.following([task_id]) as follower:
        at = gateway.events.last_id
        past = await gateway.events.past({task_id}, seen, LOOKED_BACK) if seen else None
        record = await gateway.view.job(task_id) or found
        if past == [] and record.state in TERMINAL:
            past, at = await _up_to_now(gateway, {task_id}, seen)
            if past == []:  # its end has been told; this ends a browser's coming back
                return web.Response(status=204)
        line = EventLine(request, gateway.settings.gateway_read_s)
        await line.open()
        for event_id, event in past or ():
            line.send("change", event_id, shown(event))
        if past is None:
            line.send("snapshot", at, task_view(record, gateway.places))
        while record.state not in TERMINAL:
            try:
                item = await line.next_of(follower)
            except TimeoutError:
                record = await gateway.view.job(task_id) or record
                line.beat()
                continue
            if item is None:
                return await line.close()
            at, event, ended = item
            line.send("change", at, shown(event))
            record = ended or record
        line.send("end", at, task_view(record, gateway.places))
        return await line.close()


async def batch_events(request: web.Request, asked: Asked) -> web.StreamResponse:
    gateway, (batch_id, counts) = asked.gateway, await batch_of(request, asked)
    seen = last_id(request)
    await gateway.events.ready()
    ids = [record.task_id for record in await jobs_of_batch(gateway.view, batch_id, counts, EVERY)]
    with gateway.events.following(ids) as follower:
        at = gateway.events.last_id
        past = await gateway.events.past(set(ids), seen, LOOKED_BACK) if seen else None
        live = await _live(gateway, ids)
        if past == [] and not live:
            past, at = await _up_to_now(gateway, set(ids), seen)
            if past == []:
                return web.Response(status=204)
        line = EventLine(request, gateway.settings.gateway_read_s)
        await line.open()
        for event_id, event in past or ():
            line.send("change", event_id, shown(event))
        if past is None:
            line.send("snapshot", at, batch_view(batch_id, await gateway.view.batch(batch_id)))
        while live:
            try:
                item = await line.next_of(follower)
            except TimeoutError:
                live = await _live(gateway, ids)
                line.beat()
                continue
            if item is None:
                return await line.close()
            at, event, _ = item
            line.send("change", at, shown(event))
            if is_end(event):
                live.discard(event["job"])
                if not live:
                    live = await _live(gateway, ids)  # some may have been put back
        line.send("end", at, batch_view(batch_id, await gateway.view.batch(batch_id)))
        return await line.close()


async def _up_to_now(gateway: Gateway, ids: set[str], seen: str) -> tuple[list[tuple[str, Event]] | None, str]:
    """What has happened behind an event, and up to which: the end, too, that the reader is about to read."""
    until = await gateway.view.last_event()
    return await gateway.events.past(ids, seen, LOOKED_BACK, until), until


async def _live(gateway: Gateway, ids: list[str]) -> set[str]:
    records = await gateway.view.jobs(ids)
    return {task_id for task_id, record in records.items() if record.state not in TERMINAL}
