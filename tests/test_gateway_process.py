"""``sonic-queue gateway`` as a process of its own: what it is started with, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from comfyui_sonic.queue_bridge.job import new_job_id

FILES = 96  # of which the process may have this many open, unless it asks for more
COMMAND = [sys.executable, "-m", "comfyui_sonic.queue_bridge", "gateway", "--port", "0"]

posix = pytest.mark.skipif(os.name != "posix", reason="there are no such limits and signals here")


@dataclass
class Gateway:
    process: asyncio.subprocess.Process
    port: int
    address: str


def environment(url: str, root: Path) -> dict[str, str]:
    settings = {"URL": url, "QUEUE": f"gateway-{new_job_id()}", "ROOTS": str(root), "GATEWAY_FOLDER": str(root / "own")}
    return {**os.environ, **{f"SONIC_QUEUE_{name}": value for name, value in settings.items()}}


@pytest.fixture
async def gateway(redis_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    import resource

    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    process = await asyncio.create_subprocess_exec(
        *COMMAND, "--json", env=environment(redis_url, tmp_path), stdout=subprocess.PIPE, preexec_fn=few_files
    )
    try:
        assert process.stdout
        address = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))["address"]
        yield Gateway(process, int(address.rpartition(":")[2]), address)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@posix
async def test_connections_that_are_only_held_open_keep_nobody_out(gateway: Gateway) -> None:
    held = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(2 * FILES)]
    async with asyncio.timeout(10), aiohttp.ClientSession() as client, client.get(f"{gateway.address}/readyz") as said:
        assert (said.status, await said.json()) == (200, {"status": "ready"})
    for _, writer in held:
        writer.close()


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_ends_in_good_order_and_lets_a_request_at_hand_end(gateway: Gateway, number: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    body = b'{"image": "nothing"}'
    fields = ("Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {len(body)}")
    head = "\r\n".join(("POST /v1/tasks HTTP/1.1", *fields, "", ""))
    writer.write(head.encode() + body[:5])
    await writer.drain()
    await asyncio.sleep(0.2)
    gateway.process.send_signal(number)
    await asyncio.sleep(0.2)
    writer.write(body[5:])
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 422")
        assert await gateway.process.wait() == 0
    writer.close()


@posix
async def test_without_a_key_it_does_not_listen_where_others_come(redis_url: str, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "--host", "0.0.0.0", env=environment(redis_url, tmp_path), stderr=subprocess.PIPE
    )
    async with asyncio.timeout(30):
        said = (await process.communicate())[1].decode()
    assert process.returncode
    assert "there is no API key yet; make one with `sonic-queue keys create NAME`" in said
    assert "Traceback" not in said
