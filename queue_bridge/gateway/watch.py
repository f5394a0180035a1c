"""Server-sent events about everything that a caller may see, for a page that shows the queue as it is."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from aiohttp import web

from ..errors import QueueUnavailable
from .api_keys import Caller
from .context import Asked
from .event_stream import Watcher
from .followers import HEARTBEAT_S, LOOKED_BACK, EventLine, last_id, shown
from .queue_info import FRESH_S

LOOK_S = 1.0  # between two looks at the queue and the instances when no task moves
TOGETHER_S = 0.25  # what happens within it is told in one event


def _whoami(caller: Caller) -> dict[str, Any]:
    return {"name": caller.name, "scopes": sorted(caller.scopes)}


async def watch_events(request: web.Request, asked: Asked) -> web.StreamResponse:
    """A ``snapshot`` with caller, queue and instances; then ``changes`` of tasks, and the others as they change.

    ``away`` says that the database does not answer; a ``snapshot`` follows when it does again.
    """
    gateway, caller, seen = asked.gateway, asked.caller, last_id(request)
    sees = None if "admin" in caller.scopes else caller.sees
    await gateway.events.ready()
    with gateway.events.watching(sees) as watcher:
        past = await gateway.events.past(None, seen, LOOKED_BACK) if seen else None
        missed = await gateway.events.visible(past, sees) if past is not None else None
        overview = await gateway.overview.now()
        line = EventLine(request, gateway.settings.gateway_read_s)
        await line.open()
        told = _Told(line, caller)
        if missed is None:
            told.snapshot(watcher.last_id, overview)
        else:
            watcher.put_past(missed)
            told.changes(watcher)
            told.overview(watcher.last_id, overview)
        await line.flush()
        await _tell(asked, watcher, told, line)
        return await line.close()


async def _tell(asked: Asked, watcher: Watcher, told: _Told, line: EventLine) -> None:
    """Until the gateway ends, or the client goes, which raises ConnectionError or TimeoutError."""
    clock = asyncio.get_running_loop().time
    beat_s, look_s, is_away = clock() + HEARTBEAT_S, LOOK_S, False
    while not watcher.ended:
        await asyncio.sleep(TOGETHER_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(look_s):
                await watcher.woken.wait()
        try:
            overview = await asked.gateway.overview.now()
        except QueueUnavailable:
            if not is_away:
                told.away(watcher.last_id)
            is_away = True
            await line.flush()
            continue
        if is_away or watcher.missed:
            is_away = watcher.missed = False
            watcher.take()
            told.snapshot(watcher.last_id, overview)
        look_s = FRESH_S if told.changes(watcher) else LOOK_S  # the overview may be from before them
        told.overview(watcher.last_id, overview)
        if told.is_empty and clock() >= beat_s:
            line.beat()
        if not told.is_empty or clock() >= beat_s:
            await line.flush()
            told.is_empty, beat_s = True, clock() + HEARTBEAT_S


class _Told:
    """What one watcher has been told, so that it is told only what is new."""

    def __init__(self, line: EventLine, caller: Caller) -> None:
        self._line = line
        self._caller = caller
        self._overview: dict[str, Any] = {}
        self.is_empty = True

    def snapshot(self, at: str, overview: Any) -> None:
        self._overview = {"queue": overview.queue, "instances": overview.instances_for(self._caller)}
        self._send("snapshot", at, {"caller": _whoami(self._caller), **self._overview})

    def changes(self, watcher: Watcher) -> bool:
        """Whether there were any."""
        if events := watcher.take():
            self._send("changes", watcher.last_id, {"tasks": [shown(event) for event in events]})
        return bool(events)

    def overview(self, at: str, overview: Any) -> None:
        now = {"queue": overview.queue, "instances": overview.instances_for(self._caller)}
        for name, value in now.items():
            if value != self._overview.get(name):
                self._send(name, at, {name: value})
        self._overview = now

    def away(self, at: str) -> None:
        self._send("away", at, {})

    def _send(self, kind: str, at: str, data: dict[str, Any]) -> None:
        self._line.send(kind, at, data)
        self.is_empty = False
