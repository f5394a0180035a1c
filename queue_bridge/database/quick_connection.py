"""Commands without a detour: redis-py starts a task for every write and more for every read, and it counts a lot.

Opening a connection, with its address, its password and its encryption, stays redis-py's business. ``QuickClient`` then
takes its transport over.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
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
READ_BYTES = 1 << 16
SPOT_S = 0.0003  # an answer that comes within this is waited for on the spot
ROUNDS = 2  # of the event loop: what is ready runs, and then what that has made ready
FEW = 2  # questions under way: with more there is something else to do meanwhile
PASSED_OVER = 32  # questions after one whose answer did not come in time: the server is far away, or busy
GIVE_WAY_S = 0.005  # after which a task that gets all its answers on the spot lets others run


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
        self._readable = _readable(self._transport)

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def close(self) -> None:
        """No answer may be taken for that to another question."""
        self._transport.abort()

    def ask(self, command: Sequence[bytes], limit_s: float) -> asyncio.Future[Any]:
        """The answer to a packed command."""
        answer = self._loop.create_future()
        self._answers.append(answer)
        self._due_s = self._loop.time() + limit_s
        if not self._watched:
            self._watched = True
            self._loop.call_at(self._due_s, self._watch)
        self._transport.writelines(command)
        return answer

    def read_on_the_spot(self, answer: asyncio.Future[Any]) -> bool:
        """Whether the answer has come within SPOT_S, in which nothing else of this event loop runs."""
        until = time.perf_counter() + SPOT_S
        while self._readable is not None and not answer.done() and time.perf_counter() < until:
            try:
                data = os.read(self._readable, READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                break
            if not data:  # closed, which the transport sees, too
                break
            self.data_received(data)
        return answer.done()

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


def _readable(transport: asyncio.Transport) -> int | None:
    """The descriptor of its socket, where that gives what was sent, and a core is left for a server meanwhile."""
    if os.name != "posix" or transport.get_extra_info("sslcontext") or (os.cpu_count() or 1) < 2:
        return None
    descriptor: int = transport.get_extra_info("socket").fileno()
    return None if os.get_blocking(descriptor) else descriptor


class _Line:
    """A connection that is opened when it is needed."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._limit_s = connection.socket_timeout or QUIET_S
        self._wire: _Wire | None = None
        self._asked_s = 0.0

    async def ask(self, *command: Any, spot: _Spot | None = None, others_first: bool = False) -> Any:
        """The answer; the connection is closed when none came. spot: to wait for it there, where that is worth it.

        others_first: after ROUNDS of the event loop.
        """
        wire, now = self._wire, time.monotonic()
        if not wire or now - self._asked_s > QUIET_S or not wire.is_open:
            wire = await self._ready()
        self._asked_s = now
        answer = wire.ask(self._connection.pack_command(*command), self._limit_s)
        try:
            if spot and spot.is_worth_it():
                for _ in range(ROUNDS if others_first else 0):
                    await asyncio.sleep(0)
                spot.learn(wire.read_on_the_spot(answer))
            return await answer
        except ResponseError:
            raise
        except BaseException:
            answer.cancel()
            wire.close()
            raise

    async def _ready(self) -> _Wire:
        """Opened anew when it is closed, or when it was quiet for so long that nobody knows whether it is."""
        if self._wire and self._wire.is_open:
            with contextlib.suppress(RedisError):
                await self._wire.ask(self._connection.pack_command("PING"), self._limit_s)
                return self._wire
        await self._connection.disconnect(nowait=True)
        await self._connection.connect()  # type: ignore[no-untyped-call]
        self._wire = _Wire(self._connection)
        return self._wire


class _Spot:
    """When to wait for an answer on the spot instead of in the event loop.

    A process that sleeps is woken up in tens of microseconds, in a virtual machine in more. A quick server nearby has
    answered by then.
    """

    def __init__(self) -> None:
        self.under_way = 0  # questions
        self._passed_over = 0
        self._since_s = 0.0  # nothing else has run, or 0

    def is_worth_it(self) -> bool:
        self._passed_over = max(0, self._passed_over - 1)
        return self.under_way <= FEW and not self._passed_over

    def learn(self, came: bool) -> None:
        if not came:
            self._passed_over = PASSED_OVER
        elif not self._since_s:
            self._since_s = time.monotonic()
            asyncio.get_running_loop().call_soon(self._others_run)

    def _others_run(self) -> None:
        self._since_s = 0.0

    def is_for_long(self) -> bool:
        """Whether somebody has asked one after the other for so long that others should run."""
        return bool(self._since_s) and time.monotonic() - self._since_s > GIVE_WAY_S


class QuickClient:
    """Commands of one client, by connections that it takes from the client's pool and keeps until that is closed."""

    def __init__(self, client: Redis) -> None:
        self._pool = client.connection_pool
        self._free: list[_Line] = []
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._spot = _Spot()

    def ask(self, *command: Any, others_first: bool = False) -> Awaitable[Any]:
        """The answer to one command, which does not block; raises redis-py's errors. Nothing is sent twice.

        others_first: while it is on its way, what is ready to run does.
        """
        return self._asked(command, self._spot, others_first=others_first)

    def ask_aside(self, *command: Any) -> Awaitable[Any]:
        """The same for a command whose answer nobody waits for at once."""
        return self._asked(command, None)

    def await_answer(self, *command: Any) -> Awaitable[Any]:
        """The same for one that blocks."""
        return self._asked(command, None, blocks=True)

    async def _asked(
        self, command: Sequence[Any], spot: _Spot | None, *, others_first: bool = False, blocks: bool = False
    ) -> Any:
        if spot and spot.is_for_long():
            await asyncio.sleep(0)
        self._spot.under_way += not blocks
        try:
            async with self._turns:
                line = self._taken()
                try:
                    return await line.ask(*command, spot=spot, others_first=others_first)
                finally:
                    self._free.append(line)
        finally:
            self._spot.under_way -= not blocks

    @contextlib.asynccontextmanager
    async def in_order(self) -> AsyncIterator[Ask]:
        """A way to ask on one connection, so that what is asked before an answer has come is done in this order."""
        async with self._turns:
            line = self._taken()
            try:
                yield line.ask
            finally:
                self._free.append(line)

    def _taken(self) -> _Line:
        return self._free.pop() if self._free else _Line(self._pool.get_available_connection())  # type: ignore[no-untyped-call]

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
