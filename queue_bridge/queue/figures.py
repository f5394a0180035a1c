"""What is counted of all jobs for as long as the queue exists: ends, repeated starts, seconds by stage.

The counts are fields of one hash, written by lua/*.lua in the step that ends or returns a job, so an instance that dies
loses none. There are a few hundred fields at most, however many jobs. Knows neither Redis nor HTTP.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

# wait: from submission to the first start. fetch: until the prompt is handed over. run: the prompt, while the card is
# the job's. quality: measuring the video. publish: laying it in its place; these two are beside the next prompt.
STAGES = ("wait", "fetch", "run", "quality", "publish")
BUCKETS_S = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0)
ENGINES = ("sonic", "draft", "other")
VIDEO = "video"  # in the place of a stage: the seconds of finished video
# As lua/common.lua and lua/settle.lua count them.
RETURNS = ("retries", "degradations", "crashes", "device_faults", "redraws")


@dataclass(frozen=True)
class Seconds:
    """How long a stage took, over all jobs of one tier and engine. counts: by bucket, the last without a limit."""

    counts: tuple[int, ...] = (0,) * (len(BUCKETS_S) + 1)
    total_s: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True)
class Figures:
    """ends: by state and cause. returns: by the name of what made another start necessary.

    seconds: by stage, tier and engine; video_s: of finished video, by tier and engine.
    """

    ends: Mapping[tuple[str, str], int] = field(default_factory=dict)
    returns: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[tuple[str, int, str], Seconds] = field(default_factory=dict)
    video_s: Mapping[tuple[int, str], float] = field(default_factory=dict)

    @classmethod
    def of_fields(cls, fields: Mapping[str, str]) -> Figures:
        """The counts out of their hash; fields of another version are passed over."""
        ends: dict[tuple[str, str], int] = {}
        returns: dict[str, int] = {}
        buckets: dict[tuple[str, int, str], Counter[int]] = {}
        totals_ms: Counter[tuple[str, int, str]] = Counter()
        for name, value in fields.items():
            kind, *parts = name.split(":")
            number = int(value)
            if kind == "ended" and len(parts) == 2:
                ends[parts[0], parts[1]] = number
            elif kind == "returned" and len(parts) == 1:
                returns[parts[0]] = number
            elif kind == "seconds" and len(parts) == 4 and parts[1].isdigit():
                place = (parts[0], int(parts[1]), parts[2])
                if parts[3] == "ms":
                    totals_ms[place] = number
                elif parts[3].isdigit() and int(parts[3]) <= len(BUCKETS_S):
                    buckets.setdefault(place, Counter())[int(parts[3])] = number
        seconds = {
            place: Seconds(tuple(found[at] for at in range(len(BUCKETS_S) + 1)), totals_ms[place] / 1000)
            for place, found in sorted(buckets.items())
            if place[0] in STAGES
        }
        video_s = {(tier, engine): ms / 1000 for (stage, tier, engine), ms in totals_ms.items() if stage == VIDEO}
        return cls(ends, returns, seconds, video_s)


def taken(tier: int, engine: str, seconds: Mapping[str, float], video_s: float = 0.0) -> list[str | int]:
    """What a completed job adds: names of fields and numbers in turn. seconds: by stage, those that it went through."""
    known = engine if engine in ENGINES else ENGINES[-1]
    added: list[str | int] = []
    for stage, value in seconds.items():
        place = f"seconds:{stage}:{tier}:{known}"
        value = max(0.0, value)
        added += [f"{place}:{bisect_left(BUCKETS_S, value)}", 1, f"{place}:ms", round(value * 1000)]
    if video_s > 0:
        added += [f"seconds:{VIDEO}:{tier}:{known}:ms", round(video_s * 1000)]
    return added
