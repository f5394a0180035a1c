"""What a number of videos takes, by what was measured; and a small day of a fleet on the real queue."""

from __future__ import annotations

import asyncio
import json

import pytest
from comfyui_sonic.bench.fleet_sim import Day, simulate
from comfyui_sonic.queue_bridge.cli import main
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.oversight.capacity import measured, plan
from comfyui_sonic.queue_bridge.queue.figures import Figures, Seconds, taken
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.store import Store, Submission


def test_cards_and_cost_follow_from_jobs_time_and_the_part_of_it_that_a_card_works() -> None:
    made = plan(20_000, 24.0, 60.0, 0.8, 1.2)
    assert (made.gpus, made.cost) == (18, pytest.approx(518.4))
    assert made.drain_hours(18) == pytest.approx(20_000 * 60 / 0.8 / 18 / 3600)
    assert plan(1152, 1.0, 50.0, 0.8).gpus == 20, "a whole number stays that"
    assert plan(1, 24.0, 1.0).gpus == 1


def one(count: int, total_s: float) -> Seconds:
    return Seconds((count,) + (0,) * 13, total_s)


def test_a_videos_time_grows_with_its_length_and_with_the_starts_that_came_to_nothing() -> None:
    figures = Figures(
        ends={("completed", "completed"): 30},
        returns={"retries": 3},
        seconds={("run", 512, "sonic"): one(10, 1000.0), ("run", 1024, "sonic"): one(20, 8000.0)},
        video_s={(512, "sonic"): 200.0, (1024, "sonic"): 400.0},
    )
    small = measured(figures, tier=512)
    assert small
    assert (small.jobs, small.starts) == (10, pytest.approx(1.1))
    assert small.job_s(15.0) == pytest.approx(1000 / 200 * 15 * 1.1)
    everything = measured(figures)
    assert everything
    assert everything.job_s(15.0) == pytest.approx(9000 / 600 * 15 * 1.1)
    assert measured(figures, engine="draft") is None


def test_where_no_length_was_told_the_average_of_a_job_counts() -> None:
    found = measured(Figures(seconds={("run", 512, "other"): one(4, 100.0)}))
    assert found
    assert found.job_s(15.0) == found.job_s(60.0) == 25.0


def test_the_command_says_what_it_goes_by_and_that_nothing_is_measured_yet(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    queue = f"plan-{new_job_id()}"
    monkeypatch.setenv("SONIC_QUEUE_QUEUE", queue)
    ask = ["plan", "--url", redis_url, "--jobs", "20000", "--seconds", "15", "--hours", "24"]
    assert main(ask) == 1
    assert "has completed no video yet, so nothing is measured; give a card's seconds" in capsys.readouterr().err
    assert main([*ask, "--job-seconds", "60", "--cost-per-gpu-hour", "1.2"]) == 0
    said = capsys.readouterr().out
    assert "20000 of them in 24 h: 18 GPUs, each at work for 80% of the time; they are done after 23.1 h." in said
    assert "Cost: 518.40 for 18 × 24 h." in said

    asyncio.run(complete_one(redis_url, queue))
    assert main([*ask, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["job_s"], found["gpus"], found["instances"]) == (45.0, 14, 1)
    assert found["source"] == "measured over 1 videos, 1.00 starts for each"
    assert main([*ask, "--tier", "1024"]) == 1
    assert "no video of 1024 yet" in capsys.readouterr().err
    assert main([*ask[:-1], "0"]) == 1
    assert "--hours: 0 is no number above 0." in capsys.readouterr().err


async def complete_one(url: str, queue: str) -> None:
    store = Store(connect(url), Settings(url=url, queue=queue))
    await store.register(Identity("a", "boot"))
    spec = JobSpec(new_job_id(), "file:///a.png", "file:///a.wav", "file:///a.mp4")
    await store.submit([Submission(spec, 512)])
    job = await store.claim("a", "boot", ("512",))
    assert isinstance(job, JobRecord)
    await store.complete(job, {}, taken(512, "sonic", {"run": 60.0}, 20.0))
    await store.close()


async def test_a_small_day_with_deaths_and_failures_leaves_no_job_behind(redis_url: str) -> None:
    found = await simulate(redis_url, Day(jobs=300, gpus=4, hours=1.0, deaths=2.0, outages=1))
    assert found["left_behind"] == 0
    assert sum(found["ends"].values()) == 300
    assert found["completed_of_fit"] >= 0.999
    assert found["deaths"] >= 5
    assert found["returns"]["crashes"] > 0
    assert found["wait_s"]["priority"]["p50"] < found["wait_s"]["normal"]["p50"]
