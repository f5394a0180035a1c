"""Commands without a detour: redis-py starts a task for every write and more for every read, and it counts a lot.

Opening a connection, with its address, its password and its encryption, stays redis-py's business. ``QuickClient`` then
takes its transport over.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

import hiredis
from redis.asyncio import Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError, InvalidResponse, NoScriptError, RedisError, ResponseError, TimeoutError

Ask = Callable[..., Awaitable[Any]]
NOTHING = object()  # not even one whole answer
QUIET_S = 30.0  # after which a connection is asked for a sign of life before it is used
AT_ONCE = 32  # connections of one client; further commands wait for one to be free


class _Quick(AbstractConnection):
    def pack_command(self, *args: Any) -> list[bytes]:
        if isinstance(args[0], str) and " " not in args[0]:
            try:
                return [hiredis.pack_command(args)]
            except (TypeError, UnicodeEncodeError):  # a kind of argument, or a text, that only the slow way knows
                pass
        return super().pack_command(*args)

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        writer = getattr(self, "_writer", None)
        if self.is_connected and writer and isinstance(command, list):
            if check_health:
                await self.check_health()  # type: ignore[no-untyped-call]
            writer.writelines(command)
            if not writer.transport.is_closing() and not writer.transport.get_write_buffer_size():
                return  # the system has all of it; there is nothing to wait for
            command, check_health = [], False
        await super().send_packed_command(command, check_health)


class _Wire(asyncio.Protocol):
    """An open connection; questions are answered in the order in which they are asked."""

    def __init__(self, connection: AbstractConnection) -> None:
        """connection: a fresh one of redis-py, whose transport is taken over."""
        taken: Any = connection
        encoder = connection.encoder
        self._parsed = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=taken._parser.parse_error,
            encoding=encoder.encoding,
            errors=encoder.encoding_errors,
            notEnoughData=NOTHING,
        )
        self._loop = asyncio.get_running_loop()
        self._answers: deque[asyncio.Future[Any]] = deque()  # that are still to come
        self._due_s = 0.0  # by the loop's clock
        self._watched = False
        self._transport: asyncio.Transport = taken._writer.transport
        self._before = self._transport.get_protocol()
        self._transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def close(self) -> None:
        """No answer may be taken for that to another question."""
        self._transport.abort()

    async def ask(self, command: Sequence[bytes], limit_s: float) -> Any:
        """The answer to a packed command."""
        answer = self._loop.create_future()
        self._answers.append(answer)
        self._due_s = self._loop.time() + limit_s
        if not self._watched:
            self._watched = True
            self._loop.call_at(self._due_s, self._watch)
        self._transport.writelines(command)
        return await answer

    def _watch(self) -> None:
        """One timer for many questions: most are answered long before it is due."""
        self._watched = bool(self._answers)
        if self._watched and self._loop.time() < self._due_s:
            self._loop.call_at(self._due_s, self._watch)
        elif self._watched:
            self._watched = False
            self._fail(TimeoutError("no answer in time"))

    def data_received(self, data: bytes) -> None:
        self._parsed.feed(data)
        try:
            while (found := self._parsed.gets()) is not NOTHING and self._answers:
                answer = self._answers.popleft()
                if answer.done():  # nobody waits for it any more
                    continue
                if isinstance(found, Exception):
                    answer.set_exception(found)
                else:
                    answer.set_result(found)
        except RedisError as error:  # no Redis answers here
            self._fail(error)

    def connection_lost(self, error: Exception | None) -> None:
        self._before.connection_lost(error)  # somebody may wait for it to be closed
        self._fail(ConnectionError(str(error) if error else "Connection closed by server."))

    def _fail(self, error: Exception) -> None:
        while self._answers:
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_exception(error)


class _Line:
    """A connection that is opened when it is needed."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._limit_s = connection.socket_timeout or QUIET_S
        self._wire: _Wire | None = None
        self._asked_s = 0.0

    async def ask(self, *command: Any) -> Any:
        """The answer; the connection is closed when none came."""
        wire = await self._ready()
        try:
            return await self._asked(wire, *command)
        except ResponseError:
            raise
        except BaseException:
            wire.close()
            raise

    async def _ready(self) -> _Wire:
        """Opened anew when it is closed, or when it was quiet for so long that nobody knows whether it is."""
        if self._wire and self._wire.is_open:
            if time.monotonic() - self._asked_s < QUIET_S:
                return self._wire
            with contextlib.suppress(RedisError):
                await self._asked(self._wire, "PING")
                return self._wire
        await self._connection.disconnect(nowait=True)
        await self._connection.connect()  # type: ignore[no-untyped-call]
        self._wire = _Wire(self._connection)
        return self._wire

    async def _asked(self, wire: _Wire, *command: Any) -> Any:
        self._asked_s = time.monotonic()
        return await wire.ask(self._connection.pack_command(*command), self._limit_s)


class QuickClient:
    """Commands of one client, by connections that it takes from the client's pool and keeps until that is closed."""

    def __init__(self, client: Redis) -> None:
        self._pool = client.connection_pool
        self._free: list[_Line] = []
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def ask(self, *command: Any) -> Any:
        """The answer to one command; raises redis-py's errors. Nothing is sent twice."""
        async with self.in_order() as ask:
            return await ask(*command)

    @contextlib.asynccontextmanager
    async def in_order(self) -> AsyncIterator[Ask]:
        """A way to ask on one connection, so that what is asked before an answer has come is done in this order."""
        async with self._turns:
            line = self._free.pop() if self._free else _Line(self._pool.get_available_connection())  # type: ignore[no-untyped-call]
            try:
                yield line.ask
            finally:
                self._free.append(line)

    async def run(self, script: Script, key: str, arguments: Sequence[Any], ask: Ask | None = None) -> Any:
        """What a script answers; a server that does not know it yet is told it. ask: as ``in_order`` gives it."""
        ask = ask or self.ask
        try:
            return await ask("EVALSHA", script.digest, 1, key, *arguments)
        except NoScriptError:  # it has not run
            return await ask("EVAL", script.source, 1, key, *arguments)


class Script:
    """A Lua script and its name to the server."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class QuickConnection(_Quick, Connection):
    """Over TCP."""


class QuickTLSConnection(_Quick, SSLConnection):
    """Over TCP, encrypted."""


class QuickUnixConnection(_Quick, UnixDomainSocketConnection):
    """Over a unix socket."""
