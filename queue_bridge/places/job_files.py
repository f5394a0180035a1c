"""A job's files: inputs into ComfyUI's input folder, the video out to its place, which holds it whole or not at all.

The video is first laid beside its place under a name that only this start uses. Which start's video is the job's is
then decided in the queue (lua/stage.lua), and only that one is renamed to its place, by whoever comes to do it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from ..errors import BadJob, FileUnreachable, JobError, PromptFailed
from ..job import JobSpec
from ..quality_gate import report_beside
from .start_folders import ALONE, Owner, StartFolders

# The disk is full, a quota is used up, or a file may not become larger.
NO_ROOM = frozenset({errno.ENOSPC, errno.EFBIG, *([errno.EDQUOT] if hasattr(errno, "EDQUOT") else [])})

NO_ROOM_WORDS = tuple(os.strerror(code) for code in sorted(NO_ROOM))


class JobFiles:
    """roots: the folders that jobs may name. input_directory, output_directory: ComfyUI's own, always allowed.

    owner: keeps this instance's files apart from those of another one with the same folders.
    """

    def __init__(
        self, roots: Iterable[Path], input_directory: Path, output_directory: Path, owner: Owner = ALONE
    ) -> None:
        self.input_directory = input_directory
        self.output_directory = output_directory
        self.folders = StartFolders(input_directory, output_directory, owner)
        self._roots = tuple(root.resolve() for root in (*roots, input_directory, output_directory))

    def path_of(self, uri: str, field: str) -> Path:
        """The file that a URI of a job names. Raises BadJob when that is none of the allowed ones."""
        return path_in(self._roots, uri, field)

    def source_of(self, uri: str, field: str) -> tuple[int, int]:
        """Size and time of an input where it is, to see whether a copy is still true. Raises BadJob, OSError."""
        found = self.path_of(uri, field).stat()
        return found.st_size, found.st_mtime_ns

    def input_place(self, spec: JobSpec, token: int, field: str, name: str) -> Path:
        """Where an input is laid for one start; its folder is there. Raises FileUnreachable when there is no room."""
        # By their own names, which people find again in what a node says; ComfyUI reads a name's last [...].
        place = self.input_directory / self.folders.name(spec.task_id, token) / field
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self.not_laid(field, error) from error
        return place / (field if not name or name.endswith("]") else name)

    def input_name(self, place: Path) -> str:
        """What ComfyUI calls a file in its input folder."""
        return place.relative_to(self.input_directory).as_posix()

    def not_laid(self, field: str, error: OSError) -> FileUnreachable:
        """What to say when an input cannot be written into ComfyUI's folder."""
        if error.errno in NO_ROOM:
            return _no_room(self.input_directory, error)
        return FileUnreachable(f"{field}: '{self.input_directory}' cannot be written: {error.strerror or error}.")

    def copy_input(self, spec: JobSpec, token: int, field: str, uri: str) -> str:
        """Copy picture or sound for one start; returns its name in ComfyUI's input folder.

        Raises BadJob when it is not there, FileUnreachable when its whole folder is away or ours has no room.
        """
        source = self.path_of(uri, field)
        place = self.input_place(spec, token, field, source.name)
        try:
            shutil.copyfile(source, place)
        except FileNotFoundError as error:
            if not source.parent.is_dir():
                raise FileUnreachable(f"{field}: the folder '{source.parent}' cannot be reached.") from error
            raise BadJob(field, f"the file '{source}' is not there.") from error
        except OSError as error:
            if error.errno in NO_ROOM:
                raise _no_room(self.input_directory, error) from error
            raise FileUnreachable(f"{field}: '{source}' cannot be read: {error.strerror or error}.") from error
        return self.input_name(place)

    def output_prefix(self, spec: JobSpec, token: int) -> str:
        """Where the prompt saves its video, below ComfyUI's output folder; no other start saves there."""
        return f"{self.folders.name(spec.task_id, token)}/video"

    def check_output(self, spec: JobSpec) -> Path:
        """The video's place, before anything is computed. Raises BadJob or FileUnreachable when none can be there."""
        place = self.path_of(spec.output, "output")
        if place.suffix.lower() != spec.suffix:
            raise BadJob("output", f"'{place.name}' does not end with {spec.suffix}.")
        root = next(root for root in self._roots if place.is_relative_to(root))
        if not root.is_dir():  # never made here: a network drive that is away would be hidden by it
            raise FileUnreachable(f"'{place}' cannot be written: the folder '{root}' cannot be reached.")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(place, error) from error
        if place.is_dir():
            raise BadJob("output", f"'{place}' is a folder.")
        if not os.access(place.parent, os.W_OK):
            raise FileUnreachable(f"'{place}' cannot be written: the folder allows no new files.")
        return place

    def stage(self, produced: Path, spec: JobSpec, token: int) -> dict[str, Any]:
        """Lay a finished video beside its place, safely on disk; returns what ``publish`` needs."""
        place = self.check_output(spec)
        staged = place.with_name(f".{spec.task_id}.{token}.part")
        try:
            with contextlib.suppress(OSError):  # another file system: copied below
                produced.replace(staged)
            if not staged.exists():
                shutil.copyfile(produced, staged)
            with staged.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                staged.unlink(missing_ok=True)
            raise _unwritable(place, error) from error
        return {"staged": str(staged), "place": str(place), "sha256": digest, "bytes": staged.stat().st_size}

    def publish(self, staged: Mapping[str, Any]) -> bool:
        """Rename a staged video to its place; True also when that has been done before.

        False when the video is nowhere, so that it has to be made again. Raises FileUnreachable.
        """
        source, place = Path(staged["staged"]), Path(staged["place"])
        try:
            try:
                source.replace(place)
                sync_folder(place.parent)
            except FileNotFoundError:
                if not _is_file(place, staged):
                    return False
            stem = source.name.removesuffix(".part").rpartition(".")[0]
            for left_behind in place.parent.glob(f"{glob_escape(stem)}.[0-9]*.part"):
                left_behind.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(place, error) from error
        return True

    def discard(self, spec: JobSpec, token: int | None = None) -> None:
        """Remove what a start, or every one, has laid beside the video's place, for jobs that are over or another's."""
        with contextlib.suppress(JobError, OSError):
            place = self.path_of(spec.output, "output")
            which = "*" if token is None else str(token)
            for laid in place.parent.glob(f".{glob_escape(spec.task_id)}.{which}.part"):
                laid.unlink(missing_ok=True)

    def remove_result(self, place: str, described: Mapping[str, Any]) -> Literal["removed", "not ours", "out of reach"]:
        """Remove a video that the queue has put in its place and nobody has changed since. described: bytes, sha256.

        "not ours": it is gone, or another file; "out of reach": not in our folders, or its folder is away.
        """
        path = Path(place)
        try:
            inside = any(path.resolve().is_relative_to(root) for root in self._roots)
            if not inside or not path.parent.is_dir():
                return "out of reach"
            if path.is_symlink() or not path.is_file():
                return "not ours"
            before = path.stat()
            if not described or not _is_file(path, described):
                return "not ours"
            now = path.stat()
            if (now.st_ino, now.st_mtime_ns) != (before.st_ino, before.st_mtime_ns):  # replaced while it was read
                return "not ours"
            path.unlink()
            report_beside(path).unlink(missing_ok=True)
        except OSError:
            return "out of reach"
        return "removed"

    def about_room(self, error: PromptFailed) -> FileUnreachable | None:
        """What to say of a node that had no room for the video; None when it failed for another reason."""
        words = next((words for words in NO_ROOM_WORDS if words in str(error)), "")
        return _no_room(self.output_directory, OSError(0, words)) if words else None


def path_in(roots: Iterable[Path], uri: str, field: str) -> Path:
    """The file that a URI of a job names, with its links resolved. roots: resolved, too.

    Raises BadJob when it is none in these folders.
    """
    parts = urlsplit(uri)
    if parts.scheme != "file":
        usable = "file:///... or s3://..." if field == "output" else "file:///..., https://... or s3://..."
        raise BadJob(field, f"'{parts.scheme or uri}' is no kind of address that is taken here; use {usable}")
    if parts.netloc not in ("", "localhost"):
        raise BadJob(field, f"the file is on another computer ('{parts.netloc}'); name one that is mounted here.")
    if "\0" in unquote(parts.path) or parts.query or parts.fragment:
        raise BadJob(field, "the file's name holds characters that it cannot hold; quote them.")
    path = Path(url2pathname(parts.path))
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle; from Python 3.13 on whoever opens it is told
        raise BadJob(field, f"'{path}' cannot be found: a link on the way leads nowhere.") from error
    if not path.is_absolute() or not any(resolved.is_relative_to(root) for root in roots):
        raise BadJob(field, f"'{path}' lies outside the folders that this instance may use; add its folder to roots.")
    return resolved


def glob_escape(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)


def _is_file(place: Path, staged: Mapping[str, Any]) -> bool:
    """True when the video in its place is the staged one."""
    if not place.is_file() or place.stat().st_size != staged["bytes"]:
        return False
    with place.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == str(staged["sha256"])


def sync_folder(folder: Path) -> None:
    """The new name is on disk, too, where the system can be asked for that."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # some network file systems refuse
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _no_room(folder: Path, error: OSError) -> FileUnreachable:
    reason = error.strerror or error
    return FileUnreachable(f"There is no room for more in '{folder}' ({reason}); free some there.")


def _unwritable(place: Path, error: OSError) -> FileUnreachable:
    if error.errno in NO_ROOM:
        return _no_room(place.parent, error)
    return FileUnreachable(f"'{place}' cannot be written: {error.strerror or error}.")
