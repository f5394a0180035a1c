"""One start of a job as spans: the start itself, what it waited before, and its stages."""

from __future__ import annotations

import time

from ..job import JobRecord
from ..tracing import Attributes, Tracing
from .stopwatch import Lap, Stopwatch


def attributes_of(job: JobRecord) -> Attributes:
    """What a span says of a job: names and numbers, none of its addresses and texts."""
    batch = {"sonic.batch": job.spec.batch} if job.spec.batch else {}
    return {
        "sonic.task_id": job.task_id,
        "sonic.attempt": job.attempt,
        "sonic.lane": job.lane,
        "sonic.priority": job.spec.priority,
        "sonic.workflow": job.spec.workflow,
        **batch,
    }


class JobSpans:
    """The spans of one start. What the job waited counts once, for its first start."""

    def __init__(self, tracing: Tracing, job: JobRecord) -> None:
        self._tracing = tracing
        self._parent = job.spec.traceparent
        self._attributes = attributes_of(job)
        if job.attempt == 1 and job.started_s is not None:
            waited = tracing.start("wait", self._parent, "consumer", self._attributes, job.submitted_s)
            waited.end(at_s=job.started_s)
        self._start = tracing.start("attempt", self._parent, "consumer", self._attributes)

    def end(self, watch: Stopwatch, outcome: str, failed: str) -> None:
        """It is over. failed: the kind of failure, '' for none; the stage at hand has failed with it, or is over."""
        last = watch.at_hand
        for lap in [*watch.laps, last]:
            self._stage(lap, failed if lap is last else "")
        self._start.end(failed, {"sonic.outcome": outcome})

    def _stage(self, lap: Lap, failed: str) -> None:
        to_wall_s = time.time() - time.monotonic()
        stage = self._tracing.start(lap.stage, self._start.traceparent, at_s=lap.began + to_wall_s)
        stage.end(failed, at_s=lap.ended + to_wall_s)
