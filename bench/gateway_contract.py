"""Whether the gateway keeps to its own description: schemathesis against a real gateway and its /openapi.json.

    pip install schemathesis        (in any environment; --program names it)
    python -m bench.gateway_contract [--seconds 60] [--examples 100] [--program schemathesis] [--seed N]

Its answers have to be described ones, wrong requests have to be refused and no request may lead to a server error. The
queue has tasks that wait, have completed and have failed, an instance and an upload. Exit status: that of schemathesis.
Left out are

- positive_data_acceptance: that a file lies in the folders that jobs may use, and that a parameter is one of the named
  template, cannot be said in a schema;
- use_after_free: a task that DELETE has cancelled is still there to be looked at;
- the streams of events, which last as long as their task, or as somebody listens;
- forms of which a field is an empty list or object, or no text where one belongs (contract_hooks.py): they are meant as
  wrong requests, but such a field makes no part of the form, or a text like any other, so nobody could refuse it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path

import aiohttp
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.gateway.api_keys import ApiKeys
from comfyui_sonic.queue_bridge.job import JobRecord
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.store import Store
from comfyui_sonic.queue_bridge.retry import Verdict
from comfyui_sonic.queue_bridge.states import State

from .gateway_load import gateway, session_for, submissions_to
from .queue import database

LASTING = ("followTask", "followBatch", "watch", "getJobEvents")
FAILED = Verdict(State.FAILED, "failure", dead_letter=True)
LEFT_OUT = ("positive_data_acceptance", "use_after_free")


async def fill(address: str, key: str, store: Store, folder: Path) -> None:
    """Tasks in every state, an instance and an upload, so that there is something to ask for."""
    await submissions_to(address, key, folder, 9)
    await store.register(Identity("gpu-1", "boot"))
    for number in range(4):
        job = await store.claim("gpu-1", "boot", ("512",))
        assert isinstance(job, JobRecord)
        if number % 2:
            await store.settle(job, FAILED, "Save failed.", "may pass", "gpu-1")
            continue
        place = Path(job.spec.output.removeprefix("file://"))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"not really a video")
        await store.complete(job, {"output": job.spec.output, "bytes": 18, "attempt": 1, "warnings": []})
    form = aiohttp.FormData()
    form.add_field("file", b"not looked into", filename="a.bin")
    async with session_for(address, key) as session, session.post("/api/v2/assets", data=form) as answer:
        answer.raise_for_status()


async def run(url: str, folder: Path, arguments: argparse.Namespace) -> int:
    settings = Settings(
        url=url, queue="contract", roots=(folder,), gateway_folder=str(folder / "gateway"), lease_s=3600.0
    )
    store = Store(connect(url), settings)
    _, key = await ApiKeys(store).create("contract", ("admin",))
    async with gateway(settings) as address:
        await fill(address, key, store, folder)
        await store.close()
        command = [
            *(arguments.program, "run", f"{address}/openapi.json", "--header", f"Authorization: Bearer {key}"),
            *("--exclude-checks", ",".join(LEFT_OUT), "--max-time", str(arguments.seconds), "--continue-on-failure"),
            *("--max-examples", str(arguments.examples)),
            *(("--seed", str(arguments.seed)) if arguments.seed is not None else ()),
            *(part for name in LASTING for part in ("--exclude-operation-id", name)),
        ]
        # Copied, since beside it lies queue.py, which would be taken for Python's own.
        hooks = shutil.copy(Path(__file__).with_name("contract_hooks.py"), folder)
        variables = {"SCHEMATHESIS_HOOKS": Path(hooks).stem, "PYTHONPATH": str(folder), "CONTRACT_ROOT": str(folder)}
        process = await asyncio.create_subprocess_exec(*command, cwd=folder, env=os.environ | variables)
        return await process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--examples", type=int, default=100, help="cases of each operation, in each round")
    parser.add_argument("--program", default="schemathesis")
    parser.add_argument("--seed", type=int, help="the same cases again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, database(Path(folder) / "db", appendonly=False) as url:
        root = Path(folder) / "root"
        root.mkdir()
        return asyncio.run(run(url, root, arguments))


if __name__ == "__main__":
    sys.exit(main())
