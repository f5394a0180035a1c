"""The figures of a history, and the stories of the jobs that broke a rule."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from comfyui_sonic.queue_bridge.states import TERMINAL, State

from .checker import Facts, Violation
from .history import History

SHOWN = 20  # violations whose jobs' events are told in full


def figures_of(history: History) -> dict[str, Any]:
    """Counts, times and speed of a run, for people."""
    facts = Facts(history)
    records = history.records
    states = Counter(record.state for record in records.values())
    accepted = [order.task_id for order in history.orders]
    completions = [sum(event.state == State.COMPLETED for event in facts.events(job)) for job in accepted]
    unexplained = [start for start, crash in facts.crashes if not facts.causes_of(start, crash)]
    times = [event.at_ms for event in history.events]
    seconds = (max(times) - min(times)) / 1000 if times else 0.0
    ended = sum(states[state] for state in TERMINAL)
    waits = sorted(recoveries_s(facts))
    return {
        "jobs": len(accepted),
        "states": dict(sorted(states.items())),
        "kinds": dict(sorted(Counter(order.kind for order in history.orders).items())),
        "lost": sum(job not in records for job in accepted),
        "stuck": sum(job in records and State(records[job].state) not in TERMINAL for job in accepted),
        "duplicated_results": sum(count > 1 for count in completions),
        "starts": sum(len(starts) for starts in facts.claims.values()),
        "starts_lost_to_faults": len(facts.crashes) - len(unexplained),
        "duplicated_starts": len(unexplained),
        "recovery_s": {
            "count": len(waits),
            "p50": round(statistics.median(waits), 2) if waits else None,
            "p95": round(waits[int(0.95 * (len(waits) - 1))], 2) if waits else None,
        },
        "seconds": round(seconds, 1),
        "jobs_per_s": round(ended / seconds, 2) if seconds else None,
        "faults": len(history.faults),
        "faults_by_kind": dict(sorted(Counter(fault.kind for fault in history.faults).items())),
        "faults_by_edge": dict(sorted(Counter(fault.edge for fault in history.faults).items())),
    }


def recoveries_s(facts: Facts) -> list[float]:
    """For every start that a fault ended: seconds from the fault to the job's next start, or its end."""
    found = []
    for start, crash in facts.crashes:
        causes = facts.causes_of(start, crash)
        later = [
            event.at_ms
            for event in facts.events(start.job)
            if event.at_ms >= crash.at_ms and (event.cause == "claimed" or State(event.state) in TERMINAL)
        ]
        if causes and later:
            begun = max(max(fault.at_ms for fault in causes), start.at_ms)
            found.append((later[0] - begun) / 1000)
    return found


def stories_of(history: History, violations: Sequence[Violation]) -> list[dict[str, Any]]:
    """Each violation, with everything that happened to its job."""
    facts = Facts(history)
    return [
        asdict(one)
        | (
            {
                "events": [
                    f"{event.at_ms} {event.state}: {event.cause} {dict(event.fields)}"
                    for event in facts.events(one.job)
                ]
            }
            if number < SHOWN and one.job
            else {}
        )
        for number, one in enumerate(violations)
    ]
