"""What an operator wishes of a start while it runs: that its job is cancelled, or that its instance is given free."""

from __future__ import annotations

import asyncio
import logging
import time

from ..errors import BridgeError, QueueUnavailable, StartStopped
from ..job import JobRecord
from ..queue.store import Store

log = logging.getLogger("sonic.wishes")

LOOK_S = 5.0  # a wish wakes its instance at once; it looks this often nevertheless
AWAY_S = 1.0  # between two tries while Redis does not answer


class Leaving:
    """Whether this process is to end, and how long the job at hand may go on. Belongs to the event loop."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._changed = asyncio.Event()
        self._until = 0.0

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def ask(self, grace_s: float) -> None:
        """Take no new job; give the one at hand back after so many seconds. A later call may shorten that."""
        self._until = time.monotonic() + grace_s
        self._asked.set()
        self._changed.set()

    async def wait(self) -> None:
        """Return when it is asked."""
        await self._asked.wait()

    async def grace_over(self) -> BridgeError:
        """Return when it is asked and its time is over, with what the job at hand is to end with."""
        await self._asked.wait()
        while (left_s := self._until - time.monotonic()) > 0:
            self._changed.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._changed.wait()
            except TimeoutError:
                break
        return StartStopped("drained")


async def wish_for(store: Store, instance: str, job: JobRecord) -> BridgeError:
    """Return when an operator wishes that this start ends, with what it is to end with."""
    while True:
        try:
            wished = await store.wished(instance, job)
            if wished.cause:
                return StartStopped(wished.cause)
            limit_s = LOOK_S if wished.due_s is None else min(LOOK_S, wished.due_s + 0.005)
            await store.await_wish(wished, limit_s)
        except QueueUnavailable as error:  # which the lease keeper tells
            log.debug("wishes for %s: %s", job.task_id, error)
            await asyncio.sleep(AWAY_S)
