"""Jobs in the order of their submission, page by page."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence

from ..job import JobRecord
from ..queue.queue_view import QueueView

A_CALL = 200

Place = tuple[str, str]  # of a job in the order of submission, and its id


async def submitted_jobs(
    view: QueueView, callers: Sequence[str], *, after: Place | None = None, since_ms: int | None = None, most: int
) -> AsyncGenerator[tuple[Place, JobRecord | None], None]:
    """Jobs of these callers, the latest first, with their places; None for one that is no longer kept. At most so many.

    since_ms: the other way round, from that time on.
    """
    while most > 0:
        places = await view.submitted(callers, min(most, A_CALL), after=after, since_ms=since_ms)
        records = await view.jobs([task_id for _, task_id in places])
        for place in places:
            yield place, records.get(place[1])
        if len(places) < min(most, A_CALL):
            return
        most -= len(places)
        after = places[-1]


async def jobs_of_batch(view: QueueView, batch_id: str, counts: Mapping[str, int], most: int) -> list[JobRecord]:
    """The jobs of a batch that are still kept, in the order of submission, at most so many."""
    total, found = counts.get("total", 0), []
    caller, since_ms = await view.batch_caller(batch_id), counts.get("submitted_ms", 0)
    # Nothing between the first and the last of a batch but what its caller submitted meanwhile.
    async with contextlib.aclosing(submitted_jobs(view, [caller], since_ms=since_ms, most=2000 + 4 * total)) as jobs:
        async for _, record in jobs:
            if record and record.spec.batch == batch_id:
                found.append(record)
                if len(found) >= min(most, total):
                    break
    return found
