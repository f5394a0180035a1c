"""A peak day of a fleet, against the queue's own scripts on a real database; only the cards and the clock are made up.

    python -m bench.fleet_sim [--jobs 20000] [--gpus 20] [--hours 24] [--mean-s 45] [--seed 1]

Every submission, claim, renewal, end, retry and death goes through lua/*.lua with the time of the simulation, by which
a day takes about a minute. What is made up: how long a prompt takes (log-normal, by tier), when servers die (with a
goodbye of their lease process, or a whole machine without one), what fails, and the customers: few with large batches
in two peaks of the day, many with small ones, and single priority jobs. The bridge inside ComfyUI is not part of it,
nor is setting the next job aside. Prints JSON with the figures of docs/capacity.md.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import itertools
import json
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, Priority, new_job_id
from comfyui_sonic.queue_bridge.queue.figures import taken
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Store, Submission
from comfyui_sonic.queue_bridge.retry import FailureKind, judge
from comfyui_sonic.queue_bridge.tiers import tier_of_lane

from .queue import database

BEGIN_S = 1_800_000_000.0
LANES = ("512", "768", "1024")
TIERS, TIER_WEIGHTS = (512, 768, 1024), (70, 20, 10)
TIER_COST = {512: 1.0, 768: 1.8, 1024: 3.0}  # in time of a prompt at 512
OUT_OF_MEMORY = {512: 0.0, 768: 0.01, 1024: 0.05}  # of starts
MAY_PASS, BAD_INPUT, DEVICE_FAULT = 0.01, 0.003, 0.0002  # of starts
NOTICED_S, RESTART_S, AWAY_S = 1.0, 60.0, 1200.0  # a death is seen; a server is back; a machine is
A_HOST = 4  # cards of one machine
SMALL = 60  # jobs of a customer who is told of apart


@dataclass(frozen=True)
class Day:
    """mean_s: of a prompt at 512. deaths: of server processes, for each card; outages: of whole machines."""

    jobs: int = 20_000
    gpus: int = 20
    hours: float = 24.0
    mean_s: float = 45.0
    deaths: float = 2.0
    outages: int = 2
    seed: int = 1

    def at(self, draw: random.Random) -> float:
        """When something is submitted: half of it in two peaks, at 5/12 and 5/6 of the day."""
        while True:
            peak, width = draw.choice(((5 / 12, 0.08), (5 / 6, 0.07), (0.5, 9.0), (0.5, 9.0)))
            if 0 <= (at := draw.gauss(peak, width)) < 0.98:
                return at * self.hours * 3600

    def submissions(self, draw: random.Random) -> list[tuple[float, str, int, Priority]]:
        """(when, customer, how many, priority) in order: 55 % large batches, 35 % small ones, 10 % alone."""
        made: list[tuple[float, str, int, Priority]] = []
        left = self.jobs
        largest = max(1, self.jobs // 20)
        while left:
            kind = draw.choices(("large", "small", "alone"), (55 / (largest / 2), 35 / 30, 10))[0]
            size = {"large": draw.randint(largest // 4 + 1, largest), "small": draw.randint(5, SMALL), "alone": 1}[kind]
            size = min(size, left)
            left -= size
            made.append((self.at(draw), f"{kind}-{len(made)}", size, "priority" if kind == "alone" else "normal"))
        return sorted(made)


@dataclass
class Gpu:
    """One instance. epoch: raised whenever what was planned for it is void."""

    name: str
    identity: Identity
    epoch: int = 0
    job: JobRecord | None = None
    began_s: float = 0.0
    is_down: bool = False


@dataclass
class Tally:
    waits_s: dict[str, list[float]] = field(default_factory=lambda: {"priority": [], "normal": [], "small": []})
    busy_s: float = 0.0
    in_vain_s: float = 0.0
    down_s: float = 0.0
    deaths: int = 0


class Simulation:
    """now_s: seconds since 1970, which the scripts are told. Events happen in their order, one at a time."""

    def __init__(self, day: Day, store: Store, clock: list[float]) -> None:
        self._day, self._store, self._clock = day, store, clock
        self._draw = random.Random(day.seed)
        self._events: list[tuple[float, int, str, Any]] = []
        self._order = itertools.count()
        self._gpus = [Gpu(f"gpu-{number:02}", Identity(f"gpu-{number:02}")) for number in range(day.gpus)]
        self._ended = 0
        self.tally = Tally()

    @property
    def now_s(self) -> float:
        return self._clock[0]

    def _at(self, at_s: float, kind: str, data: Any = None) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), kind, data))

    async def run(self) -> float:
        """To the end of the last job; how many seconds that took."""
        day = self._day
        for gpu in self._gpus:
            await self._store.register(gpu.identity)
        for at_s, customer, count, priority in day.submissions(self._draw):
            self._at(BEGIN_S + at_s, "submit", (customer, count, priority))
        self._plan_deaths()
        while self._ended < day.jobs:
            self._clock[0], _, kind, data = heapq.heappop(self._events)
            await getattr(self, f"_{kind}")(data)
            await self._start_what_can()
        return self.now_s - BEGIN_S

    def _plan_deaths(self) -> None:
        day, draw = self._day, self._draw
        length_s = day.hours * 3600
        for gpu in self._gpus:
            for _ in range(int(day.deaths) + (draw.random() < day.deaths % 1)):
                self._at(BEGIN_S + draw.random() * length_s, "die", (gpu, False))
        for _ in range(day.outages):
            at_s, first = BEGIN_S + draw.random() * length_s, draw.randrange(0, len(self._gpus), A_HOST)
            for gpu in self._gpus[first : first + A_HOST]:
                self._at(at_s, "die", (gpu, True))

    # --- what happens ---

    async def _submit(self, data: tuple[str, int, Priority]) -> None:
        customer, count, priority = data
        batch = "" if priority == "priority" else customer
        jobs = []
        for _ in range(count):
            spec = JobSpec(
                new_job_id(), "file:///in/a.png", "file:///in/a.wav", "file:///out/a.mp4", customer, {"seed": 1},
                priority, batch=batch,
            )  # fmt: skip
            (tier,) = self._draw.choices(TIERS, TIER_WEIGHTS)
            jobs.append(Submission(spec, tier, idempotency_key=spec.task_id))
        await self._store.submit(jobs)

    async def _die(self, data: tuple[Gpu, bool]) -> None:
        gpu, without_goodbye = data
        if gpu.is_down:
            return
        self.tally.deaths += 1
        gpu.epoch += 1
        away_s = AWAY_S if without_goodbye else RESTART_S
        gpu.is_down, had = True, gpu.job
        self.tally.down_s += away_s
        if had:
            self._in_vain(gpu)
        if without_goodbye:  # its last renewal was up to a heartbeat ago
            settings = self._store.settings
            left_s = settings.lease_s - self._draw.random() * settings.heartbeat_s
            if had:
                await self._store.call("renew", had.task_id, had.token, round(left_s * 1000))
            self._at(self.now_s + left_s + 0.01, "tend")
        else:
            self._at(self.now_s + NOTICED_S, "bury", gpu.identity)
        self._at(self.now_s + away_s, "up", gpu)

    async def _bury(self, identity: Identity) -> None:
        await self._store.call("bury", identity.name, identity.boot)

    async def _up(self, gpu: Gpu) -> None:
        gpu.identity, gpu.is_down = Identity(gpu.name), False
        await self._store.register(gpu.identity, predecessor_is_dead=True)

    async def _tend(self, _: None) -> None:
        await self._store.tend()

    async def _end(self, data: tuple[Gpu, int, FailureKind | None]) -> None:
        gpu, epoch, failure = data
        job = gpu.job
        if gpu.epoch != epoch or job is None:
            return
        if failure is None:
            took_s = self.now_s - gpu.began_s
            self.tally.busy_s += took_s
            gpu.job = None
            report = {"engine": "sonic", "seconds": 15.0}
            counts = taken(tier_of_lane(job.lane), "sonic", {"run": took_s}, 15.0)
            await self._store.complete(job, {"instance": gpu.name, "attempt": job.attempt, "report": report}, counts)
            self._ended += 1
            return
        self._in_vain(gpu)
        settings = self._store.settings
        verdict = judge(
            failure, failures=job.failures, tier=tier_of_lane(job.lane), policy=settings.retry_policy,
            device_faults=job.device_faults,
        )  # fmt: skip
        await self._store.settle(job, verdict, "simulated", str(failure), gpu.name)
        self._ended += verdict.state.is_terminal
        if verdict.delay_s:
            self._at(self.now_s + verdict.delay_s + 0.01, "tend")
        if failure is FailureKind.DEVICE_FAULT:  # the server ends itself, and its supervisor starts another
            gpu.is_down = True
            self.tally.down_s += RESTART_S
            self._at(self.now_s + RESTART_S, "up", gpu)

    def _in_vain(self, gpu: Gpu) -> None:
        took_s = self.now_s - gpu.began_s
        self.tally.busy_s += took_s
        self.tally.in_vain_s += took_s
        gpu.job = None

    async def _start_what_can(self) -> None:
        """All serve the same lanes, so where one finds nothing, there is nothing."""
        for gpu in self._gpus:
            if gpu.is_down or gpu.job:
                continue
            job = await self._store.claim(gpu.name, gpu.identity.boot, LANES)
            if not isinstance(job, JobRecord):
                return
            await self._started(gpu, job)

    async def _started(self, gpu: Gpu, job: JobRecord) -> None:
        gpu.job, gpu.began_s = job, self.now_s
        if job.attempt == 1:
            waited_s = self.now_s - job.submitted_s
            self.tally.waits_s[job.spec.priority].append(waited_s)
            if job.spec.name.startswith("small"):
                self.tally.waits_s["small"].append(waited_s)
        failure, took_s = self._fate(tier_of_lane(job.lane))
        # As the lease process would, all at once; a death takes it back.
        lease_s = took_s + self._store.settings.lease_s
        await self._store.call("renew", job.task_id, job.token, round(lease_s * 1000))
        self._at(self.now_s + took_s, "end", (gpu, gpu.epoch, failure))

    def _fate(self, tier: int) -> tuple[FailureKind | None, float]:
        draw = self._draw
        whole_s = self._day.mean_s * TIER_COST[tier] * draw.lognormvariate(-0.08, 0.4)  # its mean is 1
        chances = (
            (FailureKind.BAD_INPUT, BAD_INPUT, 0.02),
            (FailureKind.OUT_OF_MEMORY, OUT_OF_MEMORY[tier], 0.2),
            (FailureKind.DEVICE_FAULT, DEVICE_FAULT, draw.random()),
            (FailureKind.MAY_PASS, MAY_PASS, draw.random()),
        )
        for kind, chance, part in chances:
            if draw.random() < chance:
                return kind, whole_s * part
        return None, whole_s


def of_waits(waits_s: Sequence[float]) -> dict[str, float]:
    """Quantiles in seconds."""
    if len(waits_s) < 2:
        return {"jobs": len(waits_s)}
    cuts = statistics.quantiles(waits_s, n=100, method="inclusive")
    shown = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(waits_s)}
    return {"jobs": len(waits_s), **{name: round(value, 1) for name, value in shown.items()}}


async def simulate(url: str, day: Day) -> dict[str, Any]:
    """The figures of one day."""
    settings = Settings(url=url, queue=f"sim-{new_job_id()}", lease_s=30.0, events_kept=1000)
    clock = [BEGIN_S]
    store = Store(connect(url), settings, clock=lambda: clock[0])
    try:
        simulation = Simulation(day, store, clock)
        length_s = await simulation.run()
        view = QueueView(store.client, store.keys, url)
        figures, counts = await view.figures(), await view.counts()
    finally:
        await store.close()
    tally = simulation.tally
    ends: Counter[str] = Counter()
    for (state, cause), count in figures.ends.items():
        ends[state if state == "completed" else f"{state}: {cause}"] += count
    bad = ends["failed: bad input"]
    completed = ends["completed"]
    there_s = day.gpus * length_s - tally.down_s
    return {
        "day": day.__dict__,
        "hours_to_the_last_end": round(length_s / 3600, 2),
        "ends": dict(ends),
        "left_behind": counts.queued + counts.running + counts.retrying,
        "completed_of_fit": round(completed / (day.jobs - bad), 6),
        "wait_s": {name: of_waits(waits) for name, waits in tally.waits_s.items()},
        "gpu_idle": round(1 - tally.busy_s / there_s, 4),
        "gpu_in_vain": round(tally.in_vain_s / there_s, 4),
        "gpu_down": round(tally.down_s / (day.gpus * length_s), 4),
        "returns": dict(figures.returns),
        "deaths": tally.deaths,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A peak day of a fleet, by the real queue.")
    parser.add_argument("--jobs", type=int, default=Day.jobs)
    parser.add_argument("--gpus", type=int, default=Day.gpus)
    parser.add_argument("--hours", type=float, default=Day.hours)
    parser.add_argument("--mean-s", type=float, default=Day.mean_s, help="of a prompt at 512 pixels")
    parser.add_argument("--seed", type=int, default=Day.seed)
    given = parser.parse_args()
    day = Day(given.jobs, given.gpus, given.hours, given.mean_s, seed=given.seed)
    with tempfile.TemporaryDirectory(prefix="sonic-") as folder, database(Path(folder) / "db", appendonly=False) as url:
        found = asyncio.run(simulate(url, day))
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
