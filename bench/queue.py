"""How fast the queue is: enqueue, pick-up, drain and memory, beside the thinnest possible stream queue in the same run.

    python -m bench.queue [--url redis://...] [--jobs 20000]

Prints JSON. ``floor`` is a bare Redis Stream (XADD; XREADGROUP, XACK and XDEL) with the same client and server: no
priority, no lease, no fencing, no retries, no record of a job. ``ours_to_floor`` is the ratio of the two. Jobs are of
about 1 KB and do nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.presence import Identity
from comfyui_sonic.queue_bridge.redis_connection import check_server, connect
from comfyui_sonic.queue_bridge.redis_server import RedisServer
from comfyui_sonic.queue_bridge.store import Idle, Store, Submission
from redis.asyncio import Redis

ONE_BY_ONE = 2000
PICK_UPS = 300
LANES = ("512", "768", "1024")
PADDING = "x" * 600  # with the rest of a job's fields about 1 KB


def job() -> Submission:
    spec = JobSpec(new_job_id(), "file:///orders/a.png", "file:///orders/a.wav", "file:///orders/a.mp4", name=PADDING)
    return Submission(spec, 512, idempotency_key=spec.task_id)


class Ours:
    """The bridge's store, and instances that complete a job as soon as they have it."""

    def __init__(self, url: str) -> None:
        self._settings = Settings(url=url, queue=f"bench-{new_job_id()}", lease_s=3600.0)
        self.store = Store(connect(url), self._settings)

    async def enqueue_one(self) -> None:
        await self.store.submit([job()])

    async def enqueue_many(self, count: int) -> None:
        await self.store.submit([job() for _ in range(count)])

    async def drain(self, slots: int, count: int) -> None:
        left = count

        async def work(slot: int) -> None:
            nonlocal left
            store = Store(connect(self._settings.url), self._settings)
            me = Identity(f"slot-{new_job_id()}-{slot}")
            await store.register(me)
            while left > 0:
                claimed = await store.claim(me.name, me.boot, LANES)
                if isinstance(claimed, Idle):
                    return
                left -= 1
                await store.complete(claimed, {"output": "x"})

        await asyncio.gather(*(work(slot) for slot in range(slots)))

    async def pick_up_ms(self) -> list[float]:
        store = Store(connect(self._settings.url), self._settings)
        me = Identity("pick-up")
        await store.register(me)
        waits = []
        for _ in range(PICK_UPS):
            idle = await store.claim(me.name, me.boot, LANES)
            assert isinstance(idle, Idle)
            sleeping = asyncio.create_task(store.sleep(idle, 5.0))
            await asyncio.sleep(0.003)
            started = time.perf_counter()
            await self.store.submit([job()])
            await sleeping
            claimed = await store.claim(me.name, me.boot, LANES)
            waits.append(1000 * (time.perf_counter() - started))
            assert isinstance(claimed, JobRecord)
            await store.complete(claimed, {})
        await store.close()
        return waits


class Floor:
    """A bare stream."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Redis = connect(url)
        self._stream = f"floor-{new_job_id()}"

    async def enqueue_one(self) -> None:
        await self._client.xadd(self._stream, {"job": job().spec.to_json()})

    async def enqueue_many(self, count: int) -> None:
        for start in range(0, count, 500):
            async with self._client.pipeline(transaction=False) as pipeline:
                for _ in range(min(500, count - start)):
                    pipeline.xadd(self._stream, {"job": job().spec.to_json()})
                await pipeline.execute()

    async def drain(self, slots: int, count: int) -> None:
        group = f"g{new_job_id()}"
        await self._client.xgroup_create(self._stream, group, "0")
        left = count

        async def work(slot: int) -> None:
            nonlocal left
            client: Redis = connect(self._url)
            while left > 0 and (read := await client.xreadgroup(group, f"c{slot}", {self._stream: ">"}, count=1)):
                left -= 1
                ((_, ((entry, _),)),) = read
                async with client.pipeline(transaction=True) as pipeline:
                    pipeline.xack(self._stream, group, entry)
                    pipeline.xdel(self._stream, entry)
                    await pipeline.execute()
            await client.aclose()

        await asyncio.gather(*(work(slot) for slot in range(slots)))


async def seconds_of(call: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await call()
    return time.perf_counter() - started


async def one_by_one(queue: Ours | Floor) -> float:
    async def all_of_them() -> None:
        for _ in range(ONE_BY_ONE):
            await queue.enqueue_one()

    return ONE_BY_ONE / await seconds_of(all_of_them)


async def figures_of(queue: Ours | Floor, client: Redis, jobs: int) -> dict[str, float]:
    found = {"enqueue_one_per_s": await one_by_one(queue)}
    await queue.drain(1, ONE_BY_ONE)
    if isinstance(queue, Ours):
        waits = await queue.pick_up_ms()
        found["pick_up_p50_ms"] = statistics.median(waits)
        found["pick_up_p99_ms"] = statistics.quantiles(waits, n=100)[98]
    before = await used_bytes(client)
    found["enqueue_many_s"] = await seconds_of(lambda: queue.enqueue_many(jobs))
    found["bytes_a_waiting_job"] = (await used_bytes(client) - before) / jobs
    for slots in (1, 4):
        seconds = await seconds_of(lambda slots=slots: queue.drain(slots, jobs // 2))
        found[f"drain_{slots}_slots_per_s"] = jobs / 2 / seconds
    found["bytes_an_ended_job"] = (await used_bytes(client) - before) / jobs
    return {name: round(value, 2) for name, value in found.items()}


async def used_bytes(client: Redis) -> int:
    return int((await client.info("memory"))["used_memory"])


async def measure(url: str, jobs: int) -> dict[str, Any]:
    client = connect(url)
    server = await check_server(client, url)
    floor, ours = await figures_of(Floor(url), client, jobs), await figures_of(Ours(url), client, jobs)
    ratios = {name: round(ours[name] / floor[name], 2) for name in floor if floor[name]}
    return {"server": str(server), "jobs": jobs, "floor": floor, "ours": ours, "ours_to_floor": ratios}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a Redis server that may be filled (default: an embedded one of its own)")
    parser.add_argument("--jobs", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        if arguments.url:
            found = asyncio.run(measure(arguments.url, arguments.jobs))
        else:
            with RedisServer(Path(directory) / "redis", outlives_us=False) as server:
                found = asyncio.run(measure(server.url, arguments.jobs))
    json.dump(found, sys.stdout, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
