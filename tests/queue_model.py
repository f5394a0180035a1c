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
    percent: float = 0.0
    owner: str = ""
    boot: str = ""
    staged: int = 0  # the token of the start whose result is chosen
    lease_s: float = 0.0
    due_s: float = 0.0
    returned: bool = False  # waits for another start, so it is served before its stream
    dead: bool = False


@dataclass(frozen=True)
class Claimed:
    """The answer to a claim, kept so that asking again claims nothing more."""

    claim_id: str
    job: str
    token: int


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
        return job_id, True, "queued"

    # --- instances ---

    def register(self, name: str, boot: str, *, predecessor_is_dead: bool) -> bool:
        other = self.boots.get(name)
        if other and other != boot and not predecessor_is_dead:
            return False
        self.boots[name] = boot
        for job in self.running():
            if job.owner == name and job.boot != boot:
                self._crash(job)
        return True

    def claim(self, name: str, boot: str, claim_id: str, lanes: Collection[str]) -> str | None:
        """The job that starts now; None when there is none. 'unregistered' is left to the caller: see ``boots``."""
        last = self.claims.get(name)
        if last and last.claim_id == claim_id:
            job = self.jobs[last.job]
            if job.state == "running" and job.token == last.token:
                return job.id
        self.tend()
        order: Sequence[str] = CLASSES
        if all(self.waiting(job_class, lanes) for job_class in CLASSES):
            self.turns += 1
            if self.turns % self.share == 0:
                order = CLASSES[::-1]
        found = next((jobs[0] for job_class in order if (jobs := self.waiting(job_class, lanes))), None)
        if found is None:
            return None
        found.state, found.owner, found.boot, found.returned = "running", name, boot, False
        found.token += 1
        found.attempt += 1
        found.lease_s = self.now_s + self.lease_s
        self.claims[name] = Claimed(claim_id, found.id, found.token)
        return found.id

    # --- the owner of a start ---

    def progress(self, job_id: str, token: int, percent: float) -> Answer:
        job = self.jobs[job_id]
        if not self._owns(job, token):
            return "stale"
        job.percent = max(job.percent, percent)
        return "ok"

    def renew(self, job_id: str, token: int) -> Answer:
        job = self.jobs[job_id]
        if not self._owns(job, token):
            return "stale"
        job.lease_s = self.now_s + self.lease_s
        return "ok"

    def stage(self, job_id: str, token: int) -> Answer:
        job = self.jobs[job_id]
        if not self._owns(job, token):
            return "stale"
        job.staged = token
        return "ok"

    def settle(
        self,
        job_id: str,
        token: int,
        target: str,
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
            return "ok" if job.state == target else "stale"
        if counter:
            setattr(job, counter, getattr(job, counter) + 1)
        if target == "queued":
            job.lane = lane or job.lane
            self._give_back(job)
        elif target == "retrying":
            job.state, job.owner, job.due_s = "retrying", "", self.now_s + delay_s
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
        job.failures = job.crashes = job.degradations = 0
        job.percent, job.dead = 0.0, False
        self._give_back(job)
        return "ok"

    def tend(self) -> int:
        due = [job for job in self.jobs.values() if job.state == "retrying" and job.due_s <= self.now_s]
        for job in due:
            self._give_back(job)
        expired = [job for job in self.running() if job.lease_s <= self.now_s]
        for job in expired:
            self._crash(job)
        return len(due) + len(expired)

    # --- what there is ---

    def running(self) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.state == "running"]

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

    @staticmethod
    def _give_back(job: ModelJob) -> None:
        job.state, job.owner, job.returned = "queued", "", True

    def _crash(self, job: ModelJob) -> None:
        job.crashes += 1
        if job.crashes >= self.crashes_max:
            job.dead = True
            self._finish(job, "failed")
        else:
            self._give_back(job)

    def _finish(self, job: ModelJob, state: str) -> None:
        job.state, job.owner = state, ""
        self.totals[state] += 1
        if job.batch:
            self.batches[job.batch][state] += 1
