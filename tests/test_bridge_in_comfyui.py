"""The bridge inside two real ComfyUI servers, over one real queue."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import pytest
from comfyui_sonic.queue_bridge.database.redis_server import RedisServer
from comfyui_sonic.queue_bridge.execution.comfy_client import ComfyClient
from comfyui_sonic.queue_bridge.job import JobRecord
from comfyui_sonic.queue_bridge.places.job_files import JobFiles
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.servers.instance import Instance, install_pack
from comfyui_sonic.queue_bridge.states import State

from .bridge_fixture import ROOT, Bridge, BridgeQueue, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
EXAMPLES = ROOT / "examples" / "batch"
CLIP_S = 1.0


@pytest.fixture
async def queue(bridge: Bridge) -> AsyncIterator[BridgeQueue]:
    async with bridge.queue() as opened:
        yield opened


@pytest.fixture
def folder(bridge: Bridge, request: pytest.FixtureRequest) -> Path:
    place = bridge.orders / request.node.name.replace("[", "_").replace("]", "")
    place.mkdir()
    return place


def sonic_queue(bridge: Bridge, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    variables = {"SONIC_QUEUE_URL": bridge.settings.url, "SONIC_QUEUE_QUEUE": bridge.settings.queue}
    command = [sys.executable, "-m", "comfyui_sonic.queue_bridge.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=os.environ | variables)


def seconds_of(path: Path, kind: str) -> float:
    """How long the picture or the sound of a video is, counted in what can really be decoded."""
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        if kind == "video":
            return sum(1 for _ in container.decode(stream)) / float(stream.average_rate)
        return sum(frame.samples / frame.sample_rate for frame in container.decode(stream))


def cut_sound(source: Path, place: Path, start_s: float, seconds: float) -> None:
    """A WAV with a part of another recording."""
    import wave

    with wave.open(str(source)) as recording, wave.open(str(place), "wb") as part:
        part.setparams(recording.getparams())
        recording.setpos(round(start_s * recording.getframerate()))
        part.writeframes(recording.readframes(round(seconds * recording.getframerate())))


async def test_a_folder_of_twelve_is_shared_and_submitting_it_again_makes_no_job(
    bridge: Bridge, folder: Path, queue: BridgeQueue
) -> None:
    for number in range(12):
        shutil.copyfile(EXAMPLES / "close_up.png", folder / f"声音 {number}.png")
        cut_sound(EXAMPLES / "eileen_collins_welcome.wav", folder / f"声音 {number}.wav", 0.4 * number, CLIP_S)
    first = await asyncio.to_thread(sonic_queue, bridge, "submit", folder, "--resolution", "256", "--json")
    assert first.returncode == 0, first.stderr
    jobs = json.loads(first.stdout)["jobs"]
    assert len(jobs) == 12
    for job in jobs:
        video = folder / f"{job['name']}.mp4"
        assert (job["state"], job["percent"], job["found"]) == ("completed", 100.0, "made")
        assert job["result"]["report"]["engine"] == "draft"
        assert seconds_of(video, "video") == pytest.approx(CLIP_S, abs=0.04)
        assert seconds_of(video, "audio") >= CLIP_S
    assert {job["result"]["instance"] for job in jobs} == {"gpu-1", "gpu-2"}
    assert not list(folder.glob(".*")), "nothing unfinished stays behind"

    percents = defaultdict(list)
    for event in await queue.events_of(*(job["task_id"] for job in jobs)):
        if "percent" in event:
            percents[event["job"]].append(float(event["percent"]))
    assert len(percents) == 12
    for steps in percents.values():
        assert steps == sorted(steps)
        assert len(set(steps)) > 3

    figures = await queue.view.figures()
    for stage in ("wait", "fetch", "run", "publish"):
        assert figures.seconds[stage, 512, "draft"].count >= 12
    assert figures.seconds["run", 512, "draft"].total_s > figures.seconds["fetch", 512, "draft"].total_s
    assert figures.video_s[512, "draft"] >= 12 * CLIP_S
    assert all(one["resident"] > 10**8 for one in await queue.view.instances())

    before = (await queue.view.counts()).totals["submitted"]
    second = await asyncio.to_thread(sonic_queue, bridge, "submit", folder, "--resolution", "256", "--json")
    assert second.returncode == 0, second.stderr
    again = json.loads(second.stdout)["jobs"]
    assert [job["task_id"] for job in again] == [job["task_id"] for job in jobs]
    assert {job["found"] for job in again} == {"known"}
    assert (await queue.view.counts()).totals["submitted"] == before


async def test_a_video_that_somebody_removed_is_the_only_one_made_again(bridge: Bridge, folder: Path) -> None:
    for name in ("a", "b"):
        shutil.copyfile(EXAMPLES / "close_up.png", folder / f"{name}.png")
        cut_sound(EXAMPLES / "eileen_collins_welcome.wav", folder / f"{name}.wav", 0.0, 0.5)
    command = ("submit", folder, "--resolution", "256", "--json")
    assert (await asyncio.to_thread(sonic_queue, bridge, *command)).returncode == 0
    untouched = (folder / "a.mp4").stat().st_mtime_ns
    (folder / "b.mp4").unlink()
    second = await asyncio.to_thread(sonic_queue, bridge, *command)
    assert second.returncode == 0, second.stderr
    assert {job["name"]: job["found"] for job in json.loads(second.stdout)["jobs"]} == {"a": "known", "b": "made"}
    assert (folder / "b.mp4").exists()
    assert (folder / "a.mp4").stat().st_mtime_ns == untouched


async def test_a_node_that_fails_once_is_tried_again_and_its_job_completes(queue: BridgeQueue, folder: Path) -> None:
    task_id = await queue.submit(folder, failures=1)
    record = (await queue.ended(task_id))[task_id]
    assert (record.state, record.attempt, record.failures, record.error) == (State.COMPLETED, 2, 1, "")
    assert [entry["error"] for entry in record.history] == ["Save failed: planted 1."]
    assert (folder / "job.mp4").read_bytes() == b"not really a video"


async def test_a_node_that_keeps_failing_lies_in_the_dead_letter_with_every_error(
    bridge: Bridge, queue: BridgeQueue, folder: Path
) -> None:
    dead_before = (await queue.view.counts()).dead
    task_id = await queue.submit(folder, failures=9)
    record = (await queue.ended(task_id))[task_id]
    assert (record.state, record.attempt, record.error) == (State.FAILED, 3, "Save failed: planted 3.")
    assert [entry["error"] for entry in record.history] == [f"Save failed: planted {n}." for n in (1, 2, 3)]
    assert (await queue.view.counts()).dead == dead_before + 1
    shown = await asyncio.to_thread(sonic_queue, bridge, "status", task_id)
    assert shown.returncode == 0
    assert "attempt 2 on gpu-" in shown.stdout
    assert "Traceback" not in shown.stdout
    assert not (folder / "job.mp4").exists()


async def test_a_prompt_from_the_browser_is_served_between_the_queues_jobs(
    bridge: Bridge, queue: BridgeQueue, folder: Path
) -> None:
    jobs = [await queue.submit(folder, f"job{number}", seconds=0.4) for number in range(16)]
    await asyncio.sleep(0.3)
    tally = folder / "browser.tally"
    async with ComfyClient(bridge.instances["gpu-1"].address) as client:
        await client.run({"t": {"class_type": "TEST_Tally", "inputs": {"tally": str(tally)}}})
    served = time.time()
    assert tally.exists()
    records = await queue.ended(*jobs)
    assert all(record.state is State.COMPLETED for record in records.values())
    later = [record for record in records.values() if (record.started_s or 0) > served]
    assert len(later) > 4, "it did not have to wait until the queue was empty"


async def test_a_folder_that_vanishes_is_waited_for_and_then_fails_with_its_name(
    queue: BridgeQueue, folder: Path
) -> None:
    away = folder / "network drive"
    away.mkdir()
    blocking = [await queue.submit(folder, f"busy{number}", seconds=1.0) for number in range(2)]
    task_id = await queue.submit(away)
    shutil.rmtree(away)
    records = await queue.ended(task_id, *blocking)
    record = records[task_id]
    assert (record.state, record.attempt) == (State.FAILED, 3)
    assert "network drive" in record.error
    assert not away.exists(), "a folder that is away is not made anew"


async def test_a_folder_that_comes_back_in_time_loses_nothing(queue: BridgeQueue, folder: Path) -> None:
    away, here = folder / "away", folder / "network drive"
    here.mkdir()
    blocking = [await queue.submit(folder, f"busy{number}", seconds=1.0) for number in range(2)]
    task_id = await queue.submit(here)
    here.rename(away)
    while (await queue.view.jobs([task_id]))[task_id].failures == 0:
        await asyncio.sleep(0.02)
    away.rename(here)
    record = (await queue.ended(task_id, *blocking))[task_id]
    assert (record.state, record.failures) == (State.COMPLETED, 1)
    assert (here / "job.mp4").exists()


async def test_an_output_that_cannot_be_written_fails_before_anything_is_computed(
    bridge: Bridge, queue: BridgeQueue, folder: Path
) -> None:
    (folder / "file").write_text("no folder")
    task_id = await queue.submit(folder, "file/job", tally=str(folder / "tally"))
    record = (await queue.ended(task_id))[task_id]
    assert record.state is State.FAILED
    assert "cannot be written" in record.error
    assert not (folder / "tally").exists()


async def test_a_priority_job_overtakes_what_waits(queue: BridgeQueue, folder: Path) -> None:
    waiting = [await queue.submit(folder, f"job{number}", seconds=0.3) for number in range(8)]
    urgent = await queue.submit(folder, "urgent", priority="priority")
    records = await queue.ended(urgent, *waiting)
    overtaken = [one for one in waiting if (records[one].started_s or 0) > (records[urgent].started_s or 0)]
    assert len(overtaken) >= 5


async def test_a_killed_servers_job_is_finished_by_the_other_and_what_it_left_is_removed_when_it_is_back(
    bridge: Bridge, comfyui_path: Path, folder: Path, tmp_path: Path
) -> None:
    """A third server dies under its job; one of the two takes it, within the lease."""
    async with bridge.queue() as queue:
        variables = environment(bridge.settings.url, bridge.settings.queue, "gpu-3", bridge.orders)
        third = Instance(comfyui_path, tmp_path / "gpu-3", environment=variables)
        install_pack(ROOT, third.base_directory / "custom_nodes")
        install_pack(ROOT / "tests" / "comfyui_pack", third.base_directory / "custom_nodes", "test_nodes")
        with third:
            jobs = [await queue.submit(folder, f"job{number}", seconds=2.0) for number in range(6)]
            deadline = time.monotonic() + 30
            while not (its := [j for j, r in (await queue.view.jobs(jobs)).items() if r.owner == "gpu-3"]):
                assert time.monotonic() < deadline, "the third server took no job"
                await asyncio.sleep(0.05)
            assert third.process
            third.process.kill()
            killed = time.monotonic()
            records = await queue.ended(*jobs)
        assert all(record.state is State.COMPLETED for record in records.values())
        victim = records[its[0]]
        assert (victim.crashes, victim.failures) == (1, 0)
        assert (victim.result or {})["instance"] in ("gpu-1", "gpu-2")
        assert time.monotonic() - killed < bridge.settings.lease_s + 12
        assert sorted(path.name for path in folder.glob("*.mp4")) == sorted(f"job{n}.mp4" for n in range(6))
        copies = third.input_directory / "sonic"
        assert [path.name for path in copies.glob(f"{its[0]}/*/image/*")] == ["a.png"], "nobody else can remove it"
        with third:
            while any(copies.iterdir()):
                assert time.monotonic() < deadline + 60, sorted(copies.rglob("*"))
                await asyncio.sleep(0.05)


async def test_a_video_that_was_chosen_before_its_instance_died_is_published_and_not_made_again(
    bridge: Bridge, queue: BridgeQueue, folder: Path
) -> None:
    busy = [await queue.submit(folder, f"busy{number}", seconds=2.0) for number in range(2)]
    while not all(record.state is State.RUNNING for record in (await queue.view.jobs(busy)).values()):
        await asyncio.sleep(0.02)
    task_id = await queue.submit(folder, "chosen")
    dying = Identity("dying")
    assert await queue.store.register(dying)
    job = await queue.store.claim(dying.name, dying.boot, ("512",))
    assert isinstance(job, JobRecord)
    assert job.task_id == task_id
    files = JobFiles([bridge.orders], folder / "input", folder / "output")
    produced = folder / "produced.mp4"
    produced.write_bytes(b"the chosen one")
    staged = files.stage(produced, job.spec, job.token)
    await queue.store.stage(job, {**staged, "result": {"output": staged["place"], "instance": "dying"}})
    records = await queue.ended(task_id, *busy)  # nobody renews its lease, so one of the two takes it
    assert (folder / "chosen.mp4").read_bytes() == b"the chosen one"
    assert not (folder / "chosen.tally").exists(), "no node ran for it"
    assert (records[task_id].state, records[task_id].result or {}) == (
        State.COMPLETED,
        {"output": staged["place"], "instance": "dying"},
    )


async def test_a_wrong_password_is_one_sentence_in_the_log_and_the_nodes_work(
    comfyui_path: Path, tmp_path: Path
) -> None:
    with RedisServer(tmp_path / "redis", port=0, outlives_us=False) as server:
        port = server.url.rpartition(":")[2].partition("/")[0]
        variables = {"SONIC_QUEUE_URL": f"redis://:wrong-secret@127.0.0.1:{port}/0"}
        instance = Instance(comfyui_path, tmp_path / "comfyui", environment=variables)
        install_pack(ROOT, instance.base_directory / "custom_nodes")
        with instance:
            async with ComfyClient(instance.address) as client:
                assert await client.node_types("SONIC_Inference")
            deadline = time.monotonic() + 20
            while "password" not in (text := instance.log_file.read_text(encoding="utf-8")):
                assert time.monotonic() < deadline, text[-2000:]
                await asyncio.sleep(0.1)
    assert "wrong-secret" not in instance.log_file.read_text(encoding="utf-8")
    assert "Traceback" not in text


def status_of(bridge: Bridge) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sonic_queue(bridge, "status", "--json").stdout)
    return found


def test_status_tells_what_every_instance_can_do(bridge: Bridge) -> None:
    instances = {one["name"]: one for one in status_of(bridge)["instances"]}
    assert set(instances) >= {"gpu-1", "gpu-2"}
    assert instances["gpu-1"]["tiers"] == [512, 768, 1024]
    assert instances["gpu-1"]["engines"] == ["draft"]
    assert "portrait_speaks" in instances["gpu-1"]["workflows"]
