"""A fleet's folder: whose it is, and what the fleet tells of itself there for ``sonic-queue fleet status``."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import FleetError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

FILE, LOCK = "fleet.json", "fleet.lock"
BRIEFLY_S = 0.5  # a look at the lock takes it for a moment


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Have the folder alone for as long as the block runs; nothing stays taken when the process dies.

    Raises FleetError when another fleet runs there, or nothing can be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK).open("ab") as file:
            deadline = time.monotonic() + BRIEFLY_S
            while not _locked(file):
                if time.monotonic() > deadline:
                    raise FleetError(f"Another fleet runs in '{folder}'; each one needs a --folder of its own.")
                time.sleep(0.02)
            try:
                yield
            finally:
                (folder / FILE).unlink(missing_ok=True)
    except OSError as error:
        raise FleetError(f"The folder '{folder}' cannot be written: {error.strerror or error}.") from error


def tell(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace what is told, whole."""
    new = folder / f"{FILE}.new"
    new.write_text(json.dumps(dict(state), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    new.replace(folder / FILE)


def told(folder: Path) -> dict[str, Any]:
    """What the fleet that runs in this folder tells. Raises FleetError when none does."""
    none = FleetError(f"No fleet runs in '{folder}'; start one with `sonic-queue fleet`, or name its --folder.")
    try:
        state: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        with (folder / LOCK).open("ab") as file:
            if _locked(file):
                raise none
    except (OSError, ValueError):
        raise none from None
    return state


def _locked(file: BinaryIO) -> bool:
    """True when the lock is ours now, until the file is closed."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
