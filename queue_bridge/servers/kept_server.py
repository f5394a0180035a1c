"""Remembers, beside its base directory, which server runs there, so that a later command can use or stop it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import InstanceError
from .instance import STOP_GRACE_S, Instance, serves_from, system_stats

FILE = "server.json"


@dataclass(frozen=True)
class RunningServer:
    """address: host:port. process: its id. kept: true when it was left up on purpose.

    fingerprint: of the settings that it was started with.
    """

    address: str
    process: int
    kept: bool
    fingerprint: str = ""


def remember(instance: Instance, *, kept: bool, fingerprint: str = "") -> None:
    assert instance.process, "only a started server can be remembered"
    entry = RunningServer(instance.address, instance.process.pid, kept, fingerprint)
    (instance.base_directory / FILE).write_text(json.dumps(asdict(entry)), encoding="utf-8")


def forget(base_directory: Path) -> None:
    (base_directory / FILE).unlink(missing_ok=True)


def running_server(base_directory: Path) -> RunningServer | None:
    """The server that answers now from this base directory, or None."""
    try:
        entry = RunningServer(**json.loads((base_directory / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    stats = system_stats(entry.address, timeout_s=2.0)
    return entry if stats is not None and serves_from(stats, base_directory) else None


def stop_running(base_directory: Path) -> RunningServer | None:
    """Stop the server of this base directory; returns what was stopped, or None when none was up."""
    entry = running_server(base_directory)
    if entry is None:
        forget(base_directory)
        return None
    for number in [signal.SIGINT, signal.SIGTERM, signal.SIGKILL] if os.name == "posix" else [signal.SIGTERM]:
        _signal(entry.process, number)
        deadline = time.monotonic() + STOP_GRACE_S
        while time.monotonic() < deadline:
            if not _lives(entry.process):
                forget(base_directory)
                return entry
            time.sleep(0.1)
    raise InstanceError(f"The ComfyUI at {entry.address} did not stop; end its process {entry.process} yourself.")


def _signal(process: int, number: int) -> None:
    with contextlib.suppress(OSError):
        if os.name == "posix":
            os.killpg(process, number)  # a server leads a group of its own
        else:
            os.kill(process, number)


def _lives(process: int) -> bool:
    if os.name != "posix":  # there signal 0 would end it; SIGTERM, sent before, ends it at once
        return False
    try:
        os.kill(process, 0)
    except OSError:
        return False
    try:  # where nobody collects orphans, an ended process stays listed
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True
