"""Server-sent events of the Comfy API: where a job is, then every change and step, its outputs, and its end."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from ...job import JobRecord
from ...states import TERMINAL, State
from ..context import Asked, Gateway, record_of
from ..event_stream import Event
from ..followers import EventLine
from .job_view import STATUSES, Plan, outputs_of, own_address, progress_of, status_of
from .jobs import plan_of_record

CANCELLING = "to be cancelled"  # the cause of the event by which a running job is told to end (lua/cancel.lua)


async def job_events(request: web.Request, asked: Asked) -> web.StreamResponse:
    gateway, found = asked.gateway, await record_of(request, asked)
    plan = await plan_of_record(found, gateway)
    await gateway.events.ready()
    with gateway.events.following([found.task_id]) as follower:
        record = await gateway.view.job(found.task_id) or found
        line = JobLine(request, gateway, plan)
        await line.open(record)
        while record.state not in TERMINAL:
            try:
                item = await line.events.next_of(follower)
            except TimeoutError:
                record = await gateway.view.job(found.task_id) or record
                line.events.beat()
                continue
            if item is None:
                return await line.events.close()  # not its end: the client looks at the job and comes again
            _, event, ended = item
            line.tell(event)
            record = ended or record
        line.end(record)
        return await line.events.close()


class JobLine:
    """One client's connection. Says a status once, however many changes of the queue have it."""

    def __init__(self, request: web.Request, gateway: Gateway, plan: Plan) -> None:
        self.events = EventLine(request, gateway.settings.gateway_read_s)
        self._gateway = gateway
        self._plan = plan
        self._base = own_address(request)
        self._status = ""

    async def open(self, record: JobRecord) -> None:
        await self.events.open()
        if record.state not in TERMINAL:
            self._say_status(status_of(record))
        if progress := progress_of(record, self._plan):
            self.events.send("progress", "", progress)

    def tell(self, event: Event) -> None:
        """One event of the queue; its end is told by ``end``."""
        state = State(event["state"]) if event.get("state") else None
        if state is not None and state not in TERMINAL:
            if self._status == "running" and state in (State.QUEUED, State.RETRYING):
                self._log(
                    f"A start has ended without a result ({event.get('cause', '')}); the job waits for another one."
                )
            canceling = event.get("cause") == CANCELLING or (self._status == "canceling" and state is State.RUNNING)
            self._say_status("canceling" if canceling else STATUSES[state])
        if event.get("percent"):
            left = float(event["seconds_left"]) if event.get("seconds_left") else None
            progress = self._plan.progress(float(event["percent"]), event.get("stage", ""), left)
            self.events.send("progress", "", progress)

    def end(self, record: JobRecord) -> None:
        for warning in (record.result or {}).get("warnings") or ():
            self._log(str(warning))
        for output in outputs_of(record, self._plan, self._gateway, self._base):
            self.events.send("output", "", output)
        self._say_status(status_of(record))

    def _log(self, sentence: str) -> None:
        self.events.send("log", "", {"level": "warning", "message": sentence})

    def _say_status(self, status: str) -> None:
        if status != self._status:
            self._status = status
            said: dict[str, Any] = {"status": status, "queue_position": None}
            self.events.send("status", "", said)
