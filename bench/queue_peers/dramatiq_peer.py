"""dramatiq on Redis."""

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from .job import LEASE_S, URL, work
from .peer import Peer, program

broker = RedisBroker(url=URL, heartbeat_timeout=round(LEASE_S * 1000), maintenance_chance=10)
dramatiq.set_broker(broker)


@dramatiq.actor(priority=10)
def run(job: dict[str, Any]) -> None:
    work(job)


@dramatiq.actor(priority=0)
def run_first(job: dict[str, Any]) -> None:
    work(job)


class DramatiqPeer(Peer):
    what = ("dramatiq",)

    async def put_one(self, job: dict[str, Any], *, first: bool = False) -> None:
        (run_first if first else run).send(job)

    def worker(self, slots: int) -> list[str]:
        prefetch = ["env", "dramatiq_queue_prefetch=1"]
        return [*prefetch, *program("dramatiq"), __name__, "--processes", "1", "--threads", str(slots)]


PEER = DramatiqPeer()
