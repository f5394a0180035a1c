"""The Celery task ``generate_sonic_video``: a message becomes a job of the queue, and the job's end the task's.

    celery --app comfyui_sonic.queue_bridge.celery_app worker --pool threads --concurrency 100

Celery's own settings say where the broker and the results are (CELERY_BROKER_URL, CELERY_RESULT_BACKEND, or a
celeryconfig.py), those of the bridge where the queue is. A message that comes again finds the job it made before.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from celery import Celery, Task
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import task_revoked

from .commands.one_job import followed, result_of, submission_of
from .config import load_settings
from .database.redis_connection import connect
from .errors import BridgeError, ConfigError, QueueUnavailable, VideoNotMade
from .job import ID, JobRecord
from .pipelines.templates import SHIPPED, load_templates
from .queue.queue_view import QueueView
from .queue.store import Store
from .states import TERMINAL

log = logging.getLogger("sonic.celery")

NAME = "generate_sonic_video"
PROGRESS = "PROGRESS"
AWAY_S, GIVEN_UP_S = 2.0, 300.0  # the queue's server may be away for so long
Report = Callable[[dict[str, Any]], None]

app = Celery("sonic")
app.add_defaults({"worker_prefetch_multiplier": 1, "task_track_started": True})


@app.task(bind=True, name=NAME, acks_late=True, reject_on_worker_lost=True, throws=(BridgeError,))
def generate_sonic_video(
    self: Task,
    image_path: str,
    audio_path: str,
    duration: float | None = None,
    output_path: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Make a video and wait for it.

    image_path, audio_path, output_path: paths as the ComfyUI servers see them, or addresses; the video lands beside the
    recording when no place is named. options: ``resolution``, ``engine``, ``seed``, ``steps`` and whatever else the
    template has, ``priority``, ``callback``, ``consent_id``, ``traceparent``. Meanwhile the task's state is PROGRESS
    with percent, stage, seconds_left. Raises VideoNotMade with the job's sentence, BadJob for a wrong option.
    """
    celery_id = str(self.request.id)

    def report(meta: dict[str, Any]) -> None:
        self.update_state(task_id=celery_id, state=PROGRESS, meta=meta)

    given = {**options, "duration": duration}
    try:
        return asyncio.run(_generate(job_id_of(celery_id), image_path, audio_path, output_path or "", given, report))
    except SoftTimeLimitExceeded:
        cancel(celery_id)
        raise


def job_id_of(celery_id: str) -> str:
    """The job of a task: the same for the same task, so that a message that comes again makes nothing twice."""
    plain = f"celery_{celery_id}"
    return plain if ID.fullmatch(plain) else f"celery_{hashlib.sha256(celery_id.encode()).hexdigest()[:40]}"


def cancel(celery_id: str) -> None:
    """Cancel the job of a task; one that there is not, or that has ended, stays as it is."""

    async def run() -> None:
        async with _queue() as (store, _):
            await store.cancel([job_id_of(celery_id)])

    try:
        asyncio.run(run())
    except BridgeError as error:
        log.warning("The job of the task %s could not be cancelled: %s", celery_id, error)


@task_revoked.connect(weak=False)
def _on_revoked(request: Any = None, **_: Any) -> None:
    """In the worker's main process: the one that followed the job is ended, or has never begun."""
    if getattr(request, "name", getattr(request, "task", "")) == NAME:
        cancel(str(request.id))


@asynccontextmanager
async def _queue() -> AsyncIterator[tuple[Store, QueueView]]:
    settings = load_settings()
    if not settings.url:
        raise ConfigError("SONIC_QUEUE_URL", "no queue is named; give its Redis server.")
    store = Store(connect(settings.url), settings)
    try:
        yield store, QueueView(store.client, store.keys, settings.url)
    finally:
        await store.close()


async def _generate(
    job_id: str, image: str, audio: str, output: str, options: Mapping[str, Any], report: Report
) -> dict[str, Any]:
    templates = load_templates((SHIPPED, *load_settings().templates))
    one, warnings = submission_of(job_id, image, audio, output, options, templates)
    for warning in warnings:
        log.warning("%s: %s", job_id, warning)
    loop = asyncio.get_running_loop()
    seen_s = loop.time()
    told: dict[str, Any] = {}
    while True:
        try:
            async with _queue() as (store, view):
                record: JobRecord | None = None
                async for record in followed(one, store, view):
                    seen_s = loop.time()
                    if record.state not in TERMINAL and (meta := _progress(record)) != told:
                        report(meta)
                        told = meta
                return result_of(record)
        except QueueUnavailable as error:
            if loop.time() - seen_s > GIVEN_UP_S:
                raise VideoNotMade(f"{error} The job {job_id} may go on without this task.") from error
            log.warning("%s", error)
            await asyncio.sleep(AWAY_S)


def _progress(record: JobRecord) -> dict[str, Any]:
    return {
        "task_id": record.task_id,
        "state": str(record.state),
        "percent": record.percent,
        "stage": record.stage,
        "seconds_left": record.seconds_left,
    }
