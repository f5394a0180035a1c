"""Looks at the queue for alerts, and tells the news: many instances look in turn, and each news is told once."""

from __future__ import annotations

import json
import logging

from ..alerts import MAILED, AlertLimits, Facts, News, Standing, decide
from ..execution.unserved import alerts as unserved
from ..now_and_then import now_and_then
from ..queue.queue_view import QueueView
from ..queue.scripts import Argument
from ..queue.store import Store

log = logging.getLogger("sonic.alerts")

LOOK_S = 15.0


class AlertWatch:
    """One of those who look. What was decided is in the queue; who decides on what is no longer so is refused."""

    def __init__(self, store: Store, view: QueueView, limits: AlertLimits, look_s: float = LOOK_S) -> None:
        self._store = store
        self._view = view
        self._limits = limits
        self._look_s = look_s

    async def look(self) -> list[News]:
        """The news that this one has told; none when another one has just looked, or was quicker."""
        answer = await self._store.call("alert_look", round(self._look_s * 1000) - 500)
        if not answer:
            return []
        now_ms, number, before = answer
        standing, news = decide(
            Standing.from_json(before), await self._facts(now_ms / 1000), self._limits, now_ms / 1000
        )
        values: list[Argument] = []
        for one in news:
            values += [one.event, one.alert, json.dumps(one.data()), one.sentence if one.kind in MAILED else ""]
        if await self._store.call("alert_tell", number, standing.to_json(), *values) != "ok":
            return []
        for one in news:
            log.warning("alert %s: %s", one.alert, one.sentence)
        return news

    async def _facts(self, now_s: float) -> Facts:
        counts, oldest_s = await self._view.counts(), await self._view.oldest_s()
        ends = (await self._view.figures()).ends
        failed = sum(count for (state, cause), count in ends.items() if state == "failed" and cause != "bad input")
        return Facts(
            backlog=counts.queued,
            oldest_s=max((now_s - at_s for at_s in oldest_s.values()), default=0.0),
            unserved=unserved(counts.waiting, await self._view.instances()),
            completed=sum(count for (state, _), count in ends.items() if state == "completed"),
            failed=failed,
            dead=counts.dead,
        )

    async def run(self) -> None:
        """Look until this task is cancelled."""
        await now_and_then(self.look, self._look_s, log)
