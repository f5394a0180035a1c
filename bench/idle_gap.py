"""How long ComfyUI has nothing to do between two jobs of a full queue, beside a client that polls and posts.

    python -m bench.idle_gap [--comfyui DIR] [--jobs 40] [--seconds 0.3]

Prints JSON. One real ComfyUI on the processor; a test node sleeps for ``--seconds`` and writes down when it began and
ended. ``gap_ms`` is from the end of one job's node to the beginning of the next one's: everything that happens between
two jobs. ``comfyui_alone`` is ComfyUI's own part of it, with all prompts in its queue from the start.
``polls_every_1_s`` and ``polls_every_0.25_s`` are plain clients of the same server that ask /history so often and then
post the next prompt, with nothing to fetch or to check.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import wave
from pathlib import Path
from typing import Any

from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.database.redis_server import RedisServer
from comfyui_sonic.queue_bridge.execution.comfy_client import ComfyClient
from comfyui_sonic.queue_bridge.job import JobSpec, new_job_id
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Store, Submission
from comfyui_sonic.queue_bridge.servers.instance import Instance, install_pack

ROOT = Path(__file__).resolve().parent.parent
POLLS_S = (1.0, 0.25)


async def ours(settings: Settings, folder: Path, jobs: int, seconds: float) -> list[float]:
    """Gaps in ms while the bridge works off a full queue."""
    marks = folder / "ours.marks"
    store = Store(connect(settings.url), settings)
    view = QueueView(store.client, store.keys, settings.url)
    submissions = []
    for number in range(jobs):
        config = {"marks": str(marks), "name": str(number), "seconds": seconds}
        names = [(folder / name).as_uri() for name in ("a.png", "a.wav", f"{number}.mp4")]
        submissions.append(Submission(JobSpec(new_job_id(), *names, workflow="marks", config=config), 512))
    await store.submit(submissions)
    while (totals := (await view.counts()).totals).get("completed", 0) < jobs:
        if totals.get("failed"):
            raise SystemExit("A job has failed; see ComfyUI's log.")
        await asyncio.sleep(0.2)
    await store.close()
    return gaps_ms(marks)


async def alone(client: ComfyClient, folder: Path, jobs: int, seconds: float) -> list[float]:
    """Gaps in ms when ComfyUI has all prompts from the start: its own part of every gap."""
    marks = folder / "alone.marks"
    prompt_ids = [await client.submit(graph_of(marks, f"alone-{number}", seconds)) for number in range(jobs)]
    while not await client.history(prompt_ids[-1]):
        await asyncio.sleep(0.2)
    return gaps_ms(marks)


async def polling(client: ComfyClient, folder: Path, jobs: int, seconds: float, every_s: float) -> list[float]:
    """Gaps in ms with a client that asks for each prompt's end every so often."""
    marks = folder / f"{every_s:g}.marks"
    for number in range(jobs):
        prompt_id = await client.submit(graph_of(marks, f"{every_s:g}-{number}", seconds))
        while not await client.history(prompt_id):
            await asyncio.sleep(every_s)
    return gaps_ms(marks)


def graph_of(marks: Path, name: str, seconds: float) -> dict[str, Any]:
    inputs = {"filename_prefix": f"plain/{name}", "marks": str(marks), "name": name, "seconds": seconds}
    return {"marks": {"class_type": "TEST_Marks", "inputs": inputs}}


def gaps_ms(marks: Path) -> list[float]:
    spans = sorted(tuple(map(float, line.split()[1:])) for line in marks.read_text().splitlines())
    return [1000 * (after[0] - before[1]) for before, after in itertools.pairwise(spans)]


def figures(gaps: list[float]) -> dict[str, float]:
    found = {
        "median": statistics.median(gaps),
        "p90": statistics.quantiles(gaps, n=10)[8],
        "largest": max(gaps),
    }
    return {name: round(value, 1) for name, value in found.items()}


async def measure(instance: Instance, settings: Settings, folder: Path, jobs: int, seconds: float) -> dict[str, Any]:
    gap_ms = {"ours": figures(await ours(settings, folder, jobs, seconds))}
    async with ComfyClient(instance.address) as client:
        gap_ms["comfyui_alone"] = figures(await alone(client, folder, jobs, seconds))
        for every_s in POLLS_S:
            name = f"polls_every_{every_s:g}_s"
            gap_ms[name] = figures(await polling(client, folder, jobs, seconds, every_s))
    shorter = {name: round(one["median"] / gap_ms["ours"]["median"], 1) for name, one in gap_ms.items()}
    return {"jobs": jobs, "seconds_a_job": seconds, "gap_ms": gap_ms, "median_to_ours": shorter}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("COMFYUI_PATH") or ROOT / ".quickstart" / "ComfyUI"
    parser.add_argument("--comfyui", type=Path, default=Path(default), help="the folder with ComfyUI's main.py")
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, RedisServer(Path(directory) / "r", outlives_us=False) as server:
        folder = Path(directory) / "orders"
        folder.mkdir()
        (folder / "a.png").write_bytes(b"x" * 2_000_000)
        with wave.open(str(folder / "a.wav"), "wb") as sound:  # its length is asked for; what is none is searched long
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(16_000)
            sound.writeframes(bytes(2_000_000))
        settings = Settings(url=server.url, queue="idle-gap")
        variables = {
            "SONIC_QUEUE_URL": server.url,
            "SONIC_QUEUE_QUEUE": settings.queue,
            "SONIC_QUEUE_ROOTS": str(folder),
            "SONIC_QUEUE_TEMPLATES": str(ROOT / "tests" / "templates"),
        }
        instance = Instance(arguments.comfyui, Path(directory) / "comfyui", environment=variables)
        install_pack(ROOT, instance.base_directory / "custom_nodes")
        install_pack(ROOT / "tests" / "comfyui_pack", instance.base_directory / "custom_nodes", "test_nodes")
        with instance:
            time.sleep(1.0)  # the first beat of the bridge is over
            found = asyncio.run(measure(instance, settings, folder, arguments.jobs, arguments.seconds))
    json.dump(found, sys.stdout, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
