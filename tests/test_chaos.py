"""Real servers under faults: one that is aimed, and a short run of bench.chaos with everything."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from comfyui_sonic.bench.chaos.wire import EDGES, Link, Trap, Wire
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.places.job_files import JobFiles
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.scripts import Scripts
from comfyui_sonic.queue_bridge.queue.store import Store, Submission
from comfyui_sonic.queue_bridge.servers.instance import Instance, install_pack
from comfyui_sonic.queue_bridge.states import State

from .bridge_fixture import ROOT, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
LEASE_S = 3.0


async def test_a_server_that_was_away_too_long_changes_nothing_and_leaves_nothing(
    comfyui_path: Path, redis_url: str, tmp_path: Path
) -> None:
    """Its video is laid beside the place when its connection is held; another one finishes the job meanwhile."""
    settings = Settings(url=redis_url, queue=f"away-{new_job_id()}", lease_s=LEASE_S, heartbeat_s=0.5)
    wire = Wire(Path(unquote(urlsplit(redis_url).path)), Scripts(settings))
    link = Link(wire, "away")
    await link.open()
    held = asyncio.Event()

    async def hold(link: Link) -> None:
        link.hold(LEASE_S + 6.0)
        held.set()

    wire.traps.append(Trap(next(edge for edge in EDGES if edge.name == "laid, not chosen"), hold))
    orders = tmp_path / "orders"
    orders.mkdir()
    for name in ("a.png", "a.wav"):
        (orders / name).write_bytes(b"not looked into")
    spec = JobSpec(
        "job-1",
        *((orders / name).as_uri() for name in ("a.png", "a.wav", "job.mp4")),
        workflow="marked_video",
        config={"tally": str(orders / "tally"), "marker": "job-1"},
    )
    variables = environment(link.url, settings.queue, link.owner, orders) | {
        "SONIC_QUEUE_LEASE_S": str(LEASE_S),
        "SONIC_QUEUE_HEARTBEAT_S": "0.5",
    }
    instance = Instance(comfyui_path, tmp_path / "server", environment=variables)
    install_pack(ROOT, instance.base_directory / "custom_nodes")
    install_pack(ROOT / "tests" / "comfyui_pack", instance.base_directory / "custom_nodes", "test_nodes")
    store = Store(connect(redis_url), settings)
    other = Identity("other")
    try:
        await asyncio.to_thread(instance.__enter__)
        await store.submit([Submission(spec, 512)])
        async with asyncio.timeout(30):
            await held.wait()
        laid = orders / ".job-1.1.part"
        assert laid.exists()
        async with asyncio.timeout(2 * LEASE_S):
            while True:
                await store.register(other)
                job = await store.claim(other.name, other.boot, ("512",))
                if isinstance(job, JobRecord):
                    break
                await asyncio.sleep(0.1)
        assert job.token == 2
        video = tmp_path / "video.mp4"
        video.write_bytes(b"the other's")
        files = JobFiles([orders], tmp_path / "input", tmp_path / "output")
        staged = files.stage(video, spec, job.token)
        await store.stage(job, {**staged, "result": {"instance": other.name}})
        assert laid.exists(), "the one that is away has not heard of it yet"
        assert files.publish(staged)
        laid.touch()  # as if it had been laid only now
        await store.complete(job, {"instance": other.name})
        deadline = time.monotonic() + 20
        while laid.exists():
            assert time.monotonic() < deadline, "what was laid in vain stays"
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.0)
        record = await QueueView(store.client, store.keys, redis_url).job(spec.task_id)
        assert record
        result = {"output": spec.output, "instance": "other"}
        assert (record.state, record.token, record.result) == (State.COMPLETED, 2, result)
        assert (orders / "job.mp4").read_bytes() == b"the other's"
    finally:
        await asyncio.to_thread(instance.stop)
        await link.close()
        await store.close()


def test_nothing_is_lost_or_made_twice_while_everything_breaks(comfyui_path: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    sizes = ("--jobs", "40", "--instances", "2", "--spares", "0", "--kills", "4", "--seed", "4", "--minutes", "3")
    command = [sys.executable, "-m", "comfyui_sonic.bench.chaos", *sizes, "--comfyui", str(comfyui_path)]
    done = subprocess.run([*command, "--json", str(report)], capture_output=True, text=True, timeout=280)
    found = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    assert found.get("violations") == [], done.stdout[-5000:] + done.stderr[-2000:]
    assert done.returncode == 0
    assert (found["jobs"], found["lost"], found["stuck"], found["duplicated_results"]) == (40, 0, 0, 0)
    assert found["faults"] >= 4
    assert found["starts_lost_to_faults"] > 0, "the faults must have hit something"
