"""The job that all queues run: about 1 KB of JSON as customers write it, which leaves a mark at start and end."""

from __future__ import annotations

import asyncio
import os
import random
import time
from functools import cache
from typing import Any

URL = os.environ.get("BENCH_URL", "redis://127.0.0.1:6379/0")
SLOTS = int(os.environ.get("BENCH_SLOTS", "1"))
LEASE_S = float(os.environ.get("BENCH_LEASE_S", "10"))
LONG_S = float(os.environ.get("BENCH_LONG_S", "0"))  # of the long job, where it is measured
FOLDER = "file:///mnt/nas-03/customers/nordlicht-media-gmbh/2026/11/winter-onboarding-campaign"
CONFIG = {
    "inference_steps": 25, "dynamic_scale": 1.1, "motion_scale": 1.05, "expand_ratio": 0.18, "crop": False,
    "face_index": 0, "fps": 25, "engine": "auto", "resolution": 512,
}  # fmt: skip


def payload(number: int, milliseconds: int = 0, *, blocks: bool = False) -> dict[str, Any]:
    """A job that takes so long; no two are alike. blocks: whether it lets nothing else run in its thread meanwhile."""
    name = f"anna-lindqvist-{random.randrange(10**6):06d}"
    seen = {"seed": random.randrange(2**31), "duration": round(20 * random.random(), 2)}
    return {
        "number": number,
        "milliseconds": milliseconds,
        "image": f"{FOLDER}/portraits/{name}-front-soft-light.png",
        "audio": f"{FOLDER}/recordings/{name}-welcome-message-take-{number % 9}.wav",
        "output": f"{FOLDER}/videos/{name}-welcome-message.mp4",
        "name": f"{name}-welcome-message.mp4",
        "config": {**CONFIG, **seen},
        "task_id": f"tsk_20261124_{random.randrange(16**12):012x}",
        "batch": "tsk_20261124_7f3a9c0b51de",
        "workflow": "portrait_speaks",
        "priority": "normal",
        **({"blocks": True} if blocks else {}),
    }


@cache
def _marks() -> int:
    return os.open(os.environ["BENCH_MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def mark(kind: str, number: int) -> None:
    """S or E, the job, the time and the worker that runs it: one line that is written at once."""
    os.write(_marks(), f"{kind} {number} {time.monotonic():.6f} {os.environ['BENCH_WORKER']}\n".encode())


def work(job: dict[str, Any]) -> None:
    mark("S", job["number"])
    if job["milliseconds"]:
        time.sleep(job["milliseconds"] / 1000)
    mark("E", job["number"])


async def work_async(job: dict[str, Any]) -> None:
    mark("S", job["number"])
    if job["milliseconds"]:
        if job.get("blocks"):
            time.sleep(job["milliseconds"] / 1000)  # as a node may
        else:
            await asyncio.sleep(job["milliseconds"] / 1000)
    mark("E", job["number"])
