"""What a run leaves behind, as plain facts: what was asked, what happened, what is there. Can be written and read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

EVERY_OWNER = "*"


@dataclass(frozen=True)
class Order:
    """One job that the queue has accepted.

    outcomes: the ends that it may come to, each a state and its cause. output: the video's name in the results' folder.
    frames: how many its video has. repeats: the ids that repeated submissions of it were answered with.
    """

    task_id: str
    kind: str
    outcomes: tuple[tuple[str, str], ...]
    output: str
    frames: int
    batch: str = ""
    repeats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Event:
    """One entry of the queue's stream of events. fields: what else it says, such as token, attempt, percent."""

    job: str
    state: str
    cause: str
    at_ms: int
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def token(self) -> int:
        return int(self.fields.get("token", -1))


@dataclass(frozen=True)
class Record:
    """What the queue holds of a job at the end. sha256, result_attempt: of its result, '' and 0 without one."""

    state: str
    token: int
    attempt: int
    failures: int
    crashes: int
    degradations: int
    sha256: str = ""
    result_attempt: int = 0


@dataclass(frozen=True)
class Video:
    """One file in the results' folder. marker: whose it says that it is; frames: as decoded, 0 when it cannot be."""

    name: str
    sha256: str
    marker: str
    frames: int


@dataclass(frozen=True)
class Fault:
    """One thing that went wrong on purpose. owners: the instances that it hit. edge: the moment it was aimed at."""

    kind: str
    edge: str
    owners: tuple[str, ...]
    at_ms: int
    until_ms: int


@dataclass(frozen=True)
class Rest:
    """What is left in the queue. waiting: jobs in streams and behind them. batches: the counts of each."""

    waiting: int
    running: int
    retrying: int
    dead: int
    totals: Mapping[str, int]
    batches: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Delivery:
    """One message that was sent about a job, such as a webhook. content: its bytes' digest."""

    id: str
    content: str


@dataclass(frozen=True)
class Limits:
    """The budgets of the run. reach_ms: how long after a fault's end a lost lease is still its doing."""

    retries: int
    crashes: int
    degradations: int
    reach_ms: int


@dataclass(frozen=True)
class History:
    """All facts of one run. events: in the order of the stream. prompts: how often each job's prompt began."""

    limits: Limits
    orders: tuple[Order, ...]
    events: tuple[Event, ...]
    records: Mapping[str, Record]
    videos: tuple[Video, ...]
    faults: tuple[Fault, ...]
    rest: Rest
    prompts: Mapping[str, int] = field(default_factory=dict)
    deliveries: tuple[Delivery, ...] = ()

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> History:
        found: History = _made(cls, json.loads(text))
        return found

    def write(self, path: Path) -> None:
        path.write_text(self.to_json(), encoding="utf-8")


def _made(kind: Any, value: Any) -> Any:
    """The value in its type: dataclasses out of objects, tuples out of lists, and mappings of either."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        return kind(**{name: _made(hints[name], one) for name, one in value.items()})
    arguments: tuple[Any, ...] = get_args(kind)
    if isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_made(one_kind, one) for one_kind, one in zip(kinds, value, strict=True))
    if isinstance(value, dict):
        return {name: _made(arguments[1], one) for name, one in value.items()}
    return value
