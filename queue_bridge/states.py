"""The states of a job and every way from one to another; queue_bridge/README.md draws the same."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """Where a job is. The same words are in Redis, in the commands' output and for people."""

    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """True when nothing more happens to the job by itself."""
        return self in TERMINAL


TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})

# (from, to) -> what causes it. lua/common.lua refuses a settlement that is not here from "running".
TRANSITIONS: Mapping[tuple[State, State], tuple[str, ...]] = MappingProxyType(
    {
        (State.QUEUED, State.RUNNING): ("claimed",),
        (State.RUNNING, State.COMPLETED): ("completed",),
        (State.RUNNING, State.FAILED): (
            *("bad input", "retries used up", "instance died too often", "device fault too often"),
        ),
        (State.RUNNING, State.RETRYING): ("failed, may pass",),
        (State.RETRYING, State.QUEUED): ("due",),
        (State.RUNNING, State.QUEUED): (
            *("instance died", "given back", "drained", "lower resolution", "device fault", "another seed"),
        ),
        (State.FAILED, State.QUEUED): ("retried by hand",),
        (State.CANCELLED, State.QUEUED): ("retried by hand",),
        (State.QUEUED, State.FAILED): ("bad input",),  # found while its turn had not come
        (State.RETRYING, State.FAILED): ("bad input",),
        (State.QUEUED, State.CANCELLED): ("cancelled",),
        (State.RETRYING, State.CANCELLED): ("cancelled",),
        (State.RUNNING, State.CANCELLED): ("cancelled",),
    }
)


def may_become(state: State, target: State) -> bool:
    """True when a job may go from one state straight to the other."""
    return (state, target) in TRANSITIONS
