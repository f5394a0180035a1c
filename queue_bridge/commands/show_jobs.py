"""Follows jobs to their end and shows them on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from rich.console import Console

from ..console import JobsDisplay
from ..execution.unserved import Unserved
from ..job import JobRecord
from ..queue.follow import Follower
from ..queue.queue_view import QueueView


async def show_until_ended(
    view: QueueView,
    names: Mapping[str, str],
    after: str,
    console: Console,
    each_second: Callable[[], Awaitable[None]] | None = None,
) -> dict[str, JobRecord]:
    """Show these jobs (id -> name) until all have ended; returns their last records by id.

    after: the last event that need not be seen. each_second: awaited meanwhile; what it raises ends this.
    """
    follower = Follower(view, after)
    follower.add(names)
    records: dict[str, JobRecord] = {}
    looking = asyncio.create_task(Unserved(view, console.print).run())
    try:
        with JobsDisplay(console) as display:
            display.add(dict(names))
            async for changed in follower.changes():
                for record in changed:
                    records[record.task_id] = record
                    display.update(record)
                if each_second:
                    await each_second()
    finally:
        looking.cancel()
    return records
