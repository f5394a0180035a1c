"""Whether the process that started us still runs, since only then its lease may be renewed."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path


class Life(Enum):
    """STOPPED: it is there but does nothing, as after SIGSTOP or in a debugger."""

    RUNS = "runs"
    STOPPED = "stopped"
    GONE = "gone"


def life_of_parent(process: int) -> Life:
    """What has become of our parent, whose number is given.

    Elsewhere than on POSIX the end of our standard input says that it is gone; where there is no /proc, a stopped one
    cannot be told from one that runs.
    """
    if os.name != "posix":
        return Life.RUNS
    if os.getppid() != process:  # an orphan is given to another parent at once
        return Life.GONE
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Life.RUNS
    state = fields.rpartition(")")[2].split()[0]  # behind the program's name, which may hold anything
    if state in "Tt":
        return Life.STOPPED
    return Life.GONE if state in "ZX" else Life.RUNS
