"""The way of a job through one instance: claim, fetch, run, stage, publish, commit; or what its failure leads to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from .config import Settings
from .errors import BridgeError, LeaseLost, PromptFailed, QueueUnavailable
from .job import JobRecord
from .job_files import JobFiles
from .job_progress import JobProgress, Report
from .lease import LeaseKeeper
from .presence import Identity
from .prompt_events import Progress, PromptResult, PromptRunner, SavedFile
from .retry import judge, kind_of, sentence_of
from .states import State
from .store import Idle, Store, Unregistered
from .templates import Template, template_named
from .tiers import tier_of_lane

log = logging.getLogger("sonic.worker")

IDLE_S = 5.0  # an idle instance looks again at least this often
AWAY_S = 2.0  # between two tries while Redis does not answer
PROMPT_NAMES = uuid.UUID("8b5f2c0e-5d4a-4f0b-9a43-1f6c7d2e9b10")  # namespace of the prompt ids made from job and start


class Worker:
    """One instance's loop over jobs, one job at a time.

    path_of: where a file that a prompt saved lies. lanes: what this instance can serve.
    """

    def __init__(
        self,
        store: Store,
        keeper: LeaseKeeper,
        identity: Identity,
        runner: PromptRunner,
        files: JobFiles,
        templates: Mapping[str, Template],
        lanes: Sequence[str],
        path_of: Callable[[SavedFile], Path],
    ) -> None:
        self._store = store
        self._keeper = keeper
        self._identity = identity
        self._runner = runner
        self._files = files
        self._templates = templates
        self._lanes = tuple(lanes)
        self._path_of = path_of
        self._settings: Settings = store.settings

    async def run(self) -> None:
        """Take jobs until this task is cancelled."""
        claim_id = uuid.uuid4().hex
        while True:
            try:
                job = await self._store.claim(self._identity.name, self._identity.boot, self._lanes, claim_id=claim_id)
                if isinstance(job, Idle):
                    await self._store.sleep(job, IDLE_S)
                    continue
                claim_id = uuid.uuid4().hex
                await self._work(job)
            except Unregistered:  # the lease keeper sees to that
                await asyncio.sleep(min(0.2, self._settings.heartbeat_s))
            except QueueUnavailable as error:  # which the lease keeper has told, too
                log.debug("claiming: %s", error)
                await asyncio.sleep(AWAY_S)
            except Exception:  # an instance that took no jobs any more would not be noticed
                log.exception("An error that was not foreseen; this instance goes on with the next job.")
                await asyncio.sleep(AWAY_S)

    async def _work(self, job: JobRecord) -> None:
        """One start of one job, to whatever end."""
        started = time.monotonic()
        lost = asyncio.Event()
        loop = asyncio.get_running_loop()

        def lose() -> None:
            loop.call_soon_threadsafe(lost.set)

        self._keeper.hold(job, lose)
        try:
            result = await _unless(lost, self._make(job, started))
            await self._persist(lambda: self._store.complete(job, result))
            log.info("job %s: completed in %.1f s", job.task_id, time.monotonic() - started)
        except LeaseLost as error:
            log.warning("job %s: %s", job.task_id, error)
        except Exception as error:  # noqa: BLE001  # whatever a node raises is this job's failure, not the instance's
            await self._settle(job, error)
        finally:
            self._keeper.drop()
            await asyncio.to_thread(self._files.tidy, job.task_id)

    async def _settle(self, job: JobRecord, error: Exception) -> None:
        kind, sentence = kind_of(error), sentence_of(error)
        verdict = judge(
            kind, failures=job.failures, tier=tier_of_lane(job.lane), policy=self._settings.retry_policy
        )
        log.log(
            logging.WARNING if verdict.state is State.FAILED else logging.INFO,
            "job %s: %s (%s), now %s",
            job.task_id,
            sentence,
            kind,
            verdict.state,
            exc_info=error if not isinstance(error, BridgeError) else None,
        )
        try:
            await self._persist(lambda: self._store.settle(job, verdict, sentence, str(kind), self._identity.name))
            if verdict.state is State.FAILED:
                await asyncio.to_thread(self._files.discard, job.spec)
        except LeaseLost as stale:
            log.warning("job %s: %s", job.task_id, stale)

    async def _make(self, job: JobRecord, started: float) -> dict[str, Any]:
        """Everything between claim and commit; returns the result that is to be committed."""
        if job.staged is not None:  # by an earlier start, which died before it could say that it was done
            published: bool = await asyncio.to_thread(self._files.publish, job.staged)
            if published:
                return dict(job.staged["result"])
        template = template_named(self._templates, job.spec.workflow)
        config = dict(job.spec.config)
        if "resolution" in template.parameters and job.degradations:
            config["resolution"] = tier_of_lane(job.lane)
        values, warnings = template.check(config)
        progress = JobProgress(self._settings.progress_s, started)
        reports = _Reports(self._store, job)
        try:
            reports.send(progress.of_step(0.5, "Fetch", started))
            image, audio = await asyncio.to_thread(self._files.fetch, job.spec)
            await asyncio.to_thread(self._files.check_output, job.spec)

            def on_progress(now: Progress) -> None:
                report = progress.of_prompt(now.fraction, now.stage, time.monotonic())
                if report:
                    reports.send(report)

            outcome = await self._runner.run(
                template.fill(
                    values, image=image, audio=audio, output_prefix=self._files.output_prefix(job.spec, job.token)
                ),
                on_progress=on_progress,
                weights=template.weights,
                prompt_id=str(uuid.uuid5(PROMPT_NAMES, f"{job.task_id}/{job.token}")),
            )
            reports.send(progress.of_step(98.0, "Publish", time.monotonic()))
            produced = self._produced(outcome, template)
            laying = asyncio.create_task(asyncio.to_thread(self._files.stage, produced, job.spec, job.token))
            laid = await self._unless_in_vain(job, laying, asyncio.shield(laying))
        finally:
            await reports.end()
        result = {
            "output": laid["place"],
            "bytes": laid["bytes"],
            "sha256": laid["sha256"],
            "seconds": round(time.monotonic() - started, 3),
            "instance": self._identity.name,
            "attempt": job.attempt,
            "warnings": warnings,
            "resolution": config.get("resolution"),
            "degraded": bool(job.degradations),
            "report": outcome.report("sonic"),
        }
        choice = self._persist(lambda: self._store.stage(job, {**laid, "result": result}))
        await self._unless_in_vain(job, laying, choice)
        if not await asyncio.to_thread(self._files.publish, laid):
            raise BridgeError(f"The video of job {job.task_id} vanished from '{laid['staged']}' before its renaming.")
        return result

    async def _unless_in_vain(self, job: JobRecord, laying: asyncio.Task[Any], step: Awaitable[Any]) -> Any:
        """One step between laying a video beside its place and its being chosen.

        When the job is another's by then, nobody comes for this video, so it goes. Should it have been chosen in the
        very moment, the next start makes another.
        """
        try:
            return await step
        except (LeaseLost, asyncio.CancelledError):
            await asyncio.wait({laying})  # a thread goes on whoever is cancelled
            await asyncio.to_thread(self._files.discard, job.spec, job.token)
            raise

    def _produced(self, outcome: PromptResult, template: Template) -> Path:
        files = outcome.files_of(template.result_node)
        if not files:
            raise PromptFailed(
                f"ComfyUI finished, but node {template.result_node} of '{template.name}' left no MP4.",
                node_id=template.result_node,
            )
        return self._path_of(files[-1])

    async def _persist(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write to the queue, however long its server is away: only its answer says whether the job is still ours."""
        while True:
            try:
                return await write()
            except QueueUnavailable as error:
                log.warning("%s The job at hand waits for it.", error)
                await asyncio.sleep(AWAY_S)


class _Reports:
    """Sends progress without holding up the work; of several that pile up only the newest goes out."""

    def __init__(self, store: Store, job: JobRecord) -> None:
        self._store = store
        self._job = job
        self._next: Report | None = None
        self._task: asyncio.Task[None] | None = None

    def send(self, report: Report) -> None:
        self._next = report
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())

    async def end(self) -> None:
        """Wait until the last one is out."""
        if self._task:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _drain(self) -> None:
        while self._next:
            report, self._next = self._next, None
            try:
                await self._store.progress(self._job, report.percent, report.stage, report.seconds_left)
            except (QueueUnavailable, LeaseLost) as error:  # a lost lease is the lease keeper's news
                log.debug("progress of %s: %s", self._job.task_id, error)


async def _unless(lost: asyncio.Event, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Await the work; when the lease is lost first, cancel it and raise LeaseLost."""
    task = asyncio.create_task(work)
    watch = asyncio.create_task(lost.wait())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise LeaseLost("Its lease has run out; another instance may have it.")
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
