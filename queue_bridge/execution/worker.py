"""The way of a job through one instance: claim, fetch, run, stage, publish, commit; or what its failure leads to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..config import Settings
from ..errors import (
    BridgeError,
    LeaseLost,
    PromptFailed,
    PromptWithdrawn,
    QueueForbidden,
    QueueUnavailable,
    StartStopped,
)
from ..health import Health
from ..job import RAW, JobRecord
from ..job_progress import WAITING, JobProgress, Report
from ..pipelines.job_prompt import SEED, JobPrompt, prompt_of
from ..pipelines.templates import Template
from ..places.job_places import JobPlaces
from ..places.sound_length import sound_length_s
from ..prompt_events import Progress, PromptResult, PromptRunner, SavedFile
from ..quality_gate import Measure, is_measured, measured, pass_or_raise
from ..queue.figures import taken
from ..queue.presence import Identity
from ..queue.store import Idle, Store, Unregistered, settlement
from ..retry import FailureKind, Verdict, judge, kind_of, sentence_of
from ..states import State
from ..tiers import tier_of_lane
from ..tracing import NoTracing, Tracing
from .ahead import Ahead, Checks
from .job_spans import JobSpans
from .lease import LeaseKeeper
from .result_bundle import bundle
from .stopwatch import Stopwatch
from .time_limit import time_limit_s
from .watchdog import Limits, Watchdog
from .wishes import Leaving, wish_for

log = logging.getLogger("sonic.worker")
Result = TypeVar("Result")

IDLE_S = 5.0  # an idle instance looks again at least this often
TURN_S = 0.05  # whose turn it is takes no longer to be seen
AWAY_S = 2.0  # between two tries while Redis does not answer
THREAD_S = 5.0  # how long a file that is being written is waited for when its start is stopped
FUSE_S = 30.0  # after the watchdog would have given up: it cannot look at its clock
PROMPT_NAMES = uuid.UUID("8b5f2c0e-5d4a-4f0b-9a43-1f6c7d2e9b10")  # namespace of the prompt ids made from job and start


class Worker:
    """One instance's loop over jobs: one prompt at a time, and beside it what is left to do of the job before it.

    path_of: where a file that a prompt saved lies. lanes: what this instance can serve. leaving: when to stop.
    checks: see Ahead. health: shared with whoever ends the process when it can run nothing any more.
    measure: how good a finished video is; None where nothing can be measured. tracing: told of every start.
    """

    def __init__(
        self,
        store: Store,
        keeper: LeaseKeeper,
        identity: Identity,
        runner: PromptRunner,
        places: JobPlaces,
        templates: Mapping[str, Template],
        lanes: Sequence[str],
        path_of: Callable[[SavedFile], Path],
        leaving: Leaving,
        checks: Checks,
        health: Health | None = None,
        measure: Measure | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._store = store
        self._keeper = keeper
        self._identity = identity
        self._runner = runner
        self._places = places
        self._templates = templates
        self._lanes = tuple(lanes)
        self._path_of = path_of
        self._health = health or Health()
        self._measure = measure
        self._tracing = tracing or NoTracing()
        self._ahead = Ahead(store, identity, places, templates, runner, lanes, checks)
        self._waits = False  # whether its prompt has not begun yet
        self._finishing: asyncio.Task[None] | None = None
        self._settings: Settings = store.settings
        self._leaving = leaving

    async def run(self) -> None:
        """Take jobs until this task is cancelled, until ``leaving`` is asked and the job at hand has ended, or until
        this instance can run none any more."""
        try:
            await self._take_jobs()
            await self._ahead.close()
            if self._finishing:
                await self._finishing
        finally:
            if self._finishing:
                await _end(self._finishing)

    async def _take_jobs(self) -> None:
        claim_id = uuid.uuid4().hex
        away_since: float | None = None
        said = ""
        while not self._leaving.asked and not self._health.trouble:
            try:
                if not self._runner.can_run():
                    self._health.latch("The thread of this ComfyUI that runs prompts has ended.")
                    continue
                if away_since and time.monotonic() - away_since > self._settings.lease_s / 4:
                    await self._store.spare()  # others may have been cut off, too, and not be back yet
                away_since = None
                if not await self._may_claim():
                    continue
                job = await self._next_job(claim_id)
                if job is None:
                    continue
                claim_id = uuid.uuid4().hex
                if self._leaving.asked:  # while the claim was under way, which is never broken off
                    await self._stop(job, StartStopped("drained"))
                else:
                    await self._work_to_the_end_of_its_prompt(job)
            except Unregistered:  # the lease keeper sees to that
                await asyncio.sleep(min(0.2, self._settings.heartbeat_s))
            except QueueForbidden as error:
                if str(error) != said:
                    log.warning("%s Until then this instance takes no jobs.", error)
                said = str(error)
                await asyncio.sleep(AWAY_S)
            except QueueUnavailable as error:  # which the lease keeper has told, too
                log.debug("claiming: %s", error)
                away_since = away_since or time.monotonic()
                await asyncio.sleep(AWAY_S)
            except Exception:  # an instance that took no jobs any more would not be noticed
                log.exception("An error that was not foreseen; this instance goes on with the next job.")
                await asyncio.sleep(AWAY_S)
        await self._take_nothing_more(claim_id)

    async def _next_job(self, claim_id: str) -> JobRecord | None:
        """Claim one, or sleep until one is handed over or something else has happened."""
        me = (self._identity.name, self._identity.boot)
        found = await self._store.claim(*me, self._lanes, claim_id=claim_id, wait_s=IDLE_S)
        if not isinstance(found, Idle):
            return found
        job = await _either(self._store.sleep(found, IDLE_S), self._leaving.wait())
        if job and not self._leaving.asked and not await self._is_still_its_turn():
            await self._give_back(job, "somebody has begun to use this ComfyUI meanwhile")
            return None
        return job

    async def _take_nothing_more(self, claim_id: str) -> None:
        """What this instance was handed in the moment in which it left goes back."""
        try:
            job = await self._store.claim(self._identity.name, self._identity.boot, (), claim_id=claim_id)
        except (QueueUnavailable, Unregistered):  # its lease runs out
            return
        if isinstance(job, JobRecord):
            await self._stop(job, StartStopped("drained"))

    async def _may_claim(self) -> bool:
        """Wait for this instance's turn in its ComfyUI, but not long: other things may have happened meanwhile."""
        try:
            async with asyncio.timeout(IDLE_S):
                await _either(self._runner.turn(), self._leaving.wait())
        except TimeoutError:
            return False
        return not self._leaving.asked

    async def _is_still_its_turn(self) -> bool:
        """It was when this instance went to sleep."""
        try:
            async with asyncio.timeout(TURN_S):
                await self._runner.turn()
        except TimeoutError:
            return False
        return True

    async def _work_to_the_end_of_its_prompt(self, job: JobRecord) -> None:
        """One start of one job. Its video is laid in its place while the next job's prompt runs already."""
        over = asyncio.Event()
        self._waits = False
        work = asyncio.create_task(self._work(job, over), name="sonic_job")
        ahead = asyncio.create_task(
            self._ahead.look(lambda: self._waits, lambda: self._runner.withdraw(_prompt_id(job)), job)
        )
        try:
            await over.wait()
            if self._finishing:  # of the job before: no more than one, should the place of the videos be slow
                await self._finishing
            self._finishing = work
        except BaseException:
            await _end(work)
            raise
        finally:
            await _end(ahead)

    async def _work(self, job: JobRecord, over: asyncio.Event) -> None:
        """One start of one job, to whatever end. over: set as soon as another prompt may run."""
        started = time.monotonic()
        lost = asyncio.Event()
        loop = asyncio.get_running_loop()

        def lose() -> None:
            loop.call_soon_threadsafe(lost.set)

        self._keeper.hold(job, lose)
        watch, spans = Stopwatch(started), JobSpans(self._tracing, job)
        outcome = failed = "broken off"
        try:
            ends = (_lost(lost), wish_for(self._store, self._identity.name, job), self._leaving.grace_over())
            result = await _unless(self._make(job, watch, over), *ends)
            watch.go_on("commit")
            counts = _counts(job, result, watch.took)
            await self._persist(lambda: self._store.complete(job, result, counts))
            outcome, failed = "completed", ""
            log.info("job %s: completed in %.1f s", job.task_id, time.monotonic() - started)
        except LeaseLost as error:
            outcome = failed = "lease lost"
            log.warning("job %s: %s", job.task_id, error)
        except StartStopped as stop:
            outcome, failed = stop.cause, ""
            await self._stop(job, stop)
        except PromptWithdrawn:
            outcome, failed = "given back", ""
            await self._give_back(job, "a priority job goes first")
        except Exception as error:  # noqa: BLE001  # whatever a node raises is this job's failure, not the instance's
            outcome, failed = await self._settle(job, error)
        finally:
            spans.end(watch, outcome, failed)
            over.set()
            self._keeper.drop(job)
            await self._places.tidy(job.task_id, job.token)

    async def _stop(self, job: JobRecord, stop: StartStopped) -> None:
        """End a start as an operator wishes; nothing of it counts as an attempt."""
        log.info("job %s: %s", job.task_id, stop)
        if stop.cause == "cancelled":
            verdict = Verdict(State.CANCELLED, "cancelled")
            await self._places.discard(job.spec)
        else:
            verdict = Verdict(State.QUEUED, "drained")
        try:
            await self._persist(lambda: self._store.settle(job, verdict))
        except LeaseLost as stale:
            log.warning("job %s: %s", job.task_id, stale)

    async def _give_back(self, job: JobRecord, reason: str) -> None:
        log.info("job %s: given back, as %s", job.task_id, reason)
        with contextlib.suppress(LeaseLost):
            await self._persist(lambda: self._store.settle(job, Verdict(State.QUEUED, "given back")))

    async def _settle(self, job: JobRecord, error: Exception) -> tuple[str, str]:
        """End a start as its failure wants it; what it led to, and the kind of the failure."""
        kind, sentence = kind_of(error), sentence_of(error)
        verdict = self._judge(job, kind)
        if kind is FailureKind.DEVICE_FAULT:
            self._health.latch(f"Its card has failed: {sentence}")
        elif kind is FailureKind.OUT_OF_MEMORY:
            with contextlib.suppress(BridgeError):
                await self._runner.unload_models()
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
                await self._places.discard(job.spec)
        except LeaseLost as stale:
            log.warning("job %s: %s", job.task_id, stale)
        return verdict.cause, str(kind)

    def _judge(self, job: JobRecord, kind: FailureKind) -> Verdict:
        return judge(
            kind,
            failures=job.failures,
            tier=tier_of_lane(job.lane),
            policy=self._settings.retry_policy,
            device_faults=job.device_faults,
        )

    def _watchdog(self, job: JobRecord, values: Mapping[str, Any], sound: str | None) -> Watchdog:
        """What ends this start when it takes too long. sound: its name in ComfyUI's input folder."""
        settings = self._settings
        sound_s = sound_length_s(self._places.input_directory / sound) if sound else 0.0
        asked_s = float(values.get("duration") or 0.0)
        video_s = min(asked_s, sound_s) if asked_s and sound_s else asked_s or sound_s
        limit_s = time_limit_s(video_s, values, scale=settings.time_limit_scale, fixed_s=settings.time_limit_s)

        def light_the_fuse() -> None:
            sentence = f"A node of job {job.task_id} let nothing else run, far beyond the job's time limit."
            verdict = self._judge(job, FailureKind.MAY_PASS)
            failure = settlement(job, verdict, sentence, str(FailureKind.MAY_PASS), self._identity.name)
            seconds = limit_s + settings.interrupt_s + FUSE_S
            self._keeper.fuse(job, seconds, failure, sentence, end_us=settings.exit_when_unhealthy)

        limits = Limits(limit_s, settings.silence_s, settings.interrupt_s)
        return Watchdog(limits, light_the_fuse, self._health.latch)

    async def _make(self, job: JobRecord, watch: Stopwatch, over: asyncio.Event) -> dict[str, Any]:
        """Everything between claim and commit; returns the result that is to be committed."""
        started = watch.since
        if job.staged is not None:  # by an earlier start, which died before it could say that it was done
            watch.begin("publish")
            if await self._places.deliver(job.staged, job.task_id):
                return dict(job.staged["result"])
            await self._persist(lambda: self._store.unstage(job))
            watch.begin("fetch")
        prompt = prompt_of(job, self._templates, self._settings.raw_nodes)
        progress = JobProgress(self._settings.progress_s, started)
        reports = _Reports(self._store, job)
        try:
            reports.send(progress.of_step(0.5, "Fetch", started))
            if ready := await self._ahead.take(job):
                files = ready.files
            else:
                files = await self._places.fetch(job.spec, job.token)
            await self._places.check_output(job.spec)

            watchdog = await asyncio.to_thread(self._watchdog, job, prompt.values, files.get("audio"))
            if job.history and job.history[-1].get("kind") == FailureKind.OUT_OF_MEMORY:
                await self._runner.unload_models()

            def on_progress(now: Progress) -> None:
                self._waits = now.stage == WAITING
                if not self._waits:
                    watchdog.hear()
                    watch.begin_prompt()
                report = progress.of_prompt(now.fraction, now.stage, time.monotonic())
                if report:
                    reports.send(report)

            watch.go_on("run")
            prompt_id = _prompt_id(job)
            prefix = self._places.output_prefix(job.spec, job.token)
            try:
                outcome = await watchdog.run(
                    self._runner.run(
                        prompt.graph(files, prefix),
                        on_progress=on_progress,
                        weights=prompt.template.weights,
                        prompt_id=prompt_id,
                    ),
                    has_ended=lambda: self._runner.has_ended(prompt_id),
                    can_run=self._runner.can_run,
                )
            except PromptFailed as error:
                raise self._places.files.about_room(error) or error from error
            finally:
                self._keeper.defuse(job)
            watch.go_on("publish")
            over.set()
            reports.send(progress.of_step(98.0, "Publish", time.monotonic()))
            produced, saved = await asyncio.to_thread(self._produced, outcome, prompt.template, job)
            quality = await self._quality_of(produced, outcome, job, prompt, watch)
            laying = asyncio.create_task(self._places.stage(produced, job.spec, job.token))
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
            "warnings": list(prompt.warnings),
            "resolution": prompt.values.get("resolution"),
            "degraded": bool(job.degradations),
            "report": outcome.report("sonic"),
        }
        further = {"consent_id": job.spec.consent_id, "quality": quality, "files": saved}
        result |= {name: value for name, value in further.items() if value}
        laid |= {"result": result}
        await self._unless_in_vain(job, laying, self._persist(lambda: self._store.stage(job, laid)))
        if not await self._places.deliver(laid, job.task_id):
            raise BridgeError(f"The video of job {job.task_id} vanished from '{laid['staged']}' before its renaming.")
        return result

    async def _quality_of(
        self, produced: Path, outcome: PromptResult, job: JobRecord, prompt: JobPrompt, watch: Stopwatch
    ) -> dict[str, Any]:
        """What is measured of a finished video, beside the next prompt. Raises BelowQuality for another seed."""
        engine = str(outcome.report("sonic").get("engine", ""))
        if not self._measure or job.spec.workflow == RAW or not is_measured(self._settings.quality, engine):
            return {}
        watch.begin("quality")
        quality = await asyncio.to_thread(measured, self._measure, produced)
        watch.go_on("publish")
        if self._settings.quality_gate and SEED in prompt.template.parameters:
            pass_or_raise(quality, job.redraws)
        return quality

    async def _unless_in_vain(self, job: JobRecord, laying: asyncio.Task[Any], step: Awaitable[Any]) -> Any:
        """One step between laying a video beside its place and its being chosen.

        When the job is another's by then, nobody comes for this video, so it goes. Should it have been chosen in the
        very moment, the next start makes another.
        """
        try:
            return await step
        except (LeaseLost, StartStopped, asyncio.CancelledError):
            # The lease may be found lost in two ways at once, and the second one must not cut this off.
            await _to_its_end(asyncio.create_task(self._discard_laid(job, laying)), THREAD_S)
            raise

    async def _discard_laid(self, job: JobRecord, laying: asyncio.Task[Any]) -> None:
        await asyncio.wait({laying})  # a thread goes on whoever is cancelled
        await self._places.discard(job.spec, job.token)

    def _produced(self, outcome: PromptResult, template: Template, job: JobRecord) -> tuple[Path, list[dict[str, Any]]]:
        """The file that becomes the job's result, and what is in it when it is a ZIP."""
        if job.spec.workflow == RAW:
            prefix = self._places.output_prefix(job.spec, job.token)
            place = self._places.files.output_directory / f"{prefix}.zip"
            return place, bundle(outcome, job.spec.prompt, self._path_of, self._places.files.output_directory, place)
        files = outcome.files_of(template.result_node)
        if not files:
            raise PromptFailed(
                f"ComfyUI finished, but node {template.result_node} of '{template.name}' left no MP4.",
                node_id=template.result_node,
            )
        return self._path_of(files[-1]), []

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


def _counts(job: JobRecord, result: Mapping[str, Any], took: Mapping[str, float]) -> list[str | int]:
    """What a completed job adds to the counts of all jobs. What the pipeline's report says may be of any kind."""
    report = result.get("report") or {}
    video_s = report.get("seconds")
    seconds = dict(took)
    if job.attempt == 1 and job.started_s is not None:
        seconds = {"wait": job.started_s - job.submitted_s, **took}
    length_s = float(video_s) if isinstance(video_s, int | float) and "run" in took else 0.0
    return taken(tier_of_lane(job.lane), str(report.get("engine", "")), seconds, length_s)


def _prompt_id(job: JobRecord) -> str:
    return str(uuid.uuid5(PROMPT_NAMES, f"{job.task_id}/{job.token}"))


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until it is gone."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task


async def _lost(lost: asyncio.Event) -> BridgeError:
    await lost.wait()
    return LeaseLost("Its lease has run out; another instance may have it.")


async def _unless(work: Coroutine[Any, Any, dict[str, Any]], *ends: Coroutine[Any, Any, BridgeError]) -> dict[str, Any]:
    """Await the work; when one of the ends comes first, cancel the work and raise what that end returns."""
    task = asyncio.create_task(work)
    watches = [asyncio.create_task(end) for end in ends]
    try:
        await asyncio.wait({task, *watches}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise next(watch.result() for watch in watches if watch.done())
    finally:
        for watch in watches:
            watch.cancel()
        if not task.done():
            task.cancel()
        # Whatever a cancelled one raises is no news; it must have ended before anything else begins.
        await asyncio.gather(task, *watches, return_exceptions=True)


async def _either(first: Coroutine[Any, Any, Result], second: Coroutine[Any, Any, None]) -> Result | None:
    """Return when one of two has ended: what the first one returns or raises, None when it has not ended."""
    one, other = asyncio.create_task(first), asyncio.create_task(second)
    try:
        await asyncio.wait([one, other], return_when=asyncio.FIRST_COMPLETED)
        return one.result() if one.done() else None
    finally:
        for task in (one, other):
            task.cancel()
        await asyncio.gather(one, other, return_exceptions=True)


async def _to_its_end(task: asyncio.Task[None], limit_s: float) -> None:
    """Wait for a task whoever is cancelled meanwhile, but not for ever."""
    deadline = time.monotonic() + limit_s
    while not task.done() and (left_s := deadline - time.monotonic()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task}, timeout=left_s)
