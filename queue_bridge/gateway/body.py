"""Reads what a request carries, within limits of size and time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from .problem import Problem

SLOWEST_BYTES_A_SECOND = 10_000  # on average, beside one pause of the allowed length
CHUNK = 1 << 18
TASK_BYTES = 1 << 20
BATCH_BYTES = 16 << 20


class Patience:
    """How long a body may take. pause_s: each part of it, and what it may take longer than its bytes on the whole."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._began = asyncio.get_running_loop().time()
        self._bytes = 0

    async def part(self, read: Any) -> bytes:
        """The next part. Raises Problem "too-slow"."""
        try:
            async with asyncio.timeout(self._pause_s):
                part: bytes = await read
        except TimeoutError as error:
            raise self._too_slow() from error
        except (web.RequestPayloadError, ConnectionError) as error:
            raise Problem("bad-request", "The body broke off.") from error
        self._bytes += len(part)
        allowed_s = self._pause_s + self._bytes / SLOWEST_BYTES_A_SECOND
        if asyncio.get_running_loop().time() - self._began > allowed_s:
            raise self._too_slow()
        return part

    def _too_slow(self) -> Problem:
        return Problem("too-slow", f"A body may pause for {self._pause_s:g} s, and not trickle.")


def content_type(request: web.Request, *allowed: str) -> str:
    """The type of the body. Raises Problem "unsupported-media-type"."""
    kind = request.content_type if "Content-Type" in request.headers else ""
    if kind not in allowed or request.headers.get("Content-Encoding", "identity").lower() != "identity":
        headers = {"Accept-Post": ", ".join(allowed)}
        raise Problem("unsupported-media-type", f"Send {' or '.join(allowed)}, without Content-Encoding.", headers)
    return kind


async def read_json(request: web.Request, limit: int, pause_s: float) -> Any:
    """The body as JSON. Raises Problem."""
    check_length(request, limit)
    patience, parts, size = Patience(pause_s), [], 0
    while part := await patience.part(request.content.readany()):
        size += len(part)
        if size > limit:
            raise too_large(limit)
        parts.append(part)
    return parsed(b"".join(parts), "The body")


def parsed(text: bytes | str, what: str) -> Any:
    """JSON that anybody may have written. Raises Problem "bad-request"."""

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Problem("bad-request", f"{what} is no JSON in UTF-8.") from error


def check_length(request: web.Request, limit: int, beside: int = 0) -> None:
    """Refuse at once what says that it is too long. beside: bytes that do not count."""
    if request.content_length is not None and request.content_length > limit + beside:
        raise too_large(limit)


def too_large(limit: int) -> Problem:
    return Problem("too-large", f"{limit} bytes are the limit here.", limit=limit)
