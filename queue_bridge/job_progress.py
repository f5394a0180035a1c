"""A job's percent, stage and seconds left, out of what its parts report."""

from __future__ import annotations

from dataclasses import dataclass

RUN = (2.0, 97.0)  # percent between which ComfyUI works; before it inputs are fetched, after it the video is published
WAITING = "Waiting"  # the stage of a job whose prompt has not begun; lua/common.lua counts no crash against it
ETA_FROM = 0.05  # an estimate from less than this part would only jump about


@dataclass(frozen=True)
class Report:
    """percent: 0..100, never less than in an earlier report of the same start."""

    percent: float
    stage: str
    seconds_left: float | None


class JobProgress:
    """Collects the progress of one start. interval_s: reports closer together than this are held back."""

    def __init__(self, interval_s: float, now_s: float) -> None:
        self._interval_s = interval_s
        self._started_s = now_s
        self._reported_s = float("-inf")
        self._last = Report(0.0, "", None)

    def of_prompt(self, fraction: float, stage: str, now_s: float) -> Report | None:
        """The report for a prompt that is so far (0..1), or None when the last one is fresh enough."""
        low, high = RUN
        percent = max(self._last.percent, low + (high - low) * min(1.0, max(0.0, fraction)))
        if now_s - self._reported_s < self._interval_s and stage == self._last.stage:
            return None
        left = (now_s - self._started_s) * (1 - fraction) / fraction if fraction >= ETA_FROM else None
        return self._keep(Report(percent, stage, left), now_s)

    def of_step(self, percent: float, stage: str, now_s: float) -> Report:
        """The report for a step around the prompt."""
        return self._keep(Report(max(self._last.percent, percent), stage, None), now_s)

    def _keep(self, report: Report, now_s: float) -> Report:
        self._last, self._reported_s = report, now_s
        return report
