"""The states of a job: the table, the drawing and the scripts say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.retry import FailureKind, RetryPolicy, judge
from comfyui_sonic.queue_bridge.states import TERMINAL, TRANSITIONS, State, may_become

ONE_RETRY = RetryPolicy(retries=1)
BRIDGE = Path(__file__).resolve().parent.parent / "queue_bridge"
ARROW = re.compile(r"^\s+(\w+) --> (\w+) : (.+)$", re.M)


def test_the_drawing_is_the_table() -> None:
    drawn = set(ARROW.findall((BRIDGE / "README.md").read_text(encoding="utf-8")))
    table = {(str(a), str(b), cause) for (a, b), causes in TRANSITIONS.items() for cause in causes}
    assert drawn == table


def test_every_cause_that_a_script_or_a_verdict_names_is_in_the_table() -> None:
    causes = {cause for causes in TRANSITIONS.values() for cause in causes}
    scripts = "\n".join(path.read_text(encoding="utf-8") for path in (BRIDGE / "queue" / "lua").glob("*.lua"))
    first = (r"give_back\(\w+, [^,']+", r"emit\(\w+, '\w+'", r"finish\(\w+, \w+, '\w+'")
    calls = [f"{call}, '([^']+)'" for call in first]
    no_transitions = {"submitted", "progress", "staged", "to be cancelled"}
    named = {cause for call in calls for cause in re.findall(call, scripts)} - no_transitions
    assert len(named) >= 5
    assert named <= causes


@pytest.mark.parametrize("kind", list(FailureKind))
@pytest.mark.parametrize("failures", [0, 1])
@pytest.mark.parametrize("tier", [512, 1024])
def test_every_verdict_is_a_way_out_of_running(kind: FailureKind, failures: int, tier: int) -> None:
    verdict = judge(kind, failures=failures, tier=tier, policy=ONE_RETRY)
    assert verdict.cause in TRANSITIONS[State.RUNNING, verdict.state]


def test_a_completed_job_stays_completed() -> None:
    assert not any(may_become(State.COMPLETED, target) for target in State)


def test_every_job_can_end() -> None:
    reached = set(TERMINAL)
    while grown := {a for a, b in TRANSITIONS if b in reached} - reached:
        reached |= grown
    assert reached == set(State)
