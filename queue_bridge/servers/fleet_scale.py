"""How many ComfyUI servers a host runs now: a decision out of numbers. Knows neither processes nor the queue.

Up when much waits for each server, or something has waited for long; down when a server has had nothing to do for long.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ..tiers import tier_of_lane


@dataclass(frozen=True)
class Limits:
    """low, high: servers that run at least and at most. The rest is explained with the settings ``fleet_...``."""

    low: int
    high: int
    up_jobs: int = 4
    up_age_s: float = 60.0
    down_idle_s: float = 300.0
    cooldown_s: float = 60.0


@dataclass(frozen=True)
class Seat:
    """What there is to know of one place for a server.

    wanted: it is to run. usable: it runs or will in a moment; not while it waits after a failure, or leaves.
    serving: it takes jobs. idle_since_s: since when it has had none, or None. lanes: that it serves, or None where
    that is not known yet. draining: an operator lets it take no job.
    """

    name: str
    wanted: bool = False
    usable: bool = True
    serving: bool = False
    idle_since_s: float | None = None
    lanes: frozenset[str] | None = None
    draining: bool = False


@dataclass(frozen=True)
class Backlog:
    """What waits: jobs, and the seconds that the oldest has waited, by lane."""

    jobs: Mapping[str, int]
    oldest_s: Mapping[str, float]


@dataclass(frozen=True)
class Past:
    """When servers were last added or taken away, for the cool-down."""

    changed_s: float = -math.inf


@dataclass(frozen=True)
class Decision:
    """start, end: names of seats. why: the reason in a sentence, or '' when nothing changes."""

    start: tuple[str, ...] = ()
    end: tuple[str, ...] = ()
    why: str = ""


def decide(limits: Limits, seats: Sequence[Seat], backlog: Backlog, past: Past, now_s: float) -> tuple[Decision, Past]:
    """What to change now, and the past for the next time. Asked often; nearly always the answer is nothing.

    After it there are never fewer than ``low`` wanted servers (as far as there are seats) nor more than ``high``. A
    server that cannot be used at the moment keeps its seat and its claim to be started again, and where there is a
    free seat, another one does its work meanwhile. Only a server that is idle is ended.
    """
    wanted = [seat for seat in seats if seat.wanted]
    free = [seat for seat in seats if not seat.wanted and seat.usable]
    room = min(limits.high - len(wanted), len(free))
    able = [seat for seat in wanted if seat.usable]
    waiting = _waiting_for_us(seats, backlog)
    lacking = max(limits.low - len(able), 1 if waiting.jobs and not able else 0)
    if lacking > 0 and room > 0:
        why = f"{limits.low} are to run at least" if len(able) < limits.low else "a job waits and none runs"
        return _up(min(lacking, room), free, waiting, now_s, why)
    # What was changed has to have its effect first: one that starts counts for nothing yet.
    if any(not seat.serving for seat in able) or now_s - past.changed_s < limits.cooldown_s:
        return Decision(), past
    count = len([seat for seat in able if not seat.draining])
    if room > 0 and (more := _more(limits, waiting, count)):
        return _up(min(more[0], room), free, waiting, now_s, more[1])
    if waiting.jobs or len(wanted) <= limits.low:
        return Decision(), past
    rested = [seat for seat in _idle(wanted) if now_s - (seat.idle_since_s or 0.0) >= limits.down_idle_s]
    if len(able) - 1 < limits.low or not rested:
        return Decision(), past
    why = f"it has had nothing to do for {limits.down_idle_s:g} s"
    return Decision(end=(rested[0].name,), why=why), Past(now_s)


@dataclass(frozen=True)
class _Waiting:
    """Of the lanes that are ours: jobs in all, the lane whose oldest job has waited longest, and how long."""

    jobs: int
    lane: str
    oldest_s: float


def _waiting_for_us(seats: Collection[Seat], backlog: Backlog) -> _Waiting:
    """Jobs that no seat can run would let servers start for nothing; what a new one can shows when it has joined."""
    ours = [
        lane
        for lane, count in backlog.jobs.items()
        if count and any(seat.lanes is None or lane in seat.lanes for seat in seats)
    ]
    oldest = max(ours, key=lambda lane: backlog.oldest_s.get(lane, 0.0), default="")
    return _Waiting(sum(backlog.jobs[lane] for lane in ours), oldest, backlog.oldest_s.get(oldest, 0.0))


def _more(limits: Limits, waiting: _Waiting, count: int) -> tuple[int, str] | None:
    """How many more, and why. At most twice as many at once, as the backlog may be gone before they are up."""
    if waiting.jobs > limits.up_jobs * count:
        enough = math.ceil(waiting.jobs / limits.up_jobs)
        servers = "1 server" if count == 1 else f"{count} servers"
        return max(1, min(enough, 2 * count) - count), f"{waiting.jobs} jobs wait for {servers}"
    if waiting.jobs and waiting.oldest_s >= limits.up_age_s:
        return 1, f"a job of resolution {tier_of_lane(waiting.lane)} has waited for {waiting.oldest_s:.0f} s"
    return None


def _up(count: int, free: Sequence[Seat], waiting: _Waiting, now_s: float, why: str) -> tuple[Decision, Past]:
    """Those first that are known to serve what has waited longest, then those of which nothing is known."""

    def rank(seat: Seat) -> int:
        return 1 if seat.lanes is None else 0 if not waiting.lane or waiting.lane in seat.lanes else 2

    chosen = sorted(free, key=rank)[:count]
    return Decision(start=tuple(seat.name for seat in chosen), why=why), Past(now_s)


def _idle(wanted: Sequence[Seat]) -> list[Seat]:
    """Those that serve and have no job, the longest idle first; of equals the last, so that the first places stay."""
    idle = [seat for seat in wanted if seat.serving and seat.usable and seat.idle_since_s is not None]
    return sorted(reversed(idle), key=lambda seat: seat.idle_since_s or 0.0)
