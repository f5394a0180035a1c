"""Listens, and stops in good order: no new connections, requests to their ends, followers sent away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ..config import Settings
from ..errors import ConfigError
from ..pipelines.templates import Template
from ..queue.queue_view import QueueView
from ..queue.store import Store
from ..tracing import Tracing
from .access import is_loopback
from .api_keys import ApiKeys
from .app import build_app
from .context import GATEWAY

log = logging.getLogger("sonic.gateway")

PORT = 8190
LINGER_S = 2.0  # for a client to read why its body is refused
CONNECTIONS = 65_536  # and open files, as far as the system allows; by itself that is often 1024


@dataclass(frozen=True)
class Listening:
    """Where to listen. is_open: whoever comes needs no key. certificate, private_key: PEM files, or None for no TLS."""

    host: str = "127.0.0.1"
    port: int = PORT
    is_open: bool = False
    certificate: Path | None = None
    private_key: Path | None = None


@contextlib.asynccontextmanager
async def listening(
    settings: Settings,
    store: Store,
    view: QueueView,
    templates: Mapping[str, Template],
    where: Listening,
    tracing: Tracing | None = None,
) -> AsyncIterator[str]:
    """A gateway that serves for the time of the block; its address. Raises ConfigError."""
    local = where.host == "localhost" or is_loopback(where.host)
    if not local and not where.is_open and not await ApiKeys(store).any():
        raise ConfigError(
            "--host",
            f"'{where.host}' is reached by others, and there is no API key yet; make one with `sonic-queue keys create "
            "NAME`, or say --open when everybody who reaches it may do everything.",
        )
    tls = _tls(where)
    app = build_app(settings, store, view, templates, is_open=where.is_open, tracing=tracing)
    # By itself aiohttp would cut a body short that is on its way when the gateway stops, so that is awaited below.
    runner = web.AppRunner(
        app,
        keepalive_timeout=settings.gateway_read_s,  # also for the head of a request that never becomes whole
        lingering_time=min(LINGER_S, settings.gateway_read_s),
        shutdown_timeout=LINGER_S,
        access_log=logging.getLogger("sonic.gateway.access"),
        logger=_log_of_requests(),
    )
    await runner.setup()
    site = None
    try:
        site = web.TCPSite(runner, where.host, where.port, ssl_context=tls, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError("--port", f"{where.host}:{where.port}: {error.strerror or error}.") from error
        host, port = runner.addresses[0][:2]
        shown = f"[{host}]" if ":" in str(host) else host
        yield f"{'https' if tls else 'http'}://{shown}:{port}"
    finally:
        if site:
            await site.stop()  # no more connections; what is at hand goes on
        await app[GATEWAY].events.stop()
        await app[GATEWAY].traffic.done_within(settings.grace_s)
        await runner.cleanup()


def _log_of_requests() -> logging.Logger:
    found = logging.getLogger("sonic.gateway.http")
    found.addFilter(_without_bytes)
    return found


def _without_bytes(record: logging.LogRecord) -> bool:
    """What is no HTTP is logged in one line, as aiohttp would show its bytes, in which a key may be."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.msg, record.exc_info = "What came from %s is no HTTP that can be read.", None
    return True


def _tls(where: Listening) -> ssl.SSLContext | None:
    if not where.certificate and not where.private_key:
        return None
    if not where.certificate:
        raise ConfigError("--tls-cert", "is missing beside --tls-key.")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(where.certificate, where.private_key)
    except (OSError, ssl.SSLError) as error:
        named = f"'{where.certificate}' and '{where.private_key or where.certificate}'"
        raise ConfigError("--tls-cert", f"{named} are no certificate with its key ({error.strerror}).") from error
    return context


async def serve(
    settings: Settings,
    store: Store,
    view: QueueView,
    templates: Mapping[str, Template],
    where: Listening,
    say: Callable[[str], object],
    tracing: Tracing,
) -> None:
    """Serve until SIGTERM or Ctrl-C. say: takes the address."""
    _allow_many_connections()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows; there Ctrl-C cancels this task
            loop.add_signal_handler(number, stop.set)
    async with listening(settings, store, view, templates, where, tracing) as address:
        say(address)
        await stop.wait()


def _allow_many_connections() -> None:
    """A process may raise its own limit up to one that the system sets; connections that are only held open would
    otherwise keep others out soon."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, CONNECTIONS)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
