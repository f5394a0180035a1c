"""Reads what a run has left in the queue and on disk, as a history."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path

import av
from comfyui_sonic.queue_bridge.job import JobRecord
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView

from .history import Event, Fault, History, Limits, Order, Record, Rest, Video
from .workload import Workload

STALLS = "stalls its server once"


async def gather(
    view: QueueView, workload: Workload, orders: Sequence[Order], faults: Sequence[Fault], limits: Limits, stall_s: int
) -> History:
    """All facts. orders: those that were accepted."""
    events = await _events(view)
    known = sorted({event.job for event in events} | {order.task_id for order in orders})
    records = await view.jobs(known)
    videos = await asyncio.to_thread(lambda: tuple(video_at(path) for path in sorted(workload.results.iterdir())))
    stalling = {order.task_id for order in orders if order.kind == STALLS}
    return History(
        limits,
        tuple(orders),
        events,
        {job: _record(record) for job, record in records.items()},
        videos,
        tuple(sorted([*faults, *_stalls(events, stalling, stall_s)], key=lambda fault: fault.at_ms)),
        await _rest(view, {order.batch for order in orders}),
        workload.prompts(),
    )


def video_at(path: Path) -> Video:
    """What a file says of itself, and how many frames of it can be decoded; 0 when it cannot be read."""
    try:
        with av.open(str(path)) as container:
            marker = str(json.loads(container.metadata.get("comment", "{}")).get("marker", ""))
            frames = sum(1 for _ in container.decode(video=0))
    except (av.FFmpegError, IndexError, ValueError):
        marker, frames = "", 0
    return Video(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), marker, frames)


async def _events(view: QueueView) -> tuple[Event, ...]:
    found: list[Event] = []
    after = "0-0"
    while True:
        entries, next_after = await view.events(after, 0.01)
        if next_after == after:
            return tuple(found)
        after = next_after
        for entry in entries:
            head = {name: entry.pop(name) for name in ("job", "state", "cause", "at")}
            found.append(Event(head["job"], head["state"], head["cause"], int(head["at"]), entry))


def _record(record: JobRecord) -> Record:
    result = record.result or {}
    return Record(
        str(record.state),
        record.token,
        record.attempt,
        record.failures,
        record.crashes,
        record.degradations,
        str(result.get("sha256", "")),
        int(result.get("attempt", 0)),
    )


def _stalls(events: Sequence[Event], jobs: Collection[str], stall_s: int) -> list[Fault]:
    """A job that stalls its server is a fault from its start on."""
    return [
        Fault(
            "job stalls its server",
            "running",
            (event.fields["instance"],),
            event.at_ms,
            event.at_ms + 1000 * stall_s,
        )
        for event in events
        if event.job in jobs and event.cause == "claimed"
    ]


async def _rest(view: QueueView, batches: Collection[str]) -> Rest:
    counts = await view.counts()
    return Rest(
        counts.queued,
        counts.running,
        counts.retrying,
        counts.dead,
        counts.totals,
        {batch: await view.batch(batch) for batch in sorted(batches) if batch},
    )
