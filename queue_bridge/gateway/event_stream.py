"""One reader of the queue's events for all who follow tasks, however many they are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterator

from ..errors import BridgeError
from ..job import JobRecord
from ..queue.queue_view import QueueView, place_of
from ..states import TERMINAL

log = logging.getLogger("sonic.gateway.event_stream")

BLOCK_S = 5.0
AWAY_S = 1.0
WATCHED_TASKS = 5000  # that may change between two sendings to one watcher; then it looks at everything anew
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


class Watcher:
    """What has happened to the tasks that somebody may see, whichever they are, and has not been sent yet.

    Of each task only where it is by now, so a slow line costs no more than the tasks there are. sees: whether the tasks
    of a caller are shown; None for those of all. missed: there were too many.
    """

    def __init__(self, sees: Callable[[str], bool] | None) -> None:
        self.sees = sees
        self.woken = asyncio.Event()
        self.missed = False
        self.ended = False
        self.last_id = "0-0"
        self._changes: dict[str, Event] = {}

    def put(self, event_id: str, event: Event) -> None:
        self.last_id = event_id
        if len(self._changes) >= WATCHED_TASKS and event["job"] not in self._changes:
            self.missed = True
            return
        self._changes[event["job"]] = self._changes.pop(event["job"], {}) | event
        self.woken.set()

    def put_past(self, entries: list[tuple[str, Event]]) -> None:
        """What happened before anything that was put."""
        later, last_id = self._changes, self.last_id
        self._changes = {}
        for event_id, event in entries:
            self.put(event_id, event)
        for task_id, event in later.items():
            self._changes[task_id] = self._changes.pop(task_id, {}) | event
        self.last_id = last_id

    def take(self) -> list[Event]:
        """All of it, the latest last."""
        taken, self._changes = list(self._changes.values()), {}
        self.woken.clear()
        return taken

    def end(self) -> None:
        """Nothing more comes, as the gateway stops."""
        self.ended = True
        self.woken.set()


class EventStream:
    """Begins to read with the first follower."""

    def __init__(self, view: QueueView) -> None:
        self._view = view
        self._followers: dict[str, set[Follower]] = {}  # by task
        self._watchers: set[Watcher] = set()
        self._task: asyncio.Task[None] | None = None
        self.last_id = "0-0"
        self.ended = False

    @property
    def followers(self) -> int:
        return len({follower for them in self._followers.values() for follower in them}) + len(self._watchers)

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

    @contextlib.contextmanager
    def watching(self, sees: Callable[[str], bool] | None) -> Iterator[Watcher]:
        """The same for the tasks that somebody may see, whichever they are."""
        watcher = Watcher(sees)
        watcher.last_id = self.last_id
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    async def visible(
        self, entries: list[tuple[str, Event]], sees: Callable[[str], bool] | None
    ) -> list[tuple[str, Event]]:
        """Those of some events that are about tasks which somebody may see."""
        if sees is None:
            return entries
        whose = await self._view.callers_of(sorted({event["job"] for _, event in entries if event.get("job")}))
        return [one for one in entries if one[1].get("job") in whose and sees(whose[one[1]["job"]])]

    async def ready(self) -> None:
        """Return when events are being read. Raises QueueUnavailable."""
        if self._task is None:
            last_id = await self._view.last_event()
            if self._task is None and not self.ended:  # others may have waited as well
                self.last_id = last_id
                self._task = asyncio.create_task(self._read())

    async def past(
        self, task_ids: Collection[str] | None, after: str, most: int, until: str = ""
    ) -> list[tuple[str, Event]] | None:
        """What has happened to these tasks behind an event, up to ``until``; None when that is not known any more.

        task_ids: None for all. most: so many events of all tasks are looked at. until: '' for ``last_id``.
        """
        until, found, seen = until or self.last_id, [], 0
        if place_of(after) < place_of(await self._view.first_event()):
            return None
        if place_of(after) > place_of(await self._view.last_event()):
            return None  # of a database that has been replaced by an older one
        while place_of(after) < place_of(until):
            entries = await self._view.past_events(after, until)
            if not entries:
                break
            seen += len(entries)
            if seen > most:
                return None
            found += [one for one in entries if task_ids is None or one[1].get("job") in task_ids]
            after = entries[-1][0]
        return found

    async def stop(self) -> None:
        """End the reader and every follower."""
        self.ended = True
        for follower in {one for them in self._followers.values() for one in them}:
            follower.end()
        for watcher in self._watchers:
            watcher.end()
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
        await self._tell_watchers([one for one in entries if one[1].get("job")])
        wanted = [one for one in entries if one[1].get("job") in self._followers]
        ended = sorted({event["job"] for _, event in wanted if event.get("state") in ENDS})
        records = await self._view.jobs(ended) if ended else {}
        for event_id, event in wanted:
            record = records.get(event["job"]) if event.get("state") in ENDS else None
            if record and record.state not in TERMINAL:  # put back since
                record = None
            for follower in tuple(self._followers.get(event["job"], ())):
                follower.put(event_id, event, record)

    async def _tell_watchers(self, entries: list[tuple[str, Event]]) -> None:
        whose: dict[str, str] = {}
        if any(watcher.sees for watcher in self._watchers):
            whose = await self._view.callers_of(sorted({event["job"] for _, event in entries}))
        for watcher in tuple(self._watchers):
            for event_id, event in entries:
                if watcher.sees is None or (event["job"] in whose and watcher.sees(whose[event["job"]])):
                    watcher.put(event_id, event)


def is_end(event: Event) -> bool:
    return event.get("state") in ENDS
