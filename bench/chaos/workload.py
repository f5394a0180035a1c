"""The jobs of a run, of every kind that a job can be, each with the end that it must come to."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from comfyui_sonic.queue_bridge.job import JobSpec, Value
from comfyui_sonic.queue_bridge.queue.store import Submission

from .history import Order

TEMPLATE = "marked_video"
DONE, BAD = (("completed", "completed"),), (("failed", "bad input"),)
USED_UP, DIED = (("failed", "retries used up"),), (("failed", "instance died too often"),)
# kind -> how many of a thousand jobs, at least one. Those that end or stall their server cost most.
SHARES: Mapping[str, float] = {
    "raises at first": 50,
    "raises always": 12,
    "out of memory": 40,
    "bad material": 20,
    "file missing": 20,
    "ends its server once": 1.0,
    "ends its server always": 0.6,
    "stalls its server once": 2.0,
}
ALWAYS = 10_000
PRIORITY = 0.15
TIERS_TOO_LARGE = (768, 1024)


@dataclass(frozen=True)
class Job:
    """What is submitted, and what is known of it beforehand."""

    submission: Submission
    order: Order


@dataclass(frozen=True)
class Workload:
    """The folders of a run, and its jobs in bursts."""

    results: Path
    tallies: Path
    bursts: tuple[tuple[Job, ...], ...]

    @property
    def count(self) -> int:
        return sum(map(len, self.bursts))

    def prompts(self) -> dict[str, int]:
        """How often each job's prompt has begun."""
        return {path.name: len(path.read_text().splitlines()) for path in self.tallies.iterdir()}


def make_workload(directory: Path, count: int, draw: random.Random, *, retries: int, stall_s: int) -> Workload:
    """``count`` jobs in random order; their files lie below the directory."""
    material, results, tallies = (directory / name for name in ("material", "results", "tallies"))
    for folder in (material, results, tallies):
        folder.mkdir(parents=True)
    for name in ("a.png", "a.wav"):
        (material / name).write_bytes(b"not looked into")
    kinds = [kind for kind, share in SHARES.items() for _ in range(max(1, round(share * count / 1000)))][:count]
    kinds += ["plain"] * (count - len(kinds))
    draw.shuffle(kinds)
    size = max(1, math.ceil(count / max(4, min(40, count // 100))))
    jobs = [
        _job(number, kind, f"burst-{number // size + 1}", (material, results, tallies), draw, retries, stall_s)
        for number, kind in enumerate(kinds)
    ]
    return Workload(results, tallies, tuple(tuple(jobs[at : at + size]) for at in range(0, count, size)))


def _job(
    number: int, kind: str, batch: str, folders: Sequence[Path], draw: random.Random, retries: int, stall_s: int
) -> Job:
    material, results, tallies = folders
    task_id, frames = f"job-{number:05}", 1 + number % 5
    config: dict[str, Value] = {
        "tally": str(tallies / task_id),
        "marker": task_id,
        "frames": frames,
        "seconds": round(draw.uniform(0.05, 0.3), 3),
    }
    outcomes, tier, image = DONE, 512, "a.png"
    if kind == "raises at first":
        config |= {"behaviour": "raise", "times": draw.randint(1, retries)}
    elif kind == "raises always":
        config |= {"behaviour": "raise", "times": ALWAYS}
        outcomes = USED_UP
    elif kind == "out of memory":
        tier = draw.choice(TIERS_TOO_LARGE)
        config |= {"behaviour": "memory", "resolution": tier}
    elif kind == "bad material":
        config |= {"behaviour": "bad"}
        outcomes = BAD
    elif kind == "file missing":
        image, outcomes = "not there.png", BAD
    elif kind == "ends its server once":
        config |= {"behaviour": "exit", "times": 1}
    elif kind == "ends its server always":
        config |= {"behaviour": "exit", "times": ALWAYS}
        outcomes = DIED
    elif kind == "stalls its server once":
        config |= {"behaviour": "stall", "times": 1, "stall": stall_s}
    output = f"{task_id}.mp4"
    spec = JobSpec(
        task_id,
        (material / image).as_uri(),
        (material / "a.wav").as_uri(),
        (results / output).as_uri(),
        name=task_id,
        config=config,
        priority="priority" if draw.random() < PRIORITY else "normal",
        workflow=TEMPLATE,
        batch=batch,
    )
    order = Order(task_id, kind, outcomes, output, frames, batch)
    return Job(Submission(spec, tier, idempotency_key=f"key-of-{task_id}"), order)
