"""Every change of the queue in Redis, each as one atomic script; queue_view.py reads."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from .config import Settings
from .errors import JobError, LeaseLost
from .job import CLASS_OF, JobRecord, JobSpec
from .packed import packed, short_key
from .presence import Identity, registration
from .quick_connection import QuickClient, Script
from .redis_connection import answer_to, as_queue_error
from .retry import Verdict
from .scripts import NAMES, Argument, Scripts
from .states import State
from .tiers import lane_of

log = logging.getLogger("sonic.store")

JOBS_A_CALL = 200  # keeps one script under about 5 ms, and fits into a socket's buffer


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
        self._quick = QuickClient(client)
        self._scripts = {name: Script(self.scripts.source(name)) for name in NAMES}

    async def register(self, identity: Identity, *, predecessor_is_dead: bool = False) -> bool:
        """Say that an instance lives, for the time of a lease; False when another one of its name does."""
        values = registration(identity, self.settings.lease_s, {}, predecessor_is_dead=predecessor_is_dead)
        return bool((await self._call("register", *values))[0] == "ok")

    async def submit(self, submissions: Sequence[Submission], *, again: bool = False) -> list[Accepted]:
        """Queue jobs, in order; a known idempotency key or id finds the job that is there.

        again: where that job has ended, make another in its place.
        """
        if len(submissions) <= JOBS_A_CALL:
            return _accepted(submissions, await self._call("submit", *_submitted(submissions, again=again)))
        answers: list[Accepted] = []
        sent: asyncio.Task[list[Any]] | None = None
        for start in range(0, len(submissions), JOBS_A_CALL):
            part = submissions[start : start + JOBS_A_CALL]
            values = _submitted(part, again=again)  # while the server is at work on the part before
            if sent:
                answers += _accepted(submissions[len(answers) : start], await sent)
            sent = asyncio.create_task(self._call("submit", *values))
            await asyncio.sleep(0)  # so that it is sent
        return answers + (_accepted(submissions[len(answers) :], await sent) if sent else [])

    async def known(self, idempotency_key: str) -> str | None:
        """The job that a submission with this key would find, or None."""
        key, field = self.keys.idempotency(short_key(idempotency_key))
        found: str | None = await answer_to(self.client.hget(key, field), self.settings.url)
        return found

    async def claim(
        self, instance: str, boot: str, lanes: Sequence[str], *, claim_id: str | None = None
    ) -> JobRecord | Idle:
        """Start the next job for an instance, or say how long there is none.

        claim_id: the same one asks again after an answer was lost. Raises Unregistered.
        """
        return await self._claimed(instance, await self._call("claim", *self._claim(instance, boot, lanes, claim_id)))

    async def sleep_and_claim(
        self,
        idle: Idle,
        timeout_s: float,
        instance: str,
        boot: str,
        lanes: Sequence[str],
        *,
        claim_id: str | None = None,
    ) -> JobRecord | Idle:
        """``sleep``, then ``claim``: the server goes from one to the other without asking back. Raises Unregistered."""
        claim = self._claim(instance, boot, lanes, claim_id)
        woken, answer = await self._each([self._read_wake(idle, timeout_s), self._command("claim", *claim)])
        if isinstance(woken, Exception):
            raise as_queue_error(woken, self.settings.url) from woken
        if isinstance(answer, NoScriptError):
            answer = await self._call("claim", *claim)
        return await self._claimed(instance, answer)

    async def complete_and_claim(
        self, job: JobRecord, result: Mapping[str, Any], instance: str, boot: str, lanes: Sequence[str], claim_id: str
    ) -> JobRecord | Idle:
        """``complete``, then ``claim``, in one call. Raises LeaseLost, after which the claim may be repeated."""
        settle = (job.task_id, job.token, *_completion(job, result))
        claim = self._claim(instance, boot, lanes, claim_id)
        settled, claimed = await self._each([self._command("settle", *settle), self._command("claim", *claim)])
        if isinstance(settled, NoScriptError):
            settled = await self._call("settle", *settle)
        if isinstance(claimed, NoScriptError):
            claimed = await self._call("claim", *claim)
        _check_owned(job, settled)
        return await self._claimed(instance, claimed)

    def _claim(self, instance: str, boot: str, lanes: Sequence[str], claim_id: str | None) -> list[Argument]:
        """The own arguments of lua/claim.lua."""
        lease_ms = round(self.settings.lease_s * 1000)
        return [instance, boot, claim_id or uuid.uuid4().hex, lease_ms, self.settings.priority_share, *lanes]

    async def _claimed(self, instance: str, answer: Any) -> JobRecord | Idle:
        """What lua/claim.lua has answered."""
        if isinstance(answer, Exception):
            raise as_queue_error(answer, self.settings.url) from answer
        if answer[0] == "unregistered":
            raise Unregistered(instance)
        if answer[0] == "none":
            return Idle(answer[1], answer[2] / 1000 if answer[2] >= 0 else None)
        fields = dict(zip(answer[2][::2], answer[2][1::2], strict=True))
        try:
            return JobRecord.from_hash(fields, answer[1])
        except (JobError, KeyError, ValueError) as error:
            # Written by somebody else, or by another version. It ends here, so that it stops nobody else's job.
            log.warning("job %s cannot be read: %s", answer[1], error)
            reason = f"This job cannot be read by this version ({error})."
            verdict = Verdict(State.FAILED, "bad input")
            await self._call("settle", answer[1], fields["token"], *refusal(verdict, reason))
            return Idle(wake_id="0-0", due_s=0.0)

    async def sleep(self, idle: Idle, timeout_s: float) -> None:
        """Return when something may be claimed again, at the latest after ``timeout_s``."""
        await answer_to(self._quick.ask(*self._read_wake(idle, timeout_s)), self.settings.url)

    def _read_wake(self, idle: Idle, timeout_s: float) -> list[Argument]:
        limit_s = timeout_s if idle.due_s is None else min(timeout_s, idle.due_s + 0.005)
        block_ms = max(1, round(limit_s * 1000))
        return ["XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", self.keys.wake, idle.wake_id]

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
        await self._owned("settle", job, *_completion(job, result))

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
        _check_owned(job, await self._call(name, job.task_id, job.token, *values))

    async def _call(self, name: str, *values: Argument) -> Any:
        (answer,) = await self._each([self._command(name, *values)])
        if isinstance(answer, NoScriptError):  # it has not run
            text = self._scripts[name].by_text(self.scripts.routing_key, self.scripts.arguments(*values))
            (answer,) = await self._each([text])
        if isinstance(answer, Exception):
            raise as_queue_error(answer, self.settings.url) from answer
        return answer

    def _command(self, name: str, *values: Argument) -> list[Argument]:
        return self._scripts[name].by_digest(self.scripts.routing_key, self.scripts.arguments(*values))

    async def _each(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        answers: list[Any] = await answer_to(self._quick.ask_each(commands), self.settings.url)
        return answers


def _check_owned(job: JobRecord, answer: str) -> None:
    if answer != "ok":
        raise LeaseLost(f"The job {job.task_id} belongs to another instance now, or is no longer there.")


def _completion(job: JobRecord, result: Mapping[str, Any]) -> tuple[Argument, ...]:
    """The own arguments of lua/settle.lua from the new state on, for a start that completed."""
    return (State.COMPLETED.value, "completed", "", "", "", "", packed(job.completed(result)), 0, "", "")


def _submitted(submissions: Sequence[Submission], *, again: bool) -> list[Argument]:
    """The own arguments of lua/submit.lua."""
    values: list[Argument] = [int(again)]
    for (job_class, lane, batch), run in groupby(submissions, key=_place):
        jobs = list(run)
        values += [job_class, lane, batch, len(jobs)]
        for one in jobs:
            once = short_key(one.idempotency_key) if one.idempotency_key else ""
            values += [one.spec.task_id, once, packed(one.spec.asked())]
    return values


def _place(one: Submission) -> tuple[str, str, str]:
    return CLASS_OF[one.spec.priority], lane_of(one.tier, one.engine), one.spec.batch


def _accepted(submissions: Sequence[Submission], known: Sequence[Any]) -> list[Accepted]:
    """The answers out of those of lua/submit.lua, which names only the jobs that were there."""
    there = {known[at]: Accepted(known[at + 1], False, State(known[at + 2])) for at in range(0, len(known), 3)}
    return [
        there.get(number) or Accepted(one.spec.task_id, True, State.QUEUED) for number, one in enumerate(submissions)
    ]


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
