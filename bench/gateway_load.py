"""What the gateway carries: many submissions at once, and many followers of the same tasks.

    python -m bench.gateway_load [--tasks 2000] [--clients 50] [--followers 500]

A real gateway process over a real database (appendonly), asked from this process, on one machine. Prints JSON. Exit
status 1 when a submission is not answered with 202 or its task is not in the queue, or a follower misses an end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.gateway.api_keys import ApiKeys
from comfyui_sonic.queue_bridge.job import JobRecord
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Store

from .queue import database

FOLLOWED = 20  # tasks, shared by all followers
STEPS = 20  # of progress of each


@contextlib.asynccontextmanager
async def gateway(settings: Settings) -> AsyncIterator[str]:
    """A gateway in a process of its own; its address."""
    variables = {
        "SONIC_QUEUE_URL": settings.url,
        "SONIC_QUEUE_QUEUE": settings.queue,
        "SONIC_QUEUE_ROOTS": str(settings.roots[0]),
        "SONIC_QUEUE_GATEWAY_FOLDER": settings.gateway_folder,
    }
    line = [sys.executable, "-m", "comfyui_sonic.queue_bridge.cli", "gateway", "--port", "0", "--json"]
    process = await asyncio.create_subprocess_exec(*line, env=os.environ | variables, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        yield json.loads(await process.stdout.readline())["address"]
    finally:
        process.terminate()
        await process.wait()


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50": round(1000 * cuts[49], 1), "p99": round(1000 * cuts[98], 1), "max": round(1000 * max(seconds), 1)}


async def submissions(session: aiohttp.ClientSession, task: dict[str, Any], count: int, clients: int) -> dict[str, Any]:
    """So many tasks from so many clients at once; their ids, how long each took, and answers that were none."""
    ids: list[str] = []
    took: list[float] = []
    refused: list[int] = []
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            began = time.perf_counter()
            headers = {"Idempotency-Key": f"{task.get('priority')} {number}"}
            async with session.post("/v1/tasks", json={**task, "name": str(number)}, headers=headers) as answer:
                found = await answer.json()
            took.append(time.perf_counter() - began)
            if answer.status == 202:
                ids.append(found["task_id"])
            else:
                refused.append(answer.status)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return {"ids": ids, "took": took, "refused": refused, "seconds": time.perf_counter() - began}


async def follow(session: aiohttp.ClientSession, task_id: str, ready: asyncio.Semaphore) -> float | None:
    """When the end was told, or None."""
    async with session.get(f"/v1/tasks/{task_id}/events", timeout=aiohttp.ClientTimeout(total=120)) as answer:
        async for line in answer.content:
            if line == b"event: snapshot\n":
                ready.release()
            elif line == b"event: end\n":
                return time.perf_counter()
    return None


async def reads(store: Store) -> int:
    """How often a stream was read."""
    return int((await store.client.info("commandstats")).get("cmdstat_xread", {"calls": 0})["calls"])


async def following(session: aiohttp.ClientSession, store: Store, followers: int) -> dict[str, Any]:
    """Followers of a few running tasks; how long after its end each was told of it."""
    me = Identity("load")
    await store.register(me)
    jobs: list[JobRecord] = []
    while len(jobs) < FOLLOWED:
        job = await store.claim(me.name, me.boot, ("512",))
        assert isinstance(job, JobRecord)
        jobs.append(job)
    ready = asyncio.Semaphore(0)
    watched = [jobs[number % FOLLOWED] for number in range(followers)]
    tasks = [asyncio.create_task(follow(session, job.task_id, ready)) for job in watched]
    for _ in watched:
        await ready.acquire()
    before = await reads(store)
    ends: dict[str, float] = {}
    for step in range(STEPS):
        for job in jobs:
            await store.progress(job, 100.0 * step / STEPS, "Make frames", 1.0)
    for job in jobs:
        await store.complete(job, {"bytes": 1})
        ends[job.task_id] = time.perf_counter()
    told = await asyncio.gather(*tasks)
    after = await reads(store)
    late = [max(0.0, at - ends[job.task_id]) for job, at in zip(watched, told, strict=True) if at is not None]
    return {
        "followers": followers,
        "told_of_the_end": len(late),
        "end_told_after_ms": quantiles(late),
        "reads_of_the_events": after - before,
        "events": FOLLOWED * (STEPS + 1),
    }


def task_in(folder: Path) -> dict[str, Any]:
    return {"image": (folder / "a.png").as_uri(), "audio": (folder / "a.wav").as_uri(), "config": {"resolution": 512}}


def session_for(address: str, key: str) -> aiohttp.ClientSession:
    headers = {"Authorization": f"Bearer {key}"}
    return aiohttp.ClientSession(address, connector=aiohttp.TCPConnector(limit=0), headers=headers)


async def submissions_to(address: str, key: str, folder: Path, count: int) -> None:
    """So many tasks, for whoever needs some."""
    async with session_for(address, key) as session:
        await submissions(session, task_in(folder), count, 1)


async def measure(url: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    settings = Settings(
        url=url, queue="load", roots=(folder,), gateway_folder=str(folder / "gateway"), lease_s=3600.0, heartbeat_s=5.0
    )
    store = Store(connect(url), settings)
    view = QueueView(store.client, store.keys, url)
    _, key = await ApiKeys(store).create("load", ("submit", "read"))
    task = task_in(folder)
    async with gateway(settings) as address, session_for(address, key) as session:
        await submissions(session, {**task, "priority": "priority"}, 100, 10)  # warms both ends up
        made = await submissions(session, task, arguments.tasks, arguments.clients)
        there = await view.jobs(made["ids"])
        followed = await following(session, store, arguments.followers)
    await store.close()
    return {
        "tasks": arguments.tasks,
        "clients": arguments.clients,
        "accepted": len(set(made["ids"])),
        "in_the_queue": len(there),
        "refused": made["refused"],
        "tasks_a_second": round(arguments.tasks / made["seconds"]),
        "answer_ms": quantiles(made["took"]),
        **followed,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--followers", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, database(Path(folder) / "db", appendonly=True) as url:
        root = Path(folder) / "root"
        root.mkdir()
        found = asyncio.run(measure(url, root, arguments))
    json.dump(found, sys.stdout, indent=2)
    sys.stdout.write("\n")
    whole = found["accepted"] == found["in_the_queue"] == arguments.tasks
    return 0 if whole and found["told_of_the_end"] == arguments.followers else 1


if __name__ == "__main__":
    sys.exit(main())
