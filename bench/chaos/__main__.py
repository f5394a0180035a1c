"""Real ComfyUI servers and a real database under faults; then every promise is checked against what they left behind.

    python -m bench.chaos --jobs 5000 --instances 3 --kills 300 --seed 1 [--minutes 40] [--json FILE] [--history FILE]

--instances are the servers that work; --spares more of the first one's name stand by. Prints JSON. Exit status 1 when
a promise is broken. docs/chaos.md says what is done and what is checked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import check_server, connect
from comfyui_sonic.queue_bridge.database.redis_server import RedisServer
from comfyui_sonic.queue_bridge.execution.dead_starts import SWEEP_S
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.scripts import Scripts
from comfyui_sonic.queue_bridge.queue.store import Store
from comfyui_sonic.queue_bridge.tiers import TIERS

from . import checker, report
from .evidence import gather
from .faults import Hands, Pace, plan
from .fleet import PACK, Fleet, Server
from .history import History, Limits, Order
from .submitter import Progress, Submitter
from .wire import Link, Wire
from .workload import Workload, make_workload

log = logging.getLogger("bench.chaos")

QUEUE = "chaos"
LEASE_S, HEARTBEAT_S, BACKOFF_S, RETRIES, CRASHES = 3.0, 0.5, 0.3, 2, 3
STALL_S = round(2 * LEASE_S)
REACH_S = LEASE_S + 3.0  # a lease, and a try of two seconds' pause behind it
SETTLE_S = 90.0  # all that is left must have ended by then
CALM_S = LEASE_S + 2.0  # after the last end: late answers and thawed servers have had their say
SWEPT_S = 2 * SWEEP_S  # what a killed server has laid beside a video's place is gone by then
LOOK_S = 0.3
TEMPLATES = PACK / "tests" / "templates"


def settings_for(url: str) -> Settings:
    return Settings(
        url=url,
        queue=QUEUE,
        lease_s=LEASE_S,
        heartbeat_s=HEARTBEAT_S,
        backoff_s=BACKOFF_S,
        retries=RETRIES,
        crashes=CRASHES,
        events_kept=100_000_000,
    )


def environment_of(link: Link, directory: Path) -> dict[str, str]:
    """The same settings for a server."""
    settings = settings_for(link.url)
    values = {
        name: getattr(settings, name)
        for name in ("url", "queue", "lease_s", "heartbeat_s", "backoff_s", "retries", "crashes", "events_kept")
    }
    values |= {"instance": link.owner, "roots": directory, "templates": TEMPLATES, "progress_s": 0.1}
    return {f"SONIC_QUEUE_{name.upper()}": str(value) for name, value in values.items()}


async def run(arguments: argparse.Namespace, directory: Path, redis: RedisServer) -> tuple[History, dict[str, Any]]:
    """The whole of it: history, and facts about the run."""
    draw = random.Random(arguments.seed)
    workload = make_workload(directory / "orders", arguments.jobs, draw, retries=RETRIES, stall_s=STALL_S)
    strikes = plan(arguments.kills, draw)
    settings = settings_for(redis.url)
    scripts = Scripts(settings)
    wire = Wire(Path(unquote(urlsplit(redis.url).path)), scripts)
    names = [f"gpu-{number}" for number in range(1, arguments.instances + 1)] + ["gpu-1"] * arguments.spares
    links = [Link(wire, name) for name in names]
    own = Link(wire, "submitter")
    for link in (*links, own):
        await link.open()
    servers = [
        Server(arguments.comfyui, directory / f"server-{number}", link, environment_of(link, workload.results.parent))
        for number, link in enumerate(links, 1)
    ]
    fleet = Fleet(servers, lambda server: hands.exited(server))
    hands = Hands(wire, fleet, redis, draw, LEASE_S, BACKOFF_S)
    client = connect(redis.url)
    view = QueueView(client, scripts.keys, redis.url)
    store = Store(connect(own.url), settings_for(own.url))
    progress = Progress(arguments.jobs)
    submitter = Submitter(store, progress, draw)
    began = time.monotonic()
    try:
        kind = str(await check_server(client, redis.url))
        await fleet.start()
        log.warning("%d servers are up after %.0f s", len(servers), time.monotonic() - began)
        orders = await _under_faults(
            workload, submitter, progress, view, Pace(strikes, hands, lambda: progress.share), hands, arguments.minutes
        )
    finally:
        await fleet.stop()
        await store.close()
        for link in (*links, own):
            await link.close()
    limits = Limits(RETRIES, CRASHES, len(TIERS) - 1, round(REACH_S * 1000))
    history = await gather(view, workload, orders, hands.done, limits, STALL_S)
    await client.aclose()
    facts = {
        "database": kind,
        "instances": arguments.instances,
        "spares": arguments.spares,
        "server_starts": sum(server.starts for server in servers),
        "seed": arguments.seed,
        "lease_s": LEASE_S,
    }
    return history, facts


async def _under_faults(
    workload: Workload,
    submitter: Submitter,
    progress: Progress,
    view: QueueView,
    pace: Pace,
    hands: Hands,
    minutes: float,
) -> list[Order]:
    """Submit and strike until all is done or the time is over; then let it settle. Answers what was accepted."""
    watching = asyncio.create_task(progress.watch(view))
    work = [asyncio.create_task(submitter.run(workload.bursts)), asyncio.create_task(pace.run())]
    deadline = time.monotonic() + 60 * minutes
    try:
        _, late = await asyncio.wait(work, timeout=60 * minutes)
        for task in late:
            log.warning("The time is over before all was submitted and struck.")
            task.cancel()
        for result in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        await hands.heal()
        settled = max(deadline, time.monotonic()) + SETTLE_S
        while progress.ended < len(submitter.accepted) and time.monotonic() < settled:
            await asyncio.sleep(LOOK_S)
        await asyncio.sleep(CALM_S)
        swept = time.monotonic() + SWEPT_S
        while any(workload.results.glob(".*.part")) and time.monotonic() < swept:
            await asyncio.sleep(LOOK_S)
    finally:
        watching.cancel()
        await asyncio.gather(watching, *work, return_exceptions=True)
    return list(submitter.accepted.values())


def arguments_of(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--instances", type=int, default=3)
    parser.add_argument("--spares", type=int, default=1, help="stand-by servers of the first one's name")
    parser.add_argument("--kills", type=int, default=30, help="faults of all kinds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=40.0, help="after so long nothing new is begun")
    parser.add_argument("--json", type=Path, help="the report goes there, too")
    parser.add_argument("--history", type=Path, help="all facts go there")
    parser.add_argument("--directory", type=Path, help="everything lies there and stays (default: a temporary folder)")
    here = Path(os.environ.get("COMFYUI_PATH") or PACK / ".quickstart" / "ComfyUI")
    parser.add_argument("--comfyui", type=Path, default=here)
    parser.add_argument("--verbose", action="store_true", help="tell every fault")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    arguments = arguments_of(given)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING, stream=sys.stderr, datefmt="%H:%M:%S")
    log.setLevel(logging.INFO if arguments.verbose else logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="sonic-") as temporary:
        directory = arguments.directory or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        with RedisServer(Path(temporary) / "redis", durable=True, outlives_us=False) as redis:
            history, facts = asyncio.run(run(arguments, directory.resolve(), redis))
    if arguments.history:
        history.write(arguments.history)
    violations = checker.check(history)
    found = facts | report.figures_of(history) | {"violations": report.stories_of(history, violations)}
    text = json.dumps(found, indent=2)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
