"""Runs lease_process.py for a server: a plain script, since the server knows this package by its path only.

    python keep_lease.py        everything else comes through standard input

Loads this package alone, not the pack around it, so that it starts fast and never sees torch or ComfyUI.
"""

from __future__ import annotations

import importlib
import importlib.util
import signal
import sys
from pathlib import Path

ROOM = Path(__file__).resolve().parent
FOLDER = ROOM.parent
NAME = "sonic_queue_bridge"


def main() -> int:
    # The end of the server ends us, nothing else: a SIGTERM to all of a service must not come before its own.
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    sys.path = [place for place in sys.path if Path(place or ".").resolve() != ROOM]  # its neighbours hide others
    spec = importlib.util.spec_from_file_location(
        NAME, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec
    assert spec.loader
    package = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = package
    spec.loader.exec_module(package)
    status: int = importlib.import_module(f"{NAME}.{ROOM.name}.lease_process").main()
    return status


if __name__ == "__main__":
    sys.exit(main())
