"""Jobs whose files come from the web and an object store, and whose videos go there, in two real ComfyUI servers."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.errors import LeaseLost
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.places.job_files import JobFiles
from comfyui_sonic.queue_bridge.places.job_places import JobPlaces
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.store import Store, Submission
from comfyui_sonic.queue_bridge.states import State

from .bridge_fixture import Bridge, BridgeQueue
from .object_store import ObjectStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
SIGNATURE = "c0ffee-signature"
LEASE_S = 1.5


@pytest.fixture
async def queue(bridge: Bridge) -> AsyncIterator[BridgeQueue]:
    async with bridge.queue() as opened:
        yield opened


@pytest.fixture
async def shop() -> AsyncIterator[TestServer]:
    """A shop's web server: a picture, one that is there at the third time, one that leads elsewhere, and none."""
    asked = 0

    async def picture(request: web.Request) -> web.Response:
        return web.Response(body=b"picture", content_type="image/png")

    async def late(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=503) if asked < 3 else await picture(request)

    async def away(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://127.0.0.2/latest/meta-data"})

    application = web.Application()
    application.add_routes([web.get("/a.png", picture), web.get("/late.png", late), web.get("/away.png", away)])
    async with TestServer(application, host="127.0.0.1") as server:
        yield server


async def submit(queue: BridgeQueue, image: str, **more: Any) -> str:
    task_id = new_job_id()
    fields = {"image": image, "audio": "s3://orders/voices/a.wav", "output": "{task_id}.mp4", **more}
    tally = queue.bridge.orders / f"{task_id}.tally"
    spec = JobSpec(task_id, workflow="save_after_failures", config={"tally": str(tally)}, **fields)
    await queue.store.submit([Submission(spec, 512)])
    return task_id


def logs_of(bridge: Bridge) -> str:
    return "".join(one.log_file.read_text(encoding="utf-8") for one in bridge.instances.values())


async def everything_in(queue: BridgeQueue, *task_ids: str) -> str:
    """What the queue says of these jobs, as a person may see it."""
    records = await queue.view.jobs(task_ids)
    shown = [record.to_dict() for record in records.values()]
    return f"{shown} {await queue.events_of(*task_ids)} {await queue.view.instances()}"


async def test_jobs_from_the_web_and_a_store_put_their_videos_into_the_store(
    bridge: Bridge, queue: BridgeQueue, object_store: ObjectStore, shop: TestServer
) -> None:
    object_store.put("orders", "voices/a.wav", b"sound")
    web_address = str(shop.make_url("/a.png").with_query(signature=SIGNATURE))
    fine = await submit(queue, web_address)
    late = await submit(queue, str(shop.make_url("/late.png")))
    away = await submit(queue, str(shop.make_url("/away.png").with_query(signature=SIGNATURE)))
    none = await submit(queue, str(shop.make_url("/none.png")))
    closed = await submit(queue, web_address, output="s3://closed/a.mp4")
    gone = await submit(queue, web_address, audio="s3://gone/a.wav")
    records = await queue.ended(fine, late, away, none, closed, gone)
    for task_id in (fine, late):
        record = records[task_id]
        assert record.state is State.COMPLETED, record.error
        assert (record.result or {})["output"] == f"s3://videos/results/{task_id}.mp4"
        assert len(object_store.get("videos", f"results/{task_id}.mp4")) == (record.result or {})["bytes"]
    # Of the two refusals one may meet the copy made ahead of the start, which is no failure of the job.
    assert records[fine].attempt == 1 and records[late].failures in (1, 2)
    told = {name: (records[job].error_kind, records[job].failures) for name, job in (("away", away), ("none", none))}
    assert told == {"away": ("bad input", 0), "none": ("bad input", 0)}, "trying again changes nothing"
    assert "/away.png' redirects to where it may not: '127.0.0.2' is in a private network" in records[away].error
    assert "/none.png' is not there (status 404)" in records[none].error
    told = {
        name: (records[job].error_kind, records[job].failures) for name, job in (("closed", closed), ("gone", gone))
    }
    assert told == {"closed": ("may pass", 3), "gone": ("may pass", 3)}, "an operator may mend it"
    assert "may not be written with the keys of [storage.shop] (AccessDenied)" in records[closed].error
    assert records[gone].error == "audio: The bucket 's3://gone' is not there; make it, or mend [storage.shop]."
    jobs = (fine, late, away, none, closed, gone)
    assert [key for key in object_store.keys("videos") if any(f".sonic-{job}" in key for job in jobs)] == []
    said = await everything_in(queue, *jobs) + logs_of(bridge)
    for secret in (object_store.secret, object_store.key_id, SIGNATURE):
        assert secret not in said
    assert "The bucket 's3://gone' is not there" in logs_of(bridge), "found at the start"
    assert {
        tuple(sorted(one["storage"])) for one in await queue.view.instances() if one["name"].startswith("gpu-")
    } == {("s3://closed", "s3://gone")}


async def test_a_start_that_is_gone_delivers_what_was_chosen_and_overwrites_nothing_else(
    bridge: Bridge, queue: BridgeQueue, object_store: ObjectStore, shop: TestServer, tmp_path: Path
) -> None:
    """One start dies when its video was chosen; another sleeps when its own is uploaded, and wakes up too late."""
    object_store.put("orders", "voices/a.wav", b"sound")
    busy = [await queue.submit(bridge.orders, f"storage-busy{number}", seconds=1.5) for number in range(2)]
    while not all(record.state is State.RUNNING for record in (await queue.view.jobs(busy)).values()):
        await asyncio.sleep(0.02)
    settings = dataclasses.replace(bridge.settings, lease_s=LEASE_S, heartbeat_s=0.5)
    places = JobPlaces(
        JobFiles([tmp_path], tmp_path / "input", tmp_path / "output"), object_store.storage(), "s3://videos/results"
    )
    produced = tmp_path / "produced.mp4"
    store = Store(connect(settings.url), settings)
    try:
        jobs, laid = [], []
        for name in ("dying", "sleeping"):
            identity = Identity(name)
            await store.register(identity)
            await submit(queue, str(shop.make_url("/a.png")))
            job = await store.claim(name, identity.boot, ("512",))
            assert isinstance(job, JobRecord)
            produced.write_bytes(name.encode())
            jobs.append(job)
            laid.append(await places.stage(produced, job.spec, job.token))
        dead, asleep = jobs
        await store.stage(dead, {**laid[0], "result": {"output": laid[0]["place"], "instance": "dying"}})
        records = await queue.ended(dead.task_id, asleep.task_id, *busy)
        assert object_store.get("videos", f"results/{dead.task_id}.mp4") == b"dying"
        assert (records[dead.task_id].result or {})["instance"] == "dying", "no node ran for it again"
        made = object_store.get("videos", f"results/{asleep.task_id}.mp4")
        assert (records[asleep.task_id].result or {})["instance"].startswith("gpu-")
        with pytest.raises(LeaseLost):
            await store.stage(asleep, {**laid[1], "result": {}})
        assert not await places.deliver(laid[1], asleep.task_id)
        assert object_store.get("videos", f"results/{asleep.task_id}.mp4") == made != b"sleeping"
        assert not [key for key in object_store.keys("videos", "results/.sonic-") if "part" in key]
    finally:
        await store.close()
