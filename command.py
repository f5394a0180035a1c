"""The command ``sonic-queue`` of an installation: the queue's commands, and those for the files of Sonic."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .queue_bridge import cli
from .sonic.errors import SonicError
from .sonic.model_commands import add_model_commands


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, as `queue_bridge.cli` describes it."""
    return cli.main(argv, (add_model_commands,), (SonicError,))


if __name__ == "__main__":
    sys.exit(main())
