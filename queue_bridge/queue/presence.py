"""Who an instance is, and how it says in the queue that it lives."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from .scripts import Argument


@dataclass(frozen=True)
class Identity:
    """Who an instance is. boot: new at every start, so that a process is never taken for its predecessor."""

    name: str
    boot: str = field(default_factory=lambda: secrets.token_hex(8))
    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)


def registration(
    identity: Identity,
    lease_s: float,
    described: Mapping[str, Any],
    *,
    connection: str = "",
    predecessor_is_dead: bool = False,
) -> tuple[Argument, ...]:
    """The own arguments of lua/register.lua. described: what the instance says of itself, for people and alerts.

    connection: the name of the connection that the server loses when the instance dies, or ''.
    """
    return (
        identity.name,
        identity.boot,
        identity.host,
        identity.process,
        round(lease_s * 1000),
        int(predecessor_is_dead),
        "described",
        json.dumps(dict(described), ensure_ascii=False),
        "connection",
        connection,
    )


def connection_name(queue: str, identity: Identity) -> str:
    """What the server calls the connection that lives as long as an instance; it allows neither blanks nor newlines."""
    return f"sonic:{queue}:{quote(identity.name, safe='')}:{identity.boot}"


def lives(process: int) -> bool:
    """True when a process of this machine runs, or when that cannot be told."""
    if os.name != "posix":  # there signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
