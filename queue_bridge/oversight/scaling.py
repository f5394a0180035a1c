"""How many instances the queue could use, by tier: for autoscalers. Knows neither Redis nor HTTP."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..tiers import TIERS, tier_of_lane


@dataclass(frozen=True)
class Load:
    """What one tier has to do, and who does it. desired: instances, never fewer than run a job now."""

    waiting: int
    running: int
    instances: int
    desired: int


def load_of(waiting: int, running: int, instances: int, backlog_each: int) -> Load:
    """backlog_each: so many waiting jobs are worth one more instance.

    What runs counts in full: whoever counts only what waits takes instances away from under the jobs that run.
    """
    return Load(waiting, running, instances, running + math.ceil(waiting / backlog_each))


def loads(
    waiting: Mapping[str, Mapping[str, int]],
    running: Mapping[str, int],
    instances: Iterable[Mapping[str, Any]],
    backlog_each: int,
) -> dict[int, Load]:
    """By tier. waiting: class -> lane -> jobs; running: lane -> jobs; instances: what they say of themselves."""
    able = [one for one in instances if not one.get("unhealthy") and not one.get("draining")]
    found = {}
    for tier in TIERS:
        waits = sum(count for lanes in waiting.values() for lane, count in lanes.items() if tier_of_lane(lane) == tier)
        runs = sum(count for lane, count in running.items() if tier_of_lane(lane) == tier)
        serve = sum(tier in one.get("tiers", ()) for one in able)
        found[tier] = load_of(waits, runs, serve, backlog_each)
    return found
