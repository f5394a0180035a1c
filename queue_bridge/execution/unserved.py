"""Jobs that wait for what no living instance can give: a resolution tier or an engine. They wait on, and it is said."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from ..now_and_then import now_and_then
from ..queue.queue_view import QueueView
from ..tiers import lanes_of

log = logging.getLogger("sonic.unserved")

LOOK_S = 15.0
LOOKS = 3  # in a row that find the same: an instance that starts, or starts anew, is no news


def alerts(waiting: Mapping[str, Mapping[str, int]], instances: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """By lane, a sentence on jobs that nobody serves. waiting: class -> lane -> how many; instances: what they say."""
    served = {
        lane
        for one in instances
        if not one.get("unhealthy") and not one.get("draining")
        for lane in lanes_of(one.get("tiers", ()), one.get("engines", ()))
    }
    counts: dict[str, int] = {}
    for lanes in waiting.values():
        for lane, count in lanes.items():
            if count and lane not in served:
                counts[lane] = counts.get(lane, 0) + count
    return {lane: _sentence(lane, count) for lane, count in sorted(counts.items())}


def _sentence(lane: str, count: int) -> str:
    tier, _, engine = lane.partition("-")
    wanted = f"resolution {tier}" + (f" with the engine {engine}" if engine else "")
    jobs = "1 job waits" if count == 1 else f"{count} jobs wait"
    return f"{jobs} for an instance that serves {wanted}, and none that lives does; start one, or cancel them."


class Unserved:
    """Looks now and then, and says every news once.

    say: takes a sentence. tell: takes the lane and the sentence, such as for a mail to the operator.
    """

    def __init__(
        self,
        view: QueueView,
        say: Callable[[str], object] = log.warning,
        tell: Callable[[str, str], Awaitable[object]] | None = None,
    ) -> None:
        self._view = view
        self._say = say
        self._tell = tell
        self._seen: dict[str, int] = {}  # in how many looks in a row

    async def look(self) -> Sequence[str]:
        """The lanes of which there is something to say, by now."""
        counts, instances = await self._view.counts(), await self._view.instances()
        found = alerts(counts.waiting, instances)
        self._seen = {lane: self._seen.get(lane, 0) + 1 for lane in found}
        for lane, looks in self._seen.items():
            if looks == LOOKS:
                self._say(found[lane])
                if self._tell:
                    await self._tell(lane, found[lane])
        return [lane for lane, looks in self._seen.items() if looks >= LOOKS]

    async def run(self) -> None:
        """Look until this task is cancelled."""
        await now_and_then(self.look, LOOK_S, log)
