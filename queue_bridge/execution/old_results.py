"""Removes videos that are older than the operator wants to keep; only those that the queue has put in their places."""

from __future__ import annotations

import json
import logging

from ..now_and_then import now_and_then
from ..places.job_places import JobPlaces
from ..queue.store import Store

log = logging.getLogger("sonic.old_results")

SWEEP_S = 600.0
A_CALL = 100


class OldResults:
    """One instance's part: the videos whose places it may write to."""

    def __init__(self, store: Store, places: JobPlaces) -> None:
        self._store = store
        self._places = places

    async def run(self) -> None:
        """Sweep until this task is cancelled."""
        await now_and_then(self.sweep, SWEEP_S, log)

    async def sweep(self) -> int:
        """Remove what is too old; returns how many videos that were."""
        removed = after = 0
        while old := await self._store.old_results(after, A_CALL):
            settled = []
            for place, described in old:
                fate = await self._places.remove_result(place, json.loads(described))
                if fate != "out of reach":
                    settled.append(place)
                removed += fate == "removed"
            await self._store.forget_results([(place, text) for place, text in old if place in settled])
            after += len(old) - len(settled)
        if removed:
            log.info("%d videos older than %g days removed", removed, self._store.settings.results_days)
        return removed
