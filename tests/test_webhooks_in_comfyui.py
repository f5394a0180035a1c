"""A ComfyUI server delivers the webhook of a job that it has run, beside its work."""

from __future__ import annotations

import pytest
from comfyui_sonic.queue_bridge.job import JobSpec, new_job_id
from comfyui_sonic.queue_bridge.queue.store import Submission

from .bridge_fixture import Bridge
from .webhook_receiver import SECRET, is_signed, receiving

pytestmark = pytest.mark.slow


async def test_a_server_tells_a_jobs_callback_of_its_end(bridge: Bridge) -> None:
    folder = bridge.orders / "webhooks"
    folder.mkdir()
    for file in ("a.png", "a.wav"):
        (folder / file).write_bytes(b"not looked into")
    async with bridge.queue() as queue, receiving() as receiver:
        places = [(folder / name).as_uri() for name in ("a.png", "a.wav", "a.mp4")]
        config = {"tally": str(folder / "tally")}
        spec = JobSpec(
            new_job_id(), *places, config=config, workflow="save_after_failures", callback=receiver.url("/told")
        )
        await queue.store.submit([Submission(spec, 512)])
        record = (await queue.ended(spec.task_id))[spec.task_id]
        (one,) = await receiver.until(1)
    assert is_signed(one, SECRET)
    data = one.told["data"]
    assert (data["task_id"], data["state"], one.told["type"]) == (spec.task_id, "completed", "job.completed")
    assert record.result
    assert data["result"]["output"] == record.result["output"] == str(folder / "a.mp4")
    assert data["result"]["sha256"] == record.result["sha256"]
