"""The video of a task: whole or in parts, from its file."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import quote

from aiohttp import web

from ..errors import BadJob, FileUnreachable
from ..job import JobRecord
from ..states import State
from .context import Asked, record_of
from .fields import Field
from .places import Places
from .problem import Problem
from .task_view import links_of

CHUNK = 1 << 18
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


async def result_place(record: JobRecord, places: Places) -> FilePlace | LinkPlace:
    """Where the video of a completed task is. Raises BadJob when the gateway may not read it there, FileUnreachable."""
    video = await asyncio.to_thread(places.video_of, record)
    return FilePlace(video) if isinstance(video, Path) else LinkPlace(await places.link_to(video))


async def show_link(request: web.Request, asked: Asked) -> web.Response:
    """For whoever cannot follow a redirect with a key in its header, as a web page."""
    record, place = await finished(request, asked)
    is_link = isinstance(place, LinkPlace)
    url = place.url if isinstance(place, LinkPlace) else links_of(record.task_id)["result"]
    return web.json_response({"url": url, "elsewhere": is_link})


async def download_result(request: web.Request, asked: Asked) -> web.StreamResponse:
    record, place = await finished(request, asked)
    if isinstance(place, LinkPlace):
        return web.Response(status=302, headers={"Location": place.url})
    name = f"{record.spec.name.rpartition('/')[2] or record.task_id}{record.spec.suffix}"
    return await send_file(request, place.path, name, kind_of(place.path))


async def finished(request: web.Request, asked: Asked) -> tuple[JobRecord, FilePlace | LinkPlace]:
    """The task that the address names, and where its video is. Raises Problem."""
    gateway, record = asked.gateway, await record_of(request, asked)
    if record.state is not State.COMPLETED:
        ended = record.state.is_terminal
        detail = f"The task is {record.state}" + (f": {record.error}" if ended and record.error else ".")
        raise Problem("not-finished", detail, None if ended else {"Retry-After": "5"}, state=str(record.state))
    try:
        return record, await result_place(record, gateway.places)
    except (BadJob, FileUnreachable) as error:
        raise Problem("gone", "The video lies where this gateway may not read.") from error


def kind_of(path: Path) -> str:
    """The type of a result's content."""
    kinds = {".mp4": "video/mp4", ".zip": "application/zip"}
    return kinds.get(path.suffix.lower(), "application/octet-stream")


async def send_file(
    request: web.Request,
    path: Path,
    name: str,
    kind: str,
    *,
    shown: Literal["inline", "attachment"] = "inline",
    window: tuple[int, int] | None = None,
) -> web.StreamResponse:
    """A file, or the part that is asked for. name: for its reader. kind: of content. Raises Problem.

    window: the first byte and the number of bytes of it that are the file, for one that lies within another.
    """
    try:
        file: BinaryIO = await asyncio.to_thread(_opened, path)
    except OSError as error:
        raise Problem("gone", "The file was removed, or its folder cannot be reached.") from error
    try:
        found = os.fstat(file.fileno())  # of what is sent, though another may lie in its place by now
        begin, size = window or (0, found.st_size)
        tag = f'"{found.st_mtime_ns:x}-{size:x}"' if window is None else f'"{found.st_mtime_ns:x}-{begin:x}-{size:x}"'
        if not _is_wanted(request, tag):
            return web.Response(status=304, headers={"ETag": tag})
        part = _range(request, tag, size)
        first, last = part or (0, size - 1)
        response = web.StreamResponse(status=206 if part else 200, headers=_headers(name, kind, shown, tag))
        if part:
            response.headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        response.content_length = last - first + 1
        await response.prepare(request)
        if request.method != "HEAD":
            await asyncio.to_thread(file.seek, begin + first)
            left = last - first + 1
            while left and (chunk := await asyncio.to_thread(file.read, min(CHUNK, left))):
                await response.write(chunk)
                left -= len(chunk)
        await response.write_eof()
        return response
    finally:
        await asyncio.to_thread(file.close)


def _opened(path: Path) -> BinaryIO:
    if not path.is_file():
        raise FileNotFoundError(path)
    return path.open("rb")


def _headers(name: str, kind: str, shown: str, tag: str) -> dict[str, str]:
    plain = "".join(letter if (letter.isascii() and letter.isalnum()) or letter in " .-_" else "_" for letter in name)
    return {
        "Content-Type": kind,
        "Content-Disposition": f"{shown}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}",
        "Cache-Control": "private, no-cache",
        "Accept-Ranges": "bytes",
        "ETag": tag,
    }


def _tags(text: str) -> list[str]:
    return [one.strip() for one in text.split(",")]


def _is_wanted(request: web.Request, tag: str) -> bool:
    """False when the client has this version. Raises Problem when it wants another one."""
    wanted, known = request.headers.get("If-Match"), request.headers.get("If-None-Match")
    if wanted is not None and not {"*", tag} & set(_tags(wanted)):
        raise Problem("precondition-failed", "If-Match names another version.")
    return known is None or not {"*", tag} & {one.removeprefix("W/") for one in _tags(known)}


def _range(request: web.Request, tag: str, size: int) -> tuple[int, int] | None:
    """The first and the last byte that are asked for, or None for all. Raises Problem when there are none."""
    text = request.headers.get("Range", "").strip()
    if not text.lower().startswith("bytes=") or "," in text:
        return None  # other units, and several parts at once, may be ignored
    if request.headers.get("If-Range", tag).strip() != tag:
        return None  # parts of two versions are never mixed
    match = re.fullmatch(r"([0-9]{0,18})-([0-9]{0,18})", text[len("bytes=") :])
    first, last = (int(one) if one else None for one in match.groups()) if match else (None, None)
    if first is None and last is not None:
        first, last = max(0, size - last), size - 1
        wrong = first >= size
    else:
        wrong = first is None or first >= size or (last is not None and last < first)
    if wrong or first is None:
        raise Problem("range", f"It has {size} bytes.", {"Content-Range": f"bytes */{size}"})
    return first, size - 1 if last is None else min(last, size - 1)
