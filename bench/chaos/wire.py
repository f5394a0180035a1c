"""Between a server and the database: a proxy that sees which script is called, and can cut, hold and swallow.

It knows the bytes of the protocol only as far as it needs to recognise a script by its digest.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from comfyui_sonic.queue_bridge.queue.scripts import Scripts

CHUNK = 1 << 16
EVALSHA, XREAD, HANDED = b"EVALSHA", b"XREAD", b":handed:"


@dataclass(frozen=True)
class Edge:
    """A moment in the life of a job, as it passes here. script: '' for a plain command, which ``request`` tells.

    moment: asked is before the script runs, answered is when it has run and nobody knows yet. request, answer: words
    that must be in it.
    """

    name: str
    script: str
    moment: Literal["asked", "answered"]
    request: bytes = b""
    answer: bytes = b""


COMPLETED, RETRYING, JOB = b"\r\ncompleted\r\n", b"\r\nretrying\r\n", b"$3\r\njob\r\n"
EDGES = (
    Edge("claimed", "claim", "answered", answer=JOB),
    Edge("handed over", "", "answered", request=HANDED, answer=b"\r\nid\r\n"),
    Edge("running", "progress", "answered"),
    Edge("renewing the lease", "renew", "asked"),
    Edge("laid, not chosen", "stage", "asked"),
    Edge("chosen, not renamed", "stage", "answered"),
    Edge("renamed, not committed", "settle", "asked", request=COMPLETED),
    Edge("committed, not known", "settle", "answered", request=COMPLETED),
    Edge("settling", "settle", "asked", request=RETRYING),
    Edge("settled, not known", "settle", "answered", request=RETRYING),
)


@dataclass(frozen=True)
class Trap:
    """Springs once, at an edge. spring: gets the link at which it happened; traffic there waits for it."""

    edge: Edge
    spring: Callable[[Link], Awaitable[None]]


class Wire:
    """All links to one database, and the traps on them."""

    def __init__(self, socket: Path, scripts: Scripts) -> None:
        self.socket = socket
        self.traps: list[Trap] = []
        self._digests = {
            name: hashlib.sha1(scripts.source(name).encode()).hexdigest().encode()
            for name in {edge.script for edge in EDGES} - {""}
        }

    async def meet(self, link: Link, moment: str, request: bytes, answer: bytes) -> None:
        """Spring the first trap whose edge this is."""
        if not self.traps or not (EVALSHA in request or XREAD in request):
            return
        for trap in self.traps:
            edge = trap.edge
            if (
                edge.moment == moment
                and self._digests.get(edge.script, XREAD) in request
                and edge.request in request
                and edge.answer in answer
            ):
                self.traps.remove(trap)
                await trap.spring(link)
                return


class Link:
    """One client's way to the database: listens on a port of its own. owner: the instance's name."""

    def __init__(self, wire: Wire, owner: str) -> None:
        self.owner = owner
        self.port = 0
        self.swallow = 0  # so many answers to scripts, and of jobs handed over, get lost, each with its connection
        self._wire = wire
        self._held_until = 0.0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def cut(self) -> None:
        """Every connection breaks."""
        for task in self._connections:
            task.cancel()

    def hold(self, seconds: float) -> None:
        """Nothing passes for so long; then all of it does."""
        self._held_until = time.monotonic() + seconds

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        writers = [writer]
        pumps: list[asyncio.Task[None]] = []
        try:
            answers, requests = await asyncio.open_unix_connection(str(self._wire.socket))
            writers.append(requests)
            passing = _Passing()
            pumps = [
                asyncio.create_task(self._pump_requests(reader, requests, passing)),
                asyncio.create_task(self._pump_answers(answers, writer, passing)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass  # the database is away, or the connection is cut
        finally:
            for pump in pumps:
                pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):  # cut once more, at the end of it all
                await asyncio.gather(*pumps, return_exceptions=True)
            for one in writers:
                one.close()
            self._connections.discard(task)

    async def _pump_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passing: _Passing
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK):
                passing.request = chunk
                await self._wire.meet(self, "asked", chunk, b"")
                await self._wait_while_held()
                writer.write(chunk)
                await writer.drain()

    async def _pump_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passing: _Passing
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK):
                await self._wire.meet(self, "answered", passing.request, chunk)
                await self._wait_while_held()
                if self.swallow and (EVALSHA in passing.request or HANDED in passing.request):
                    self.swallow -= 1
                    return
                writer.write(chunk)
                await writer.drain()

    async def _wait_while_held(self) -> None:
        while (left := self._held_until - time.monotonic()) > 0:
            await asyncio.sleep(left)


@dataclass
class _Passing:
    """What one connection has asked last."""

    request: bytes = b""
