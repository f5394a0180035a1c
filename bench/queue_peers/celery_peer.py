"""Celery on Redis, prefork, late acknowledgement."""

from __future__ import annotations

from typing import Any

from celery import Celery

from .job import LEASE_S, URL, work
from .peer import Peer, program

app = Celery("bench", broker=URL)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_transport_options={
        "visibility_timeout": LEASE_S,
        "queue_order_strategy": "priority",
        "priority_steps": [0, 6],
    },
)


@app.task(name="work")
def run(job: dict[str, Any]) -> None:
    work(job)


class CeleryPeer(Peer):
    what = ("celery",)

    async def put_one(self, job: dict[str, Any], *, first: bool = False) -> None:
        run.apply_async((job,), priority=0 if first else 6)

    def worker(self, slots: int) -> list[str]:
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "ERROR"]
        return [*program("celery"), "-A", __name__, "worker", "-P", "prefork", "-c", str(slots), *quiet]


PEER = CeleryPeer()
