"""What became of every order, as rows for a table, as JSON, and as an exit status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..intake.pairing import LeftOut
from ..job import JobRecord
from ..pipelines.submission import Submitted, Tracked
from ..retry import FailureKind
from ..states import State

Outcome = Literal["made", "there", "skipped", "failed", "cancelled", "waiting"]
HEADS = ("file", "result", "video s", "wall s", "engine", "instance", "notes")


@dataclass(frozen=True)
class Row:
    """What became of one order or file.

    file: the video, or what was skipped. made: by this or an earlier run's job; there: the video was there; skipped:
    its material cannot be used. job: whether there is a job for it. notes: sentences.
    """

    file: str
    outcome: Outcome
    job: bool = True
    video_seconds: float | None = None
    wall_seconds: float | None = None
    engine: str = ""
    instance: str = ""
    notes: str = ""

    def cells(self) -> tuple[str, ...]:
        """The cells under HEADS."""
        video, wall = ("" if value is None else f"{value:.1f}" for value in (self.video_seconds, self.wall_seconds))
        return self.file, self.outcome, video, wall, self.engine, self.instance, self.notes


def rows_of(submitted: Submitted, left_out: Sequence[LeftOut], records: Mapping[str, JobRecord]) -> list[Row]:
    """A row for each order and each file that was left out. records: by job id, as they were last."""
    rows = [_row(tracked, records.get(tracked.task_id)) for tracked in submitted.tracked]
    return rows + [Row(item.path.name, "skipped", job=False, notes=item.reason) for item in left_out]


def _row(tracked: Tracked, record: JobRecord | None) -> Row:
    place = _shown(tracked.order.output)
    if record is None:
        return Row(place, "there" if tracked.found == "there" else "waiting", job=tracked.found != "there")
    result = record.result or {}
    report = result.get("report", {})
    notes = [record.error] if record.error else [*result.get("warnings", ()), *report.get("notes", ())]
    notes += (result.get("quality") or {}).get("falls_short") or []
    if result.get("degraded"):
        notes.append(f"Made at {result['resolution']} pixels, since the card's memory did not suffice for more.")
    return Row(
        place if record.state is State.COMPLETED else f"{tracked.order.portrait.name} + {tracked.order.voice.name}",
        _outcome(record),
        video_seconds=report.get("seconds"),
        wall_seconds=result.get("seconds"),
        engine=str(report.get("engine", "")),
        instance=str(result.get("instance", record.owner)),
        notes=" ".join(notes),
    )


def _outcome(record: JobRecord) -> Outcome:
    if record.state is State.FAILED:
        return "skipped" if record.error_kind == FailureKind.BAD_INPUT else "failed"
    if record.state is State.COMPLETED:
        return "made"
    return "cancelled" if record.state is State.CANCELLED else "waiting"


def summary(rows: Sequence[Row]) -> str:
    """One line of counts."""
    counts: Counter[str] = Counter(row.outcome for row in rows)
    always = ("made", "skipped", "failed")
    others = [outcome for outcome in counts if outcome not in always]
    words = {"there": "there already", "waiting": "still in the queue"}
    return ", ".join(f"{counts[outcome]} {words.get(outcome, outcome)}" for outcome in (*always, *sorted(others)))


def every_job_completed(rows: Sequence[Row]) -> bool:
    return all(row.outcome in ("made", "there") for row in rows if row.job)


def every_usable_order_has_its_video(rows: Sequence[Row]) -> bool:
    """True when there is a video and nothing failed but what cannot be used."""
    outcomes = {row.outcome for row in rows}
    return bool(outcomes & {"made", "there"}) and outcomes <= {"made", "there", "skipped"}


def as_json(submitted: Submitted, left_out: Sequence[LeftOut], records: Mapping[str, JobRecord]) -> dict[str, Any]:
    """The same for programs."""
    jobs = []
    for tracked in submitted.tracked:
        record = records.get(tracked.task_id)
        unknown = {"task_id": tracked.task_id or None, "output": tracked.order.output.as_uri()}
        known = record.to_dict() if record else unknown
        jobs.append({**known, "found": tracked.found, "warnings": list(tracked.warnings)})
    return {"jobs": jobs, "left_out": [{"file": str(item.path), "reason": item.reason} for item in left_out]}


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
