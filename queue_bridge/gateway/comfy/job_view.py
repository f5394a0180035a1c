"""A job and its outputs as the Comfy API shows them."""

from __future__ import annotations

import mimetypes
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from aiohttp import web

from ...job import ID, RAW, JobRecord
from ...pipelines.templates import Template
from ...pipelines.workflow_match import in_order
from ...prompt_events import title_of
from ...states import State
from ..context import Gateway
from ..operations import COMFY
from ..task_view import time_text
from .kept_request import KeptRequest

STATUSES: Mapping[State, str] = MappingProxyType(
    {
        State.QUEUED: "queued",
        State.RETRYING: "queued",
        State.RUNNING: "running",
        State.COMPLETED: "succeeded",
        State.FAILED: "failed",
        State.CANCELLED: "canceled",
    }
)
ERROR_CODES: Mapping[str, str] = MappingProxyType(
    {"bad input": "invalid_input", "out of memory": "out_of_memory", "device fault": "device_fault"}
)
KINDS = ("image", "video", "audio", "text")
LAST_STAGE = "Publish"  # of a job whose nodes have all run (worker.py)
OUTPUT = re.compile(rf"out([0-9]{{1,4}})-({ID.pattern})")


@dataclass(frozen=True)
class Plan:
    """What a prompt is made of. nodes: (id, class, title) in the order in which they are likely to run."""

    nodes: tuple[tuple[str, str, str], ...] = ()
    result_node: str = ""

    def progress(self, percent: float, stage: str, seconds_left: float | None) -> dict[str, Any]:
        """The object that the contract calls Progress."""
        at = next((number for number, (_, _, title) in enumerate(self.nodes) if title == stage), None)
        ended = percent >= 100 or stage == LAST_STAGE
        current = self.nodes[at] if at is not None else ("", "", "")
        left = f", about {seconds_left:.0f} s left" if seconds_left is not None and stage else ""
        return {
            "value": round(min(1.0, max(0.0, percent / 100)), 4),
            "nodes_done": len(self.nodes) if ended else at or 0,
            "nodes_total": len(self.nodes),
            "current_node": current[0] or None,
            "current_node_class": current[1] or None,
            "step": None,
            "steps": None,
            "message": f"{stage}{left}" or None,
        }


def plan_of(template: Template | None, kept: KeptRequest | None) -> Plan:
    """The nodes of a job, by the ids that its client knows. template: None of a job that has its own prompt."""
    graph, ids = template.graph if template else kept.workflow if kept else {}, kept.nodes if kept else {}
    nodes = [(ids.get(one, one), str(graph[one]["class_type"]), title_of(graph[one])) for one in in_order(graph)]
    result_node = template.result_node if template else ""
    return Plan(tuple(nodes), ids.get(result_node, result_node))


def status_of(record: JobRecord) -> str:
    if record.cancelling and record.state is State.RUNNING:
        return "canceling"
    return STATUSES[record.state]


def progress_of(record: JobRecord, plan: Plan) -> dict[str, Any] | None:
    if record.state is not State.RUNNING and not record.percent:
        return None
    return plan.progress(record.percent, record.stage, record.seconds_left)


def own_address(request: web.Request) -> str:
    """The gateway as its client has addressed it."""
    return f"{request.scheme}://{request.host}"


def job_view(record: JobRecord, plan: Plan, gateway: Gateway, base: str) -> dict[str, Any]:
    """The object that the contract calls Job. base: the gateway's address for this client."""
    own = f"{COMFY}jobs/{record.task_id}"
    started_s, ended_s = record.started_s, record.ended_s
    return {
        "id": record.task_id,
        "status": status_of(record),
        "created_at": time_text(record.submitted_s),
        "started_at": time_text(started_s) if started_s else None,
        "completed_at": time_text(ended_s) if ended_s else None,
        "expires_at": time_text(kept_until_s(ended_s, gateway)),
        "queue_position": None,
        "progress": progress_of(record, plan),
        "outputs": outputs_of(record, plan, gateway, base),
        "error": _error_of(record),
        "metrics": {
            "queue_ms": round((started_s - record.submitted_s) * 1000) if started_s else None,
            "execution_ms": round((ended_s - started_s) * 1000) if started_s and ended_s else None,
        },
        "metadata": dict(record.spec.labels),
        "urls": {"self": own, "events": f"{own}/events", "cancel": f"{own}/cancel"},
    }


def summary_of(record: JobRecord) -> dict[str, Any]:
    """A job in a list."""
    return {
        "id": record.task_id,
        "status": status_of(record),
        "create_time": time_text(record.submitted_s),
        "update_time": time_text(record.ended_s or record.started_s or record.submitted_s),
        "metadata": dict(record.spec.labels),
    }


def kept_until_s(last_s: float | None, gateway: Gateway) -> float:
    """Until when something is kept that was last used or ended then; seconds since 1970."""
    return (last_s or time.time()) + gateway.settings.retention_days * 86_400


@dataclass(frozen=True)
class Output:
    """One file that a job has made. node: that saved it; '' for the template's result node."""

    node: str
    name: str
    bytes: int

    @property
    def content_type(self) -> str:
        return mimetypes.guess_type(self.name)[0] or "application/octet-stream"

    @property
    def type(self) -> str:
        """What the contract calls it."""
        kind = self.content_type.partition("/")[0]
        return "latent" if self.name.endswith(".latent") else kind if kind in KINDS else "file"


def made_by(record: JobRecord) -> list[Output]:
    """What a job has made, as soon as it has completed."""
    if record.state is not State.COMPLETED:
        return []
    result = record.result or {}
    if record.spec.workflow == RAW:
        return [Output(str(one["node"]), str(one["name"]), int(one["bytes"])) for one in result.get("files") or ()]
    name = f"{record.spec.name.rpartition('/')[2] or record.task_id}.mp4"
    return [Output("", name, int(result.get("bytes") or 0))]


def outputs_of(record: JobRecord, plan: Plan, gateway: Gateway, base: str) -> list[dict[str, Any]]:
    """The objects that the contract calls Output; they are assets, too."""
    return [_output_view(one, number, record, plan, gateway, base) for number, one in enumerate(made_by(record))]


def _output_view(
    output: Output, number: int, record: JobRecord, plan: Plan, gateway: Gateway, base: str
) -> dict[str, Any]:
    asset_id = f"out{number}-{record.task_id}"
    return {
        "node_id": output.node or plan.result_node,
        "name": output.name,
        "type": output.type,
        "content_type": output.content_type,
        "size_bytes": output.bytes,
        "id": asset_id,
        "hash": None,
        "url": content_url(base, asset_id),
        "url_expires_at": time_text(kept_until_s(record.ended_s, gateway)),
        "job_id": record.task_id,
    }


def content_url(base: str, asset_id: str) -> str:
    return f"{base}{COMFY}assets/{asset_id}/content"


def _error_of(record: JobRecord) -> dict[str, Any] | None:
    if record.state is not State.FAILED:
        return None
    code = ERROR_CODES.get(record.error_kind, "node_execution_error")
    message = record.error or "The job failed."
    return {"code": code, "message": message, "node_id": None, "class_type": None, "traceback": None}
