"""Removes what starts have left on disk whose server ended in their midst: killed, out of memory, or by Ctrl-C.

These are copies of a picture and a voice, a video that nobody came for, and what was laid beside a job's place: a
start that had lost its job without knowing it lays that there, too. Nobody else would ever find them.
"""

from __future__ import annotations

import asyncio
import logging
import time

from ..job import JobRecord
from ..now_and_then import now_and_then
from ..places.job_places import JobPlaces
from ..places.start_folders import LeftFolder
from ..queue.queue_view import QueueView
from ..states import TERMINAL, State

log = logging.getLogger("sonic.dead_starts")

SWEEP_S = 60.0  # the queue may take as long as a lease to know that a start is over
UNKNOWN_S = 24 * 3600.0  # of a job that this queue does not know, or of a start that has not been: another's perhaps


class DeadStarts:
    """Looks through ComfyUI's folders of one instance; those that share them may do it side by side."""

    def __init__(self, view: QueueView, places: JobPlaces) -> None:
        self._view = view
        self._places = places

    async def run(self) -> None:
        """Sweep until this task is cancelled: at once, for what this server has left itself, then now and then."""
        await now_and_then(self.sweep, SWEEP_S, log)

    async def sweep(self) -> int:
        """Remove what belongs to no start any more; returns how many starts that were."""
        folders = self._places.files.folders
        found = await asyncio.to_thread(folders.left_by_others)
        # Read after the folders: what the queue says is over then was so, or is, for all that lay there.
        records = await self._view.jobs(sorted({left.task_id for left in found}))
        dead = [left for left in found if _is_over(left, records.get(left.task_id))]
        for left in dead:
            if record := records.get(left.task_id):
                await self._discard_laid(left, record)
            await asyncio.to_thread(folders.remove_left, left)
        starts = len({(left.task_id, left.token, left.boot) for left in dead})
        if starts:
            log.info("what %d interrupted starts had left is removed", starts)
        return starts

    async def _discard_laid(self, left: LeftFolder, record: JobRecord) -> None:
        """What lies beside the video's place, but for a chosen video, which a retry by hand puts into its place."""
        if record.state is State.COMPLETED:  # of which there are no further starts
            await self._places.discard(record.spec)
        elif record.staged is None:
            await self._places.discard(record.spec, left.token)


def _is_over(left: LeftFolder, record: JobRecord | None) -> bool:
    if record is None or (left.token > record.token and record.state is not State.COMPLETED):
        return time.time() - left.changed_s > UNKNOWN_S
    if record.staged is not None and record.state not in TERMINAL:
        return False  # until the chosen video is in its place, and nothing beside it is wanted any more
    if left.token == record.token:
        return record.state is not State.RUNNING
    return True
