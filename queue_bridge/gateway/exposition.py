"""/metrics: the queue in Prometheus' text format. Labels have few values, whatever is submitted.

Written by hand rather than with prometheus_client: what is shown is in the queue's database and counted there by many
processes, so a registry of this process would hold nothing of it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

from aiohttp import web

from ..job import PRIORITY_OF
from ..messages.outbox import Outbox
from ..queue.figures import BUCKETS_S, RETURNS, STAGES, Figures, Seconds
from ..queue.queue_view import Counts
from ..tiers import TIERS, tier_of_lane
from .context import Asked
from .traffic import BUCKETS_S as REQUEST_BUCKETS_S
from .traffic import Traffic

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ENGINES = ("sonic", "draft")
RETURN_MEANINGS: Mapping[str, str] = {
    "retries": "Further attempts after a failure that may pass.",
    "degradations": "Starts at a lower resolution, as the card's memory did not suffice.",
    "crashes": "Starts that ended with the death of their instance.",
    "device_faults": "Starts that ended with a fault of the card.",
    "redraws": "Videos made once more with another seed, as they fell short.",
}
# Of an instance's description: field -> metric, meaning.
OF_INSTANCE: Mapping[str, tuple[str, str]] = {
    "memory_total": ("sonic_instance_memory_total_bytes", "Memory of the card, or of the machine without one."),
    "memory_free": ("sonic_instance_memory_free_bytes", "What of it is free, as ComfyUI sees it."),
    "gpu_used": ("sonic_instance_gpu_used_ratio", "How busy the card is, 0 to 1 (needs nvidia-ml-py)."),
    "gpu_memory_used": ("sonic_instance_gpu_memory_used_bytes", "Memory of the card in use by all (nvidia-ml-py)."),
    "resident": ("sonic_instance_resident_bytes", "Main memory of the ComfyUI server's process."),
}
Labels = Mapping[str, object]
Sample = tuple[str, Labels, float]


def _escaped(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")


def _text(kind: str, name: str, meaning: str, samples: Iterable[Sample]) -> list[str]:
    lines = [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
    for suffix, labels, value in samples:
        shown = ",".join(f'{key}="{_escaped(one)}"' for key, one in labels.items())
        number = f"{value:.17g}" if isinstance(value, float) else str(value)
        lines.append(f"{name}{suffix}{{{shown}}} {number}" if shown else f"{name}{suffix} {number}")
    return lines


def _buckets(labels: Labels, seconds: Seconds) -> list[Sample]:
    limits = [f"{limit:g}" for limit in BUCKETS_S] + ["+Inf"]
    samples: list[Sample] = [
        ("_bucket", {**labels, "le": limit}, count)
        for limit, count in zip(limits, accumulate(seconds.counts), strict=True)
    ]
    return [*samples, ("_sum", labels, seconds.total_s), ("_count", labels, seconds.count)]


def exposition(
    counts: Counts, oldest_s: Mapping[tuple[str, str], float], instances: list[Mapping[str, Any]], now_s: float
) -> list[str]:
    """Lines about what waits, runs and lives now. oldest_s: as QueueView gives it."""
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

    serving: list[Sample] = [
        ("", {"tier": tier, "engine": engine}, sum(_serves(one, tier, engine) for one in able))
        for tier in TIERS
        for engine in ENGINES
    ]
    return [
        *_text("gauge", "sonic_queue_depth", "Tasks that wait for their start.", by_place(depth)),
        *_text("gauge", "sonic_queue_oldest_seconds", "How long the oldest of them waits.", by_place(age)),
        *_text("gauge", "sonic_tasks_running", "Tasks that run.", [("", {}, counts.running)]),
        *_text("gauge", "sonic_tasks_retrying", "Tasks that wait for another attempt.", [("", {}, counts.retrying)]),
        *_text("gauge", "sonic_dead_letter", "Tasks in the dead letter.", [("", {}, counts.dead)]),
        *_text("gauge", "sonic_instances", "Healthy instances that live, by what they serve.", serving),
        *_text("gauge", "sonic_instances_all", "Instances that live.", [("", {}, len(instances))]),
        *_text("gauge", "sonic_instances_busy", "Instances that run a task.",
               [("", {}, sum(bool(one.get("running")) for one in instances))]),
        *_text("gauge", "sonic_instances_draining", "Instances that take no new task.",
               [("", {}, sum(bool(one.get("draining")) for one in instances))]),
        *_text("gauge", "sonic_instances_unhealthy", "Instances that can run nothing any more.",
               [("", {}, len(instances) - len(able))]),
        *_text("counter", "sonic_tasks_submitted_total", "Tasks since the queue began.",
               [("", {}, counts.totals.get("submitted", 0))]),
        *_instances(instances),
    ]  # fmt: skip


def _serves(instance: Mapping[str, Any], tier: int, engine: str) -> bool:
    return tier in instance.get("tiers", ()) and engine in instance.get("engines", ())


def _instances(instances: list[Mapping[str, Any]]) -> list[str]:
    lines: list[str] = []
    for field, (name, meaning) in OF_INSTANCE.items():
        samples: list[Sample] = [
            ("", {"instance": one["name"]}, value)
            for one in instances
            if isinstance(value := one.get(field), int | float) and not isinstance(value, bool)
        ]
        lines += _text("gauge", name, meaning, samples)
    return lines


def figures_exposition(figures: Figures) -> list[str]:
    """Lines about what was counted of all jobs."""
    ends: list[Sample] = [
        ("", {"state": state, "cause": cause}, count) for (state, cause), count in sorted(figures.ends.items())
    ]
    seconds: list[Sample] = []
    for stage in STAGES:
        for (name, tier, engine), found in figures.seconds.items():
            if name == stage:
                seconds += _buckets({"stage": stage, "tier": tier, "engine": engine}, found)
    video: list[Sample] = [
        ("", {"tier": tier, "engine": engine}, value) for (tier, engine), value in sorted(figures.video_s.items())
    ]
    lines = _text("counter", "sonic_tasks_ended_total", "How tasks have ended since the queue began.", ends)
    for name in RETURNS:
        samples: list[Sample] = [("", {}, figures.returns.get(name, 0))]
        lines += _text("counter", f"sonic_task_{name}_total", RETURN_MEANINGS[name], samples)
    lines += _text("histogram", "sonic_task_seconds", "How long completed tasks took, by stage.", seconds)
    return lines + _text("counter", "sonic_video_seconds_total", "Seconds of finished video.", video)


def outbox_exposition(totals: Mapping[str, int], waiting: int) -> list[str]:
    """Lines about webhooks."""
    results: list[Sample] = [("", {"result": name}, totals.get(name, 0)) for name in ("delivered", "retried", "failed")]
    return [
        *_text("counter", "sonic_webhooks_total", "Tries of webhooks, by what became of them.", results),
        *_text("gauge", "sonic_webhooks_waiting", "Webhooks that have not been delivered yet.", [("", {}, waiting)]),
    ]


def traffic_exposition(traffic: Traffic, followers: int) -> list[str]:
    """Lines about this gateway's own requests."""
    requests: list[Sample] = [
        ("", {"operation": name, "status": status}, count) for (name, status), count in sorted(traffic.requests.items())
    ]
    seconds: list[Sample] = []
    for name, count in sorted(traffic.counts.items()):
        for limit in REQUEST_BUCKETS_S:
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
    lines += figures_exposition(await gateway.view.figures())
    outbox = Outbox(gateway.store)
    lines += outbox_exposition(await outbox.totals(), await outbox.waiting())
    lines += traffic_exposition(gateway.traffic, gateway.events.followers)
    return web.Response(body="\n".join([*lines, ""]).encode(), headers={"Content-Type": CONTENT_TYPE})
