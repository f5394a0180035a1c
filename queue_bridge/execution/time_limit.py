"""How long a prompt may take: generous, so that only one that would never end is over it. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping

START_S = 900.0  # loading and downloading models, encoding the video, a machine that is busy
# Seconds of work for one second of video, 512 pixels, 25 steps: many times what a slow card takes.
WORK_S: Mapping[str, float] = {"draft": 60.0, "sonic": 600.0}
SLOWEST = "sonic"  # for auto, and for whatever a template of somebody else runs
USUAL_PIXELS, USUAL_STEPS = 512.0, 25.0


def time_limit_s(video_s: float, values: Mapping[str, object], *, scale: float = 1.0, fixed_s: float = 0.0) -> float:
    """The longest time in seconds from a prompt's first sign of life to its end.

    video_s: length of the video. values: the job's parameters; resolution, inference_steps and engine count.
    fixed_s: this instead, where it is not 0. The steps of an engine that has none count for nothing.
    """
    if fixed_s:
        return fixed_s
    engine = str(values.get("engine", SLOWEST))
    work_s = WORK_S.get(engine, WORK_S[SLOWEST])
    size = (_number(values.get("resolution"), USUAL_PIXELS) / USUAL_PIXELS) ** 2
    steps = 1.0 if engine == "draft" else max(1.0, _number(values.get("inference_steps"), USUAL_STEPS)) / USUAL_STEPS
    return scale * (START_S + work_s * max(0.0, video_s) * max(size, 0.25) * steps)


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default
