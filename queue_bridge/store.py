"""Every change of the queue in Redis, each as one atomic script; queue_view.py reads."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from redis.asyncio import Redis

from .config import Settings
from .errors import JobError, LeaseLost, QueueForbidden
from .job import CLASS_OF, JobRecord, JobSpec
from .presence import Identity, registration
from .redis_connection import answer_to, safe_url
from .retry import Verdict
from .scripts import NAMES, Argument, Scripts
from .states import State
from .tiers import lane_of

log = logging.getLogger("sonic.store")

JOBS_A_CALL = 500  # keeps one script under about 10 ms


@dataclass(frozen=True)
class Submission:
    """One job to be queued. tier: of its resolution; idempotency_key: '' for none."""

    spec: JobSpec
    tier: int
    engine: str = "auto"
    idempotency_key: str = ""


@dataclass(frozen=True)
class Accepted:
    """What a submission led to. made: false when the job was there before."""

    task_id: str
    made: bool
    state: State


@dataclass(frozen=True)
class Idle:
    """Nothing can be claimed now. wake_id: where to wait from. due_s: until a job is due by itself, or None."""

    wake_id: str
    due_s: float | None


class Unregistered(Exception):
    """Raised when an instance claims that the queue does not know, or no longer."""


class Store:
    """One queue in one Redis server. Raises QueueUnavailable when that does not answer; every call may be repeated."""

    def __init__(self, client: Redis, settings: Settings, *, clock: Callable[[], float] | None = None) -> None:
        self.client = client
        self.settings = settings
        self.scripts = Scripts(settings, clock)
        self.keys = self.scripts.keys
        self._allowed = False
        self._registered = {name: client.register_script(self.scripts.source(name)) for name in NAMES}

    async def register(self, identity: Identity, *, predecessor_is_dead: bool = False) -> bool:
        """Say that an instance lives, for the time of a lease; False when another one of its name does."""
        values = registration(identity, self.settings.lease_s, {}, predecessor_is_dead=predecessor_is_dead)
        return bool((await self._call("register", *values))[0] == "ok")

    async def submit(self, submissions: Sequence[Submission], *, again: bool = False) -> list[Accepted]:
        """Queue jobs, in order; a known idempotency key or id finds the job that is there.

        again: where that job has ended, make another in its place.
        """
        answers: list[Accepted] = []
        for start in range(0, len(submissions), JOBS_A_CALL):
            values: list[Argument] = [int(again)]
            for one in submissions[start : start + JOBS_A_CALL]:
                lane = lane_of(one.tier, one.engine)
                job_class = CLASS_OF[one.spec.priority]
                values += [one.spec.task_id, one.idempotency_key, job_class, lane, one.spec.batch, one.spec.to_json()]
            found = await self._call("submit", *values)
            answers += [Accepted(task_id, bool(made), State(state)) for task_id, made, state in found]
        return answers

    async def known(self, idempotency_key: str) -> str | None:
        """The job that a submission with this key would find, or None."""
        found: str | None = await answer_to(self.client.get(self.keys.idempotency(idempotency_key)), self.settings.url)
        return found

    async def claim(
        self, instance: str, boot: str, lanes: Sequence[str], *, claim_id: str | None = None
    ) -> JobRecord | Idle:
        """Start the next job for an instance, or say how long there is none.

        claim_id: the same one asks again after an answer was lost. Raises Unregistered.
        """
        lease_ms = round(self.settings.lease_s * 1000)
        claim_id = claim_id or uuid.uuid4().hex
        answer = await self._call("claim", instance, boot, claim_id, lease_ms, self.settings.priority_share, *lanes)
        if answer[0] == "unregistered":
            raise Unregistered(instance)
        if answer[0] == "none":
            return Idle(answer[1], answer[2] / 1000 if answer[2] >= 0 else None)
        fields = await answer_to(self.client.hgetall(self.keys.job(answer[1])), self.settings.url)
        try:
            return JobRecord.from_hash(fields)
        except JobError as error:
            # Written by somebody else, or by another version. It ends here, so that it stops nobody else's job.
            log.warning("job %s cannot be read: %s", answer[1], error)
            reason = f"This job cannot be read by this version ({error})."
            verdict = Verdict(State.FAILED, "bad input")
            await self._call("settle", answer[1], fields.get("token", ""), *refusal(verdict, reason))
            return Idle(wake_id="0-0", due_s=0.0)

    async def set_aside(self, instance: str, boot: str, lanes: Sequence[str]) -> JobRecord | None:
        """The job that this instance would start now, which others pass over from here on (lua/claim.lua says how far).

        It stays queued; what is set aside need not be given back. None when there is none, or not readable.
        """
        answer = await self._call("claim", instance, boot, "", 0, self.settings.priority_share, *lanes)
        if answer[0] != "job":
            return None
        fields = await answer_to(self.client.hgetall(self.keys.job(answer[1])), self.settings.url)
        try:
            return JobRecord.from_hash(fields)
        except JobError:
            return None  # the claim says what is wrong with it

    async def refuse(self, job: JobRecord, instance: str, reason: str) -> bool:
        """End a job that this instance has set aside and found at fault; False when it is another's by now."""
        return bool(await self._call("refuse", job.task_id, instance, reason) == "ok")

    async def sleep(self, idle: Idle, timeout_s: float) -> None:
        """Return when something may be claimed again, at the latest after ``timeout_s``."""
        limit_s = timeout_s if idle.due_s is None else min(timeout_s, idle.due_s + 0.005)
        read = self.client.xread({self.keys.wake: idle.wake_id}, block=max(1, round(limit_s * 1000)))
        await answer_to(read, self.settings.url)

    async def progress(self, job: JobRecord, percent: float, stage: str, seconds_left: float | None) -> None:
        """Report on a running job. Raises LeaseLost."""
        left = "" if seconds_left is None else f"{seconds_left:.1f}"
        await self._owned("progress", job, f"{percent:.1f}", stage, left)

    async def renew(self, job: JobRecord) -> None:
        """Lengthen the lease of a running job. Raises LeaseLost."""
        await self._owned("renew", job, round(self.settings.lease_s * 1000))

    async def stage(self, job: JobRecord, result: Mapping[str, Any]) -> None:
        """Choose this start's result as the job's; it is to be published next. Raises LeaseLost."""
        await self._owned("stage", job, _json(result))

    async def complete(self, job: JobRecord, result: Mapping[str, Any]) -> None:
        """Commit the one result of a job. Raises LeaseLost."""
        values = ("", "", "", "", _json(result), 0, "", "")
        await self._owned("settle", job, State.COMPLETED.value, "completed", *values)

    async def settle(
        self, job: JobRecord, verdict: Verdict, error: str = "", kind: str = "", instance: str = ""
    ) -> None:
        """End a start that did not complete. error: the sentence for people. Raises LeaseLost."""
        await self._owned("settle", job, *settlement(job, verdict, error, kind, instance))

    async def restart(self, task_id: str) -> Literal["ok", "missing"] | State:
        """Put a failed or cancelled job back, with all its attempts; answers its state when it is in another one."""
        answer = await self._call("restart", task_id)
        return answer if answer in ("ok", "missing") else State(answer)

    async def tend(self) -> int:
        """Move what is due and what has lost its lease; returns how many jobs that were."""
        return int(await self._call("tend"))

    async def close(self) -> None:
        await self.client.aclose()

    async def _owned(self, name: str, job: JobRecord, *values: Argument) -> None:
        answer = await self._call(name, job.task_id, job.token, *values)
        if answer != "ok":
            raise LeaseLost(f"The job {job.task_id} belongs to another instance now, or is no longer there.")

    async def _check_rights(self) -> None:
        """Once, before anything is written. Raises QueueForbidden with what is missing."""
        script = self._registered["rights"]
        # No key and no clock: a user without a right to them is to be told so.
        arguments = [0, *self.scripts.arguments(*self.scripts.commands())[1:]]
        missing = await answer_to(script(keys=[], args=arguments), self.settings.url)
        at = safe_url(self.settings.url)
        if missing and missing[0] == "*":
            raise QueueForbidden(
                f"The queue's server at {at} does not let its user use the queue's keys or commands; give it the "
                f"rights ~{self.settings.prefix}:* and +@all -@dangerous."
            )
        if missing:
            names = " ".join(f"+{name.lower()}" for name in missing)
            raise QueueForbidden(f"The queue's server at {at} lets its user do too little; give it the rights {names}.")
        self._allowed = True

    async def _call(self, name: str, *values: Argument) -> Any:
        if not self._allowed:
            await self._check_rights()
        script = self._registered[name]
        run = script(keys=[self.scripts.routing_key], args=self.scripts.arguments(*values))
        return await answer_to(run, self.settings.url)


def settlement(job: JobRecord, verdict: Verdict, error: str, kind: str, instance: str) -> tuple[Argument, ...]:
    """The own arguments of lua/settle.lua from the new state on, for a start that did not complete."""
    entry = {"attempt": job.attempt, "kind": kind, "instance": instance, "error": error}
    lane = lane_of(verdict.tier, str(job.spec.config.get("engine", "auto"))) if verdict.tier else ""
    return (
        verdict.state.value,
        verdict.cause,
        round(verdict.delay_s * 1000),
        lane,
        error,
        kind,
        "",
        int(verdict.dead_letter),
        verdict.counter,
        _json(entry) if error else "",
    )


def refusal(verdict: Verdict, reason: str) -> tuple[Argument, ...]:
    """The same for a job of which nothing but its id and token can be read."""
    return (verdict.state.value, verdict.cause, 0, "", reason, "bad input", "", 0, "", "")


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
