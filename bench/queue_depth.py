"""Whether a claim costs more, or a job more memory, the more jobs wait and the more have ended.

    python -m bench.queue_depth [--waiting 100000] [--ended 1000000] [--batches 1000]

Takes minutes at the default: every job goes the whole way of a real one, by the real scripts. The database keeps
nothing on disk here. Prints JSON: at each depth the milliseconds of a claim and of a completion, asked one by one, and
the bytes a job.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.store import Store, Submission
from redis.asyncio import Redis

from .queue import database
from .queue_peers.job import payload

LANES = ("512", "768", "1024")
ASKED = 1000
AT_ONCE = 8


def submissions(count: int, batches: int) -> list[Submission]:
    """Jobs of about 1 KB, of so many batches in turn."""
    made = []
    for number in range(count):
        job = payload(number)
        batch = f"batch-{number % batches}"
        spec = JobSpec(new_job_id(), job["image"], job["audio"], job["output"], job["name"], job["config"], batch=batch)
        made.append(Submission(spec, 512, idempotency_key=spec.task_id))
    made.sort(key=lambda one: one.spec.batch)
    return made


def result_of(job: JobRecord) -> dict[str, Any]:
    report = {"engine": "sonic", "frames": 312, "fps": 25, "seconds": 12.48, "notes": []}
    return {
        "output": job.spec.output, "bytes": 1_234_567, "seconds": 31.416, "instance": "gpu-03-8188",
        "attempt": job.attempt, "warnings": [], "resolution": 512, "degraded": False, "report": report,
    }  # fmt: skip


async def used_bytes(client: Redis, keys: Any) -> int:
    await asyncio.sleep(1)
    events = await client.memory_usage(keys.events, samples=0) or 0
    return int((await client.info("memory"))["used_memory"]) - events


async def work(store: Store, count: int) -> tuple[list[float], list[float]]:
    """Claim and complete so many; how long each took, in ms."""
    me = Identity(new_job_id())
    await store.register(me)
    claims, completions = [], []
    for _ in range(count):
        began = time.perf_counter()
        job = await store.claim(me.name, me.boot, LANES)
        claimed = time.perf_counter()
        assert isinstance(job, JobRecord)
        await store.complete(job, result_of(job))
        claims.append(1000 * (claimed - began))
        completions.append(1000 * (time.perf_counter() - claimed))
    return claims, completions


async def measure(url: str, waiting: int, ended: int, batches: int) -> list[dict[str, Any]]:
    settings = Settings(url=url, queue="depth", lease_s=3600.0, events_kept=1000)
    store = Store(connect(url), settings)
    empty = await used_bytes(store.client, store.keys)
    found: list[dict[str, Any]] = []
    done = 0

    async def row() -> None:
        nonlocal done
        claims, completions = await work(store, ASKED)
        done += ASKED
        await store.submit(submissions(ASKED, batches))
        found.append(
            {
                "ended": done,
                "claim_ms_p50": round(statistics.median(claims), 3),
                "claim_ms_p99": round(statistics.quantiles(claims, n=100)[98], 3),
                "complete_ms_p50": round(statistics.median(completions), 3),
            }
        )

    for depth in (max(ASKED, waiting // 100), max(ASKED, waiting // 10), waiting):
        now = sum((await _depth(store)).values())
        await store.submit(submissions(depth - now, batches))
        await row()
        found[-1] |= {"waiting": depth}
        if depth == waiting:
            ended_bytes = 500 * done
            waiting_bytes = (await used_bytes(store.client, store.keys) - empty - ended_bytes) / depth
            found[-1]["bytes_a_waiting_job"] = round(waiting_bytes)
        sys.stderr.write(f"{found[-1]}\n")
    before, done_before = await used_bytes(store.client, store.keys), done
    for target in (ended // 100, ended // 10, ended // 2, ended):
        while done < target:
            part = max(AT_ONCE, min(20_000, target - done))
            await store.submit(submissions(part, batches))
            await asyncio.gather(*(work(store, part // AT_ONCE) for _ in range(AT_ONCE)))
            done += part // AT_ONCE * AT_ONCE
        await row()
        grown = await used_bytes(store.client, store.keys) - before
        found[-1] |= {"waiting": waiting, "bytes_an_ended_job": round(grown / (done - done_before))}
        sys.stderr.write(f"{found[-1]}\n")
    await store.close()
    return found


async def _depth(store: Store) -> dict[str, int]:
    return {lane: int(await store.client.xlen(store.keys.queue("pending", lane))) for lane in LANES}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--ended", type=int, default=1_000_000)
    parser.add_argument("--batches", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, database(Path(folder) / "db", appendonly=False) as url:
        found = asyncio.run(measure(url, arguments.waiting, arguments.ended, arguments.batches))
    json.dump(found, sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
