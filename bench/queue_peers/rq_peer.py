"""RQ; a process for every job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import Redis
from rq import Queue, Retry

from .job import URL, work
from .peer import Peer, program

CONNECTION = Redis.from_url(URL)
LOW, HIGH = Queue("low", connection=CONNECTION), Queue("high", connection=CONNECTION)


class RqPeer(Peer):
    what = ("rq",)
    how_many = "enqueue_many"

    async def put_one(self, job: dict[str, Any], *, first: bool = False) -> None:
        (HIGH if first else LOW).enqueue(work, job, retry=Retry(3))

    async def put_all(self, jobs: Sequence[dict[str, Any]]) -> None:
        for start in range(0, len(jobs), 500):
            LOW.enqueue_many([Queue.prepare_data(work, (job,), retry=Retry(3)) for job in jobs[start : start + 500]])

    def worker(self, slots: int) -> list[str]:
        if slots > 1:
            return [*program("rq"), "worker-pool", "-n", str(slots), "-q", "--url", URL, "high", "low"]
        intervals = ["--maintenance-interval", "5", "--job-monitoring-interval", "3"]
        return [*program("rq"), "worker", "-q", "--url", URL, *intervals, "high", "low"]


PEER = RqPeer()
