"""Measures one queue in a process of its own: python -m bench.queue_peers.drive NAME ROW; prints JSON."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis

from .job import LEASE_S, LONG_S, URL, payload
from .peer import Peer

ONE_BY_ONE, AT_ONCE, DRAINED, PICK_UPS = 2000, 20_000, 10_000, 200
LOW_JOBS, CRASH_JOBS, CRASH_AFTER = 200, 200, 60
CAP_S = 15.0  # a drain is stopped after so long, and what was done by then counts
CRASH_WATCH_S = float(os.environ.get("BENCH_CRASH_WATCH_S", "60"))
Row = Callable[[Peer], Awaitable[dict[str, Any]]]


class Marks:
    """What jobs wrote at their start and end, as (kind, number, time, name of the worker)."""

    def __init__(self) -> None:
        self.path = Path(os.environ["BENCH_MARKS"])
        self.path.write_bytes(b"")
        self._read = 0
        self.all: list[tuple[str, int, float, str]] = []

    def update(self) -> Marks:
        with self.path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        self._read += len(data)
        for line in data.decode().splitlines():
            kind, number, at, worker = line.split()
            self.all.append((kind, int(number), float(at), worker))
        return self

    def times(self, kind: str) -> list[float]:
        return [at for what, number, at, _ in self.all if what == kind and number >= 0]

    async def until(self, done: Callable[[Marks], bool], seconds: float, every_s: float = 0.002) -> bool:
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            if done(self.update()):
                return True
            await asyncio.sleep(every_s)
        return False


@dataclass
class Worker:
    """A worker process and all that it has started, which its name in their environment tells."""

    name: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is somebody else's
                if f"BENCH_WORKER={self.name}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), signal.SIGKILL)
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def workers(peer: Peer, count: int, slots: int) -> Iterator[list[Worker]]:
    """So many workers, which end with all that they started."""
    started = []
    with Path(os.environ["BENCH_MARKS"] + ".log").open("ab") as log:
        for number in range(count):
            name = f"{os.getpid()}-{number}"
            environment = {**os.environ, "BENCH_SLOTS": str(slots), "BENCH_WORKER": name}
            process = subprocess.Popen(
                peer.worker(slots), env=environment, start_new_session=True, stdout=log, stderr=log
            )
            started.append(Worker(name, process))
        try:
            yield started
        finally:
            for worker in started:
                worker.kill()


async def ready(peer: Peer, marks: Marks, count: int = 1) -> None:
    """Until so many workers have each run a job; those have negative numbers."""
    for number in range(1, 400):
        await peer.put(payload(-number, 5))
        names = {worker for _, _, _, worker in marks.update().all}
        if len(names) >= count and marks.all:
            await marks.until(lambda now, count=number: ends(now, below=0) >= count, 20.0)
            return
        await asyncio.sleep(0.05)
    raise RuntimeError("no worker took a job within 20 s")


def ends(marks: Marks, below: int | None = None) -> int:
    return len({number for kind, number, _, _ in marks.all if kind == "E" and (below is None) == (number >= 0)})


async def enqueue(peer: Peer) -> dict[str, Any]:
    await peer.put_each([payload(-number) for number in range(1, 200)])
    return {"enqueue_one_per_s": ONE_BY_ONE / await peer.put_each([payload(number) for number in range(ONE_BY_ONE)])}


async def at_once(peer: Peer) -> dict[str, Any]:
    await peer.put_each([payload(-1)])
    jobs = [payload(number) for number in range(AT_ONCE)]
    before = used_bytes()
    seconds = await peer.put_many(jobs)
    return {
        "enqueue_20000_s": seconds,
        "how": peer.how_many,
        "payload_bytes": len(json.dumps(jobs[0])),
        "bytes_a_queued_job": (used_bytes() - before) / AT_ONCE,
    }


def drain(slots: int) -> Row:
    async def row(peer: Peer) -> dict[str, Any]:
        marks = Marks()
        with workers(peer, 1, slots):
            await ready(peer, marks)
        before = used_bytes()
        await peer.put_many([payload(number) for number in range(DRAINED)])
        with workers(peer, 1, slots):
            await marks.until(lambda now: ends(now) >= DRAINED, CAP_S + 5.0, 0.05)
            await asyncio.sleep(0.3)
        starts, done = marks.update().times("S"), marks.times("E")
        rate = len(done) / (max(done) - min(starts)) if done else 0.0
        found = {f"drain_{slots}_per_s": rate}
        if slots == 4:
            found["bytes_a_finished_job"] = (used_bytes() - before) / DRAINED if ends(marks) == DRAINED else None
        return found

    return row


async def pick_up(peer: Peer) -> dict[str, Any]:
    marks, waits = Marks(), []
    with workers(peer, 1, 1):
        await ready(peer, marks)
        until = time.monotonic() + 4 * CAP_S
        for number in range(PICK_UPS):
            await asyncio.sleep(0.02)
            began = await peer.put(payload(number))
            if not await marks.until(lambda now, count=number + 1: ends(now) >= count, 10.0, 0.001):
                break
            waits.append(1000 * (marks.times("S")[-1] - began))
            if time.monotonic() > until:
                break
    return {
        "pick_up_p50_ms": statistics.median(waits),
        "pick_up_p99_ms": statistics.quantiles(waits, n=100)[98],
        "pick_ups": len(waits),
    }


async def priority(peer: Peer) -> dict[str, Any]:
    if not peer.has_priority:
        return {"low_jobs_before_the_first": None}
    marks = Marks()
    with workers(peer, 1, 1):
        await ready(peer, marks)
        await peer.put_many([payload(number, 50) for number in range(LOW_JOBS)])
        await marks.until(lambda now: len(now.times("S")) >= 5, 10.0)
        began = await peer.put(payload(LOW_JOBS, 1), first=True)
        await marks.until(lambda now: any(number == LOW_JOBS for _, number, _, _ in now.all), 20.0)
    at = next((at for kind, number, at, _ in marks.all if kind == "S" and number == LOW_JOBS), None)
    before = [one for one in marks.times("S") if began < one < (at or 1e18)]
    return {"low_jobs_before_the_first": len(before), "first_after_ms": at and 1000 * (at - began)}


async def crash(peer: Peer) -> dict[str, Any]:
    marks = Marks()
    with workers(peer, 2, 1) as both:
        await ready(peer, marks, 2)
        await peer.put_many([payload(number, 50) for number in range(CRASH_JOBS)])
        await marks.until(lambda now: ends(now) >= CRASH_AFTER, 30.0)
        seen = len(marks.all)
        victim = both[0]

        def has_begun_another(now: Marks) -> bool:
            return any(kind == "S" and worker == victim.name for kind, _, _, worker in now.all[seen:])

        await marks.until(has_begun_another, 5.0)
        victim.kill()
        killed = time.monotonic()
        await marks.until(lambda now: ends(now) >= CRASH_JOBS, CRASH_WATCH_S, 0.02)
    starts = [number for kind, number, _, _ in marks.all if kind == "S" and number >= 0]
    finished = [number for kind, number, _, _ in marks.all if kind == "E" and number >= 0]
    return {
        "crash_not_done": CRASH_JOBS - len(set(finished)),
        "crash_started_twice": len(starts) - len(set(starts)),
        "crash_ended_twice": len(finished) - len(set(finished)),
        "crash_last_done_s": max(marks.times("E")) - killed,
    }


def long_job(*, blocks: bool) -> Row:
    """One long job under a short lease, two workers, and short jobs beside it until a lease after its end."""
    name = "blocking" if blocks else "long"

    async def row(peer: Peer) -> dict[str, Any]:
        marks = Marks()
        with workers(peer, 2, 1):
            await ready(peer, marks, 2)
            began = await peer.put(payload(0, round(LONG_S * 1000), blocks=blocks))
            number = 0
            while time.monotonic() - began < LONG_S + LEASE_S:
                await asyncio.sleep(min(5.0, LEASE_S))
                number += 1
                await peer.put(payload(number, 5))
        marks.update()
        kinds = [kind for kind, number, _, _ in marks.all if number == 0]
        return {f"{name}_job_s": LONG_S, f"{name}_job_starts": kinds.count("S"), f"{name}_job_ends": kinds.count("E")}

    return row


ROWS: dict[str, Row] = {
    "enqueue": enqueue,
    "at_once": at_once,
    "drain_1": drain(1),
    "drain_4": drain(4),
    "pick_up": pick_up,
    "priority": priority,
    "crash": crash,
    "long": long_job(blocks=False),
    "blocking": long_job(blocks=True),
}


def used_bytes() -> int:
    """Of the database, without a trimmed stream of events, whose size does not depend on the number of jobs."""
    client: Any = Redis.from_url(URL)
    time.sleep(0.3)  # what is freed is freed in the background
    events = client.memory_usage("{bench}:events", samples=0) or 0
    return int(client.info("memory")["used_memory"]) - events


async def main(name: str, row: str) -> None:
    peer: Peer = importlib.import_module(f"{__package__}.{name}_peer").PEER
    await peer.open()
    found = await ROWS[row](peer)
    await peer.close()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    if "BENCH_MARKS" not in os.environ:
        os.environ["BENCH_MARKS"] = tempfile.mkstemp(prefix="marks-")[1]
    asyncio.run(main(*sys.argv[1:3]))
