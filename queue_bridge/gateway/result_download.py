"""The video of a task: whole or in parts, straight from its file."""

from __future__ import annotations

import asyncio
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from aiohttp import ETag, web

from ..errors import BadJob
from ..job import JobRecord
from ..states import State
from .context import Asked, record_of
from .fields import Field
from .places import Places
from .problem import Problem

HEADERS = tuple(
    Field(name, "string", meaning)
    for name, meaning in (
        ("Range", "bytes=START-END"),
        ("If-Range", "only when it is still this version"),
        ("If-Match", "likewise, else 412"),
        ("If-None-Match", "304 when it is still this version"),
    )
)


@dataclass(frozen=True)
class FilePlace:
    """A video that the gateway sends itself."""

    path: Path


@dataclass(frozen=True)
class LinkPlace:
    """A video that lies elsewhere; its client is sent there. url: works without further credentials, for a while."""

    url: str


def result_place(record: JobRecord, places: Places) -> FilePlace | LinkPlace:
    """Where the video of a completed task is. The one place to be told of other kinds of storage.

    Raises BadJob when the gateway may not read it there.
    """
    return FilePlace(places.file_of(record.spec.output))


async def download_result(request: web.Request, asked: Asked) -> web.StreamResponse:
    gateway, record = asked.gateway, await record_of(request, asked)
    if record.state is not State.COMPLETED:
        ended = record.state.is_terminal
        detail = f"The task is {record.state}" + (f": {record.error}" if ended and record.error else ".")
        raise Problem("not-finished", detail, None if ended else {"Retry-After": "5"}, state=str(record.state))
    try:
        place = await asyncio.to_thread(result_place, record, gateway.places)
    except BadJob as error:
        raise Problem("gone", "The video lies where this gateway may not read.") from error
    if isinstance(place, LinkPlace):
        raise web.HTTPFound(place.url)
    return await _send(request, record, place.path)


async def _send(request: web.Request, record: JobRecord, path: Path) -> web.StreamResponse:
    try:
        found = await asyncio.to_thread(path.stat)
    except OSError as error:
        raise Problem("gone", "The video was removed, or its folder cannot be reached.") from error
    if not stat.S_ISREG(found.st_mode):
        raise Problem("gone", "There is no video in its place.")
    request = _checked(request, ETag(value=f"{found.st_mtime_ns:x}-{found.st_size:x}"), found.st_size)
    # aiohttp makes the same tag, and sends the file without it passing through this process where it can.
    name = f"{record.spec.name.rpartition('/')[2] or record.task_id}.mp4"
    plain = "".join(letter if (letter.isascii() and letter.isalnum()) or letter in " .-_" else "_" for letter in name)
    kind = "video/mp4" if path.suffix.lower() == ".mp4" else "application/octet-stream"
    disposition = f"inline; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    headers = {"Content-Type": kind, "Content-Disposition": disposition, "Cache-Control": "private, no-cache"}
    response = web.FileResponse(path, headers=headers, chunk_size=1 << 18)
    await response.prepare(request)
    return response


def _checked(request: web.Request, tag: ETag, size: int) -> web.Request:
    """The request, without its range when that belongs to another version of the video. Raises Problem."""
    wanted = request.if_match
    if wanted and not any(one.value in ("*", tag.value) and not one.is_weak for one in wanted):
        raise Problem("precondition-failed", "If-Match names another version.")
    given = request.headers.get("If-Range", "").strip()
    if given.startswith(('"', "W/")) and given != f'"{tag.value}"':
        kept = {name: value for name, value in request.headers.items() if name.lower() not in ("range", "if-range")}
        return request.clone(headers=kept)
    if "Range" in request.headers:
        ignored = not request.headers["Range"].strip().lower().startswith("bytes=") or "," in request.headers["Range"]
        if ignored:  # other units, and several parts at once, may be ignored
            kept = {name: value for name, value in request.headers.items() if name.lower() != "range"}
            return request.clone(headers=kept)
        try:
            wrong = (request.http_range.start or 0) >= size
        except ValueError:
            wrong = True
        if wrong:
            raise Problem("range", f"The video has {size} bytes.", {"Content-Range": f"bytes */{size}"})
    return request
