"""Commands without a detour: what is unknown is told, what was closed is opened, no answer goes to another question."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.quick_connection import QuickClient
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.store import Store, Submission
from redis.asyncio import Redis
from redis.exceptions import ResponseError

ME = ("a", "boot", ("512",))


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def store(client: Redis, redis_url: str) -> Store:
    store = Store(client, Settings(url=redis_url, queue=f"test-{new_job_id()}"))
    await store.register(Identity("a", "boot"))
    return store


def job() -> Submission:
    return Submission(JobSpec(new_job_id(), "file:///a.png", "file:///a.wav", "file:///a.mp4"), 512)


async def test_a_refused_command_leaves_the_connection_as_it_was(client: Redis) -> None:
    quick = QuickClient(client)
    number = await quick.ask("CLIENT", "ID")
    with pytest.raises(ResponseError):
        await quick.ask("NONSENSE")
    assert await quick.ask("CLIENT", "ID") == number


async def test_a_cancelled_question_leaves_no_answer_behind(client: Redis) -> None:
    quick = QuickClient(client)
    key = f"list-{new_job_id()}"
    waiting = asyncio.create_task(quick.ask("BLPOP", key, 5))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await client.rpush(key, "stale")
    assert await quick.ask("ECHO", "fresh") == "fresh"


async def test_a_connection_that_was_closed_meanwhile_is_opened_again(client: Redis) -> None:
    quick = QuickClient(client)
    number = await quick.ask("CLIENT", "ID")
    assert await client.client_kill_filter(_id=str(number)) == 1
    await asyncio.sleep(0.05)
    assert await quick.ask("ECHO", "there") == "there"
    assert await quick.ask("CLIENT", "ID") != number


async def test_many_questions_at_once_do_not_mix(client: Redis) -> None:
    quick = QuickClient(client)
    answers = await asyncio.gather(*(quick.ask("ECHO", str(number)) for number in range(50)))
    assert answers == [str(number) for number in range(50)]


async def test_a_text_that_is_no_text_comes_back_as_it_was(client: Redis) -> None:
    quick, key = QuickClient(client), f"bytes-{new_job_id()}"
    data = bytes(range(256))
    await quick.ask("SET", key, data)
    text = await quick.ask("GET", key)
    assert text.encode("utf-8", "surrogateescape") == data
    await quick.ask("SET", key, text, "PX", 1000)
    assert (await client.get(key)).encode("utf-8", "surrogateescape") == data


async def test_a_server_that_has_forgotten_the_scripts_is_told_them(store: Store) -> None:
    await store.submit([job()])
    await store.client.script_flush()
    claimed = await store.claim(*ME)
    assert isinstance(claimed, JobRecord)
    await store.submit([job()])
    await store.client.script_flush()
    await store.complete(claimed, {})
    assert isinstance(await store.claim(*ME), JobRecord)


async def test_a_thousand_jobs_in_one_call_keep_their_order_and_find_what_is_there(store: Store) -> None:
    jobs = [Submission(job().spec, 512, idempotency_key=f"key-{number}") for number in range(1000)]
    await store.submit(jobs[300:500])
    accepted = await store.submit(jobs)
    assert [one.task_id for one in accepted] == [one.spec.task_id for one in jobs]
    assert [one.made for one in accepted] == [True] * 300 + [False] * 200 + [True] * 500


async def test_who_asks_one_after_the_other_lets_others_run(client: Redis) -> None:
    quick = QuickClient(client)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    await quick.ask("PING")
    running = asyncio.create_task(others())
    until = asyncio.get_running_loop().time() + 0.3
    while asyncio.get_running_loop().time() < until:
        await quick.ask("PING")
    running.cancel()
    assert turns > 10


async def test_what_is_ready_runs_before_an_answer_is_waited_for(client: Redis) -> None:
    quick = QuickClient(client)
    await quick.ask("PING")
    ran: list[str] = []

    async def ask() -> None:
        await quick.ask("PING", others_first=True)
        ran.append("answer")

    async def other() -> None:
        ran.append("other")

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)  # it is sent
    beside = asyncio.create_task(other())
    await asyncio.gather(asking, beside)
    assert ran == ["other", "answer"]


async def test_who_is_cancelled_before_an_answer_is_waited_for_leaves_nothing_behind(client: Redis) -> None:
    quick, said = QuickClient(client), list[dict[str, Any]]()
    await quick.ask("PING")
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    asking = asyncio.create_task(quick.ask("PING", others_first=True))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert asking.cancelled()
    assert await quick.ask("ECHO", "there") == "there"
    del asking
    gc.collect()
    assert said == []


async def test_others_run_while_an_answer_takes_long(client: Redis) -> None:
    quick = QuickClient(client)
    await quick.ask("PING")
    slow = "local n = 0 while n < 4000000 do n = n + 1 end return 'done'"
    answer = asyncio.create_task(quick.ask("EVAL", slow, 0))
    turns = 0
    while not answer.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert (await answer, turns > 3) == ("done", True)


async def test_many_questions_at_once_get_each_its_own_answer(client: Redis) -> None:
    quick = QuickClient(client)
    assert await asyncio.gather(*(quick.ask("ECHO", str(number)) for number in range(300))) == [
        str(number) for number in range(300)
    ]


async def test_many_jobs_may_be_made_while_others_are_sent(store: Store) -> None:
    jobs = [job() for _ in range(450)]
    accepted = await store.submit(one for one in jobs)
    assert [one.task_id for one in accepted] == [one.spec.task_id for one in jobs]
    assert all(one.made for one in accepted)
