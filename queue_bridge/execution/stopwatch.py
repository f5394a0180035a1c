"""What one start of a job spends its time on, stage by stage."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Lap:
    """One stage. Times are those of time.monotonic()."""

    stage: str
    began: float
    ended: float


class Stopwatch:
    """One start; it begins with ``stage`` at ``since`` (time.monotonic())."""

    def __init__(self, since: float, stage: str = "fetch") -> None:
        self.since = since
        self.stage = stage
        self.laps: list[Lap] = []
        self._began = since
        self._prompt_began = False

    @property
    def took(self) -> dict[str, float]:
        """Seconds by stage, of those that are over."""
        return {lap.stage: lap.ended - lap.began for lap in self.laps}

    @property
    def at_hand(self) -> Lap:
        """The stage that is not over, up to now."""
        return Lap(self.stage, self._began, time.monotonic())

    def begin(self, stage: str) -> None:
        """A stage begins here; the one before counts for nothing."""
        self.stage, self._began = stage, time.monotonic()

    def begin_prompt(self) -> None:
        """The prompt has begun; what it waited behind others before is no part of it."""
        if not self._prompt_began:
            self._prompt_began = True
            self.begin(self.stage)

    def go_on(self, stage: str) -> None:
        """The stage before ends here, and another one begins."""
        self.laps.append(self.at_hand)
        self.begin(stage)
