"""How fast, how small and how safe the queue is, beside other job queues on the same server in the same run.

    python -m bench.queue [--peers sonic,floor,celery] [--rows enqueue,at_once] [--python arq=/path/python]
                          [--long-job 130 [--blocking]]

Every row of every queue gets a fresh database: Valkey or Redis on TCP, appendonly, fsync every second. Jobs are JSON of
about 1 KB and do nothing, or sleep. Each queue has the settings with which it loses nothing, with a lease of 10 s where
it has one. ``floor`` is a bare stream, which no queue on Redis can beat. ``--long-job`` adds a row that says how often
a job that takes so long is started: it awaits, or with ``--blocking`` lets nothing else run in its thread meanwhile.
Queues that are not installed are left out with a sentence: ``pip install -e ".[bench]"``; arq, which needs an older
redis-py, in an environment of its own that ``--python arq=...`` names; BullMQ with ``npm install bullmq ioredis`` in a
folder that BENCH_NODE_MODULES names.
Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from comfyui_sonic.queue_bridge.database.redis_connection import connect_sync
from comfyui_sonic.queue_bridge.database.redis_program import find_server_program
from comfyui_sonic.queue_bridge.ports import free_port
from redis.exceptions import RedisError

PEERS = ("sonic", "floor", "celery", "arq", "taskiq", "streaq", "saq", "dramatiq", "rq", "bullmq")
ROWS = ("enqueue", "at_once", "drain_1", "drain_4", "pick_up", "priority", "crash")
ONCE = ("crash", "long", "blocking")
ROW_LIMIT_S = 240
ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def database(folder: Path, *, appendonly: bool = True) -> Iterator[str]:
    """A fresh server, and its address."""
    folder.mkdir()
    port = free_port("127.0.0.1")
    options = {
        "port": port,
        "bind": "127.0.0.1",
        "dir": folder,
        "appendonly": "yes" if appendonly else "no",
        "appendfsync": "everysec",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [str(find_server_program().path), *words, "--save", "", "--loglevel", "warning"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}/0"
    try:
        await_answer(url)
        yield url
    finally:
        server.kill()
        server.wait()


def await_answer(url: str) -> None:
    client = connect_sync(url, timeout_s=1.0)
    for _ in range(200):
        with suppress(RedisError):
            client.ping()
            return
        time.sleep(0.05)
    raise TimeoutError(f"The database at {url} does not answer.")


def measured(peer: str, row: str, python: str, folder: Path, long_s: float) -> dict[str, Any]:
    """One row of one queue; {"skipped": why} when it cannot be measured. long_s: of the long job."""
    limit_s = ROW_LIMIT_S + long_s
    with database(folder) as url:
        environment = {
            **os.environ,
            "BENCH_URL": url,
            "BENCH_MARKS": str(folder / "marks"),
            "BENCH_LONG_S": str(long_s),
        }
        command = [python, "-m", "bench.queue_peers.drive", peer, row]
        try:
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit_s)
        except subprocess.TimeoutExpired:
            return {"skipped": f"{row} took more than {limit_s:g} s"}
    if done.returncode:
        return {"skipped": f"{row}: {(done.stderr.strip().splitlines() or ['it ended without a word'])[-1]}"}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def why_not(peer: str, python: str) -> str | None:
    """Why a queue cannot be measured here, as a sentence."""
    if peer == "bullmq" and not os.environ.get("BENCH_NODE_MODULES"):
        return "bullmq is left out: BENCH_NODE_MODULES names no folder with it."
    code = f"import importlib; importlib.import_module('bench.queue_peers.{peer}_peer')"
    tried = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True)
    if tried.returncode:
        return f"{peer} is left out: {tried.stderr.strip().splitlines()[-1]}"
    return None


def measure(
    peers: list[str], rows: list[str], pythons: Mapping[str, str], repeats: int, long_s: float
) -> dict[str, Any]:
    """All rows of all queues, the queues in turn within each run of a row, so that they meet the same weather.

    Every second run goes through them the other way round, so that none is always behind the same one.
    """
    found: dict[str, Any] = {}
    for peer in peers:
        reason = why_not(peer, pythons.get(peer, sys.executable))
        found[peer] = {"skipped": reason} if reason else {}
        if reason:
            sys.stderr.write(reason + "\n")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for row in rows:
            there = [one for one in peers if "skipped" not in found[one]]
            runs: dict[str, list[dict[str, Any]]] = {peer: [] for peer in there}
            for number in range(repeats if row not in ONCE else 1):
                for peer in there if number % 2 == 0 else there[::-1]:
                    os.sync()  # what the one before has left to be written is no load of this one
                    python, place = pythons.get(peer, sys.executable), Path(folder) / f"{peer}-{row}-{number}"
                    runs[peer].append(measured(peer, row, python, place, long_s))
            for peer in there:
                found[peer] |= middle(runs[peer])
                sys.stderr.write(f"{peer} {row}: {json.dumps(middle(runs[peer]))}\n")
    return found


def middle(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each number."""
    values: dict[str, list[Any]] = {}
    for run in runs:
        for name, value in run.items():
            values.setdefault(name, []).append(value)
    return {
        name: round(statistics.median(some), 3) if all(isinstance(one, int | float) for one in some) else some[0]
        for name, some in values.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="the Python of one queue")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each row, of which the median counts")
    parser.add_argument("--long-job", type=float, default=0.0, metavar="SECONDS", help="also a job that takes so long")
    parser.add_argument("--blocking", action="store_true", help="which lets nothing else run in its thread")
    arguments = parser.parse_args()
    rows = [row for row in arguments.rows.split(",") if row]
    if arguments.long_job:
        rows.append("blocking" if arguments.blocking else "long")
    elif arguments.blocking:
        parser.error("--blocking is a way of the long job: say how long with --long-job SECONDS.")
    pythons = dict(one.split("=", 1) for one in arguments.python)
    found = measure(arguments.peers.split(","), rows, pythons, arguments.repeats, arguments.long_job)
    json.dump(found, sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
