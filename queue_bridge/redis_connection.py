"""Connections to the queue's Redis server, and its troubles as sentences that never hold a password."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis
import redis.asyncio
import redis.asyncio.retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from .errors import QueueUnavailable

SCHEMES = ("redis", "rediss", "unix")
OLDEST = (7, 0)
CONNECT_S = 5.0
REPLY_S = 15.0  # longer than the longest blocking read (5 s), or its answer would be taken for a dead server
VERSION = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True)
class ServerInfo:
    """kind: redis or valkey. appendonly: what is written is kept on disk; fsync: how soon (always, everysec, no)."""

    kind: str
    version: str
    appendonly: bool
    fsync: str

    def __str__(self) -> str:
        kept = f"appendonly, fsync {self.fsync}" if self.appendonly else "keeps nothing"
        return f"{self.kind} {self.version}, {kept}"


def connect(url: str) -> redis.asyncio.Redis:
    """An asynchronous client; it connects when it is first used. Raises QueueUnavailable for a wrong URL."""
    _check_url(url)
    return redis.asyncio.Redis.from_url(url, retry=redis.asyncio.retry.Retry(NoBackoff(), 0), **_options(url))


def connect_sync(url: str) -> redis.Redis:
    """The same for a thread of its own."""
    _check_url(url)
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **_options(url))


def _options(url: str) -> dict[str, Any]:
    """No retries inside the library: it would repeat what is not ours to repeat, and hide that a server is away."""
    options: dict[str, Any] = {
        "decode_responses": True,
        "protocol": 2,  # the shapes of replies differ by protocol; every server of 7.0 and later speaks this one
        "socket_timeout": REPLY_S,
        "health_check_interval": 0,
    }
    if not url.startswith("unix:"):
        options |= {"socket_connect_timeout": CONNECT_S, "socket_keepalive": True}
    return options


def safe_url(url: str) -> str:
    """The URL with a mask in place of its password, for logs and messages."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        user = parts.username or ""
        secret = parts.password is not None or "password=" in parts.query
    except ValueError:
        return "(an address that cannot be read)"
    netloc = f"{user}:***@{host}" if secret and parts.netloc else (f"{user}@{host}" if user else host)
    if parts.scheme == "unix":
        return f"unix://{netloc}{parts.path}"
    return urlunsplit((parts.scheme, netloc, parts.path, "", ""))


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        wrong = parts.scheme not in SCHEMES or not (parts.path if parts.scheme == "unix" else parts.hostname)
        _ = parts.port
    except ValueError:
        wrong = True
    if wrong:
        raise QueueUnavailable(
            "The queue's address is not one of redis://host:port/0, rediss://host:port/0 or unix:///path/to/socket."
        )


async def check_server(client: redis.asyncio.Redis, url: str) -> ServerInfo:
    """What kind of server it is. Raises QueueUnavailable when it does not answer or is too old."""
    try:
        facts = await client.info("server")
        persistence = await client.info("persistence")
    except (RedisError, OSError) as error:
        raise as_queue_error(error, url) from error
    version = str(facts.get("redis_version", "0.0"))
    found = VERSION.match(version)
    if not found or (int(found[1]), int(found[2])) < OLDEST:
        raise QueueUnavailable(
            f"The queue's server at {safe_url(url)} is Redis {version}; 7.0 or newer, or Valkey, is needed."
        )
    appendonly = bool(persistence.get("aof_enabled"))
    fsync = ""
    if appendonly:
        try:
            fsync = str((await client.config_get("appendfsync")).get("appendfsync", ""))
        except (RedisError, OSError):
            fsync = "unknown"  # hosted servers do not show their settings
    kind = "valkey" if "valkey_version" in facts else "redis"
    return ServerInfo(kind, str(facts.get("valkey_version", version)), appendonly, fsync)


def as_queue_error(error: BaseException, url: str) -> QueueUnavailable:
    """Whatever the library or the network says about the server, as one sentence."""
    where = f"The queue's server at {safe_url(url)}"
    text = str(error)
    if isinstance(error, AuthenticationError | AuthorizationError) or "WRONGPASS" in text or "NOAUTH" in text:
        needs = "needs a password" if "NOAUTH" in text or "Authentication required" in text else "refused the password"
        return QueueUnavailable(f"{where} {needs}; put the right one into the address, redis://:password@host:port.")
    if isinstance(error, NoPermissionError):
        return QueueUnavailable(f"{where} does not allow this user what the queue needs; give it all of its own keys.")
    if isinstance(error, BusyLoadingError):
        return QueueUnavailable(f"{where} is still reading its data.")
    if isinstance(error, ReadOnlyError):
        return QueueUnavailable(f"{where} is a replica that takes no changes; name the primary one.")
    if isinstance(error, RedisTimeoutError | TimeoutError):
        return QueueUnavailable(f"{where} does not answer in time.")
    if isinstance(error, RedisConnectionError | OSError):
        return QueueUnavailable(f"{where} cannot be reached ({_reason(text)}).")
    return QueueUnavailable(f"{where} answered with an error ({type(error).__name__}: {_first_line(text)}).")


def _reason(text: str) -> str:
    """Why a connection failed, out of the library's words."""
    for words, reason in (
        ("refused", "nothing listens there"),
        ("Connect call failed", "nothing listens there"),
        ("Name or service not known", "no such host"),
        ("nodename nor servname", "no such host"),
        ("Temporary failure in name resolution", "its name is not known"),
        ("No address associated", "its name is not known"),
        ("No such file", "there is no such socket"),
        ("Permission denied", "its socket may not be used by this user"),
        ("CERTIFICATE", "its certificate is not trusted here"),
        ("SSL", "it does not speak TLS, or not this kind"),
        ("closed", "it closed the connection"),
        ("reset", "it closed the connection"),
    ):
        if words in text:
            return reason
    return "the connection broke"


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no message")[:200]
