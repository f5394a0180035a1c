"""The next job, made ready while another one runs: set aside in the queue, its files copied and read once.

Nothing here belongs to this instance yet. The job stays queued, and a priority job, another idle instance, a
cancellation or our own death find it as if it had never been looked at; the copies were made in vain then, and that
is all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import BAD_INPUT_TYPES, BridgeError, JobError, PromptFailed, PromptRejected, QueueUnavailable
from ..job import JobRecord
from ..pipelines.job_prompt import JobPrompt, prompt_of
from ..pipelines.templates import Template
from ..places.job_places import JobPlaces
from ..prompt_events import PromptRunner
from ..queue.presence import Identity
from ..queue.store import Store

log = logging.getLogger("sonic.ahead")

LOOK_S = 1.0  # how soon a priority job that comes meanwhile is made ready instead, or let past

# Reads a file as a node will, by the type of that node; what it raises is what the node would raise.
Checks = Mapping[str, Callable[[Path], object]]


@dataclass(frozen=True)
class Ready:
    """The files of a job in ComfyUI's input folder, by field. sources: what they looked like when they were copied."""

    files: Mapping[str, str]
    sources: tuple[tuple[int, int], ...]


class Ahead:
    """Looks ahead for one instance, by one job. checks: see Checks. lanes: what this instance serves."""

    def __init__(
        self,
        store: Store,
        identity: Identity,
        places: JobPlaces,
        templates: Mapping[str, Template],
        runner: PromptRunner,
        lanes: Sequence[str],
        checks: Checks,
    ) -> None:
        self._store = store
        self._identity = identity
        self._places = places
        self._templates = templates
        self._runner = runner
        self._lanes = tuple(lanes)
        self._checks = checks
        self._job: JobRecord | None = None  # with the token that its start will have
        self._task: asyncio.Task[Ready | None] | None = None
        self._fetching: asyncio.Task[dict[str, str]] | None = None
        self._discarding: dict[tuple[str, int], asyncio.Task[None]] = {}  # by the start whose files they remove

    async def look(self, waits: Callable[[], bool], let_past: Callable[[], object], current: JobRecord) -> None:
        """Keep the next job ready, until this is cancelled.

        current: the job at hand. waits: whether its prompt still waits for its turn in ComfyUI. let_past: called when
        that is so and a priority job should go first.
        """
        while True:
            try:
                found = None
                if self._store.settings.prefetch or waits():
                    found = await self._store.set_aside(self._identity.name, self._identity.boot, self._lanes)
                if found and found.job_class == "priority" and current.job_class != "priority" and waits():
                    let_past()
                if self._store.settings.prefetch:
                    self._make_ready(found)
            except QueueUnavailable as error:
                log.debug("looking ahead: %s", error)
            refused = False
            if self._task and not self._task.done():
                await asyncio.wait({self._task}, timeout=LOOK_S)
                refused = self._task.done() and self._job is None
            if not refused:
                await asyncio.sleep(LOOK_S)

    async def take(self, job: JobRecord) -> Ready | None:
        """What has been made ready for this start, which is then the caller's to tidy; None when nothing has."""
        await self._discarded(job)
        if not self._job or not self._task or (self._job.task_id, self._job.token) != (job.task_id, job.token):
            return None
        task, self._task, self._job = self._task, None, None
        ready = await task
        if ready and ready.sources == await self._places.sources(job.spec):
            return ready
        return None

    async def close(self) -> None:
        """Let go what is ready; for an instance that takes no job any more."""
        self._discard()
        with contextlib.suppress(QueueUnavailable):  # then it is free when this instance is gone
            await self._store.let_go(self._identity.name, self._identity.boot)
        if self._discarding:
            await asyncio.wait(self._discarding.values())

    async def _discarded(self, job: JobRecord) -> None:
        """Wait until nothing removes the files of this very start any more, as they would lie in the same folder."""
        if task := self._discarding.get((job.task_id, job.token)):
            await asyncio.wait({task})

    def _make_ready(self, found: JobRecord | None) -> None:
        job = found and replace(found, token=found.token + 1)
        if job and self._job and (self._job.task_id, self._job.token) == (job.task_id, job.token):
            return
        self._discard()
        if job:
            self._job = job
            self._task = asyncio.create_task(self._ready(job), name="sonic_ahead")

    def _discard(self) -> None:
        if self._task and self._job:
            if self._fetching and self._places.comes_from_afar(self._job.spec):
                self._fetching.cancel()  # a file nearby is let go on, as a thread cannot be stopped
            start = (self._job.task_id, self._job.token)
            discarding = asyncio.create_task(self._tidy_after(self._task, self._job))
            self._discarding[start] = discarding
            discarding.add_done_callback(
                lambda done: self._discarding.get(start) is done and self._discarding.pop(start)
            )
        self._job = self._task = None

    async def _tidy_after(self, task: asyncio.Task[Ready | None], job: JobRecord) -> None:
        await asyncio.wait({task})
        await self._places.tidy(job.task_id, job.token)

    async def _ready(self, job: JobRecord) -> Ready | None:
        """Everything that can be done before the start; an error that a start would meet as well is left to it."""
        try:
            if job.staged is not None:  # there is nothing left to be computed
                return None
            await self._discarded(job)
            prompt = prompt_of(job, self._templates, self._store.settings.raw_nodes)
            sources = await self._places.sources(job.spec)
            self._fetching = asyncio.create_task(self._places.fetch(job.spec, job.token))
            files = await self._fetching
            await self._places.check_output(job.spec)
            await asyncio.to_thread(self._read, prompt, files)
            prefix = self._places.output_prefix(job.spec, job.token)
            await self._runner.check(prompt.graph(files, prefix))
            return Ready(files, sources)
        except BridgeError as error:
            if isinstance(error, JobError) or (isinstance(error, PromptRejected | PromptFailed) and error.bad_input):
                await self._refuse(job, str(error))
            else:
                log.debug("job %s cannot be made ready: %s", job.task_id, error)
        except Exception:  # its start will show what it is
            log.debug("job %s cannot be made ready", job.task_id, exc_info=True)
        return None

    def _read(self, prompt: JobPrompt, files: Mapping[str, str]) -> None:
        """Read the files as the nodes will that the template gives them to. Raises PromptFailed."""
        for kind, name in files.items():
            for node_id, _ in prompt.template.filled.get(kind, ()):
                node_type = str(prompt.template.graph[node_id]["class_type"])
                check = self._checks.get(node_type)
                if check is None:
                    continue
                try:
                    check(self._places.input_directory / name)
                except Exception as error:
                    error_type = type(error).__name__
                    if error_type not in BAD_INPUT_TYPES:
                        raise
                    where = {"node_id": node_id, "node_type": node_type, "error_type": error_type}
                    raise PromptFailed(str(error), **where) from error

    async def _refuse(self, job: JobRecord, reason: str) -> None:
        with contextlib.suppress(QueueUnavailable):  # then its start finds the same
            if await self._store.refuse(job, self._identity.name, reason):
                log.warning("job %s: %s (found before its start), now failed", job.task_id, reason)
                if self._job is job:
                    self._job = None  # so that the next one is looked at now
                await self._places.tidy(job.task_id, job.token)
