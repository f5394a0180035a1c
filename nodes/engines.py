"""Which engines can make frames here, for whoever routes work to this server."""

from __future__ import annotations

from ..sonic.checkpoints import missing_sonic_files
from ..sonic.engine import misfit, runnable_engines
from .model_folders import model_folders


def available_engines() -> tuple[str, ...]:
    """The engines that can run now, by name."""
    missing = missing_sonic_files(model_folders())
    return runnable_engines(missing, "" if missing else misfit())
