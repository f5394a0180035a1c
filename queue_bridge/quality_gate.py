"""Whether a finished video is measured, whether it is made once more, and what is kept of it beside the video."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .errors import BelowQuality

log = logging.getLogger("sonic.quality")

# A finished video -> plain values; "falls_short" in it are sentences, none for a good one.
Measure = Callable[[Path], Mapping[str, Any]]
SUFFIX = ".quality.json"  # in place of the video's own


def is_measured(setting: str, engine: str) -> bool:
    """Whether a video of this engine is. setting: the one called ``quality``."""
    return setting == "all" or (setting == "sonic" and engine == "sonic")


def measured(measure: Measure, video: Path) -> dict[str, Any]:
    """What was found, or why nothing was: a video that cannot be measured is delivered all the same."""
    try:
        return dict(measure(video))
    except Exception as error:
        log.exception("%s cannot be measured", video)
        return {"error": f"It could not be measured ({type(error).__name__}).", "falls_short": []}


def pass_or_raise(quality: Mapping[str, Any], redraws: int) -> None:
    """Raises BelowQuality for a video that falls short, unless another seed has been tried. redraws: how often."""
    sentences = quality.get("falls_short") or []
    if sentences and not redraws:
        raise BelowQuality(f"The video falls short and is made once more with another seed: {' '.join(sentences)}")


def report_beside(video: Path) -> Path:
    """Where the measurements of a video in its place are kept."""
    return video.with_suffix(SUFFIX)


def write_report(video: Path, quality: Mapping[str, Any], task_id: str) -> None:
    """Keep them there, whole or not at all; a disk that takes the video and not this costs nobody the video.

    What is being written is called after the job, by which it is found should this process end in the midst.
    """
    place = report_beside(video)
    try:
        handle, name = tempfile.mkstemp(dir=place.parent, prefix=f".{task_id}.report.", suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(dict(quality), file, ensure_ascii=False, indent=2)
            Path(name).replace(place)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        log.warning("'%s' cannot be written: %s", place, error.strerror or error)
