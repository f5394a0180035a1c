"""Something small that an instance or a command does again and again beside its work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from .errors import BridgeError


async def now_and_then(step: Callable[[], Awaitable[object]], every_s: float, log: logging.Logger) -> None:
    """Until this task is cancelled. What a step raises is logged and ends nothing: its absence would not be noticed."""
    while True:
        try:
            await step()
        except BridgeError as error:
            log.debug("%s", error)
        except Exception:
            log.exception("An error that was not foreseen; it is tried again in %g s.", every_s)
        await asyncio.sleep(every_s)
