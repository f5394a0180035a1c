"""Logs of programs that write for months: cut when they are large, with a few older ones kept beside."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path


def turn(file: Path, kept: int) -> None:
    """Move a log aside before a new one is begun: name.log is name.log.1 then, and the oldest beyond ``kept`` goes."""
    if file.exists() and file.stat().st_size:
        _make_room(file, kept)
        if kept:
            file.replace(_older(file, 1))


def turn_if_large(file: Path, limit: int, kept: int) -> bool:
    """The same while its program writes to it, as soon as it has more than ``limit`` bytes; True when that was so.

    The program must append (Instance.start does): what is there is copied and the file cut to nothing. What is written
    between these two steps is lost, some lines at most.
    """
    try:
        if file.stat().st_size <= limit:
            return False
    except FileNotFoundError:
        return False
    _make_room(file, kept)
    if kept:
        shutil.copyfile(file, _older(file, 1))
    os.truncate(file, 0)
    return True


def _make_room(file: Path, kept: int) -> None:
    _older(file, kept).unlink(missing_ok=True)
    for number in range(kept - 1, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            _older(file, number).replace(_older(file, number + 1))


def _older(file: Path, number: int) -> Path:
    return file.with_name(f"{file.name}.{number}")
