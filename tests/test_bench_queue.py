"""The bench's worker for this queue keeps its leases as the bridge does: on a real server, with leases of a second."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from comfyui_sonic.bench.queue import database, measured
from comfyui_sonic.bench.queue_peers.job import payload
from comfyui_sonic.bench.queue_peers.sonic_peer import SETTINGS, submission
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.queue.store import Store

pytestmark = pytest.mark.slow

LEASE_S = 1.0
WORKER = [sys.executable, "-m", "comfyui_sonic.bench.queue_peers.sonic_peer"]


@contextlib.contextmanager
def two_workers(url: str, marks: Path) -> Iterator[dict[str, psutil.Process]]:
    """By the names that they leave in the marks."""
    environment = {**os.environ, "BENCH_URL": url, "BENCH_MARKS": str(marks), "BENCH_LEASE_S": str(LEASE_S)}
    started = {name: subprocess.Popen(WORKER, env={**environment, "BENCH_WORKER": name}) for name in ("one", "two")}
    try:
        yield {name: psutil.Process(process.pid) for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def starts(marks: Path, number: int, wanted: int) -> list[str]:
    """Who has started a job, as soon as so many have."""

    def seen() -> list[str]:
        lines = [line.split() for line in marks.read_text().splitlines()] if marks.exists() else []
        return [worker for kind, job, _, worker in lines if kind == "S" and int(job) == number]

    until(lambda: len(seen()) >= wanted)
    return seen()


def until(true: Callable[[], object], seconds: float = 15.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.02)


def test_a_job_that_blocks_its_worker_for_three_leases_is_started_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_LEASE_S", str(LEASE_S))
    found = measured("sonic", "blocking", sys.executable, tmp_path / "database", 3 * LEASE_S)
    assert found == {"blocking_job_s": 3 * LEASE_S, "blocking_job_starts": 1, "blocking_job_ends": 1}


async def test_a_worker_breaks_off_a_job_whose_lease_it_has_lost_and_takes_another(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    with database(tmp_path / "database") as url, two_workers(url, marks) as workers:
        store = Store(connect(url), SETTINGS)
        await store.submit([submission(payload(0, 60_000))])
        (first,) = starts(marks, 0, 1)
        (keeper,) = workers[first].children()
        keeper.suspend()  # so nobody renews
        assert len(set(starts(marks, 0, 2))) == 2, "the other one has it when the lease is over"
        keeper.resume()
        await store.submit([submission(payload(1))])
        assert starts(marks, 1, 1) == [first], "long before the minute that its job takes"
        await store.close()
        assert marks.read_text().count("E 0 ") == 0
        keeper.kill()
