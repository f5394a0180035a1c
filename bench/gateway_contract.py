"""Whether the gateway keeps to its own description: schemathesis against a real gateway and its /openapi.json.

    pip install schemathesis        (in any environment; --program names it)
    python -m bench.gateway_contract [--seconds 60] [--program schemathesis]

Its answers have to be described ones, wrong requests have to be refused and no request may lead to a server error. Exit
status: that of schemathesis. Left out are

- positive_data_acceptance: that a file lies in the folders that jobs may use, and that a parameter is one of the named
  template, cannot be said in a schema;
- use_after_free: a task that DELETE has cancelled is still there to be looked at;
- the streams of events, which last as long as their task, or as somebody listens.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.gateway.api_keys import ApiKeys
from comfyui_sonic.queue_bridge.redis_connection import connect
from comfyui_sonic.queue_bridge.store import Store

from .gateway_load import gateway, submissions_to
from .queue import database

LASTING = ("followTask", "followBatch", "watch", "getJobEvents")
LEFT_OUT = ("positive_data_acceptance", "use_after_free")


async def run(url: str, folder: Path, program: str, seconds: int) -> int:
    settings = Settings(url=url, queue="contract", roots=(folder,), gateway_folder=str(folder / "gateway"))
    store = Store(connect(url), settings)
    _, key = await ApiKeys(store).create("contract", ("admin",))
    await store.close()
    async with gateway(settings) as address:
        await submissions_to(address, key, folder, 5)
        command = [
            *(program, "run", f"{address}/openapi.json", "--header", f"Authorization: Bearer {key}"),
            *("--exclude-checks", ",".join(LEFT_OUT), "--max-time", str(seconds), "--continue-on-failure"),
            *(part for name in LASTING for part in ("--exclude-operation-id", name)),
        ]
        process = await asyncio.create_subprocess_exec(*command, cwd=folder, env=dict(os.environ))
        return await process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--program", default="schemathesis")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, database(Path(folder) / "db", appendonly=False) as url:
        root = Path(folder) / "root"
        root.mkdir()
        return asyncio.run(run(url, root, arguments.program, arguments.seconds))


if __name__ == "__main__":
    sys.exit(main())
