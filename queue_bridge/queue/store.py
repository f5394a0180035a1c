"""Every change of the queue in Redis, each as one atomic script; queue_view.py reads."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import Any, Literal, NamedTuple

from redis.asyncio import Redis

from ..config import Settings
from ..database.quick_connection import Ask, QuickClient, Script
from ..database.redis_connection import answer_to, safe_url
from ..errors import BacklogFull, JobError, LeaseLost, QueueForbidden, StartStopped
from ..job import CLASS_OF, FIRST_TOKEN, JobRecord, JobSpec
from ..packed import packed, quickly_packed, short_key
from ..retry import Verdict
from ..states import State
from ..tiers import lane_of
from .presence import Identity, registration
from .scripts import NAMES, Argument, Scripts

log = logging.getLogger("sonic.store")

JOBS_A_CALL = 200  # keeps one script under about 5 ms, and fits into a socket's buffer

Cancelled = Literal["cancelled", "cancelling", "staged", "completed", "failed", "missing"]


@dataclass(frozen=True, slots=True)
class Submission:
    """One job to be queued. tier: of its resolution; idempotency_key: '' for none."""

    spec: JobSpec
    tier: int
    engine: str = "auto"
    idempotency_key: str = ""


class Accepted(NamedTuple):
    """What a submission led to. made: false when the job was there before."""

    task_id: str
    made: bool
    state: State


@dataclass(frozen=True)
class Idle:
    """Nothing can be claimed now. wake_id: where to wait from. due_s: until a job is due by itself, or None.

    instance: the one that may be handed a job meanwhile, or ''.
    """

    wake_id: str
    due_s: float | None
    instance: str = ""


@dataclass(frozen=True)
class Wished:
    """What is wished of a start. cause: "cancelled", "drained" or ''. due_s: until "drained", or None.

    wish_id: where to wait from.
    """

    cause: str
    due_s: float | None
    wish_id: str


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
        self._quick = QuickClient(client)
        self._registered = {name: Script(self.scripts.source(name)) for name in NAMES}

    async def register(self, identity: Identity, *, predecessor_is_dead: bool = False) -> bool:
        """Say that an instance lives, for the time of a lease; False when another one of its name does."""
        values = registration(identity, self.settings.lease_s, {}, predecessor_is_dead=predecessor_is_dead)
        return bool((await self._call("register", *values))[0] == "ok")

    async def submit(
        self, submissions: Iterable[Submission], *, again: bool = False, caller: str = "", backlog: int = 0
    ) -> list[Accepted]:
        """Queue jobs, in order; a known idempotency key or id finds the job that is there.

        submissions: of many, the later ones are asked for while the server is at work on those before.
        again: where that job has ended, make another in its place. caller: whose jobs they are, or ''. backlog: so many
        of that caller's may not have ended, or 0 for any number; raises BacklogFull.
        """
        whose = (int(again), caller, backlog)
        if isinstance(submissions, list) and len(submissions) <= JOBS_A_CALL:
            return _accepted(submissions, await self._call("submit", *whose, *_submitted(submissions)))
        if not self._allowed:  # before the first part and the second one ask for themselves
            await self._check_rights()
        answers: list[Accepted] = []
        sent: deque[tuple[Sequence[Submission], asyncio.Task[Any]]] = deque()

        async def answered() -> list[Accepted]:
            part, call = sent.popleft()
            return _accepted(part, await call)

        async with self._quick.in_order() as ask:
            try:
                for part in _parts(submissions):
                    call = self._call("submit", *whose, *_submitted(part), ask=ask)
                    sent.append((part, asyncio.create_task(call)))
                    await asyncio.sleep(0)  # so that it is sent, while the server is at work on the part before
                    if len(sent) > (0 if backlog else 1):  # what a full backlog refuses ends it all
                        answers += await answered()
                while sent:
                    answers += await answered()
            finally:
                for _, task in sent:
                    task.cancel()
                await asyncio.gather(*(task for _, task in sent), return_exceptions=True)
        return answers

    async def known(self, idempotency_key: str) -> str | None:
        """The job that a submission with this key would find, or None."""
        key, field = self.keys.idempotency(short_key(idempotency_key))
        found: str | None = await answer_to(self.client.hget(key, field), self.settings.url)
        return found

    async def admit(self, caller: str, a_minute: int) -> float:
        """Take one request out of a caller's bucket; 0, or in how many seconds to ask again."""
        return int(await self._call("admit", caller, a_minute)) / 1000

    async def remember_request(self, digest: str, what: str) -> str | None:
        """Remember what a request was, as long as a job is kept; what an earlier one with this digest was, or None."""
        kept_ms = round(self.settings.retention_days * 86_400_000)
        before: str | None = await self.ask("SET", self.keys.request(digest), what, "PX", kept_ms, "NX", "GET")
        return before

    async def forget_request(self, digest: str) -> None:
        """It led to nothing."""
        await self.ask("DEL", self.keys.request(digest))

    async def ask(self, *command: Argument) -> Any:
        """The answer to one plain command."""
        return await answer_to(self._quick.ask(*command), self.settings.url)

    async def check_writable(self) -> None:
        """Raises QueueUnavailable when nothing can be written."""
        await answer_to(self.client.set(self.keys.ready, 1, px=1000), self.settings.url)

    async def claim(
        self, instance: str, boot: str, lanes: Sequence[str], *, claim_id: str | None = None, wait_s: float = 0.0
    ) -> JobRecord | Idle:
        """Start the next job for an instance, or say how long there is none.

        claim_id: the same one asks again after an answer was lost. wait_s: for so long from now the instance takes a
        job that ``sleep`` hands it, which is then its answer to this claim. Raises Unregistered.
        """
        lease_ms, wait_ms = round(self.settings.lease_s * 1000), round(wait_s * 1000)
        claim_id = claim_id or uuid.uuid4().hex
        asked = (instance, boot, claim_id, lease_ms, self.settings.priority_share, wait_ms)
        answer = await self._call("claim", *asked, *lanes, ask=partial(self._quick.ask, others_first=True))
        if answer[0] == "unregistered":
            raise Unregistered(instance)
        if answer[0] == "none":
            due_s = answer[2] / 1000 if answer[2] >= 0 else None
            return Idle(answer[1], due_s, instance if wait_ms else "")
        fields = dict(zip(answer[2][::2], answer[2][1::2], strict=True))
        try:
            return JobRecord.from_hash(fields, answer[1])
        except JobError as error:
            await self._end_unreadable(answer[1], fields.get("token", ""), error)
            return Idle(wake_id="0-0", due_s=0.0)

    async def _end_unreadable(self, task_id: str, token: str | int, error: JobError) -> None:
        """Written by somebody else, or by another version: it ends, so that it stops nobody else's job."""
        log.warning("job %s cannot be read: %s", task_id, error)
        reason = f"This job cannot be read by this version ({error})."
        await self._call("settle", task_id, token, *refusal(Verdict(State.FAILED, "bad input"), reason))

    async def set_aside(self, instance: str, boot: str, lanes: Sequence[str]) -> JobRecord | None:
        """The job that this instance would start now, which others pass over from here on (lua/claim.lua says how far).

        It stays queued; what is set aside need not be given back. None when there is none, or not readable.
        """
        answer = await self._call("claim", instance, boot, "", 0, self.settings.priority_share, 0, *lanes)
        if answer[0] != "job":
            return None
        try:
            return JobRecord.from_hash(dict(zip(answer[2][::2], answer[2][1::2], strict=True)), answer[1])
        except JobError:
            return None  # the claim says what is wrong with it

    async def let_go(self, instance: str, boot: str) -> None:
        """Set nothing aside any more."""
        await self._call("claim", instance, boot, "", 0, self.settings.priority_share, 0)

    async def refuse(self, job: JobRecord, instance: str, reason: str) -> bool:
        """End a job that this instance has set aside and found at fault; False when it is another's by now."""
        return bool(await self._call("refuse", job.task_id, instance, reason) == "ok")

    async def sleep(self, idle: Idle, timeout_s: float) -> JobRecord | None:
        """Return when something may be claimed again, at the latest after ``timeout_s``; or with a job that was handed.

        A job is handed once. Should its answer be lost, or nobody wait for it any more, the next claim with the same id
        answers it.
        """
        limit_s = timeout_s if idle.due_s is None else min(timeout_s, idle.due_s + 0.005)
        block_ms = max(1, round(limit_s * 1000))
        streams: tuple[str, ...] = (self.keys.wake, idle.wake_id)
        if idle.instance:
            streams = (self.keys.handed(idle.instance), self.keys.wake, "0-0", idle.wake_id)
        read = self._quick.await_answer("XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", *streams)
        for stream, entries in await answer_to(read, self.settings.url) or ():
            if idle.instance and stream == self.keys.handed(idle.instance):
                flat = entries[0][1]
                fields = dict(zip(flat[::2], flat[1::2], strict=True))
                try:
                    return JobRecord.handed_over(fields, idle.instance)
                except JobError as error:
                    await self._end_unreadable(fields["id"], FIRST_TOKEN, error)
        return None

    async def progress(self, job: JobRecord, percent: float, stage: str, seconds_left: float | None) -> None:
        """Report on a running job. Raises LeaseLost."""
        left = "" if seconds_left is None else f"{seconds_left:.1f}"
        await self._owned("progress", job, f"{percent:.1f}", stage, left)

    async def renew(self, job: JobRecord) -> None:
        """Lengthen the lease of a running job. Raises LeaseLost."""
        await self._owned("renew", job, round(self.settings.lease_s * 1000))

    async def stage(self, job: JobRecord, result: Mapping[str, Any]) -> None:
        """Choose this start's result as the job's; it is to be published next. Raises LeaseLost, StartStopped."""
        await self._owned("stage", job, _json(result))

    async def unstage(self, job: JobRecord) -> None:
        """Take the choice of an earlier start back, whose video is nowhere. Raises LeaseLost."""
        await self._owned("stage", job, "")

    async def complete(self, job: JobRecord, result: Mapping[str, Any], counts: Sequence[Argument] = ()) -> None:
        """Commit the one result of a job. counts: what it adds to those of all (figures.taken). Raises LeaseLost."""
        document = packed(job.completed(result))
        values = ("", "", "", "", document, 0, "", "", int(self.settings.results_days > 0))
        await self._owned("settle", job, State.COMPLETED.value, "completed", *values, *counts)

    async def settle(
        self, job: JobRecord, verdict: Verdict, error: str = "", kind: str = "", instance: str = ""
    ) -> None:
        """End a start that did not complete. error: the sentence for people. Raises LeaseLost."""
        await self._owned("settle", job, *settlement(job, verdict, error, kind, instance))

    async def restart(self, task_id: str) -> Literal["ok", "missing"] | State:
        """Put a failed or cancelled job back, with all its attempts; answers its state when it is in another one."""
        answer = await self._call("restart", task_id)
        return answer if answer in ("ok", "missing") else State(answer)

    async def cancel(self, task_ids: Sequence[str]) -> dict[str, Cancelled]:
        """What became of each: "cancelled" now or before; "cancelling", as its instance is told to end it;

        "staged", as its video is chosen and completes the job; "completed", "failed", "missing".
        """
        return await self._of_each("cancel", task_ids)

    async def drop(self, task_ids: Sequence[str]) -> dict[str, str]:
        """Take jobs out of the dead letter; "ok", "missing", or the state of one that does not lie there."""
        return await self._of_each("drop", task_ids)

    async def drain(self, instance: str, grace_s: float) -> list[str] | None:
        """Let an instance take no new job, until it is undone; the ids of what it runs, None when it is unknown.

        grace_s: what it runs then is given back.
        """
        answer, *running = await self._call("drain", instance, 1, round(grace_s * 1000))
        return running if answer == "ok" else None

    async def undrain(self, instance: str) -> bool:
        """Let it take jobs again; False when it was not draining."""
        answer = await self._call("drain", instance, 0, 0)
        return bool(answer[0] == "undone")

    async def old_results(self, after: int, limit: int) -> list[tuple[str, str]]:
        """Places of videos that are older than ``results_days``, oldest first, and what was put there, as JSON.

        after: how many of the oldest to pass over.
        """
        kept_ms = round(self.settings.results_days * 86_400_000)
        flat = await self._call("old_results", kept_ms, after, limit)
        return list(zip(flat[::2], flat[1::2], strict=True))

    async def forget_results(self, results: Sequence[tuple[str, str]]) -> None:
        """What ``old_results`` told is removed, or was changed by somebody."""
        await self._call("forget_results", *(value for pair in results for value in pair))

    async def wished(self, instance: str, job: JobRecord) -> Wished:
        """What an operator wishes of this start."""
        cause, due_ms, wish_id = await self._call("wishes", instance, job.task_id, job.token)
        return Wished(cause, due_ms / 1000 if due_ms >= 0 else None, wish_id)

    async def await_wish(self, seen: Wished, timeout_s: float) -> None:
        """Return when there is another wish of any instance, at the latest after ``timeout_s``."""
        read = self.client.xread({self.keys.wishes: seen.wish_id}, block=max(1, round(timeout_s * 1000)))
        await answer_to(read, self.settings.url)

    async def spare(self) -> None:
        """Let no lease run out for the time of one: who was cut off from the queue may not have been alone."""
        await self._call("spare", round(self.settings.lease_s * 1000))

    async def tend(self) -> int:
        """Move what is due and what has lost its lease; returns how many jobs that were."""
        return int(await self._call("tend"))

    async def close(self) -> None:
        await self.client.aclose()

    async def call(self, name: str, *values: Argument) -> Any:
        """What a script answers that belongs to a class of its own (outbox.py)."""
        return await self._call(name, *values)

    async def _owned(self, name: str, job: JobRecord, *values: Argument) -> None:
        # An instance goes on with this job, or with the next one, and waits for no answer at once.
        answer = await self._call(name, job.task_id, job.token, *values, ask=self._quick.ask_aside)
        if answer == "cancelled":
            raise StartStopped("cancelled")
        if answer != "ok":
            raise LeaseLost(f"The job {job.task_id} belongs to another instance now, or is no longer there.")

    async def _of_each(self, name: str, task_ids: Sequence[str]) -> dict[str, Any]:
        answers: dict[str, Any] = {}
        for start in range(0, len(task_ids), JOBS_A_CALL):
            part = list(dict.fromkeys(task_ids[start : start + JOBS_A_CALL]))
            answers |= dict(zip(part, await self._call(name, *part), strict=True))
        return answers

    async def _check_rights(self) -> None:
        """Once, before anything is written. Raises QueueForbidden with what is missing."""
        # No key and no clock: a user without a right to them is to be told so.
        arguments = [0, *self.scripts.arguments(*self.scripts.commands())[1:]]
        run = self._quick.ask("EVAL", self._registered["rights"].source, 0, *arguments)
        missing = await answer_to(run, self.settings.url)
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

    async def _call(self, name: str, *values: Argument, ask: Ask | None = None) -> Any:
        if not self._allowed:
            await self._check_rights()
        script, arguments = self._registered[name], self.scripts.arguments(*values)
        run = self._quick.run(script, self.scripts.routing_key, arguments, ask)
        return await answer_to(run, self.settings.url)


def _parts(submissions: Iterable[Submission]) -> Iterator[list[Submission]]:
    """As many as one call takes."""
    left = iter(submissions)
    while part := list(islice(left, JOBS_A_CALL)):
        yield part


def _submitted(submissions: Sequence[Submission]) -> list[Argument]:
    """The own arguments of lua/submit.lua from the first run of jobs on."""
    if len(submissions) == 1:
        return [*_place(submissions[0]), 1, *_told(submissions[0])]
    values: list[Argument] = []
    for place, run in groupby(submissions, key=_place):
        jobs = list(run)
        values += (*place, len(jobs))
        for one in jobs:
            values += _told(one)
    return values


def _told(one: Submission) -> tuple[str, str, bytes]:
    once = short_key(one.idempotency_key) if one.idempotency_key else ""
    return one.spec.task_id, once, quickly_packed(one.spec.asked())


def _place(one: Submission) -> tuple[str, str, str, str]:
    return CLASS_OF[one.spec.priority], lane_of(one.tier, one.engine), one.spec.batch, one.spec.callback


def _accepted(submissions: Sequence[Submission], known: Sequence[Any]) -> list[Accepted]:
    """The answers out of those of lua/submit.lua, which names only the jobs that were there."""
    if known and known[0] == "full":
        raise BacklogFull(f"{known[1]} of its jobs have not ended, and this caller may not have so many more.")
    answers = [Accepted(one.spec.task_id, True, State.QUEUED) for one in submissions]
    for at in range(0, len(known), 3):
        answers[known[at]] = Accepted(known[at + 1], False, State(known[at + 2]))
    return answers


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
