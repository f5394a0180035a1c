"""A whole fleet at work: servers added with the backlog, killed at random, ended when idle; every video must be there.

    python -m bench.fleet --instances 6 --jobs 150 --kills 3 [--seconds 2] [--resolution 256] [--seed 1]

Real ComfyUI servers on the processor, real videos by the engine draft. Prints JSON; exit status 1 when a job has not
completed, a video is missing or the fleet did not grow, mend itself, shrink and end in good order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from comfyui_sonic.queue_bridge.config import load_settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.database.redis_server import RedisServer
from comfyui_sonic.queue_bridge.errors import FleetError
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Store, Submission
from comfyui_sonic.queue_bridge.servers.fleet_state import told
from comfyui_sonic.queue_bridge.states import State

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "batch"
LOOK_S = 0.5
END_S = 60.0
SETTINGS = {"FLEET_UP_JOBS": "4", "FLEET_DOWN_IDLE_S": "10", "FLEET_COOLDOWN_S": "5", "RETRIES": "2", "BACKOFF_S": "1"}


class Watch:
    """Looks at a fleet for as long as it runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._began = time.monotonic()
        self.sizes: list[tuple[float, int]] = []  # (seconds, servers that take jobs), each change

    def look(self) -> dict[str, Any]:
        try:
            state = told(self._folder)
        except FleetError:
            return {"serving": 0, "wanted": 0, "instances": []}
        if not self.sizes or self.sizes[-1][1] != state["serving"]:
            self.sizes.append((round(time.monotonic() - self._began, 1), state["serving"]))
        return state


async def submit(store: Store, folder: Path, arguments: argparse.Namespace) -> list[str]:
    submissions = []
    for number in range(arguments.jobs):
        files = (EXAMPLES / "close_up.png", EXAMPLES / "close_up.mp3", folder / f"{number}.mp4")
        config = {"engine": "draft", "duration": arguments.seconds, "resolution": arguments.resolution}
        spec = JobSpec(new_job_id(), *(file.as_uri() for file in files), config=config)
        submissions.append(Submission(spec, 512))
    return [one.task_id for one in await store.submit(submissions)]


async def work(
    arguments: argparse.Namespace, store: Store, view: QueueView, videos: Path, watch: Watch
) -> tuple[dict[str, JobRecord], list[str], float]:
    """Records of all jobs, who was killed, and the seconds until the last job had ended."""
    draw = random.Random(arguments.seed)
    ids = await submit(store, videos, arguments)
    strikes = sorted(draw.randint(arguments.jobs // 10, arguments.jobs * 8 // 10) for _ in range(arguments.kills))
    killed: list[str] = []
    began = time.monotonic()
    while True:
        state = watch.look()
        counts = await view.counts()
        ended = sum(counts.totals.get(name, 0) for name in ("completed", "failed", "cancelled"))
        busy = [one for one in state["instances"] if one["phase"] == "serving" and one["running"]]
        if strikes and ended >= strikes[0] and busy:
            victim = draw.choice(busy)
            os.killpg(victim["process"], signal.SIGKILL)
            killed.append(victim["name"])
            del strikes[0]
        if ended >= arguments.jobs or time.monotonic() - began > 60 * arguments.minutes:
            return await view.jobs(ids), killed, time.monotonic() - began
        await asyncio.sleep(LOOK_S)


async def run(arguments: argparse.Namespace, folder: Path, url: str) -> dict[str, Any]:
    videos, state_folder = folder / "videos", folder / "fleet"
    videos.mkdir()
    variables = {"SONIC_QUEUE_URL": url, "SONIC_QUEUE_ROOTS": f"{folder}{os.pathsep}{EXAMPLES}"}
    variables |= {f"SONIC_QUEUE_{name}": value for name, value in SETTINGS.items()}
    settings = load_settings(variables)
    store = Store(connect(url), settings)
    view = QueueView(store.client, store.keys, url)
    command = [sys.executable, "-m", "comfyui_sonic.queue_bridge.cli", "fleet", "--comfyui", str(arguments.comfyui)]
    options = ["--cpu", str(arguments.instances), "--min", "1", "--port", "0", "--folder", str(state_folder)]
    fleet = subprocess.Popen([*command, *options], env={**os.environ, **variables})
    try:
        watch = Watch(state_folder)
        records, killed, took_s = await work(arguments, store, view, videos, watch)
        deadline = time.monotonic() + END_S + 20 * arguments.instances
        while watch.look()["wanted"] > 1 and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_S)
        state, totals = watch.look(), (await view.counts()).totals
        fleet.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(fleet.wait, END_S)
    finally:
        fleet.kill()
        fleet.wait()
        await store.close()
    states = Counter(str(record.state) for record in records.values())
    return {
        "instances": arguments.instances,
        "jobs": arguments.jobs,
        "states": dict(states),
        "completions": totals.get("completed", 0),  # more than jobs: one was delivered twice
        "videos": len(list(videos.glob("*.mp4"))),
        "killed": killed,
        "failed": [_told(one) for one in records.values() if one.state is not State.COMPLETED],
        "started_more_than_once": sum(record.attempt > 1 for record in records.values()),
        "seconds_until_the_last_job": round(took_s, 1),
        "by_instance": dict(
            sorted(Counter((one.result or {}).get("instance", "?") for one in records.values()).items())
        ),
        "servers_over_time": watch.sizes,
        "most_servers": max(size for _, size in watch.sizes),
        "servers_at_the_end": state["wanted"],
        "server_starts": sum(one["starts"] for one in state["instances"]),
        "exit_status": status,
    }


def _told(record: JobRecord) -> dict[str, Any]:
    """What a job that has not completed says of itself."""
    return {"state": str(record.state), "attempt": record.attempt, "error": record.error, "history": [*record.history]}


def is_good(found: dict[str, Any]) -> bool:
    jobs, grown = found["jobs"], found["instances"] == 1 or found["most_servers"] > 1
    return (
        found["states"] == {str(State.COMPLETED): jobs}
        and found["completions"] == found["videos"] == jobs
        and (grown, found["servers_at_the_end"], found["exit_status"]) == (True, 1, 0)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=150)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each video")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30.0, help="it ends after so long whatever is left")
    here = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".quickstart" / "ComfyUI")
    parser.add_argument("--comfyui", type=Path, default=here)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # nothing of ours stays behind
    with (
        tempfile.TemporaryDirectory(prefix="sonic-") as temporary,
        RedisServer(Path(temporary) / "redis", outlives_us=False) as redis,
    ):
        found = asyncio.run(run(arguments, Path(temporary).resolve(), redis.url))
    good = is_good(found)
    sys.stdout.write(json.dumps(found | {"good": good}, indent=2) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
