"""A ZIP of pictures and recordings becomes a folder beside it, whole or not at all. Standard library only.

The folder is called ``<name of the ZIP>-<first 8 hex digits of its SHA-256>``; one that is there already is taken as it
is, so a ZIP is unpacked once. Whoever made the ZIP is not trusted: every entry is checked before the first byte is
written, no link, owner or permission of the ZIP is taken over, and an entry is cut off as soon as it turns out longer
than it says. Only plain and deflated entries are taken: those of other methods can grow a thousandfold in one read.
"""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import ArchiveError
from .pairing import comparable

LOGGER = logging.getLogger("sonic.archive")
CHUNK = 1 << 20  # bytes read at a time
DIRECTORY_BYTES_PER_ENTRY = 1024  # what a ZIP's table of contents may take; 46 bytes and the name are usual
METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
ENCRYPTED = 0x1 | 0x40 | 0x2000  # flags: the entry, strongly, and its header
DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Limits:
    """What a ZIP may hold.

    entries: how many files and folders. unpacked_bytes: of all files together, as the ZIP declares them.
    ratio: unpacked bytes to bytes of the ZIP, which counts only above ratio_from unpacked bytes.
    """

    entries: int = 20_000
    unpacked_bytes: int = 8 << 30
    ratio: float = 200.0
    ratio_from: int = 64 << 20


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class _Entry:
    """One entry that is to be written. parts: its path below the folder."""

    info: zipfile.ZipInfo
    parts: tuple[str, ...]
    is_folder: bool


def unpack(archive: Path, limits: Limits = DEFAULT_LIMITS) -> Path:
    """Unpack a ZIP into the folder beside it; returns the folder to read, one below when the ZIP holds just that.

    Raises ArchiveError, with nothing left behind, when the ZIP is refused, damaged or larger than the room on the disk.
    """
    try:
        with archive.open("rb") as file:
            target = archive.parent / f"{archive.stem}-{_sha256(file)[:8]}"
            if target.is_symlink() or (target.exists() and not target.is_dir()):
                raise ArchiveError(f"'{archive}' is to be unpacked into '{target}', which is no folder; remove that.")
            if not target.exists():
                _unpack(archive, file, target, limits)
        return _folder_to_read(target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ArchiveError(f"'{archive}' could not be unpacked: the disk is full.") from error
        raise ArchiveError(f"'{archive}' could not be unpacked: {error.strerror or error}.") from error


def _unpack(archive: Path, file: BinaryIO, target: Path, limits: Limits) -> None:
    packed_bytes = file.seek(0, io.SEEK_END)
    try:
        with zipfile.ZipFile(_CappedReads(archive, file, limits)) as opened:
            entries = _checked(archive, opened.infolist(), packed_bytes, limits)
            needed = sum(entry.info.file_size for entry in entries)
            free = shutil.disk_usage(archive.parent).free
            if free < needed:
                raise ArchiveError(
                    f"'{archive}' needs {_size(needed)} unpacked and there are {_size(free)} free; make room for it."
                )
            # A folder inside the temporary one, since the latter is closed to everybody else by its mode.
            with tempfile.TemporaryDirectory(
                prefix=f".{archive.stem[:40]}-", suffix=".part", dir=archive.parent, ignore_cleanup_errors=True
            ) as part:
                content = Path(part) / "content"
                content.mkdir()
                for entry in entries:
                    _write(archive, opened, entry, content.joinpath(*entry.parts))
                _put(content, target)
    except DAMAGED as error:
        raise ArchiveError(f"'{archive}' is damaged or no ZIP ({error or type(error).__name__}).") from error
    LOGGER.info("Unpacked %d entries of '%s' into '%s'.", len(entries), archive, target)


class _CappedReads(io.BufferedIOBase):
    """The ZIP's file; refuses the one long read by which a table of millions of entries would fill the memory."""

    def __init__(self, archive: Path, file: BinaryIO, limits: Limits) -> None:
        self._archive = archive
        self._file = file
        self._limits = limits
        self._cap = max(limits.entries * DIRECTORY_BYTES_PER_ENTRY, 2 * CHUNK)

    def read(self, size: int | None = -1, /) -> bytes:
        size = -1 if size is None else size
        if size > self._cap:
            raise ArchiveError(_too_many(self._archive, self._limits))
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _checked(archive: Path, infos: list[zipfile.ZipInfo], packed_bytes: int, limits: Limits) -> list[_Entry]:
    """What is to be written; raises ArchiveError when anything about the ZIP is not as it should be."""
    if len(infos) > limits.entries:
        raise ArchiveError(_too_many(archive, limits))
    unpacked = sum(info.file_size for info in infos)
    if unpacked > limits.unpacked_bytes:
        raise ArchiveError(
            f"'{archive}' holds {_size(unpacked)} unpacked and {_size(limits.unpacked_bytes)} are the limit; split it."
        )
    if unpacked > limits.ratio_from and unpacked > limits.ratio * packed_bytes:
        raise ArchiveError(
            f"'{archive}' would grow {unpacked / packed_bytes:.0f}-fold to {_size(unpacked)}, which pictures and "
            "recordings never do; it is refused."
        )
    entries = []
    for info in infos:
        if reason := _why_refused(info):
            raise ArchiveError(f"'{archive}' is refused: its entry {info.orig_filename!r} {reason}.")
        name = info.orig_filename
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if parts and not _is_junk(parts):
            entries.append(_Entry(info, parts, name.endswith("/")))
    if not any(not entry.is_folder for entry in entries):
        raise ArchiveError(f"'{archive}' holds no file.")
    _refuse_doubles(archive, entries)
    return entries


def _why_refused(info: zipfile.ZipInfo) -> str:
    """What is wrong with an entry, as the end of a sentence, or an empty string."""
    # Not info.filename: that one has been cut at a NUL, and has had its separators replaced, by zipfile.
    name = info.orig_filename
    parts = name.split("/")
    if not name.strip("/"):
        return "has no name" if not name else "is an absolute path"
    if "\0" in name or "\\" in name:
        return "has a NUL or a backslash in its name"
    if name.startswith("/") or any(re.match("[A-Za-z]:", part) for part in parts):
        return "is an absolute path"
    if ".." in parts:
        return "climbs out of the folder"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or another special file"
    if info.flag_bits & ENCRYPTED:
        return "is encrypted; pack it without a password"
    if info.compress_type not in METHODS:
        return f"is packed with a method that is not taken here ({info.compress_type}); pack it by deflate"
    return ""


def _refuse_doubles(archive: Path, entries: list[_Entry]) -> None:
    """Refuse two files of one name, and a file of which another entry says that it is a folder."""
    files: set[str] = set()
    folders: set[str] = set()
    for entry in entries:
        key = comparable("/".join(entry.parts))
        above = [comparable("/".join(entry.parts[:count])) for count in range(1, len(entry.parts))]
        folders.update(above)
        if entry.is_folder:
            folders.add(key)
        elif key in files:
            raise ArchiveError(f"'{archive}' is refused: it holds '{'/'.join(entry.parts)}' twice.")
        else:
            files.add(key)
    if both := sorted(files & folders):
        raise ArchiveError(f"'{archive}' is refused: it holds '{both[0]}' both as a file and as a folder.")


def _is_junk(parts: tuple[str, ...]) -> bool:
    """True for what macOS puts into its ZIPs beside the files."""
    return "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1] == ".DS_Store"


def _write(archive: Path, opened: zipfile.ZipFile, entry: _Entry, place: Path) -> None:
    if entry.is_folder:
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    name, declared = "/".join(entry.parts), entry.info.file_size
    # At the declared size zipfile would stop without a word; with room for one more chunk it shows what follows.
    entry.info.file_size = declared + CHUNK + 1
    written = 0
    with opened.open(entry.info) as source, place.open("xb") as file:
        while chunk := source.read(CHUNK):
            written += len(chunk)
            if written > declared:
                raise ArchiveError(f"'{archive}' is refused: its entry '{name}' is longer than its {declared} bytes.")
            file.write(chunk)
    if written < declared:
        raise ArchiveError(f"'{archive}' is damaged: its entry '{name}' ends after {written} of {declared} bytes.")


def _put(content: Path, target: Path) -> None:
    try:
        content.rename(target)
    except OSError:
        if not target.is_dir():  # else another process has unpacked the same ZIP meanwhile
            raise


def _folder_to_read(folder: Path) -> Path:
    entries = [path for path in folder.iterdir() if not _is_junk((path.name,))]
    if len(entries) == 1 and entries[0].is_dir() and not entries[0].is_symlink():
        return entries[0]
    return folder


def _sha256(file: io.BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _too_many(archive: Path, limits: Limits) -> str:
    return f"'{archive}' holds more than {limits.entries} entries; split it."


def _size(count: int) -> str:
    """A number of bytes for a person."""
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.1f} MiB"
