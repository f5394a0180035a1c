"""Everything that is read from the queue: jobs, counts, instances, and a stream of what happens."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from .errors import JobError
from .job import JobRecord
from .keys import CLASSES, GROUP, Keys
from .redis_connection import answer_to
from .states import TERMINAL, State

log = logging.getLogger("sonic.queue_view")

EVENTS_A_CALL = 1000
JOBS_A_CALL = 500


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
                        records[task_id] = JobRecord.from_hash(fields)
                    except JobError as error:
                        log.debug("job %s cannot be read: %s", task_id, error)
                        records[task_id] = JobRecord.spoilt({**fields, "id": task_id}, str(error))
        return records

    async def ids(self, states: Collection[State], limit: int) -> list[str]:
        """Ids of jobs in these states: running, retrying, queued in their order, then ended ones, latest first."""
        found: list[str] = []
        if State.RUNNING in states:
            found += await self._ask(self._client.zrange(self._keys.leases, 0, limit))
        if State.RETRYING in states:
            found += await self._ask(self._client.zrange(self._keys.delayed, 0, limit))
        if State.QUEUED in states:
            for job_class, lane in await self._lanes():
                found += await self._ask(self._client.zrange(self._keys.returned(job_class, lane), 0, limit))
                entries = await self._ask(self._client.xrange(self._keys.queue(job_class, lane), count=limit))
                found += [fields["job"] for _, fields in entries]
        if TERMINAL & set(states):
            found += await self._ask(self._client.zrevrange(self._keys.ended, 0, 4 * limit))
        records = await self.jobs(found)
        return [task_id for task_id in found if task_id in records and records[task_id].state in states][:limit]

    async def counts(self) -> Counts:
        """How many jobs wait, run, wait for a retry, lie in the dead letter; exact at one moment for each number."""
        lanes = await self._lanes()
        async with self._client.pipeline(transaction=True) as pipeline:
            for job_class, lane in lanes:
                pipeline.xlen(self._keys.queue(job_class, lane))
                pipeline.zcard(self._keys.returned(job_class, lane))
            pipeline.zcard(self._keys.leases)
            pipeline.zcard(self._keys.delayed)
            pipeline.zcard(self._keys.dead)
            pipeline.hgetall(self._keys.totals)
            *depths, running, retrying, dead, totals = await self._ask(pipeline.execute())
        waiting: dict[str, dict[str, int]] = {job_class: {} for job_class in CLASSES}
        for (job_class, lane), fresh, returned in zip(lanes, depths[::2], depths[1::2], strict=True):
            waiting[job_class][lane] = fresh + returned
        return Counts(waiting, running, retrying, dead, {name: int(value) for name, value in totals.items()})

    async def batch(self, batch_id: str) -> dict[str, int]:
        """total, completed, failed, cancelled and submitted_ms of a batch; empty when it is unknown."""
        fields = await self._ask(self._client.hgetall(self._keys.batch(batch_id)))
        return {name: int(value) for name, value in fields.items()}

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
        return [{**one, "running": running.get(one["name"], "")} for one in described]

    async def last_event(self) -> str:
        """The id of the newest event, to follow from."""
        entries = await self._ask(self._client.xrevrange(self._keys.events, count=1))
        return str(entries[0][0]) if entries else "0-0"

    async def events(self, after: str, timeout_s: float) -> tuple[list[dict[str, str]], str]:
        """Events behind ``after``, at the latest after so long; and the id to go on from."""
        block_ms = max(1, round(timeout_s * 1000))
        answer = await self._ask(
            self._client.xread({self._keys.events: after}, count=EVENTS_A_CALL, block=block_ms)
        )
        entries = next(iter(_streams(answer).values()), [])
        return [fields for _, fields in entries], entries[-1][0] if entries else after

    async def lag(self, job_class: str, lane: str) -> int | None:
        """What an autoscaler sees: entries of a stream that no instance has taken."""
        groups = await self._ask(self._client.xinfo_groups(self._keys.queue(job_class, lane)))
        return next((group["lag"] for group in groups if group["name"] == GROUP), None)

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
