"""The thinnest possible stream queue, which no queue on Redis can beat: no priority, no lease, no record of a job."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from .job import SLOTS, URL, work_async
from .peer import Peer

STREAM, GROUP = "floor", "workers"


class FloorPeer(Peer):
    what = ("redis",)
    how_many = "pipelined XADD"
    has_priority = False

    async def open(self) -> None:
        self._client: Any = Redis.from_url(URL, decode_responses=True)

    async def close(self) -> None:
        await self._client.aclose()

    async def put_one(self, job: dict[str, Any], *, first: bool = False) -> None:
        await self._client.xadd(STREAM, {"job": json.dumps(job)})

    async def put_all(self, jobs: Sequence[dict[str, Any]]) -> None:
        for start in range(0, len(jobs), 500):
            async with self._client.pipeline(transaction=False) as pipeline:
                for job in jobs[start : start + 500]:
                    pipeline.xadd(STREAM, {"job": json.dumps(job)})
                await pipeline.execute()

    def worker(self, slots: int) -> list[str]:
        return [sys.executable, "-m", __name__]


async def run(slot: int) -> None:
    client: Any = Redis.from_url(URL, decode_responses=True)
    try:
        await client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise
    while True:
        for _, entries in await client.xreadgroup(GROUP, f"c{slot}", {STREAM: ">"}, count=1, block=5000) or ():
            for entry, fields in entries:
                await work_async(json.loads(fields["job"]))
                async with client.pipeline(transaction=True) as pipeline:
                    pipeline.xack(STREAM, GROUP, entry)
                    pipeline.xdel(STREAM, entry)
                    await pipeline.execute()


async def serve() -> None:
    await asyncio.gather(*(run(slot) for slot in range(SLOTS)))


PEER = FloorPeer()
if __name__ == "__main__":
    asyncio.run(serve())
