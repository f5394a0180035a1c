"""Connections that send a command without a detour: with a time limit, redis-py starts a task for every write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection

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
                await self.check_health()
            writer.writelines(command)
            if not writer.transport.is_closing() and not writer.transport.get_write_buffer_size():
                return  # the system has all of it; there is nothing to wait for
            command, check_health = [], False
        await super().send_packed_command(command, check_health)


class QuickConnection(_Quick, Connection):
    """Over TCP."""


class QuickTLSConnection(_Quick, SSLConnection):
    """Over TCP, encrypted."""


class QuickUnixConnection(_Quick, UnixDomainSocketConnection):
    """Over a unix socket."""
