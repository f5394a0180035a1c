"""What every handler works with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ..config import Settings
from ..job import ID, JobRecord
from ..pipelines.templates import Template
from ..queue.asset_records import AssetRecords
from ..queue.queue_view import QueueView
from ..queue.store import Store
from ..tracing import Tracing
from .api_keys import ApiKeys, Caller
from .event_stream import EventStream
from .places import Places
from .problem import Problem
from .traffic import Traffic

if TYPE_CHECKING:
    from .queue_info import SharedOverview
    from .thumbnails import Thumbnails


@dataclass(frozen=True)
class Gateway:
    """One gateway. is_open: whoever reaches it needs no key.

    takes_addresses: whether a task may say where files and webhooks are; else it comes with its files.
    """

    settings: Settings
    store: Store
    view: QueueView
    templates: Mapping[str, Template]
    places: Places
    keys: ApiKeys
    events: EventStream
    traffic: Traffic
    overview: SharedOverview
    thumbnails: Thumbnails
    assets: AssetRecords
    tracing: Tracing
    is_open: bool = False
    takes_addresses: bool = True


GATEWAY = web.AppKey("GATEWAY", Gateway)


@dataclass(frozen=True)
class Asked:
    """A request that is admitted. query: what stands behind the ? of its address, checked.

    traceparent: the trace that jobs of this request belong to, or ''.
    """

    gateway: Gateway
    caller: Caller
    query: Mapping[str, Any]
    traceparent: str = ""


async def record_of(request: web.Request, asked: Asked) -> JobRecord:
    """The task that the address names. Raises Problem "not-found" also for another caller's."""
    task_id = request.match_info["task_id"]
    record = await asked.gateway.view.job(task_id) if ID.fullmatch(task_id) else None
    if record is None or not asked.caller.sees(record.caller):
        raise Problem("not-found", "There is no such task, or it is no longer kept.")
    return record


async def batch_of(request: web.Request, asked: Asked) -> tuple[str, dict[str, int]]:
    """The batch that the address names and its counts. Raises Problem "not-found" also for another caller's."""
    batch_id, view = request.match_info["batch_id"], asked.gateway.view
    counts = await view.batch(batch_id) if ID.fullmatch(batch_id) else {}
    if not counts or not asked.caller.sees(await view.batch_caller(batch_id)):
        raise Problem("not-found", "There is no such batch, or it is no longer kept.")
    return batch_id, counts
