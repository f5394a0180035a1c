"""/autoscale: what an autoscaler asks, a number of instances by tier; and which instances it had better not end."""

from __future__ import annotations

from aiohttp import web

from ..oversight.scaling import load_of, loads
from .context import Asked
from .fields import Field

AUTOSCALE = (
    Field("backlog", "integer", "so many waiting tasks are worth one more instance", low=1, high=10000, default=2),
)


async def autoscale(request: web.Request, asked: Asked) -> web.Response:
    view, backlog = asked.gateway.view, asked.query["backlog"]
    counts, running = await view.counts(), await view.running_by_lane()
    instances = await view.instances()
    by_tier = loads(counts.waiting, running, instances, backlog)
    able = [one for one in instances if not one.get("unhealthy") and not one["draining"]]
    total = load_of(counts.queued, sum(running.values()), len(able), backlog)
    answer = {
        "tiers": {str(tier): load.__dict__ for tier, load in by_tier.items()},
        "total": total.__dict__,
        "instances": [{"name": one["name"], "busy": bool(one["running"])} for one in instances],
    }
    return web.json_response(answer)
