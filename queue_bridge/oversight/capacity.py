"""How many cards some number of videos needs, how long a fleet takes for them, and what that costs. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..queue.figures import Figures

UTILISATION = 0.8  # of the time a card is at work: the rest is starts, crashes, bursts and quiet hours


@dataclass(frozen=True)
class Measured:
    """What a card needed for the videos of one tier and engine, over all that have completed.

    run_s: of prompts; video_s: of their videos, 0 where the pipeline did not say. starts: how often a job was started,
    on average, as a start that came to nothing took a card's time, too.
    """

    jobs: int
    run_s: float
    video_s: float
    starts: float

    def job_s(self, seconds: float) -> float:
        """A card's seconds for one video of so many seconds: they grow with its length, as the frames do."""
        each = self.run_s / self.video_s * seconds if self.video_s else self.run_s / self.jobs
        return each * self.starts


@dataclass(frozen=True)
class Plan:
    """job_s: a card's seconds for one video. gpus: cards that make all videos in the time. cost: of these cards."""

    jobs: int
    hours: float
    utilisation: float
    job_s: float
    gpus: int
    cost: float | None

    def drain_hours(self, gpus: int) -> float:
        """How long so many cards take for all of them."""
        return self.jobs * self.job_s / self.utilisation / gpus / 3600


def measured(figures: Figures, tier: int | None = None, engine: str | None = None) -> Measured | None:
    """What this fleet has measured of one tier and engine, or of all of them together; None when that is nothing."""
    found = [
        (one, figures.video_s.get((its_tier, its_engine), 0.0))
        for (stage, its_tier, its_engine), one in figures.seconds.items()
        if stage == "run" and tier in (None, its_tier) and engine in (None, its_engine)
    ]
    jobs = sum(one.count for one, _ in found)
    if not jobs:
        return None
    completed = sum(count for (state, _), count in figures.ends.items() if state == "completed")
    starts = 1 + sum(figures.returns.values()) / max(1, completed)
    # Where some pipelines say how long their videos are and others do not, only the average of a job is known.
    video_s = sum(seconds for _, seconds in found) if all(seconds for _, seconds in found) else 0.0
    return Measured(jobs, sum(one.total_s for one, _ in found), video_s, starts)


def plan(
    jobs: int, hours: float, job_s: float, utilisation: float = UTILISATION, cost_per_gpu_hour: float | None = None
) -> Plan:
    """The smallest number of cards that makes so many videos in so many hours."""
    # The product may be a hair above a whole number that it is meant to be.
    gpus = max(1, math.ceil(round(jobs * job_s / (hours * 3600 * utilisation), 9)))
    cost = None if cost_per_gpu_hour is None else gpus * hours * cost_per_gpu_hour
    return Plan(jobs, hours, utilisation, job_s, gpus, cost)
