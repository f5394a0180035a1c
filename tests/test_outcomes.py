"""What a person is shown of jobs: lines on the way, a table at the end, and the exit status."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from comfyui_sonic.queue_bridge.commands.outcomes import (
    HEADS,
    every_job_completed,
    every_usable_order_has_its_video,
    rows_of,
    summary,
)
from comfyui_sonic.queue_bridge.console import JobsDisplay, console_for, print_table
from comfyui_sonic.queue_bridge.intake.orders import Order
from comfyui_sonic.queue_bridge.intake.pairing import LeftOut
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec
from comfyui_sonic.queue_bridge.pipelines.submission import Submitted, Tracked
from comfyui_sonic.queue_bridge.states import State

RESULT = {"seconds": 4.2, "instance": "gpu-1", "report": {"engine": "draft", "seconds": 3.987, "notes": ["Cut."]}}


def record(state: State = State.QUEUED, **changed: Any) -> JobRecord:
    spec = JobSpec("tsk_1", "file:///a.png", "file:///a.wav", "file:///a.mp4", name="安娜")
    fields = {
        **{"id": "tsk_1", "state": str(state), "spec": spec.to_json(), "lane": "512", "class": "pending", "token": "1"},
        **{"attempt": "1", "failures": "0", "crashes": "0", "degradations": "0", "percent": "0"},
        **{"submitted_ms": "1000", "started_ms": "2000", "ended_ms": "6200"},
        **{"result": json.dumps(RESULT) if state is State.COMPLETED else ""},
    }
    return replace(JobRecord.from_hash(fields, "tsk_1"), **changed)


def submitted(tmp_path: Path, *found: str) -> Submitted:
    order = Order("a", Path("/a.png"), Path("/a.wav"), Path("/v/a.mp4"), {}, None, None, tmp_path)
    tracked = [Tracked(order, f"tsk_{number}" if word != "there" else "", word) for number, word in enumerate(found)]  # type: ignore[arg-type]
    return Submitted(tuple(tracked), ())


def outcome_of(tmp_path: Path, job: JobRecord) -> str:
    (row,) = rows_of(submitted(tmp_path, "made"), [], {"tsk_0": job})
    return row.outcome


def test_each_state_has_its_word(tmp_path: Path) -> None:
    assert outcome_of(tmp_path, record(State.COMPLETED)) == "made"
    assert outcome_of(tmp_path, record(State.FAILED, error_kind="bad input")) == "skipped"
    assert outcome_of(tmp_path, record(State.FAILED, error_kind="may pass")) == "failed"
    assert outcome_of(tmp_path, record(State.FAILED, error_kind="crash")) == "failed"
    assert outcome_of(tmp_path, record(State.RUNNING)) == "waiting"
    assert outcome_of(tmp_path, record(State.CANCELLED)) == "cancelled"


def test_a_row_names_engine_instance_times_and_notes(tmp_path: Path) -> None:
    (row,) = rows_of(submitted(tmp_path, "made"), [], {"tsk_0": record(State.COMPLETED)})
    assert row.cells() == ("/v/a.mp4", "made", "4.0", "4.2", "draft", "gpu-1", "Cut.")


def test_the_commands_exit_status_wants_every_job_and_the_quick_starts_every_usable_order(tmp_path: Path) -> None:
    orders = submitted(tmp_path, "made", "made", "there")
    left_out = [LeftOut(Path("/b.wav"), "No picture.")]
    good, bad = record(State.COMPLETED), record(State.FAILED, error_kind="bad input", error="No face.")
    rows = rows_of(orders, left_out, {"tsk_0": good, "tsk_1": bad})
    assert not every_job_completed(rows)
    assert every_usable_order_has_its_video(rows)
    assert summary(rows) == "1 made, 2 skipped, 0 failed, 1 there already"
    rows = rows_of(orders, left_out, {"tsk_0": good, "tsk_1": good})
    assert every_job_completed(rows)
    rows = rows_of(orders, [], {"tsk_0": good})
    assert not every_job_completed(rows)
    assert not every_usable_order_has_its_video(rows)
    assert not every_usable_order_has_its_video(rows_of(submitted(tmp_path), left_out, {}))


def test_outside_a_terminal_each_quarter_and_each_end_is_a_line() -> None:
    stream = io.StringIO()
    with JobsDisplay(console_for(stream)) as display:
        display.add({"tsk_1": "安娜"})
        for percent in (1.0, 30.0, 35.0, 60.0, 99.0):
            display.update(record(State.RUNNING, percent=percent, stage="Make frames", seconds_left=3.0, owner="gpu-1"))
        for _ in range(3):
            display.update(record(State.RETRYING, failures=1, error="It broke."))
        display.update(record(State.COMPLETED))
        display.update(record(State.COMPLETED))
    assert stream.getvalue().splitlines() == [
        "安娜  30 %  Make frames, 3 s left  (gpu-1)",
        "安娜  60 %  Make frames, 3 s left  (gpu-1)",
        "安娜  99 %  Make frames, 3 s left  (gpu-1)",
        "安娜  will be tried again: It broke.",
        "[1/1] 安娜  done in 4.2 s on gpu-1",
    ]


@pytest.mark.parametrize("cell", ["[bold]not markup[/bold]", "声音", "x" * 300])
def test_a_table_shows_what_it_is_given_on_one_line(cell: str) -> None:
    stream = io.StringIO()
    print_table(console_for(stream), HEADS, [(cell, "made", "", "", "", "", "note")])
    assert [line for line in stream.getvalue().splitlines() if cell in line and "note" in line]
