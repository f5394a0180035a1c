"""Commands sent without a detour: with a time limit, redis-py starts a task for every write, and it counts a lot."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis.asyncio import Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, ResponseError


def _packing() -> Callable[[tuple[Any, ...]], bytes] | None:
    try:
        from hiredis import pack_command
    except ImportError:  # it is quick without, too, and right
        return None
    return pack_command


PACK_COMMAND = _packing()
AT_ONCE = 32  # connections of one client; further commands wait for one to be free


class _Quick(AbstractConnection):
    def pack_command(self, *args: Any) -> list[bytes]:
        if PACK_COMMAND and isinstance(args[0], str) and " " not in args[0]:
            try:
                return [PACK_COMMAND(args)]
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


class QuickClient:
    """Commands of one client, by connections that it takes from the client's pool and keeps until that is closed."""

    def __init__(self, client: Redis) -> None:
        self._pool = client.connection_pool
        self._free: list[AbstractConnection] = []
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def ask(self, *command: Any) -> Any:
        """The answer to one command; raises redis-py's errors. Nothing is sent twice."""
        async with self._turns:
            return await self._ask(*command)

    async def _ask(self, *command: Any) -> Any:
        connection = self._free.pop() if self._free else self._pool.get_available_connection()  # type: ignore[no-untyped-call]
        try:
            if not connection.is_connected or await connection.can_read():  # it was closed meanwhile
                await connection.disconnect()
                await connection.connect()
            await connection.send_command(*command)
            return await connection.read_response()
        except ResponseError:
            raise
        except BaseException:
            await connection.disconnect(nowait=True)  # no answer may be taken for that to another question
            raise
        finally:
            self._free.append(connection)

    async def run(self, script: Script, key: str, arguments: Sequence[Any]) -> Any:
        """What a script answers; a server that does not know it yet is told it."""
        try:
            return await self.ask("EVALSHA", script.digest, 1, key, *arguments)
        except NoScriptError:  # it has not run
            return await self.ask("EVAL", script.source, 1, key, *arguments)


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
