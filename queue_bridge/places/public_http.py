"""HTTP to addresses that strangers wrote: a picture to fetch, a webhook to call; never into the network around us.

What is refused is decided where a connection is made: the addresses that a name stands for are checked, and a
connection goes to one of those very addresses, so a name that changes its answer in between gains nothing. Redirects
are followed one by one, each checked like the first address. No sentence here holds an address's query or password.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from ..errors import AddressRefused, BridgeError, FileUnreachable, JobError
from ..fetch_limits import MEBIBYTE, Limits
from ..web_address import ADDRESS_CHARACTERS, Reach, check_address, check_reachable, check_url, safe_address

REDIRECTS_MAX = 5
CONNECT_S = 15.0
BLOCK_BYTES = 1 << 18
MAY_PASS_STATUS = frozenset({408, 409, 423, 425, 429})  # and everything from 500 on
# A browser page or a message instead of a file.
NO_FILE_TYPES = ("text/", "application/json", "application/xml", "application/xhtml", "application/problem")


@dataclass(frozen=True)
class Fetched:
    """bytes: how many. name: the last part of the address that answered in the end, unquoted, or ''."""

    bytes: int
    content_type: str
    name: str


class _CheckedResolver(AbstractResolver):
    """Answers with addresses that may be reached, all of them, or refuses."""

    def __init__(self, reach: Reach, resolver: AbstractResolver) -> None:
        self._reach = reach
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        name = host.lower().rstrip(".")
        if name not in self._reach.names():
            for one in found:
                check_reachable(ipaddress.ip_address(one["host"]), name, port, self._reach)
        return found

    async def close(self) -> None:
        await self._resolver.close()


class _CheckedConnector(aiohttp.TCPConnector):
    """Checks every address once more where it is connected to, since one that is a number needs no resolver."""

    def __init__(self, reach: Reach, resolver: AbstractResolver) -> None:
        checked = _CheckedResolver(reach, resolver)
        super().__init__(resolver=checked, use_dns_cache=False, force_close=True, limit=64)
        self._reach = reach

    async def connect(self, req: aiohttp.ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout) -> Any:
        check_url(req.url, self._reach)
        return await super().connect(req, traces, timeout)


def open_public_session(
    reach: Reach,
    *,
    resolver: AbstractResolver | None = None,
    timeout: aiohttp.ClientTimeout | None = None,
    headers: Mapping[str, str] | None = None,
) -> aiohttp.ClientSession:
    """A session whose every connection is checked; to be closed by the caller, inside a running event loop.

    A request raises AddressRefused where an address may not be reached. It knows no proxy and keeps no cookies, and
    follows redirects checked one by one when asked to; ``fetch`` does so with more care. resolver: for tests.
    """
    return aiohttp.ClientSession(
        connector=_CheckedConnector(reach, resolver or aiohttp.ThreadedResolver()),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=timeout or aiohttp.ClientTimeout(total=60.0, sock_connect=CONNECT_S),
        headers=headers,
        trust_env=False,
        auto_decompress=False,
    )


async def fetch(
    url: str, place: Path, reach: Reach, limits: Limits, *, resolver: AbstractResolver | None = None
) -> Fetched:
    """Download what an address answers to ``place``, which holds it whole or not at all.

    Raises AddressRefused for what may not be reached, JobError for what is not there or no file or too large, and
    FileUnreachable for what may be there later.
    """
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=limits.idle_s)
    part = place.with_name(f".{place.name[:100]}.part")
    try:
        async with (
            _translated(url, limits),
            asyncio.timeout(limits.total_s),
            open_public_session(reach, resolver=resolver, timeout=timeout) as session,
            _Answer(session, url, reach) as answer,
        ):
            _check_answer(answer, url, limits)
            with part.open("wb") as file:
                count = await _write(answer, file, url, limits)
            part.replace(place)
            return Fetched(count, answer.content_type, answer.url.name)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def _translated(url: str, limits: Limits) -> AsyncIterator[None]:
    """The one seam at which a client's errors become ours; theirs may hold the whole address."""
    where = safe_address(url)
    try:
        yield
    except BridgeError:
        raise
    except TimeoutError:
        raise FileUnreachable(
            f"'{where}' was too slow: {limits.total_s:g} s in all and {limits.idle_s:g} s of silence are the limits."
        ) from None
    except aiohttp.ClientConnectorDNSError:
        raise FileUnreachable(f"'{where}' cannot be reached: its name is not known.") from None
    except aiohttp.ClientSSLError:
        raise FileUnreachable(f"'{where}' cannot be reached: its certificate is not accepted.") from None
    except aiohttp.ClientConnectorError as error:
        raise FileUnreachable(f"'{where}' cannot be reached: {error.os_error.strerror or 'no connection'}.") from None
    except (aiohttp.InvalidURL, UnicodeError):
        raise AddressRefused(f"'{where}' is no address that can be fetched.") from None
    except (aiohttp.ClientError, ConnectionError, ssl.SSLError):
        raise FileUnreachable(f"'{where}' broke the connection off before its end.") from None


class _Answer:
    """The answer at the end of all redirects, as a context."""

    def __init__(self, session: aiohttp.ClientSession, url: str, reach: Reach) -> None:
        self._session = session
        self._url = url
        self._reach = reach
        self._response: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> aiohttp.ClientResponse:
        at = check_address(self._url, self._reach)
        for _ in range(REDIRECTS_MAX + 1):
            # Nothing compressed: its length would be another, and pictures and sounds are compressed already.
            response = await self._session.get(at, allow_redirects=False, headers={"Accept-Encoding": "identity"})
            if response.status not in (301, 302, 303, 307, 308):
                self._response = response
                return response
            response.close()
            at = self._next(at, response.headers.get("Location", ""))
        raise JobError(f"'{safe_address(self._url)}' redirects more than {REDIRECTS_MAX} times.")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._response:
            self._response.close()

    def _next(self, at: URL, location: str) -> URL:
        where = safe_address(self._url)
        if not location or len(location) > ADDRESS_CHARACTERS:
            raise JobError(f"'{where}' redirects to nowhere.")
        try:
            following = at.join(URL(location))
            check_url(following, self._reach)
        except ValueError:
            raise JobError(f"'{where}' redirects to nowhere.") from None
        except AddressRefused as error:
            raise AddressRefused(f"'{where}' redirects to where it may not: {error}") from None
        if at.scheme == "https" and following.scheme == "http":
            raise AddressRefused(f"'{where}' redirects from https to http, which is not followed.")
        return following


def _check_answer(answer: aiohttp.ClientResponse, url: str, limits: Limits) -> None:
    where, status = safe_address(url), answer.status
    if status in MAY_PASS_STATUS or status >= 500:
        raise FileUnreachable(f"'{where}' answers with status {status} now.")
    if status in (401, 403):
        raise JobError(f"'{where}' may not be read (status {status}); a link with a time limit may be over.")
    if status in (404, 410):
        raise JobError(f"'{where}' is not there (status {status}).")
    if status != 200:
        raise JobError(f"'{where}' answers with status {status} instead of a file.")
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise JobError(f"'{where}' sends its file packed, which was not asked for.")
    if answer.content_type.lower().startswith(NO_FILE_TYPES):
        raise JobError(f"'{where}' answers with a page or a text ({answer.content_type[:60]}), not with a file.")
    if (answer.content_length or 0) > limits.bytes:
        raise _too_large(where, limits)


async def _write(answer: aiohttp.ClientResponse, file: BinaryIO, url: str, limits: Limits) -> int:
    count = 0
    async for block in answer.content.iter_chunked(BLOCK_BYTES):
        count += len(block)
        if count > limits.bytes:
            raise _too_large(safe_address(url), limits)
        await asyncio.to_thread(file.write, block)
    if not count:
        raise JobError(f"'{safe_address(url)}' is an empty file.")
    return count


def _too_large(where: str, limits: Limits) -> JobError:
    return JobError(f"'{where}' is larger than {limits.bytes / MEBIBYTE:.3g} MiB, which is the limit.")
