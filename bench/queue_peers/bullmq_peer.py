"""BullMQ, through node; BENCH_NODE_MODULES is the folder in which it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .peer import Peer

SCRIPT = Path(__file__).with_name("bullmq.mjs")


class BullmqPeer(Peer):
    """Jobs go to a node process as lines of JSON; what is timed is timed there."""

    how_many = "addBulk"

    async def open(self) -> None:
        self._node = subprocess.Popen(self._command("put"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    async def close(self) -> None:
        self._node.kill()
        self._node.wait()

    def _command(self, *words: str) -> list[str]:
        return [shutil.which("node") or "node", str(SCRIPT), os.environ["BENCH_NODE_MODULES"], *words]

    def _ask(self, how: str, jobs: Sequence[dict[str, Any]]) -> float:
        assert self._node.stdin and self._node.stdout
        self._node.stdin.write(json.dumps({"how": how, "jobs": jobs}).encode() + b"\n")
        self._node.stdin.flush()
        return float(self._node.stdout.readline())

    async def put(self, job: dict[str, Any], *, first: bool = False) -> float:
        return self._ask("first" if first else "one", [job])

    async def put_each(self, jobs: Sequence[dict[str, Any]]) -> float:
        return self._ask("each", jobs)

    async def put_many(self, jobs: Sequence[dict[str, Any]]) -> float:
        return self._ask("many", jobs)

    def worker(self, slots: int) -> list[str]:
        return self._command("work", str(slots))


PEER = BullmqPeer()
