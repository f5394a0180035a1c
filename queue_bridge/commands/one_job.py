"""One video as a job: its few words become a submission, and it is followed to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import BadJob, VideoNotMade
from ..job import DEFAULT_TEMPLATE, JobRecord, JobSpec
from ..pipelines.submission import DEFAULT_RESOLUTION
from ..pipelines.templates import Template, template_named
from ..queue.follow import Follower
from ..queue.queue_view import QueueView
from ..queue.store import Store, Submission
from ..states import State
from ..tiers import tier_of

# What the parameters of Sonic are called elsewhere.
CLASSIC = {"steps": "inference_steps", "smooth": "temporal_smoothing", "correct_lip": "lip_sync_correction"}
OF_THE_JOB = ("name", "priority", "workflow", "batch", "consent_id", "callback", "traceparent")


def submission_of(
    task_id: str,
    image: str,
    audio: str,
    output: str,
    options: Mapping[str, Any],
    templates: Mapping[str, Template],
) -> tuple[Submission, tuple[str, ...]]:
    """The job, and warnings about it.

    image, audio, output: paths, or addresses such as s3://...; output: '' for beside the recording, and one that does
    not begin at the root is below the instances' ``results``. options: parameters of the template, by their own or
    their classic names, and what else a job has (``priority``, ...); None
    is not said. Raises BadJob.
    """
    said = {CLASSIC.get(name, name): value for name, value in options.items() if value is not None}
    of_the_job = {name: said.pop(name) for name in OF_THE_JOB if name in said}
    template = template_named(templates, str(of_the_job.pop("workflow", DEFAULT_TEMPLATE)))
    values, warnings = template.check(said)
    place = _place(output) if output else as_address(_beside(audio))
    stem = Path(unquote(urlsplit(place).path)).stem
    spec = JobSpec.parse(
        {
            "task_id": task_id,
            "image": as_address(image),
            "audio": as_address(audio),
            "output": place,
            "name": "" if "{" in stem else stem,
            "config": said,
            "workflow": template.name,
            **of_the_job,
        }
    )
    tier = tier_of(int(values.get("resolution", DEFAULT_RESOLUTION)))
    return Submission(spec, tier, str(values.get("engine", "auto"))), tuple(warnings)


def as_address(text: str) -> str:
    """A path as an address; what is an address already stays as it is."""
    return text if "://" in text else Path(text).absolute().as_uri()


def _place(output: str) -> str:
    return as_address(output) if Path(output).is_absolute() else output


def _beside(audio: str) -> str:
    if "://" in audio and not audio.startswith("file://"):
        raise BadJob("output", "is needed where the recording is no file; say where the video goes.")
    return str(Path(unquote(urlsplit(audio).path) if "://" in audio else audio).with_suffix(".mp4"))


async def followed(one: Submission, store: Store, view: QueueView) -> AsyncIterator[JobRecord]:
    """Submit a job, or find the one of its id, and yield its record whenever it changes, at last its end."""
    after = await view.last_event()
    (answer,) = await store.submit([one])
    follower = Follower(view, after)
    follower.add([answer.task_id])
    async for changed in follower.changes():
        for record in changed:
            yield record


def result_of(record: JobRecord | None) -> dict[str, Any]:
    """What a completed job has made: its id, ``output_path`` and all that its instance said of the video.

    Raises VideoNotMade with the job's own sentence for one that has ended in another way.
    """
    if record is None:
        raise VideoNotMade("The job is no longer known in the queue; submit it again.")
    if record.state is State.CANCELLED:
        raise VideoNotMade(f"The job {record.task_id} was cancelled.")
    if record.state is not State.COMPLETED:
        raise VideoNotMade(f"The job {record.task_id} has failed: {record.error}")
    result = dict(record.result or {})
    return {"task_id": record.task_id, "output_path": result.get("output", ""), **result}
