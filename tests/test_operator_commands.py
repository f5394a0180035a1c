"""sonic-queue cancel, dead and drain against a real queue: what they do, what they say, and their exit status."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.queue.presence import Identity, registration
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Idle, Store, Submission
from comfyui_sonic.queue_bridge.retry import Verdict
from comfyui_sonic.queue_bridge.states import State

from .nvml_fixture import NvmlMachine

pytestmark = pytest.mark.slow

DEAD = Verdict(State.FAILED, "retries used up", dead_letter=True, counter="failures")


@dataclass
class Hands:
    """One queue of its own with an instance ``gpu-1``, and the command."""

    store: Store
    view: QueueView

    async def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        settings = self.store.settings
        variables = {"SONIC_QUEUE_URL": settings.url, "SONIC_QUEUE_QUEUE": settings.queue}
        command = [sys.executable, "-m", "comfyui_sonic.queue_bridge.cli", *arguments]
        options: dict[str, Any] = {"capture_output": True, "text": True, "encoding": "utf-8", "timeout": 60}
        return await asyncio.to_thread(subprocess.run, command, env=os.environ | variables, **options)

    async def told(self, *arguments: str) -> Any:
        return json.loads((await self.run(*arguments, "--json")).stdout)

    async def submit(self, count: int = 1, batch: str = "") -> list[str]:
        where = ("file:///a.png", "file:///a.wav", "file:///a.mp4")
        specs = [JobSpec(new_job_id(), *where, name=f"安娜 {number}", batch=batch) for number in range(count)]
        return [answer.task_id for answer in await self.store.submit([Submission(spec, 512) for spec in specs])]

    async def ask(self) -> JobRecord | Idle:
        return await self.store.claim("gpu-1", "boot", ("512",))

    async def claim(self) -> JobRecord:
        job = await self.ask()
        assert isinstance(job, JobRecord)
        return job

    async def die(self, count: int, batch: str = "") -> list[str]:
        """Jobs that lie in the dead letter."""
        ids = await self.submit(count, batch)
        for _ in ids:
            await self.store.settle(await self.claim(), DEAD, "Save failed: planted.", "may pass", "gpu-1")
        return ids

    async def state(self, task_id: str) -> State:
        record = await self.view.job(task_id)
        assert record
        return record.state


@pytest.fixture
async def hands(redis_url: str) -> AsyncIterator[Hands]:
    settings = Settings(url=redis_url, queue=f"hands-{new_job_id()}", lease_s=600.0)
    store = Store(connect(redis_url), settings)
    await store.register(Identity("gpu-1", "boot"))
    yield Hands(store, QueueView(store.client, store.keys, redis_url))
    await store.close()


async def test_cancel_says_of_each_job_what_becomes_of_it(hands: Hands) -> None:
    done, running, waiting = await hands.submit(3)
    await hands.store.complete(await hands.claim(), {})
    await hands.claim()
    ended = await hands.run("cancel", waiting, running)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{waiting}: cancelled.\n{running}: is being cancelled on gpu-1.\n"
    shown = (await hands.run("status", running)).stdout
    assert shown.startswith(f"{running}  running, being cancelled")
    again = await hands.run("cancel", done, waiting, "tsk_unknown")
    assert again.returncode == 1
    assert again.stdout.splitlines() == [
        f"{done}: has completed already and stays that.",
        f"{waiting}: cancelled.",
        "tsk_unknown: there is no such job in this queue, or it is no longer kept.",
    ]
    (told,) = await hands.told("cancel", waiting)
    assert told == {"task_id": waiting, "answer": "cancelled", "says": "cancelled."}


async def test_a_batch_is_cancelled_and_nothing_beside_it(hands: Hands) -> None:
    mine = await hands.submit(5, "batch_mine")
    await hands.store.complete(await hands.claim(), {})
    await hands.claim()
    (other,) = await hands.submit(1, "batch_other")
    told = await hands.told("cancel", "--batch", "batch_mine")
    assert {one["task_id"]: one["answer"] for one in told} == {
        mine[1]: "cancelling",
        **dict.fromkeys(mine[2:], "cancelled"),
    }
    assert await hands.state(mine[0]) is State.COMPLETED
    assert await hands.state(other) is State.QUEUED
    await hands.store.settle(
        JobRecord.from_hash(await hands.store.client.hgetall(hands.store.keys.job(mine[1])), mine[1]),
        Verdict(State.CANCELLED, "cancelled"),
    )
    nothing = await hands.run("cancel", "--batch", "batch_mine")
    assert (nothing.returncode, nothing.stdout) == (0, "Every job of the batch 'batch_mine' has ended.\n")


async def test_the_dead_letter_is_listed_with_error_and_attempts(hands: Hands) -> None:
    assert (await hands.run("dead", "list")).stdout == "Nothing lies in the dead letter.\n"
    first, second = await hands.die(2, "batch_a")
    shown = (await hands.run("dead", "list")).stdout
    heads, _, *rows = shown.splitlines()
    assert heads.split() == ["id", "name", "batch", "attempts", "since", "error"]
    assert [row.split()[0] for row in rows] == [second, first], "latest first"
    assert "安娜 0" in rows[1]
    assert rows[1].rstrip().endswith("Save failed: planted.")
    listed = await hands.told("dead", "list", "--limit", "1")
    assert [(one["task_id"], one["attempt"], one["error"]) for one in listed] == [(second, 1, "Save failed: planted.")]
    assert "1 more; --limit shows them." in (await hands.run("dead", "list", "--limit", "1")).stdout
    assert await hands.told("dead", "list", "--batch", "batch_b") == []


async def test_retry_starts_jobs_of_the_dead_letter_again(hands: Hands) -> None:
    one, *_ = await hands.die(2, "batch_a")
    batch = await hands.die(2, "batch_b")
    (waiting,) = await hands.submit()
    ended = await hands.run("dead", "retry", one, waiting)
    assert ended.returncode == 1
    assert ended.stdout.splitlines() == [
        f"{one}: starts again with all its attempts.",
        f"{waiting}: does not lie in the dead letter; it is queued.",
    ]
    assert [(await hands.claim()).task_id for _ in range(2)] == [waiting, one], "its batch takes its turn"
    assert (await hands.run("dead", "retry", "--batch", "batch_b")).returncode == 0
    assert {(await hands.claim()).task_id for _ in batch} == set(batch)
    assert [one["answer"] for one in await hands.told("dead", "retry", "--all")] == ["ok"]
    assert await hands.view.dead() == []


async def test_drop_takes_jobs_out_of_the_dead_letter_and_leaves_them_failed(hands: Hands) -> None:
    one, two, three = await hands.die(3)
    assert (await hands.run("dead", "drop", one)).stdout == f"{one}: is dropped; it stays failed.\n"
    assert set(await hands.view.dead()) == {two, three}
    assert (await hands.run("dead", "drop", "--all")).returncode == 0
    assert (await hands.run("dead", "drop", "--all")).stdout == "Nothing lies in the dead letter.\n"
    assert [await hands.state(task_id) for task_id in (one, two, three)] == [State.FAILED] * 3


async def test_an_instance_that_drains_takes_no_new_job_until_it_is_undone(hands: Hands) -> None:
    running, waiting = await hands.submit(2)
    job = await hands.claim()
    drained = await hands.run("drain", "gpu-1")
    assert drained.returncode == 0, drained.stderr
    assert "gpu-1 takes no new job, not even when it is started again" in drained.stdout
    assert f"{running} has 600 s to end, and is given back after that." in drained.stdout
    await hands.store.complete(job, {})
    assert isinstance(await hands.ask(), Idle)
    assert "draining" in (await hands.run("status")).stdout
    (instance,) = (await hands.told("status"))["instances"]
    assert instance["draining"] is True
    # A restart of the server, with another boot id, changes nothing.
    assert await hands.store.register(Identity("gpu-1", "boot-2"), predecessor_is_dead=True)
    idle = await hands.store.claim("gpu-1", "boot-2", ("512",))
    assert isinstance(idle, Idle)
    asleep = asyncio.create_task(hands.store.sleep(idle, 30.0))
    undone = await hands.run("drain", "gpu-1", "--undo")
    assert undone.stdout == "gpu-1 takes jobs again.\n"
    await asyncio.wait_for(asleep, 0.5)
    again = await hands.store.claim("gpu-1", "boot-2", ("512",))
    assert isinstance(again, JobRecord)
    assert again.task_id == waiting
    assert (await hands.run("drain", "gpu-1", "--undo")).stdout == "gpu-1 was not draining.\n"


async def test_stop_running_gives_the_job_back_and_nothing_of_it_counts(hands: Hands) -> None:
    first, _ = await hands.submit(2)
    job = await hands.claim()
    told = await hands.told("drain", "gpu-1", "--stop-running")
    assert told["running"] == [first]
    assert (await hands.store.wished("gpu-1", job)).cause == "drained"
    for _ in range(2):
        await hands.store.settle(job, Verdict(State.QUEUED, "drained"))
    await hands.store.register(Identity("gpu-2", "boot"))
    again = await hands.store.claim("gpu-2", "boot", ("512",))
    assert isinstance(again, JobRecord)
    assert (again.task_id, again.attempt, again.failures, again.crashes) == (first, 1, 0, 0)


async def test_a_drained_instance_that_is_away_is_still_told_of(hands: Hands) -> None:
    await hands.run("drain", "gpu-1")
    await hands.store.client.delete(hands.store.keys.instance("gpu-1"))
    assert "Not running, and to take no job when started again: gpu-1." in (await hands.run("status")).stdout
    assert (await hands.told("status"))["draining_away"] == ["gpu-1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cancel",), "id: name the jobs to cancel, or one batch with --batch."),
        (("cancel", "--batch", "b_unknown"), "--batch: there is no batch 'b_unknown' in this queue"),
        (("cancel", "tsk_1", "--batch", "b"), "id: name the jobs to cancel, or one batch with --batch."),
        (("dead", "retry"), "id: name the jobs to retry, or one batch with --batch, or --all."),
        (("dead", "drop", "--batch", "b"), "--batch: no job of the batch 'b' lies in the dead letter."),
        (("drain", "gpu-9"), "instance: no ComfyUI called 'gpu-9' takes jobs from this queue now."),
    ],
)
async def test_what_cannot_be_done_is_one_sentence_and_status_1(
    hands: Hands, arguments: tuple[str, ...], words: str
) -> None:
    ended = await hands.run(*arguments)
    assert ended.returncode == 1
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert words in (await hands.told(*arguments))["error"]


async def test_status_says_what_waits_for_an_instance_that_is_not_there(hands: Hands) -> None:
    where = ("file:///a.png", "file:///a.wav", "file:///a.mp4")
    await hands.store.submit([Submission(JobSpec(new_job_id(), *where), 1024)])
    (sentence,) = (await hands.told("status"))["alerts"]
    assert sentence.startswith("1 job waits for an instance that serves resolution 1024")
    assert sentence in " ".join((await hands.run("status")).stdout.split())


@pytest.mark.skipif(sys.platform != "linux", reason="NVIDIA's library has its name on Linux")
async def test_status_shows_how_busy_each_card_is_as_far_as_its_server_knows(hands: Hands, cards: NvmlMachine) -> None:
    cards.has(
        "card GPU-aa 0 73 19500000000 NVIDIA L4",
        "card GPU-bb 0 0 4000000 NVIDIA L4",
        "card GPU-dd 0 -1 9000 NVIDIA A100",
        "part MIG-1 0 -1 800000000 NVIDIA A100 MIG 1g.5gb",
    )
    begin = "from comfyui_sonic.queue_bridge.execution import device_load as module\nmodule.WAIT_S = 30"
    cells = {"GPU-aa": "73 %, 19.5 GB", "GPU-bb": "0 %, 4.0 MB", "MIG-1": "800.0 MB", "GPU-ee": ""}
    with cards.python(begin) as ask:
        for uuid in cells:
            described = {"device": "NVIDIA", **ask(f"module.device_load([{uuid!r}])()")}
            await hands.store._call("register", *registration(Identity(uuid, "boot"), 600.0, described))
    heads, _, *rows = (await hands.run("status")).stdout.splitlines()[1:]
    start, end = heads.index("in use"), heads.index("running")
    assert {row.split()[0]: row[start:end].strip() for row in rows} == {**cells, "gpu-1": ""}
