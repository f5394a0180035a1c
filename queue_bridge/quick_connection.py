"""Commands sent without a detour: with a time limit, redis-py starts a task for every write, and it counts a lot."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from redis.asyncio import Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError

try:
    from hiredis import pack_command
except ImportError:  # it is quick without, too, and right
    pack_command = None


class _Quick(AbstractConnection):
    def pack_command(self, *args: Any) -> list[bytes]:
        if pack_command and isinstance(args[0], str) and " " not in args[0]:
            try:
                return [pack_command(args)]
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


class Script:
    """A Lua script, run by its digest; a server that does not know it yet is told it."""

    def __init__(self, client: Redis, source: str) -> None:
        self._pool = client.connection_pool
        self._source = source
        self._sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def run(self, key: str, arguments: Sequence[Any]) -> Any:
        """What the script answers; raises redis-py's errors. Nothing is sent twice."""
        connection = self._pool.get_available_connection()
        try:
            await self._pool.ensure_connection(connection)
            await connection.send_command("EVALSHA", self._sha, 1, key, *arguments)
            try:
                return await connection.read_response()
            except NoScriptError:  # it has not run
                await connection.send_command("EVAL", self._source, 1, key, *arguments)
                return await connection.read_response()
        finally:
            await self._pool.release(connection)


class QuickConnection(_Quick, Connection):
    """Over TCP."""


class QuickTLSConnection(_Quick, SSLConnection):
    """Over TCP, encrypted."""


class QuickUnixConnection(_Quick, UnixDomainSocketConnection):
    """Over a unix socket."""
