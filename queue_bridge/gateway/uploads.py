"""Uploaded files: streamed to a name that nobody reads, safe on disk, then named; removed when their job is gone."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote

from aiohttp import BodyPartReader, MultipartReader, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from ..places.job_files import NO_ROOM, sync_folder
from ..queue.asset_records import AssetRecords
from ..queue.queue_view import QueueView
from .body import CHUNK, Patience, check_length, too_large
from .fields import invalid
from .listing import jobs_of_batch
from .places import OWNED_FOLDER, Places
from .problem import Problem

log = logging.getLogger("sonic.gateway.uploads")

TEXT_BYTES = 65_536  # of a field of a form
PARTS = 64
# What aiohttp raises for a form that is none.
UNREADABLE = (ValueError, AssertionError, RuntimeError, LookupError, HttpProcessingError)
KEPT_FREE = 256 << 20  # bytes of the disk that uploads leave free
YOUNG_S = 3600.0  # an upload whose job is not there yet is kept for so long
SWEEP_S = 600.0


class Digest(Protocol):
    """What hashlib's digests can do."""

    def update(self, data: bytes, /) -> object: ...

    def hexdigest(self) -> str: ...


@dataclass
class Upload:
    """What came with one request. texts: fields of the form. files: by field, where they lie. digests: of the files.

    names: of the files as the client calls them, for people. sizes: of the files, in bytes.
    """

    part: Path
    folder: Path
    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def is_of(self, owner: str) -> None:
        """Name the folder, before it is kept, after the task or batch with which it goes one day."""
        self.folder = self.folder.with_name(f"{owner}{self.folder.suffix}")

    async def keep(self, suffixes: Mapping[str, str]) -> dict[str, Path]:
        """Give the files their places, with these suffixes; they are whole and on disk there. Raises Problem."""

        def move() -> dict[str, Path]:
            for name, suffix in suffixes.items():
                self.files[name] = self.files[name].rename(self.part / f"{name}{suffix}")
            sync_folder(self.part)
            self.part.rename(self.folder)
            sync_folder(self.folder.parent)
            return {name: self.folder / path.name for name, path in self.files.items()}

        try:
            self.files = await asyncio.to_thread(move)
        except OSError as error:
            raise _unwritable(error) from error
        return self.files

    async def drop(self) -> None:
        """Leave nothing of it behind."""
        for folder in (self.part, self.folder):
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def received(
    request: web.Request,
    places: Places,
    name: str,
    files: Collection[str],
    limit: int,
    pause_s: float,
    *,
    ignored: Collection[str] = (),
    digest: Callable[[], Digest] = hashlib.sha256,
) -> AsyncIterator[Upload]:
    """The form that a request carries; what it has laid down is gone again when the block raises. Raises Problem.

    files: fields that may be files. limit: bytes of all together. ignored: fields that mean nothing here, and may come
    more than once. digest: by which the files are known.
    """
    async with _new_upload(request, places, name, limit) as upload:
        patience, left = Patience(pause_s), limit
        try:
            reader = MultipartReader(request.headers, request.content)
            for _ in range(PARTS):
                part = await _next_part(reader, pause_s)
                if part is None:
                    break
                key = part.name or ""
                if key in ignored:
                    await _text_of(part, patience)
                elif key in upload.texts or key in upload.files:
                    raise invalid(key, "is given twice.")
                elif part.filename is None:
                    upload.texts[key] = await _text_of(part, patience)
                elif key not in files:
                    raise invalid(key or "body", f"cannot be a file here; {' and '.join(sorted(files))} can.")
                else:
                    upload.names[key] = _stem(part.filename)
                    left -= await _write(upload, key, part, patience, left, limit, digest)
            else:
                raise Problem("bad-request", f"A form has at most {PARTS} parts here.")
        except UNREADABLE as error:
            raise Problem("bad-request", "The body is no multipart/form-data that can be read.") from error
        yield upload


@contextlib.asynccontextmanager
async def received_whole(
    request: web.Request, places: Places, name: str, key: str, limit: int, pause_s: float
) -> AsyncIterator[Upload]:
    """The same for a body that is one file."""
    async with _new_upload(request, places, name, limit) as upload:
        await _write(upload, key, request.content, Patience(pause_s), limit, limit, hashlib.sha256)
        yield upload


@contextlib.asynccontextmanager
async def copied(places: Places, name: str, files: Mapping[str, Path], limit: int) -> AsyncIterator[Upload]:
    """The same for files that lie here already. Raises Problem."""
    size = 0
    for key, source in files.items():
        try:
            size += source.stat().st_size
        except OSError as error:
            raise invalid(key, f"the file '{source.name}' cannot be read: {error.strerror or error}.") from error
    if size > limit:
        raise too_large(limit)
    async with _begun(places, name, size) as upload:
        for key, source in files.items():
            upload.files[key] = await asyncio.to_thread(_copy, source, upload.part / key)
            upload.names[key] = _stem(source.name)
        yield upload


def _copy(source: Path, place: Path) -> Path:
    shutil.copyfile(source, place)
    with place.open("rb+") as file:
        os.fsync(file.fileno())
    return place


@contextlib.asynccontextmanager
async def _new_upload(request: web.Request, places: Places, name: str, limit: int) -> AsyncIterator[Upload]:
    check_length(request, limit, beside=TEXT_BYTES)
    async with _begun(places, name, request.content_length or 0) as upload:
        yield upload


@contextlib.asynccontextmanager
async def _begun(places: Places, name: str, size: int) -> AsyncIterator[Upload]:
    upload = Upload(*places.upload_folder(name))
    try:
        await asyncio.to_thread(_begin, upload.part, size)
        yield upload
    except OSError as error:
        await upload.drop()
        raise _unwritable(error) from error
    except BaseException:
        await asyncio.shield(upload.drop())
        raise


def _begin(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < size + KEPT_FREE:
        raise Problem("no-room", "The disk of the uploads is full; try again later.", {"Retry-After": "60"})
    folder.mkdir()


async def _next_part(reader: MultipartReader, pause_s: float) -> BodyPartReader | None:
    try:
        async with asyncio.timeout(pause_s):
            part = await reader.next()
    except TimeoutError as error:
        raise Problem("too-slow", f"A body may pause for {pause_s:g} s.") from error
    except (web.RequestPayloadError, ConnectionError) as error:
        raise Problem("bad-request", "The body broke off.") from error
    if part is not None and not isinstance(part, BodyPartReader):
        raise Problem("bad-request", "A form within the form is not taken.")
    return part


async def _text_of(part: BodyPartReader, patience: Patience) -> str:
    text = bytearray()
    while chunk := await patience.part(part.read_chunk()):
        text += chunk
        if len(text) > TEXT_BYTES:
            raise too_large(TEXT_BYTES)
    return text.decode()


async def _write(
    upload: Upload,
    key: str,
    source: BodyPartReader | StreamReader,
    patience: Patience,
    left: int,
    limit: int,
    new_digest: Callable[[], Digest],
) -> int:
    """Stream one file to the disk; returns its size."""
    path, digest, size = upload.part / key, new_digest(), 0
    file: BinaryIO = await asyncio.to_thread(path.open, "xb")
    try:
        chunk = b"begin"
        while chunk:
            chunks: list[bytes] = []
            while sum(map(len, chunks)) < CHUNK:
                read = source.read_chunk(CHUNK) if isinstance(source, BodyPartReader) else source.read(CHUNK)
                chunk = await patience.part(read)
                if not chunk:
                    break
                chunks.append(chunk)
                size += len(chunk)
                if size > left:
                    raise too_large(limit)
            await asyncio.to_thread(_append, file, digest, b"".join(chunks))
        await asyncio.to_thread(os.fsync, file.fileno())
    finally:
        await asyncio.to_thread(file.close)
    upload.files[key], upload.digests[key], upload.sizes[key] = path, digest.hexdigest(), size
    return size


def _append(file: BinaryIO, digest: Digest, data: bytes) -> None:
    digest.update(data)
    file.write(data)
    file.flush()


def _stem(filename: str) -> str:
    """A file's name as its client calls it, for people: without folders, suffix and what cannot be seen."""
    name = unquote(filename).replace("\\", "/").rpartition("/")[2]  # as many clients write what is not ASCII
    stem = name.rpartition(".")[0] or name
    return "".join(letter for letter in stem if letter.isprintable())[:100].encode("utf-8", "replace").decode()


def _unwritable(error: OSError) -> Problem:
    log.warning("An upload cannot be written: %s.", error.strerror or error)
    if error.errno in NO_ROOM:
        return Problem("no-room", "The disk of the uploads is full; try again later.", {"Retry-After": "60"})
    return Problem("internal", "The upload cannot be written here.")


class OldUploads:
    """Removes uploads whose job, or whose batch's every job, is no longer kept, and files not used for long."""

    def __init__(self, view: QueueView, places: Places, assets: AssetRecords) -> None:
        self._view = view
        self._places = places
        self._assets = assets

    async def sweep(self, now_s: float | None = None) -> int:
        """Remove what nobody needs any more; returns how many uploads that were."""
        folders = await asyncio.to_thread(self._old, time.time() if now_s is None else now_s)
        removed = 0
        for folder, owner in folders:
            if not owner or not await self._is_needed(owner, folder.name):
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
                removed += 1
        if removed:
            log.info("%d uploads removed", removed)
        return removed

    def _old(self, now_s: float) -> list[tuple[Path, str]]:
        """Folders that are not young, with the job or batch that they belong to, '' for one that never became whole."""
        found = []
        for folder in self._places.uploads.iterdir():
            with contextlib.suppress(OSError):
                match = OWNED_FOLDER.fullmatch(folder.name)
                ours = match or (folder.name.startswith(".") and folder.name.endswith(".part"))
                if ours and now_s - folder.stat().st_mtime > YOUNG_S:
                    found.append((folder, match[1] if match else ""))
        return found

    async def _is_needed(self, owner: str, folder: str) -> bool:
        if await self._assets.folder_of(owner) == folder or await self._view.job(owner):
            return True
        counts = await self._view.batch(owner)
        if not counts:
            return False
        return bool(await jobs_of_batch(self._view, owner, counts, most=1))
