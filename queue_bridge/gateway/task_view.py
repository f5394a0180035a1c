"""A task as its client sees it: what it asked for and what has become of it, without where the gateway's files are."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ..job import JobRecord
from ..queue.keys import OWN_BATCH
from ..states import State
from ..web_address import is_web, without_secrets
from .fields import Field
from .places import Places

STATES = tuple(str(state) for state in State)
TIME = {"format": "date-time"}

RESULT_VIEW = (
    Field("bytes", "integer", "size of the video", nullable=True),
    Field("sha256", "string", "its digest", nullable=True),
    Field("seconds", "number", "how long the start took that made it", nullable=True),
    Field("resolution", "integer", "short side at which it was made", nullable=True),
    Field("degraded", "boolean", "made smaller than asked for, as the card's memory did not suffice", nullable=True),
    Field("warnings", "array", "sentences", nullable=True, schema={"items": {"type": "string"}}),
    Field("report", "object", "what the pipeline says of it: engine, frames, fps, seconds, notes", nullable=True),
    Field("quality", "object", "what was measured of it", nullable=True),
    Field("files", "array", "what is in a ZIP: node, name, bytes", nullable=True, schema={"items": {"type": "object"}}),
)
TASK_VIEW = (
    Field("task_id", "string", "its id", required=True),
    Field("name", "string", "for people", required=True),
    Field("state", "string", "where it is", required=True, choices=STATES),
    Field("cancelling", "boolean", "it runs and is being ended", required=True),
    Field("percent", "number", "never goes back", required=True),
    Field("stage", "string", "what is being done now", required=True),
    Field("seconds_left", "number", "about how long that takes", required=True, nullable=True),
    Field("attempt", "integer", "starts so far", required=True),
    Field("priority", "string", "its class", required=True, choices=("normal", "priority")),
    Field("workflow", "string", "its template", required=True),
    Field("batch", "string", "the batch it belongs to, or ''", required=True),
    Field("image", "string", "as given; null for an upload", required=True, nullable=True),
    Field("audio", "string", "as given; null for an upload", required=True, nullable=True),
    Field("output", "string", "the place of the video; null where the gateway keeps it", required=True, nullable=True),
    Field("config", "object", "the parameters as given; empty once it has completed", required=True),
    Field("consent_id", "string", "as given", required=True),
    Field("labels", "object", "as given", required=True),
    Field("submitted_at", "string", "when", required=True, schema=TIME),
    Field("started_at", "string", "its last start", required=True, nullable=True, schema=TIME),
    Field("ended_at", "string", "its end", required=True, nullable=True, schema=TIME),
    Field("error", "string", "one sentence, or ''", required=True),
    Field("error_kind", "string", "such as 'bad input', or ''", required=True),
    Field("result", "object", "of a completed task", required=True, nullable=True),
    Field("links", "object", "addresses below this server", required=True),
)


def links_of(task_id: str) -> dict[str, str]:
    own = f"/v1/tasks/{task_id}"
    names = ("events", "result", "thumbnail")
    return {"self": own, **{name: f"{own}/{name}" for name in names}}


def task_view(record: JobRecord, places: Places) -> dict[str, Any]:
    """The object that TASK_VIEW describes."""
    spec, result = record.spec, record.result
    shown = {name: None if not uri or places.is_own(uri) else uri for name, uri in _addresses(record)}
    return {
        "task_id": record.task_id,
        "name": spec.name,
        "state": str(record.state),
        "cancelling": record.cancelling,
        "percent": record.percent,
        "stage": record.stage,
        "seconds_left": record.seconds_left,
        "attempt": record.attempt,
        "priority": spec.priority,
        "workflow": spec.workflow,
        "batch": "" if spec.batch.startswith(OWN_BATCH) else spec.batch,
        **shown,
        "config": dict(spec.config),
        "consent_id": spec.consent_id,
        "labels": dict(spec.labels),
        "submitted_at": time_text(record.submitted_s),
        "started_at": time_text(record.started_s) if record.started_s else None,
        "ended_at": time_text(record.ended_s) if record.ended_s else None,
        "error": record.error,
        "error_kind": record.error_kind,
        "result": None if result is None else {one.name: result.get(one.name) for one in RESULT_VIEW},
        "links": links_of(record.task_id),
    }


def _addresses(record: JobRecord) -> tuple[tuple[str, str], ...]:
    given = ("image", record.spec.image), ("audio", record.spec.audio), ("output", record.spec.output)
    return tuple((name, without_secrets(uri) if is_web(uri) else uri) for name, uri in given)


def time_text(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339 has them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
