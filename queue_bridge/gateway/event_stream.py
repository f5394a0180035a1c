"""One reader of the queue's events for all who follow tasks, however many they are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterator

from ..errors import BridgeError
from ..job import JobRecord
from ..queue_view import QueueView, place_of
from ..states import TERMINAL

log = logging.getLogger("sonic.gateway.event_stream")

BLOCK_S = 5.0
AWAY_S = 1.0
WAITING_EVENTS = 2000  # of a follower whose line is slower than its tasks; then it looks at its tasks anew
ENDS = frozenset(str(state) for state in TERMINAL)

Event = dict[str, str]


class Follower:
    """What has happened to some tasks and has not been sent yet. missed: there was more than could be kept."""

    def __init__(self, task_ids: Collection[str]) -> None:
        self.task_ids = frozenset(task_ids)
        self.events: asyncio.Queue[tuple[str, Event, JobRecord | None] | None] = asyncio.Queue(WAITING_EVENTS)
        self.missed = False

    def put(self, event_id: str, event: Event, record: JobRecord | None) -> None:
        try:
            self.events.put_nowait((event_id, event, record))
        except asyncio.QueueFull:
            self.missed = True

    def end(self) -> None:
        """Nothing more comes, as the gateway stops."""
        if self.events.full():
            self.events.get_nowait()
        self.events.put_nowait(None)


class EventStream:
    """Begins to read with the first follower."""

    def __init__(self, view: QueueView) -> None:
        self._view = view
        self._followers: dict[str, set[Follower]] = {}  # by task
        self._task: asyncio.Task[None] | None = None
        self.last_id = "0-0"
        self.ended = False

    @property
    def followers(self) -> int:
        return len({follower for them in self._followers.values() for follower in them})

    @contextlib.contextmanager
    def following(self, task_ids: Collection[str]) -> Iterator[Follower]:
        """A follower that is told of everything from now on. ``ready`` has to have been awaited before."""
        follower = Follower(task_ids)
        for task_id in follower.task_ids:
            self._followers.setdefault(task_id, set()).add(follower)
        try:
            yield follower
        finally:
            for task_id in follower.task_ids:
                them = self._followers[task_id]
                them.discard(follower)
                if not them:
                    del self._followers[task_id]

    async def ready(self) -> None:
        """Return when events are being read. Raises QueueUnavailable."""
        if self._task is None:
            last_id = await self._view.last_event()
            if self._task is None and not self.ended:  # others may have waited as well
                self.last_id = last_id
                self._task = asyncio.create_task(self._read())

    async def past(self, task_ids: Collection[str], after: str, most: int) -> list[tuple[str, Event]] | None:
        """What has happened to these tasks behind an event, up to ``last_id``; None when that is not known any more.

        most: so many events of all tasks are looked at.
        """
        until, found, seen = self.last_id, [], 0
        if place_of(after) < place_of(await self._view.first_event()):
            return None
        while place_of(after) < place_of(until):
            entries = await self._view.past_events(after, until)
            if not entries:
                break
            seen += len(entries)
            if seen > most:
                return None
            found += [(event_id, event) for event_id, event in entries if event.get("job") in task_ids]
            after = entries[-1][0]
        return found

    async def stop(self) -> None:
        """End the reader and every follower."""
        self.ended = True
        for follower in {one for them in self._followers.values() for one in them}:
            follower.end()
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _read(self) -> None:
        while True:
            try:
                if entries := await self._view.entries(self.last_id, BLOCK_S):
                    self.last_id = entries[-1][0]  # at once: who begins to follow from here on looks back that far
                    await self._tell(entries)
            except BridgeError as error:
                log.warning("%s Followers wait for it.", error)
                await asyncio.sleep(AWAY_S)
            except Exception:
                log.exception("An error that was not foreseen; followers are told of what comes after it.")
                await asyncio.sleep(AWAY_S)

    async def _tell(self, entries: list[tuple[str, Event]]) -> None:
        """To each follower what concerns it; with the record of a task that has ended, read once for all."""
        wanted = [one for one in entries if one[1].get("job") in self._followers]
        ended = sorted({event["job"] for _, event in wanted if event.get("state") in ENDS})
        records = await self._view.jobs(ended) if ended else {}
        for event_id, event in wanted:
            record = records.get(event["job"]) if event.get("state") in ENDS else None
            if record and record.state not in TERMINAL:  # put back since
                record = None
            for follower in tuple(self._followers.get(event["job"], ())):
                follower.put(event_id, event, record)


def is_end(event: Event) -> bool:
    return event.get("state") in ENDS
