"""Follows jobs to their end: first as they are now, then whenever one of them changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from ..job import JobRecord
from ..states import TERMINAL
from .queue_view import QueueView

RESYNC_S = 10.0  # live jobs are read anew this often: their events may have been trimmed away meanwhile
BLOCK_S = 1.0


class Follower:
    """Jobs may be added while it runs. after: the id of the last event that need not be seen."""

    def __init__(self, view: QueueView, after: str) -> None:
        self._view = view
        self._after = after
        self._live: set[str] = set()
        self._new: set[str] = set()

    def add(self, task_ids: Iterable[str]) -> None:
        self._new |= set(task_ids) - self._live

    @property
    def live(self) -> frozenset[str]:
        """The jobs that have not ended yet."""
        return frozenset(self._live | self._new)

    async def changes(self) -> AsyncIterator[list[JobRecord]]:
        """Records of jobs that are new here or have changed, until all have ended; at least one item a second.

        A job that is no longer kept is not followed any more.
        """
        loop = asyncio.get_running_loop()
        synced = loop.time()
        while self._live or self._new:
            self._live |= self._new
            changed, self._new = self._new, set()
            if not changed:
                events, self._after = await self._view.events(self._after, BLOCK_S)
                changed = {event["job"] for event in events} & self._live
            if loop.time() - synced >= RESYNC_S:
                synced, changed = loop.time(), set(self._live)
            records = await self._view.jobs(sorted(changed))
            self._live -= changed - set(records)
            self._live -= {task_id for task_id, record in records.items() if record.state in TERMINAL}
            yield list(records.values())
