"""Whether this instance can still run anything. Once it cannot, it takes no more jobs for as long as it lives."""

from __future__ import annotations

import logging

log = logging.getLogger("sonic.health")

UNHEALTHY = 71  # exit status of a server that ends since it can run nothing any more; launch_comfyui.py has 70


class Health:
    """A latch. trouble: the sentence why, or '' while all is well."""

    def __init__(self) -> None:
        self.trouble = ""

    def latch(self, trouble: str) -> None:
        """From now on this instance is unhealthy; the first reason stays."""
        if not self.trouble:
            self.trouble = trouble
            log.error("This instance takes no more jobs: %s", trouble)
