"""Remembers, beside its base directory, which server runs there, so that a later command can use or stop it."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import InstanceError
from .instance import STOP_GRACE_S, Instance, serves_from, system_stats

FILE = "server.json"


@dataclass(frozen=True)
class RunningServer:
    """address: host:port. process: its id. kept: true when it was left up on purpose."""

    address: str
    process: int
    kept: bool


def remember(instance: Instance, *, kept: bool) -> None:
    assert instance.process, "only a started server can be remembered"
    entry = RunningServer(instance.address, instance.process.pid, kept)
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
    signals = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL] if os.name == "posix" else [signal.SIGTERM]
    for number in signals:
        try:
            if os.name == "posix":
                os.killpg(entry.process, number)
            else:
                os.kill(entry.process, number)
        except OSError:
            break
        deadline = time.monotonic() + STOP_GRACE_S
        while time.monotonic() < deadline:
            if system_stats(entry.address, timeout_s=1.0) is None:
                forget(base_directory)
                return entry
            time.sleep(0.1)
    raise InstanceError(f"The ComfyUI at {entry.address} did not stop; end its process {entry.process} yourself.")
