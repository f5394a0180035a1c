"""The command ``sonic-queue`` of an installation: the queue, the files of Sonic, checks of finished videos,
and graphs of the older pack."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .queue_bridge import cli
from .sonic.check_command import add_check_command
from .sonic.convert_command import add_convert_workflow_command
from .sonic.errors import SonicError
from .sonic.model_commands import add_model_commands


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, as `queue_bridge.cli` describes it."""
    further = (add_model_commands, add_check_command, add_convert_workflow_command)
    return cli.main(argv, further, (SonicError,), _run_here)


def _run_here(arguments: argparse.Namespace) -> int:
    from .sonic.run_here import run_here  # torch is loaded only when a video is made

    return run_here(arguments)


if __name__ == "__main__":
    sys.exit(main())
