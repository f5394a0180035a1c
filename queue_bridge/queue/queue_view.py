"""Everything that is read from the queue: jobs, counts, instances, and a stream of what happens."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Awaitable, Collection, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from redis.asyncio import Redis

from ..database.redis_connection import answer_to
from ..errors import JobError
from ..job import JobRecord
from ..states import TERMINAL, State
from .figures import Figures
from .keys import CLASSES, GROUP, Keys

log = logging.getLogger("sonic.queue_view")

EVENTS_A_CALL = 1000
JOBS_A_CALL = 500
EVERY = 10_000_000  # as a limit: all there are
SAME_TIME = 50  # batches of one caller that may have been submitted in the same millisecond
OLDEST_BATCHES = 1000  # of a lane that are looked at for its oldest job


@dataclass(frozen=True)
class Counts:
    """How many jobs are where. waiting: by class, then by lane. totals: since the queue began."""

    waiting: dict[str, dict[str, int]]
    running: int
    retrying: int
    dead: int
    totals: dict[str, int]

    @property
    def queued(self) -> int:
        return sum(sum(lanes.values()) for lanes in self.waiting.values())


class QueueView:
    """Reads one queue. Raises QueueUnavailable when its server does not answer."""

    def __init__(self, client: Redis, keys: Keys, url: str = "") -> None:
        self._client = client
        self._keys = keys
        self._url = url

    async def job(self, task_id: str) -> JobRecord | None:
        """One job, or None when it is unknown or no longer kept."""
        found = await self.jobs([task_id])
        return found.get(task_id)

    async def jobs(self, task_ids: Sequence[str]) -> dict[str, JobRecord]:
        """Those of these jobs that are there, by id; of a spoilt record what can be read."""
        records = {}
        for start in range(0, len(task_ids), JOBS_A_CALL):
            part = task_ids[start : start + JOBS_A_CALL]
            async with self._client.pipeline(transaction=False) as pipeline:
                for task_id in part:
                    pipeline.hgetall(self._keys.job(task_id))
                hashes = await self._ask(pipeline.execute())
            for task_id, fields in zip(part, hashes, strict=True):
                if fields:
                    try:
                        records[task_id] = JobRecord.from_hash(fields, task_id)
                    except JobError as error:
                        log.debug("job %s cannot be read: %s", task_id, error)
                        records[task_id] = JobRecord.spoilt(fields, task_id, str(error))
        return records

    async def ids(self, states: Collection[State], limit: int) -> list[str]:
        """Ids of jobs in these states: running, retrying, queued in their order, then ended ones, latest first."""
        found = await self._ids(states, limit)
        records = await self.jobs(found)
        return [task_id for task_id in found if task_id in records and records[task_id].state in states][:limit]

    async def live_in_batch(self, batch_id: str) -> list[str]:
        """Ids of the jobs of a batch that have not ended; one that moves meanwhile may be missing."""
        found = list(dict.fromkeys(await self._ids(frozenset(State) - TERMINAL, EVERY)))
        live = []
        for start in range(0, len(found), JOBS_A_CALL):
            part = found[start : start + JOBS_A_CALL]
            async with self._client.pipeline(transaction=False) as pipeline:
                for task_id in part:
                    pipeline.hget(self._keys.job(task_id), "batch")
                batches = await self._ask(pipeline.execute())
            live += [task_id for task_id, batch in zip(part, batches, strict=True) if batch == batch_id]
        return live

    async def _ids(self, states: Collection[State], limit: int) -> list[str]:
        """Where jobs in these states are found; some of them may be in another one."""
        found: list[str] = []
        if State.RUNNING in states:
            found += await self._ask(self._client.zrange(self._keys.leases, 0, limit))
        if State.RETRYING in states:
            found += await self._ask(self._client.zrange(self._keys.delayed, 0, limit))
        if State.QUEUED in states:
            for job_class, lane in await self._lanes():
                found += await self._waiting(job_class, lane, limit)
        if TERMINAL & set(states):
            ended = await self._ask(self._client.lrange(self._keys.ended, -4 * limit - 1, -1))
            found += reversed(ended)
        return list(dict.fromkeys(found))  # a job that moves meanwhile is found twice

    async def counts(self) -> Counts:
        """How many jobs wait, run, wait for a retry, lie in the dead letter; exact at one moment for each number."""
        lanes = await self._lanes()
        async with self._client.pipeline(transaction=True) as pipeline:
            for job_class, lane in lanes:
                pipeline.xlen(self._keys.queue(job_class, lane))
            pipeline.zcard(self._keys.leases)
            pipeline.zcard(self._keys.delayed)
            pipeline.zcard(self._keys.dead)
            pipeline.hgetall(self._keys.totals)
            *depths, running, retrying, dead, totals = await self._ask(pipeline.execute())
        waiting: dict[str, dict[str, int]] = {job_class: {} for job_class in CLASSES}
        for (job_class, lane), depth in zip(lanes, depths, strict=True):
            waiting[job_class][lane] = depth
        return Counts(waiting, running, retrying, dead, {name: int(value) for name, value in totals.items()})

    async def figures(self) -> Figures:
        """What was counted of all jobs since the queue began."""
        return Figures.of_fields(await self._ask(self._client.hgetall(self._keys.figures)))

    async def running_by_lane(self) -> dict[str, int]:
        """How many jobs run, by the lane in which they waited."""
        ids = await self._ask(self._client.zrange(self._keys.leases, 0, -1))
        async with self._client.pipeline(transaction=False) as pipeline:
            for task_id in ids:
                pipeline.hget(self._keys.job(task_id), "lane")
            return dict(Counter(lane for lane in await self._ask(pipeline.execute()) if lane))

    async def dead(self) -> list[str]:
        """Ids of the jobs in the dead letter, latest first."""
        found: list[str] = await self._ask(self._client.zrevrange(self._keys.dead, 0, -1))
        return found

    async def draining(self) -> list[str]:
        """Names of the instances that an operator lets take no new job, whether they live or not."""
        return sorted(await self._ask(self._client.hkeys(self._keys.draining)))

    async def batch(self, batch_id: str) -> dict[str, int]:
        """total, completed, failed, cancelled and submitted_ms of a batch; empty when it is unknown."""
        fields = await self._ask(self._client.hgetall(self._keys.batch(batch_id)))
        return {name: int(value) for name, value in fields.items() if name != "caller"}

    async def batch_caller(self, batch_id: str) -> str:
        """The id of the API key whose batch it is, or ''."""
        return await self._ask(self._client.hget(self._keys.batch(batch_id), "caller")) or ""

    async def batches(
        self, callers: Sequence[str], limit: int, *, after: tuple[int, str] | None = None
    ) -> list[tuple[int, str, dict[str, int]]]:
        """(ms when something was last put into it, id, counts as ``batch`` has them) of batches of these callers.

        At most so many, the latest first. after: ms and id of the last of them that need not be told.
        """
        async with self._client.pipeline(transaction=False) as pipeline:
            for caller in callers:
                since = after[0] if after else "+inf"
                pipeline.zrange(
                    self._keys.batches(caller),
                    since,
                    "-inf",
                    desc=True,
                    byscore=True,
                    offset=0,
                    num=limit + SAME_TIME,
                    withscores=True,
                )
            answers = await self._ask(pipeline.execute())
        found = sorted(((int(ms), batch_id) for answer in answers for batch_id, ms in answer), reverse=True)
        told = [one for one in found if not after or one < after][:limit]
        async with self._client.pipeline(transaction=False) as pipeline:
            for _, batch_id in told:
                pipeline.hgetall(self._keys.batch(batch_id))
            counts = await self._ask(pipeline.execute())
        return [
            (ms, batch_id, {name: int(value) for name, value in fields.items() if name != "caller"})
            for (ms, batch_id), fields in zip(told, counts, strict=True)
        ]

    async def callers_of(self, task_ids: Sequence[str]) -> dict[str, str]:
        """Who has submitted these jobs, '' for nobody in particular; without those that are not there."""
        async with self._client.pipeline(transaction=False) as pipeline:
            for task_id in task_ids:
                pipeline.hmget(self._keys.job(task_id), "state", "caller")
            answers = await self._ask(pipeline.execute())
        return {one: caller or "" for one, (state, caller) in zip(task_ids, answers, strict=True) if state}

    async def callers(self) -> list[str]:
        """Who has submitted jobs that are still kept, '' among them."""
        return ["", *sorted(await self._ask(self._client.smembers(self._keys.callers)))]

    async def unended(self, caller: str) -> int:
        """How many jobs of a caller have not ended."""
        return int(await self._ask(self._client.hget(self._keys.unended, caller)) or 0)

    async def submitted(
        self, callers: Sequence[str], limit: int, *, after: tuple[str, str] | None = None, since_ms: int | None = None
    ) -> list[tuple[str, str]]:
        """(place in the order of submission, job id) of so many jobs of these callers, the latest first.

        after: the last of them that need not be told. since_ms: the other way round, from that time on.
        """
        async with self._client.pipeline(transaction=False) as pipeline:
            for caller in callers:  # of jobs that have the same place some may have been told already
                key = self._keys.submitted(caller)
                if since_ms is None:
                    pipeline.xrevrange(key, after[0] if after else "+", "-", count=limit + 1)
                else:
                    pipeline.xrange(key, after[0] if after else str(since_ms), "+", count=limit + 1)
            answers = await self._ask(pipeline.execute())
        found = sorted(
            ((place_of(place), caller, position), place, fields.get("begin", "") + rest)
            for caller, entries in zip(callers, answers, strict=True)
            for place, fields in entries
            for position, rest in enumerate(fields["jobs"].split())
        )
        if after:
            # Where it is not there any more, what has its place has been told as well.
            told = next((one[0] for one in found if one[1:] == after), (place_of(after[0]), "", -1))
            found = [one for one in found if (one[0] < told if since_ms is None else one[0] > told)]
        if since_ms is None:
            found.reverse()
        return [(place, task_id) for _, place, task_id in found[:limit]]

    async def oldest_s(self) -> dict[tuple[str, str], float]:
        """When the job was submitted that has waited longest, by class and lane; seconds since 1970."""
        heads: dict[tuple[str, str], list[str]] = {}
        for job_class, lane in await self._lanes():
            batches = await self._ask(self._client.zrange(self._keys.flows(job_class, lane), 0, OLDEST_BATCHES))
            async with self._client.pipeline(transaction=False) as pipeline:
                for batch in batches:
                    pipeline.zrange(self._keys.returned(job_class, lane, batch), 0, 0)
                    pipeline.lrange(self._keys.waiting(job_class, lane, batch), 0, 0)
                answers = await self._ask(pipeline.execute())
            heads[job_class, lane] = [task_id for answer in answers for task_id in answer]
        oldest = {}
        for place, ids in heads.items():
            async with self._client.pipeline(transaction=False) as pipeline:
                for task_id in ids:
                    pipeline.hget(self._keys.job(task_id), "submitted_ms")
                times = [int(answer) / 1000 for answer in await self._ask(pipeline.execute()) if answer]
            if times:
                oldest[place] = min(times)
        return oldest

    async def instances(self) -> list[dict[str, Any]]:
        """What every living instance says of itself, in the order of their names; ``running`` is the job it has now."""
        names = sorted(await self._ask(self._client.smembers(self._keys.instances)))
        jobs = await self.jobs(await self._ask(self._client.zrange(self._keys.leases, 0, -1)))
        running = {record.owner: task_id for task_id, record in jobs.items()}
        async with self._client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.hgetall(self._keys.instance(name))
            found = await self._ask(pipeline.execute())
        described = [json.loads(fields.pop("described", "{}")) | fields for fields in found if fields]
        draining = set(await self.draining())
        return [
            {
                **one,
                "running": running.get(one["name"], ""),
                "draining": bool(one.get("draining")) or one["name"] in draining,
            }
            for one in described
        ]

    async def last_event(self) -> str:
        """The id of the newest event, to follow from."""
        entries = await self._ask(self._client.xrevrange(self._keys.events, count=1))
        return str(entries[0][0]) if entries else "0-0"

    async def events(self, after: str, timeout_s: float) -> tuple[list[dict[str, str]], str]:
        """Events behind ``after``, at the latest after so long; and the id to go on from."""
        entries = await self.entries(after, timeout_s)
        return [fields for _, fields in entries], entries[-1][0] if entries else after

    async def entries(self, after: str, timeout_s: float) -> list[tuple[str, dict[str, str]]]:
        """The same, each with its id; jobs that were submitted together share one."""
        block_ms = max(1, round(timeout_s * 1000))
        answer = await self._ask(self._client.xread({self._keys.events: after}, count=EVENTS_A_CALL, block=block_ms))
        return _one_by_one(next(iter(_streams(answer).values()), []))

    async def past_events(self, after: str, until: str) -> list[tuple[str, dict[str, str]]]:
        """Those of at most EVENTS_A_CALL entries behind ``after`` up to ``until``, each with its id."""
        read = self._client.xrange(self._keys.events, f"({after}", until, count=EVENTS_A_CALL)
        return _one_by_one(await self._ask(read))

    async def first_event(self) -> str:
        """The id of the oldest event that is kept."""
        entries = await self._ask(self._client.xrange(self._keys.events, count=1))
        return str(entries[0][0]) if entries else "0-0"

    async def lag(self, job_class: str, lane: str) -> int | None:
        """What an autoscaler sees: how many jobs wait in a lane."""
        groups = await self._ask(self._client.xinfo_groups(self._keys.queue(job_class, lane)))
        return next((group["lag"] for group in groups if group["name"] == GROUP), None)

    async def _waiting(self, job_class: str, lane: str, limit: int) -> list[str]:
        """Jobs of a lane in the order in which they start when nothing more comes."""
        batches = await self._ask(self._client.zrange(self._keys.flows(job_class, lane), 0, limit))
        async with self._client.pipeline(transaction=False) as pipeline:
            for batch in batches:
                pipeline.zrange(self._keys.returned(job_class, lane, batch), 0, limit)
                pipeline.lrange(self._keys.waiting(job_class, lane, batch), 0, limit)
            answers = await self._ask(pipeline.execute())
        flows = [returned + fresh for returned, fresh in zip(answers[::2], answers[1::2], strict=True)]
        rounds = zip_longest(*flows)
        return [task_id for one in rounds for task_id in one if task_id is not None]

    async def _lanes(self) -> list[tuple[str, str]]:
        found = await self._ask(self._client.smembers(self._keys.lanes))
        pairs = [(name.partition(":")[0], name.partition(":")[2]) for name in found]
        return sorted(pairs, key=lambda pair: (CLASSES.index(pair[0]), pair[1]))

    async def _ask(self, command: Awaitable[Any]) -> Any:
        return await answer_to(command, self._url)


def _streams(answer: Any) -> dict[str, list[tuple[str, dict[str, str]]]]:
    """The entries by stream of an XREAD, whichever protocol it was answered in."""
    pairs = answer.items() if isinstance(answer, dict) else answer or ()
    return {name: entries[0] if entries and isinstance(entries[0], list) else entries for name, entries in pairs}


def _one_by_one(entries: list[tuple[str, dict[str, str]]]) -> list[tuple[str, dict[str, str]]]:
    return [(event_id, {**event, "job": task_id}) for event_id, event in entries for task_id in event["job"].split()]


def place_of(entry_id: str) -> tuple[int, int]:
    """The id of a stream's entry, to be compared."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)
