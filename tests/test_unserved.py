"""Jobs that nobody serves are told of, once each time, and wait."""

from __future__ import annotations

from typing import Any

import pytest
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.execution.unserved import LOOKS, Unserved, alerts
from comfyui_sonic.queue_bridge.job import JobSpec, new_job_id
from comfyui_sonic.queue_bridge.queue.presence import Identity, registration
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Store, Submission

SMALL = {"tiers": [512, 768], "engines": ["draft"]}
WAITING = {"priority": {"512": 2, "1024": 1}, "pending": {"1024": 2, "512-sonic": 1, "768": 0}}


def test_each_lane_that_nobody_serves_is_one_sentence() -> None:
    said = alerts(WAITING, [SMALL])
    assert list(said) == ["1024", "512-sonic"]
    assert said["1024"].startswith("3 jobs wait for an instance that serves resolution 1024, and none that lives does;")
    assert said["512-sonic"].startswith("1 job waits for an instance that serves resolution 512 with the engine sonic,")
    assert alerts(WAITING, [SMALL, {"tiers": [512, 1024], "engines": ["draft", "sonic"]}]) == {}
    assert set(alerts(WAITING, [])) == {"512", "1024", "512-sonic"}


@pytest.mark.parametrize("why", [{"unhealthy": "Its card has failed."}, {"draining": True}])
def test_an_instance_that_takes_no_jobs_serves_nothing(why: dict[str, Any]) -> None:
    assert "512" in alerts(WAITING, [SMALL | why])


async def test_it_is_said_once_until_somebody_serves_it_and_then_anew(redis_url: str) -> None:
    settings = Settings(url=redis_url, queue=f"unserved-{new_job_id()}")
    store = Store(connect(redis_url), settings)
    spec = JobSpec(new_job_id(), "file:///a.png", "file:///a.wav", "file:///a.mp4")
    await store.submit([Submission(spec, 1024)])
    said: list[str] = []
    unserved = Unserved(QueueView(store.client, store.keys, redis_url), said.append)
    looks = [await unserved.look() for _ in range(LOOKS + 2)]
    assert looks == [[]] * (LOOKS - 1) + [["1024"]] * 3
    assert len(said) == 1
    me = Identity("gpu-1")
    await store._call("register", *registration(me, 600.0, {"tiers": [1024], "engines": ["draft"]}))
    assert await unserved.look() == []
    await store._call("register", *registration(me, 600.0, {"tiers": [512], "engines": ["draft"]}))
    for _ in range(LOOKS):
        await unserved.look()
    assert len(said) == 2
    await store.close()
