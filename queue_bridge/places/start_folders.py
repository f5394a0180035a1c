"""A start's own folders below ComfyUI's: copies of its inputs, and what its prompt saves. No other start uses them."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = "sonic"  # below ComfyUI's input and output folders
WORD = 8  # characters
# Only these are the bridge's: people keep their own folders there, too.
OF_A_START = re.compile(rf"([1-9]\d*)-([0-9a-f]{{{WORD}}})([0-9a-f]{{{WORD}}})")


@dataclass(frozen=True)
class Owner:
    """Whose a folder is: a word for the queue, whose job ids are no other's, and one for this life of the server."""

    queue: str
    boot: str

    @classmethod
    def of(cls, queue: str, boot: str) -> Owner:
        """queue: whatever tells one queue from all others. boot: as in Identity, 16 hexadecimal digits."""
        return cls(hashlib.sha256(queue.encode()).hexdigest()[:WORD], boot[:WORD])


ALONE = Owner("0" * WORD, "0" * WORD)  # for ComfyUI's folders that nobody shares and that start empty


@dataclass(frozen=True, order=True)
class LeftFolder:
    """One that was there when it was looked for. changed_s: Unix time."""

    task_id: str
    token: int
    boot: str
    path: Path
    changed_s: float


class StartFolders:
    """input_directory, output_directory: ComfyUI's. owner: keeps these folders apart from those of others with the same
    directories, and from those that this server made in an earlier life."""

    def __init__(self, input_directory: Path, output_directory: Path, owner: Owner) -> None:
        self._owner = owner
        self._directories = (input_directory, output_directory)
        for directory in self._directories:
            directory.mkdir(parents=True, exist_ok=True)

    def name(self, task_id: str, token: int) -> str:
        """Of a start's folder, below ComfyUI's input folder as well as below its output folder."""
        return f"{FOLDER}/{task_id}/{token}-{self._owner.queue}{self._owner.boot}"

    def remove(self, task_id: str, token: int) -> None:
        """Everything that a start of this instance has there."""
        for directory in self._directories:
            _remove(directory / self.name(task_id, token))

    def left_by_others(self) -> list[LeftFolder]:
        """Those of this queue that others have there, or this server had in an earlier life. Reads the disk."""
        return sorted(left for directory in self._directories for left in self._left_in(directory))

    def remove_left(self, left: LeftFolder) -> None:
        _remove(left.path)

    def _left_in(self, directory: Path) -> Iterator[LeftFolder]:
        for path in (directory / FOLDER).glob("*/*"):
            named = OF_A_START.fullmatch(path.name)
            if not named or named[2] != self._owner.queue or named[3] == self._owner.boot or path.is_symlink():
                continue
            with contextlib.suppress(OSError):  # it is being removed
                yield LeftFolder(path.parent.name, int(named[1]), named[3], path, path.stat().st_mtime)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # another start's folder is beside it
        folder.parent.rmdir()
