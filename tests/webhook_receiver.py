"""A real server that takes webhooks as a test wishes, and a check of their signatures that shares no code with ours."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes
    at_s: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Receiver:
    """A real server. answers: by path, what the next calls get; 200 after that. A call to /hang gets no answer."""

    port: int = 0
    received: list[Received] = field(default_factory=list)
    answers: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: int = 0
    most_at_once: int = 0

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def handle(self, request: web.Request) -> web.Response:
        lowered = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(request.path, lowered, await request.read(), time.monotonic()))
        self.changed.set()
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            if request.path == "/hang":
                await asyncio.sleep(60)
            if request.path == "/slow":
                await asyncio.sleep(0.1)
        finally:
            self.at_once -= 1
        waiting = self.answers.get(request.path) or [(200, {})]
        status, headers = waiting.pop(0)
        return web.Response(status=status, headers=headers)

    async def until(self, count: int, timeout_s: float = 10.0) -> list[Received]:
        async with asyncio.timeout(timeout_s):
            while len(self.received) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.received


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver that listens."""
    one = Receiver()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", one.handle)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.port = runner.addresses[0][1]
    yield one
    await runner.cleanup()


def is_signed(one: Received, secret: str) -> bool:
    """As a receiver in any language does it, from the words of the specification alone."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = one.id.encode() + b"." + one.headers["webhook-timestamp"].encode() + b"." + one.body
    wanted = "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return wanted in one.headers["webhook-signature"].split(" ")
