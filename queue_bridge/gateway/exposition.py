"""/metrics: the queue in Prometheus' text format. Labels have few values, whatever is submitted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from ..job import PRIORITY_OF
from ..queue_view import Counts
from ..tiers import TIERS, tier_of_lane
from .context import Asked
from .traffic import BUCKETS_S, Traffic

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = Mapping[str, object]
Sample = tuple[str, Labels, float]


def _text(kind: str, name: str, meaning: str, samples: Iterable[Sample]) -> list[str]:
    lines = [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
    for suffix, labels, value in samples:
        shown = ",".join(f'{key}="{one}"' for key, one in labels.items())
        lines.append(f"{name}{suffix}{{{shown}}} {value:g}" if shown else f"{name}{suffix} {value:g}")
    return lines


def exposition(
    counts: Counts, oldest_s: Mapping[tuple[str, str], float], instances: list[Mapping[str, Any]], now_s: float
) -> list[str]:
    """Lines about the queue. oldest_s: as QueueView gives it."""
    places = [(job_class, tier) for job_class in PRIORITY_OF for tier in TIERS]
    depth: Counter[tuple[str, int]] = Counter()
    for job_class, lanes in counts.waiting.items():
        for lane, count in lanes.items():
            depth[job_class, tier_of_lane(lane)] += count
    age: dict[tuple[str, int], float] = {}
    for (job_class, lane), submitted_s in oldest_s.items():
        place = (job_class, tier_of_lane(lane))
        age[place] = max(age.get(place, 0.0), now_s - submitted_s)
    able = [one for one in instances if not one.get("unhealthy")]

    def by_place(values: Mapping[tuple[str, int], float]) -> list[Sample]:
        return [("", {"class": name, "tier": tier}, values.get((name, tier), 0)) for name, tier in places]

    of_tiers = [("", {"tier": tier}, sum(tier in one.get("tiers", ()) for one in able)) for tier in TIERS]
    outcomes = [("", {"outcome": name}, counts.totals.get(name, 0)) for name in ("completed", "failed", "cancelled")]
    return [
        *_text("gauge", "sonic_queue_depth", "Tasks that wait for their start.", by_place(depth)),
        *_text("gauge", "sonic_queue_oldest_seconds", "How long the oldest of them waits.", by_place(age)),
        *_text("gauge", "sonic_tasks_running", "Tasks that run.", [("", {}, counts.running)]),
        *_text("gauge", "sonic_tasks_retrying", "Tasks that wait for another attempt.", [("", {}, counts.retrying)]),
        *_text("gauge", "sonic_dead_letter", "Tasks in the dead letter.", [("", {}, counts.dead)]),
        *_text("gauge", "sonic_instances", "Healthy instances that live, by the tiers they serve.", of_tiers),
        *_text("gauge", "sonic_instances_all", "Instances that live.", [("", {}, len(instances))]),
        *_text("counter", "sonic_tasks_submitted_total", "Tasks since the queue began.",
               [("", {}, counts.totals.get("submitted", 0))]),
        # A gauge: a task that is started again by hand is taken back out of its outcome.
        *_text("gauge", "sonic_tasks_ended", "How tasks have ended since the queue began.", outcomes),
    ]  # fmt: skip


def traffic_exposition(traffic: Traffic, followers: int) -> list[str]:
    """Lines about this gateway's own requests."""
    requests: list[Sample] = [
        ("", {"operation": name, "status": status}, count) for (name, status), count in sorted(traffic.requests.items())
    ]
    seconds: list[Sample] = []
    for name, count in sorted(traffic.counts.items()):
        for limit in BUCKETS_S:
            seconds.append(("_bucket", {"operation": name, "le": f"{limit:g}"}, traffic.buckets[name, limit]))
        seconds.append(("_bucket", {"operation": name, "le": "+Inf"}, count))
        seconds.append(("_sum", {"operation": name}, traffic.seconds[name]))
        seconds.append(("_count", {"operation": name}, count))
    return [
        *_text("counter", "sonic_gateway_requests_total", "Requests by operation and status.", requests),
        *_text("histogram", "sonic_gateway_request_seconds", "How long they took.", seconds),
        *_text("gauge", "sonic_gateway_followers", "Who listens to events now.", [("", {}, followers)]),
    ]


async def metrics(request: web.Request, asked: Asked) -> web.Response:
    gateway = asked.gateway
    counts, oldest_s = await gateway.view.counts(), await gateway.view.oldest_s()
    lines = exposition(counts, oldest_s, list(await gateway.view.instances()), time.time())
    lines += traffic_exposition(gateway.traffic, gateway.events.followers)
    return web.Response(body="\n".join([*lines, ""]).encode(), headers={"Content-Type": CONTENT_TYPE})
