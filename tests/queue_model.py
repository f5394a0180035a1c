"""What the queue promises, as plain Python: dictionaries, lists and numbers, no Redis, no concurrency.

Every method is one script of lua/ and answers what that must answer; the fields are what Redis must hold afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

CLASSES = ("priority", "pending")
ENDED = frozenset({"completed", "failed", "cancelled"})
NOT_BEGUN = "Waiting"  # the stage of a start whose prompt waits for its turn
PASSED_MAX = 3  # how often a job that is set aside is passed over
Answer = Literal["ok", "stale"]


@dataclass
class ModelJob:
    """One job; the names are those of its hash. key: of its idempotency, '' for none."""

    id: str
    job_class: str
    lane: str
    place: int
    key: str = ""
    batch: str = ""
    state: str = "queued"
    token: int = 0
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    degradations: int = 0
    device_faults: int = 0
    redraws: int = 0
    percent: float = 0.0
    stage: str = ""
    owner: str = ""
    boot: str = ""
    staged: int = 0  # the token of the start whose result is chosen
    lease_s: float = 0.0
    due_s: float = 0.0
    returned: bool = False  # waits for another start, or is set aside, so it is served before the others of its batch
    dead: bool = False
    cancelling: bool = False
    first_lane: str = ""  # before its resolution became lower
    ahead: str = ""  # the instance that has set it aside
    ahead_boot: str = ""
    passed: int = 0


@dataclass(frozen=True)
class Claimed:
    """The answer to a claim, kept so that asking again claims nothing more."""

    claim_id: str
    job: str
    token: int


@dataclass
class Sleeper:
    """An instance that may be handed a job of one of these lanes until ``till_s``."""

    name: str
    boot: str
    claim_id: str
    since_s: float
    till_s: float
    lanes: set[str]


@dataclass
class QueueModel:
    """lease_s, crashes_max, share: as in the settings."""

    lease_s: float
    crashes_max: int
    share: int
    now_s: float
    jobs: dict[str, ModelJob] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    boots: dict[str, str] = field(default_factory=dict)
    claims: dict[str, Claimed] = field(default_factory=dict)
    batches: dict[str, Counter[str]] = field(default_factory=dict)
    totals: Counter[str] = field(default_factory=Counter)
    turns: int = 0
    turn: int = 0
    flows: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)  # by class and lane: batch -> its turn
    aside: dict[str, str] = field(default_factory=dict)  # instance -> the job that it has set aside
    draining: set[str] = field(default_factory=set)
    sleepers: dict[str, Sleeper] = field(default_factory=dict)
    handed: dict[str, str] = field(default_factory=dict)  # instance -> the job it was handed in its last sleep

    # --- submitting ---

    def submit(
        self, job_id: str, job_class: str, lane: str, key: str, batch: str, *, again: bool = False
    ) -> tuple[str, bool, str]:
        """(the job that it led to, whether it was made now, its state)."""
        known = job_id if job_id in self.jobs or not key else self.keys.get(key, job_id)
        if known in self.jobs:
            state = self.jobs[known].state
            if not (again and state in ENDED and known != job_id):
                return known, False, state
        self.totals["submitted"] += 1
        self.jobs[job_id] = ModelJob(job_id, job_class, lane, self.totals["submitted"], key, batch)
        if key:
            self.keys[key] = job_id
        if batch:
            self.batches.setdefault(batch, Counter())["total"] += 1
        if not self._hand_over(self.jobs[job_id]):
            self._begin_to_wait(self.jobs[job_id])
        return job_id, True, "queued"

    def _hand_over(self, job: ModelJob) -> bool:
        """To the instance of its lane that has slept longest, where nothing else waits."""
        if self.flows.get((job.job_class, job.lane)):
            return False
        for sleeper in sorted(self.sleepers.values(), key=lambda one: (one.since_s, one.name)):
            if job.lane not in sleeper.lanes:
                continue
            sleeper.lanes.discard(job.lane)
            if sleeper.till_s > self.now_s:
                del self.sleepers[sleeper.name]
                self.handed[sleeper.name] = job.id
                self._start(job, sleeper.name, sleeper.boot, sleeper.claim_id)
                job.stage = NOT_BEGUN
                return True
        return False

    # --- instances ---

    def register(self, name: str, boot: str, *, predecessor_is_dead: bool) -> bool:
        other = self.boots.get(name)
        if other and other != boot and not predecessor_is_dead:
            return False
        if other != boot:
            self.aside.pop(name, None)
            self.sleepers.pop(name, None)
            self.handed.pop(name, None)
        self.boots[name] = boot
        for job in self.running():
            if job.owner == name and job.boot != boot:
                self._crash(job)
        return True

    def claim(self, name: str, boot: str, claim_id: str, lanes: Collection[str], *, wait_s: float = 0.0) -> str | None:
        """The job that starts now; None when there is none. 'unregistered' is left to the caller: see ``boots``."""
        self.sleepers.pop(name, None)
        last = self.claims.get(name)
        if last and last.claim_id == claim_id:
            job = self.jobs[last.job]
            if job.state == "running" and job.token == last.token:
                return job.id
        self.tend()
        found = self._next(name, boot, lanes, ahead=False)
        if found is None:
            if wait_s and name not in self.draining:
                self.handed.pop(name, None)
                self.sleepers[name] = Sleeper(name, boot, claim_id, self.now_s, self.now_s + wait_s, set(lanes))
            return None
        if found.ahead:
            if self.aside.get(name) == found.id:
                del self.aside[name]
            self._let_go(found)
        self._start(found, name, boot, claim_id)
        return found.id

    def _start(self, job: ModelJob, name: str, boot: str, claim_id: str) -> None:
        job.state, job.owner, job.boot, job.returned = "running", name, boot, False
        job.token += 1
        job.attempt += 1
        job.lease_s = self.now_s + self.lease_s
        self.claims[name] = Claimed(claim_id, job.id, job.token)

    def set_aside(self, name: str, boot: str, lanes: Collection[str]) -> str | None:
        """The job that would start now; what was set aside before is let go."""
        self.sleepers.pop(name, None)
        self.tend()
        found = self._next(name, boot, lanes, ahead=True)
        before = self.aside.get(name)
        if before and (found is None or before != found.id):
            if self.jobs[before].ahead == name:
                self._let_go(self.jobs[before])
            del self.aside[name]
        if found is None:
            return None
        found.returned = True
        if (found.ahead, found.ahead_boot) != (name, boot):
            found.ahead, found.ahead_boot, found.passed = name, boot, 0
            self.aside[name] = found.id
        return found.id

    def _next(self, name: str, boot: str, lanes: Collection[str], *, ahead: bool) -> ModelJob | None:
        order: Sequence[str] = () if name in self.draining else CLASSES
        if order and all(self.waiting(job_class, lanes) for job_class in CLASSES):
            turn = self.turns + 1
            if not ahead:
                self.turns = turn
            if turn % self.share == 0:
                order = CLASSES[::-1]
        return next((job for one in order if (job := self._take(name, boot, one, lanes, ahead=ahead))), None)

    def _take(self, name: str, boot: str, job_class: str, lanes: Collection[str], *, ahead: bool) -> ModelJob | None:
        """Out of one class: what is set aside for this instance, else out of the batch whose turn it is."""
        mine = self.jobs.get(self.aside.get(name, ""))
        found = None
        if mine and mine.state == "queued" and (mine.ahead, mine.ahead_boot) == (name, boot):
            found = mine if mine.job_class == job_class and mine.lane in lanes else None
        if found is None:
            passed = []
            for job in self.in_turn(job_class, lanes):
                if not self._is_anothers(job, name):
                    found = job
                    break
                passed.append(job)
            if found is None:
                found = passed[0] if passed and not ahead else None
            elif not ahead:
                for job in passed:
                    job.passed += 1
        if found is None:
            return None
        if not ahead:
            self._end_to_wait(found)
        flow = self.flows[found.job_class, found.lane]
        if found.batch in flow and not found.ahead:
            flow[found.batch] = self._next_turn()
        return found

    def in_turn(self, job_class: str, lanes: Collection[str]) -> list[ModelJob]:
        """Waiting jobs of a class, the batch whose turn it is first, and of each batch those that came back first."""
        turns = [(turn, lane, batch) for lane in lanes for batch, turn in self.flows.get((job_class, lane), {}).items()]
        found: list[ModelJob] = []
        for _, lane, batch in sorted(turns):
            standing = [job for job in self.waiting(job_class, {lane}) if job.batch == batch]
            fresh = [job for job in standing if not job.returned]
            found += [job for job in standing if job.returned] + fresh
        return found

    def _is_anothers(self, job: ModelJob, name: str) -> bool:
        living = self.boots.get(job.ahead) == job.ahead_boot and job.ahead not in self.draining
        return bool(job.ahead) and job.ahead != name and job.passed < PASSED_MAX and living

    def refuse(self, job_id: str, name: str) -> bool:
        """Before its start; the reason is always the same."""
        job = self.jobs[job_id]
        if job.ahead != name or job.state not in ("failed", "queued"):
            return False
        if job.state == "queued":
            self._finish(job, "failed")
        return True

    # --- the owner of a start ---

    def progress(self, job_id: str, token: int, percent: float, stage: str) -> Answer:
        job = self.jobs[job_id]
        if not self._owns(job, token):
            return "stale"
        job.percent, job.stage = max(job.percent, percent), stage
        return "ok"

    def renew(self, job_id: str, token: int) -> Answer:
        job = self.jobs[job_id]
        if not self._owns(job, token):
            return "stale"
        job.lease_s = self.now_s + self.lease_s
        return "ok"

    def stage(self, job_id: str, token: int) -> Answer | Literal["cancelled"]:
        job = self.jobs[job_id]
        if not self._owns(job, token):
            return "stale"
        if job.cancelling:
            return "cancelled"
        job.staged = token
        return "ok"

    def settle(
        self,
        job_id: str,
        token: int,
        target: str,
        cause: str = "",
        *,
        delay_s: float = 0.0,
        lane: str = "",
        dead: bool = False,
        counter: str = "",
    ) -> Answer:
        job = self.jobs[job_id]
        if job.token != token:
            return "stale"
        if job.state != "running":
            return "ok" if job.state == target or (job.state == "cancelled" and target != "completed") else "stale"
        cancelled, job.cancelling = job.cancelling, False
        if cancelled and target != "completed":
            self._finish(job, "cancelled")
            return "ok"
        if counter:
            setattr(job, counter, getattr(job, counter) + 1)
        if target == "queued":
            if lane:
                job.first_lane, job.lane = job.first_lane or job.lane, lane
            self._give_back(job, counts=cause not in ("drained", "given back"))
        elif target == "retrying":
            job.state, job.owner, job.stage, job.due_s = "retrying", "", "", self.now_s + delay_s
        else:
            if target == "completed":
                job.percent, job.staged = 100.0, 0
            job.dead = job.dead or dead
            self._finish(job, target)
        return "ok"

    # --- by hand, and by time ---

    def restart(self, job_id: str) -> str:
        job = self.jobs[job_id]
        if job.state not in ("failed", "cancelled"):
            return job.state
        self.totals[job.state] -= 1
        if job.batch:
            self.batches[job.batch][job.state] -= 1
        job.failures = job.crashes = job.degradations = job.device_faults = job.redraws = 0
        job.percent, job.dead, job.stage = 0.0, False, ""
        job.lane, job.first_lane = job.first_lane or job.lane, ""
        self._let_go(job)
        self._give_back(job)
        return "ok"

    def cancel(self, job_id: str) -> str:
        job = self.jobs[job_id]
        if job.state in ENDED:
            return job.state
        if job.staged:
            return "staged"
        if job.state == "running":
            job.cancelling = True
            return "cancelling"
        self._finish(job, "cancelled")
        return "cancelled"

    def drop(self, job_id: str) -> str:
        job = self.jobs[job_id]
        was, job.dead = job.dead, False
        return "ok" if was else job.state

    def drain(self, name: str) -> list[str]:
        """What it runs."""
        self.draining.add(name)
        self.sleepers.pop(name, None)
        return [job.id for job in self.running() if job.owner == name]

    def tend(self) -> int:
        due = [job for job in self.jobs.values() if job.state == "retrying" and job.due_s <= self.now_s]
        for job in sorted(due, key=lambda job: (job.due_s, job.id)):
            self._give_back(job)
        expired = [job for job in self.running() if job.lease_s <= self.now_s]
        for job in expired:
            self._crash(job)
        return len(due) + len(expired)

    # --- what there is ---

    def running(self) -> list[ModelJob]:
        """By the time when their leases run out."""
        found = [job for job in self.jobs.values() if job.state == "running"]
        return sorted(found, key=lambda job: (job.lease_s, job.id))

    def waiting(self, job_class: str, lanes: Collection[str] | None = None) -> list[ModelJob]:
        """Waiting jobs of a class in the order of their starts: those that come back first, each by its place."""
        found = [
            job
            for job in self.jobs.values()
            if job.state == "queued" and job.job_class == job_class and (lanes is None or job.lane in lanes)
        ]
        return sorted(found, key=lambda job: (not job.returned, job.place))

    @staticmethod
    def _owns(job: ModelJob, token: int) -> bool:
        return job.state == "running" and job.token == token

    def _next_turn(self) -> int:
        self.turn += 1
        return self.turn

    def _begin_to_wait(self, job: ModelJob) -> None:
        flow = self.flows.setdefault((job.job_class, job.lane), {})
        if job.batch not in flow:
            flow[job.batch] = self._next_turn()

    def _end_to_wait(self, job: ModelJob) -> None:
        others = [one for one in self.waiting(job.job_class, {job.lane}) if one.batch == job.batch and one is not job]
        if not others:
            del self.flows[job.job_class, job.lane][job.batch]

    @staticmethod
    def _let_go(job: ModelJob) -> None:
        job.ahead, job.ahead_boot, job.passed = "", "", 0

    def _give_back(self, job: ModelJob, *, counts: bool = True) -> None:
        if not counts:
            job.attempt -= 1
        job.state, job.owner, job.stage, job.returned = "queued", "", "", True
        self._begin_to_wait(job)

    def _crash(self, job: ModelJob) -> None:
        if job.cancelling:
            job.cancelling = False
            self._finish(job, "cancelled")
            return
        if job.stage == NOT_BEGUN:
            self._give_back(job, counts=False)
            return
        job.crashes += 1
        if job.crashes >= self.crashes_max:
            job.dead = True
            self._finish(job, "failed")
        else:
            self._give_back(job)

    def _finish(self, job: ModelJob, state: str) -> None:
        if job.state == "queued":
            self._end_to_wait(job)
        job.state, job.owner, job.returned = state, "", False
        self.totals[state] += 1
        if job.batch:
            self.batches[job.batch][state] += 1
