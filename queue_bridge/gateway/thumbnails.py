"""A small picture of a task: its portrait, or the video's first frame where the portrait is out of reach."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import av
from aiohttp import web
from PIL import Image, ImageOps

from ..errors import JobError
from ..job import JobRecord
from ..places.media_file import open_media
from ..states import State
from .context import Asked, record_of
from .media import PICTURES
from .places import Places
from .problem import Problem

SIDE = 160  # pixels of the longer side
MOST_PIXELS = 50_000_000  # of a picture that is decoded for this
MOST_BYTES = 64 << 20
QUALITY = 80
KEPT = 1000  # pictures of a few kilobytes
AT_ONCE = 2  # that are made

Version = tuple[Path, int, int]  # a file, its time and size


class _NoPicture(Exception):
    """Raised for a file that is none, or too large a one."""


class Thumbnails:
    """Makes them, few at a time, and keeps the latest."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Version, bytes] = OrderedDict()
        self._room = asyncio.Semaphore(AT_ONCE)

    async def of(self, record: JobRecord, places: Places) -> bytes:
        """A JPEG. Raises Problem when there is nothing to make it of."""
        for version, is_video in await asyncio.to_thread(_sources, record, places):
            if version in self._kept:
                self._kept.move_to_end(version)
                return self._kept[version]
            try:
                async with self._room:
                    made = await asyncio.to_thread(_made, version[0], is_video)
            except _NoPicture:
                continue
            self._kept[version] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return made
        raise Problem("not-found", "There is no picture of this task that the gateway can read.")


def _sources(record: JobRecord, places: Places) -> list[tuple[Version, bool]]:
    """Files to make it of, the best first, each with whether it is a video."""
    places_of: list[tuple[Callable[[JobRecord], Path | str], bool]] = [
        (places.portrait_of, False),
        (places.video_of, True),
    ]
    found = []
    for place_of, is_video in places_of if record.state is State.COMPLETED else places_of[:1]:
        try:
            path = place_of(record)
            if isinstance(path, str):  # in an object store
                continue
            seen = path.stat()
        except (JobError, OSError, ValueError):
            continue
        if path.is_file() and (is_video or seen.st_size <= MOST_BYTES):
            found.append(((path, seen.st_mtime_ns, seen.st_size), is_video))
    return found


def _made(path: Path, is_video: bool) -> bytes:
    """The JPEG. Raises _NoPicture, whatever a decoder says of what somebody has sent."""
    try:
        return _jpeg(_frame(path) if is_video else _picture(path))
    except Exception as error:
        raise _NoPicture from error


def _picture(path: Path) -> Image.Image:
    with Image.open(path, formats=list(PICTURES)) as picture:
        if picture.width * picture.height > MOST_PIXELS:
            raise ValueError("too large")
        picture.draft("RGB", (2 * SIDE, 2 * SIDE))  # a JPEG is decoded no larger than needed
        picture.thumbnail((2 * SIDE, 2 * SIDE), Image.Resampling.BOX)
        upright = ImageOps.exif_transpose(picture)
        upright.load()
        return upright


def _frame(path: Path) -> Image.Image:
    with open_media(path) as container:
        frames: Iterator[av.VideoFrame] = container.decode(container.streams.video[0])
        picture: Image.Image = next(frames).to_image()  # type: ignore[no-untyped-call]
        return picture


def _jpeg(picture: Image.Image) -> bytes:
    if picture.mode in ("RGBA", "LA", "PA", "P"):
        seen = picture.convert("RGBA")
        ground = Image.new("RGBA", seen.size, "white")
        picture = Image.alpha_composite(ground, seen)
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    small.save(written, "JPEG", quality=QUALITY, optimize=True)
    return written.getvalue()


async def show_thumbnail(request: web.Request, asked: Asked) -> web.Response:
    gateway, record = asked.gateway, await record_of(request, asked)
    picture = await gateway.thumbnails.of(record, gateway.places)
    headers = {"ETag": f'"{hashlib.sha256(picture).hexdigest()[:32]}"', "Cache-Control": "private, no-cache"}
    known = request.headers.get("If-None-Match", "")
    if headers["ETag"] in [one.strip().removeprefix("W/") for one in known.split(",")]:
        return web.Response(status=304, headers=headers)
    return web.Response(body=picture, content_type="image/jpeg", headers=headers)
