"""The connection to the queue's database: its options, one check, and one place where its errors become sentences."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from redis import Redis as SyncRedis
from redis import exceptions
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.retry import Retry as SyncRetry

from ..errors import QueueForbidden, QueueUnavailable
from .quick_connection import QuickConnection, QuickTLSConnection, QuickUnixConnection

OLDEST_SERVER = (7, 0)
SCHEMES = ("redis", "rediss", "unix")
FILES_IN_QUERY = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")  # an own authority, a client's certificate
SOCKET_TIMEOUT_S = 15.0  # a blocking read takes up to 5 s on purpose
CONNECT_TIMEOUT_S = 5.0
HEALTH_CHECK_S = 30  # a connection idle for longer is asked for a sign of life before it is used
# Plain arrays from every server, as Lua scripts answer too, and no push messages or further handshakes as in RESP3.
PROTOCOL = 2
CONNECTIONS = 64  # of a client that many ask at once


@dataclass(frozen=True)
class ServerInfo:
    """What answers at the queue's address.

    version: such as "9.1.2". kind: "valkey" or "redis". appendonly: whether it keeps a log of all changes on disk.
    fsync: "always", "everysec" or "no"; None when the server does not tell (managed services often refuse CONFIG).
    """

    version: str
    kind: str
    appendonly: bool
    fsync: str | None


def connect(url: str, *, many: bool = False) -> Redis:
    """A client of the queue's database, which connects when it is first used.

    Nothing is ever sent twice by the client itself: a lost answer reaches the caller, whose scripts may be repeated.
    many: it is asked by many at once, who wait for a free connection instead of each having one.
    Raises QueueUnavailable when the URL is wrong.
    """
    options = _options(url)
    kind: type[AbstractConnection] = QuickConnection
    if path := options.pop("unix_socket_path", None):
        kind, options = QuickUnixConnection, options | {"path": path}
    elif options.pop("ssl", False):
        kind = QuickTLSConnection
    fixed = _fixed(SOCKET_TIMEOUT_S)
    if kind is QuickUnixConnection:
        del fixed["socket_keepalive"]
    retry = Retry(NoBackoff(), 0)
    if many:
        limits: dict[str, Any] = {"max_connections": CONNECTIONS, "timeout": SOCKET_TIMEOUT_S}
        return Redis.from_pool(BlockingConnectionPool(connection_class=kind, **options, **fixed, retry=retry, **limits))
    return Redis.from_pool(ConnectionPool(kind, **options, **fixed, retry=retry))


def connect_sync(url: str, *, timeout_s: float = SOCKET_TIMEOUT_S, name: str = "") -> SyncRedis:
    """As ``connect``, for code without an event loop.

    timeout_s: the longest wait for an answer. name: what the server calls the connection (CLIENT SETNAME), or ''.
    """
    named = _options(url) | {"client_name": name or None}
    return SyncRedis(**named, **_fixed(timeout_s), retry=SyncRetry(NoBackoff(), 0))


async def check_server(client: Redis, url: str) -> ServerInfo:
    """Ask the server what it is.

    Raises QueueUnavailable when it does not answer or refuses us, is older than 7.0, still loads or is a replica.
    """
    with queue_errors(url):
        facts: dict[str, Any] = await client.info()
        try:
            fsync = (await client.config_get("appendfsync")).get("appendfsync")
        except exceptions.ResponseError:
            fsync = None
    kind = "valkey" if facts.get("server_name") == "valkey" else "redis"
    version = str(facts.get("valkey_version") or facts["redis_version"])
    if version_numbers(version) < OLDEST_SERVER:
        found, oldest = f"{kind.capitalize()} {version}", ".".join(map(str, OLDEST_SERVER))
        raise QueueUnavailable(
            f"The queue's server at {safe_url(url)} is {found}; version {oldest} or newer is needed."
        )
    if facts.get("loading"):
        raise as_queue_error(exceptions.BusyLoadingError(), url)
    if facts.get("role") == "slave":
        raise as_queue_error(exceptions.ReadOnlyError(), url)
    return ServerInfo(version, kind, bool(facts.get("aof_enabled")), fsync)


def version_numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version such as "7.0.15", for comparisons; an unreadable one counts as very old."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


# --- errors ----------------------------------------------------------------------------------------------------------

AUTHENTICATION = (exceptions.AuthenticationError, exceptions.AuthenticationWrongNumberOfArgsError)
SCRIPTS_REFUSED = re.compile(r"to run the '(eval|evalsha|script)[|a-z]*'", re.IGNORECASE)
REFUSED_IN_SCRIPT = "ACL failure in script:"
NO_PASSWORD_SET = "called without any password configured"  # a server's words, which have no code of their own
# The first kind that the error or one of its causes is decides; {at} is the address, {text} what was said.
SENTENCES: tuple[tuple[type[BaseException], str], ...] = (
    (exceptions.BusyLoadingError, "The queue's server at {at} is still loading its data; try again in a moment."),
    (exceptions.ReadOnlyError, "The queue's server at {at} is a read-only replica; give the address of its primary."),
    (exceptions.MasterDownError, "The queue's server at {at} is a replica without its primary; give another address."),
    (exceptions.OutOfMemoryError, "The queue's server at {at} has no memory left; raise its maxmemory."),
    (socket.gaierror, "The host of the queue's server at {at} is unknown; check the address."),
    (ssl.SSLError, "No safe connection to the queue's server at {at}: {text}."),
    (ConnectionRefusedError, "Nothing answers at {at} (connection refused); start the queue's server there."),
    (FileNotFoundError, "There is no socket at {at}; start the queue's server there."),
    (PermissionError, "The socket at {at} may not be used by this user (permission denied)."),
    (exceptions.TimeoutError, "The queue's server at {at} did not answer in time; check address and network."),
    (TimeoutError, "The queue's server at {at} did not answer in time; check address and network."),
    (exceptions.InvalidResponse, "What answers at {at} is no Redis; check the address."),
    (exceptions.ConnectionError, "The connection to the queue's server at {at} failed: {text}."),
    (exceptions.ResponseError, "The queue's server at {at} refused a command: {text}."),
)


@contextmanager
def queue_errors(url: str) -> Iterator[None]:
    """Around every use of a client: its errors leave as QueueUnavailable."""
    try:
        yield
    except (exceptions.RedisError, OSError) as error:
        raise as_queue_error(error, url) from error


async def answer_to(command: Awaitable[Any], url: str) -> Any:
    """Await a command; the client's errors leave as QueueUnavailable, and a cancellation leaves as one.

    With a time limit the client waits by asyncio.wait_for, which before Python 3.12 loses a cancellation that comes
    together with the end of what it waits for. So a task that is being cancelled gets no answers any more.
    """
    try:
        answer = await command
    except (exceptions.RedisError, OSError) as error:
        raise as_queue_error(error, url) from error
    task = asyncio.current_task()
    if task and task.cancelling():
        # Raises one that came while this task ran (an answer was waited for on the spot). It would be raised at the
        # task's next await otherwise, and keep it from tidying up.
        await asyncio.sleep(0)
        raise asyncio.CancelledError
    return answer


def as_queue_error(error: BaseException, url: str) -> QueueUnavailable:
    """One sentence about an error of the client, with the address but never the password."""
    at, text = safe_url(url), _without_password(str(error).strip().rstrip(".?"), url)
    causes = list(_causes(error))
    if any(isinstance(cause, AUTHENTICATION) for cause in causes) or NO_PASSWORD_SET in text:
        return QueueUnavailable(_about_the_password(text, url))
    if any(isinstance(cause, exceptions.NoPermissionError) for cause in causes):
        if SCRIPTS_REFUSED.search(text):
            return QueueForbidden(
                f"The queue's server at {at} does not let its user run Lua scripts, which the queue consists of; "
                "give it the right +@scripting."
            )
        return QueueForbidden(f"The queue's server at {at} does not let its user do this: {text}.")
    if REFUSED_IN_SCRIPT in text:
        what = text.partition(REFUSED_IN_SCRIPT)[2].partition(" script:")[0].strip()
        return QueueForbidden(f"The queue's server at {at} does not let its user do this: {what}.")
    for kind, sentence in SENTENCES:
        if any(isinstance(cause, kind) for cause in causes):
            return QueueUnavailable(sentence.format(at=at, text=text))
    return QueueUnavailable(f"The queue's server at {at} cannot be used: {text or type(error).__name__}.")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what the client wrapped into it."""
    yield error
    while isinstance(error, exceptions.RedisError) and (below := error.__cause__ or error.__context__):
        yield below
        error = below


def _about_the_password(text: str, url: str) -> str:
    options, at = _options(url), safe_url(url)
    if not options.get("password"):
        return f"The queue's server at {at} needs a password; put it into the URL, as in redis://:PASSWORD@HOST:6379/0."
    if NO_PASSWORD_SET in text:
        return f"The queue's server at {at} has no password, but the URL names one; remove it from the URL."
    if user := options.get("username"):
        return f"The queue's server at {at} refused the user '{user}' or its password; check both."
    return f"The queue's server at {at} refused the password; check the one in the URL."


# --- addresses -------------------------------------------------------------------------------------------------------


def safe_url(url: str) -> str:
    """The URL for logs and sentences: a password in it, also in a malformed one, is replaced by ``***``."""
    scheme, mark, rest = url.rpartition("://") if url.count("://") == 1 else ("", "", url)
    credentials, at, place = rest.rpartition("@")
    if at and re.search(r"[/?#]", credentials):  # what belongs to the password cannot be told any more
        return f"{scheme}{mark}***"
    user, colon, _ = credentials.partition(":")
    hidden = f"{user}:***@" if colon else "***@" if at else ""
    place = re.sub(r"^([^:/?#[]*):(?!\d+(?:[/?#]|$)).*", r"\1:***", place)  # no port: a password without its @
    return f"{scheme}{mark}{hidden}" + re.sub(r"([?&](?!db=|ssl_)[^=&]*=)[^&#]*", r"\1***", place)


def _without_password(text: str, url: str) -> str:
    """A server may quote our own words."""
    password = _options(url).get("password")
    return text.replace(password, "***") if password else text


def _fixed(timeout_s: float) -> dict[str, Any]:
    """What every connection has, whatever the URL says."""
    return {
        "protocol": PROTOCOL,
        "decode_responses": True,
        "encoding_errors": "surrogateescape",  # packed bytes become text and come back unharmed
        "socket_timeout": timeout_s,
        "socket_connect_timeout": min(CONNECT_TIMEOUT_S, timeout_s),
        "socket_keepalive": True,
        "health_check_interval": HEALTH_CHECK_S,
    }


def _options(url: str) -> dict[str, Any]:
    """Host, port, database, credentials and TLS out of a URL; raises QueueUnavailable when it is wrong."""
    try:
        parts = urlsplit(url)
        port = parts.port
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        wrong = _what_is_wrong(parts, query)
    except ValueError:  # its text may quote a part of the password, so it is not told
        wrong = "host or port cannot be read; in a password, write @ : / ? # % as %40 %3A %2F %3F %23 %25"
    if wrong:
        raise QueueUnavailable(f"The queue's address '{safe_url(url)}' is wrong: {wrong}.")
    options: dict[str, Any] = {
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else query.get("password"),
    }
    if parts.scheme == "unix":
        return options | {"unix_socket_path": unquote(parts.path), "db": int(query.get("db") or 0)}
    options |= {"host": parts.hostname, "port": port or 6379}
    options["db"] = int(query.get("db") or parts.path.strip("/") or 0)
    if parts.scheme == "rediss":  # without ssl_ca_certs the authorities that this system trusts
        options |= {"ssl": True, **{name: query[name] for name in FILES_IN_QUERY if name in query}}
    return options


def _what_is_wrong(parts: SplitResult, query: dict[str, str]) -> str:
    """Why the URL cannot be used, or nothing."""
    if parts.scheme not in SCHEMES:
        return "it has to start with redis://, rediss:// or unix://"
    if parts.fragment:
        return "there is a # in it; in a password, write %23"
    if parts.scheme == "unix" and (not parts.path.startswith("/") or parts.hostname):
        return "unix:// needs the whole path of the socket, as in unix:///run/redis.sock"
    if parts.scheme != "unix" and not parts.hostname:
        return "there is no host in it"
    database = query.get("db") or (parts.path.strip("/") if parts.scheme != "unix" else "") or "0"
    if not database.isascii() or not database.isdigit():
        return "the number of the database, as in redis://HOST:6379/0, is no number"
    known = {"db", "password"} | (set(FILES_IN_QUERY) if parts.scheme == "rediss" else set())
    if unknown := sorted(set(query) - known):
        return f"it cannot have the option '{unknown[0]}'; possible are {', '.join(sorted(known))}"
    missing = [query[name] for name in FILES_IN_QUERY if name in query and not Path(query[name]).is_file()]
    return f"there is no file '{missing[0]}'" if missing else ""
