"""Webhooks: written with a job's end, delivered at least once with one id and one content, to real receivers."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from comfyui_sonic.queue_bridge.cli import parser
from comfyui_sonic.queue_bridge.commands.webhook_commands import webhooks
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.database.redis_program import ServerProgram
from comfyui_sonic.queue_bridge.database.redis_server import RedisServer
from comfyui_sonic.queue_bridge.errors import BadJob
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.messages.deliver import Webhooks
from comfyui_sonic.queue_bridge.messages.outbox import Outbox
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Store, Submission
from comfyui_sonic.queue_bridge.retry import Verdict
from comfyui_sonic.queue_bridge.states import State
from comfyui_sonic.queue_bridge.webhook import Endpoint, Schedule, what_is_wrong_with_url

from .webhook_receiver import SECRET, Receiver, is_signed, receiving

ROOT = Path(__file__).resolve().parent.parent
NEXT_SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
FAILED = Verdict(State.FAILED, "retries used up", dead_letter=True, counter="failures")
RESULT = {
    "output": "file:///v/a.mp4",
    "bytes": 12,
    "sha256": "ab",
    "seconds": 1.5,
    "instance": "a",
    "attempt": 1,
    "warnings": ["Ünï 中文"],
    "resolution": 512,
    "degraded": False,
    "report": {"engine": "draft"},
}


@dataclass
class Bench:
    """A queue of its own, an instance's hands, deliverers and a receiver."""

    store: Store
    outbox: Outbox
    receiver: Receiver
    settings: Settings
    running: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def view(self) -> QueueView:
        return QueueView(self.store.client, self.store.keys, self.settings.url)

    def start(self, **changed: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(Webhooks(self.outbox, replace(self.settings, **changed)).run())
        self.running.append(task)
        return task

    async def submit(self, callback: str = "", batch: str = "", count: int = 1) -> list[str]:
        one = JobSpec("", "file:///a.png", "file:///a.wav", "file:///a.mp4", batch=batch, callback=callback)
        specs = [replace(one, task_id=f"a.{new_job_id()}") for _ in range(count)]
        return [one.task_id for one in await self.store.submit([Submission(spec, 512) for spec in specs])]

    async def claim(self) -> JobRecord:
        job = await self.store.claim("a", "boot", ("512",))
        assert isinstance(job, JobRecord)
        return job

    async def complete(self) -> str:
        job = await self.claim()
        await self.store.stage(job, {"place": "/v/a.mp4", "result": RESULT})
        await self.store.complete(job, RESULT)
        return job.task_id

    async def fail(self) -> str:
        job = await self.claim()
        await self.store.settle(job, FAILED, "Save failed: \udcff planted.", "may pass", "a")
        return job.task_id

    async def states(self) -> dict[str, str]:
        found = await self.outbox.deliveries(("pending", "delivered", "failed"), 99)
        return {one.message_id: one.state for one in found}

    async def settled(self, count: int = 1) -> list[str]:
        """The states of the messages, once so many have ended."""
        async with asyncio.timeout(10):
            while len([state for state in (await self.states()).values() if state != "pending"]) < count:
                await asyncio.sleep(0.02)
        return sorted((await self.states()).values())


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as one:
        yield one


@pytest.fixture
async def bench(redis_url: str, receiver: Receiver) -> AsyncIterator[Bench]:
    settings = Settings(
        url=redis_url,
        queue=f"hooks-{new_job_id()}",
        webhook_secrets=(SECRET,),
        webhook_schedule_s=(0.05, 0.05, 0.05),
        webhook_timeout_s=0.5,
        jitter=0.0,
        private_hosts=("127.0.0.1",),
    )
    store = Store(connect(redis_url), settings)
    await store.register(Identity("a", "boot"))
    made = Bench(store, Outbox(store), receiver, settings)
    yield made
    for task in made.running:
        task.cancel()
    await asyncio.gather(*made.running, return_exceptions=True)
    await store.close()


async def test_the_end_of_a_job_is_told_to_its_callback_signed(bench: Bench) -> None:
    bench.start()
    await bench.submit(bench.receiver.url())
    task_id = await bench.complete()
    (one,) = await bench.receiver.until(1)
    assert is_signed(one, SECRET)
    assert not is_signed(one, NEXT_SECRET)
    assert abs(int(one.headers["webhook-timestamp"]) - time.time()) < 10
    assert one.headers["content-type"] == "application/json"
    assert "." not in one.id
    told = one.told
    assert (told["type"], told["data"]["task_id"], told["data"]["state"]) == ("job.completed", task_id, "completed")
    assert {"attempt": told["data"]["attempt"], "report": RESULT["report"], **told["data"]["result"]} == RESULT
    record = await bench.view.job(task_id)
    assert record
    assert record.spec.callback == bench.receiver.url()
    assert abs(datetime.fromisoformat(told["timestamp"]).timestamp() - time.time()) < 10
    assert await bench.settled() == ["delivered"]


async def test_a_failure_and_a_cancellation_are_told_and_a_job_without_callback_tells_nobody(bench: Bench) -> None:
    await bench.submit(bench.receiver.url())
    failed = await bench.fail()
    (cancelled,) = await bench.submit(bench.receiver.url())
    await bench.store.cancel([cancelled])
    await bench.store.cancel([cancelled])
    await bench.submit()
    await bench.fail()
    assert len(await bench.states()) == 2
    bench.start()
    received = {one.told["data"]["task_id"]: one.told for one in await bench.receiver.until(2)}
    assert received[failed]["type"] == "job.failed"
    assert received[failed]["data"]["error"].endswith("\ufffd planted.")
    assert received[failed]["data"]["error_kind"] == "may pass"
    assert received[cancelled]["type"] == "job.cancelled"
    assert await bench.settled(2) == ["delivered"] * 2
    assert len(bench.receiver.received) == 2


async def test_a_job_that_ends_again_is_another_event(bench: Bench) -> None:
    (task_id,) = await bench.submit(bench.receiver.url())
    await bench.fail()
    await bench.store.restart(task_id)
    await bench.complete()
    bench.start()
    received = await bench.receiver.until(2)
    assert {one.told["type"] for one in received} == {"job.failed", "job.completed"}
    assert len({one.id for one in received}) == 2


async def test_every_try_has_the_same_id_and_content_and_a_signature_of_its_own_time(bench: Bench) -> None:
    bench.receiver.answers["/hook"] = [(500, {}), (302, {"Location": "/elsewhere"}), (404, {})]
    bench.start()
    await bench.submit(bench.receiver.url())
    await bench.complete()
    received = await bench.receiver.until(4)
    assert {one.path for one in received} == {"/hook"}
    assert len({(one.id, one.body) for one in received}) == 1
    assert all(is_signed(one, SECRET) for one in received)
    assert await bench.settled() == ["delivered"]
    assert (await bench.outbox.totals()) == {"retried": 3, "delivered": 1}


async def test_a_message_is_given_up_when_its_schedule_is_used_up_and_can_be_replayed(bench: Bench) -> None:
    bench.receiver.answers["/hook"] = [(500, {})] * 4
    bench.start()
    await bench.submit(bench.receiver.url())
    await bench.complete()
    assert await bench.settled() == ["failed"]
    assert len(bench.receiver.received) == 4
    (one,) = await bench.outbox.deliveries(("failed",), 9)
    assert (one.tries, one.status, one.said) == (4, 500, "It answered 500.")
    assert await bench.outbox.replay([one.message_id, "msg_none"]) == {one.message_id: "ok", "msg_none": "missing"}
    received = await bench.receiver.until(5)
    assert len({(again.id, again.body) for again in received}) == 1
    assert await bench.settled() == ["delivered"]


async def test_a_receiver_that_hangs_is_left_after_the_time_limit_and_holds_up_nobody(bench: Bench) -> None:
    await bench.submit(bench.receiver.url("/hang"), count=3)
    await bench.submit(bench.receiver.url("/hook"))
    for _ in range(4):
        await bench.complete()
    bench.start(webhook_schedule_s=())
    assert await bench.settled(4) == ["delivered", "failed", "failed", "failed"]
    said = {one.said for one in await bench.outbox.deliveries(("failed",), 9)}
    assert said == {"It did not answer within 0.5 s."}


async def test_an_address_that_answers_410_gets_nothing_more_until_it_is_enabled(bench: Bench) -> None:
    url = bench.receiver.url()
    bench.receiver.answers["/hook"] = [(410, {})]
    bench.start()
    await bench.submit(url, count=2)
    await bench.complete()
    assert await bench.settled() == ["failed"]
    await bench.complete()
    assert await bench.settled(2) == ["failed", "failed"]
    assert len(bench.receiver.received) == 1
    (endpoint,) = await bench.outbox.endpoints()
    assert (endpoint["url"], endpoint["every_job"]) == (url, False)
    assert endpoint["disabled_s"]
    assert await bench.outbox.enable(url)
    assert not await bench.outbox.enable(url)
    await bench.outbox.replay(list(await bench.states()))
    assert await bench.settled(2) == ["delivered", "delivered"]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_receiver_says_by_retry_after_when_it_is_tried_again(bench: Bench, status: int) -> None:
    bench.receiver.answers["/hook"] = [(status, {"Retry-After": "1"})]
    bench.start()
    await bench.submit(bench.receiver.url())
    await bench.complete()
    first, second = await bench.receiver.until(2)
    assert 0.95 <= second.at_s - first.at_s < 3


def test_the_schedule_waits_longer_each_time_and_heeds_dates_within_a_day() -> None:
    schedule = Schedule(Settings().webhook_schedule_s, 0.2, lambda: 0.5)
    waits = [schedule.after_failure("x", tries).delay_s for tries in range(1, 10)]
    assert waits == [wait_s * 1.1 for wait_s in (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)]
    assert schedule.after_failure("x", 10).outcome == "failed"
    for text, wait_s in (
        ("Thu, 01 Jan 1970 00:10:00 GMT", 590.0),
        ("999999999", 86_400.0),
        ("soon", 5.5),
        ("-3", 5.5),
        ("", 5.5),
    ):
        assert schedule.after_answer(503, {"Retry-After": text}, 1, 10.0).delay_s == wait_s
    assert schedule.after_answer(500, {"Retry-After": "600"}, 1, 10.0).delay_s == 5.5
    assert schedule.after_answer(204, {}, 1, 0.0).outcome == "delivered"


async def test_while_secrets_rotate_either_one_verifies(bench: Bench) -> None:
    bench.start(webhook_secrets=(NEXT_SECRET, SECRET))
    await bench.submit(bench.receiver.url())
    await bench.complete()
    (one,) = await bench.receiver.until(1)
    assert is_signed(one, SECRET)
    assert is_signed(one, NEXT_SECRET)
    assert len(one.headers["webhook-signature"].split(" ")) == 2


async def test_the_operators_webhooks_are_told_of_every_job_and_of_a_batch_as_they_wish(bench: Bench) -> None:
    every, some = bench.receiver.url("/every"), bench.receiver.url("/some")
    for _ in range(2):  # it may be said again
        await bench.outbox.listen(
            [Endpoint.parse(every), Endpoint.parse(f"{some} job.failed batch.completed")], mails=False
        )
    await bench.submit(batch="batch_1", count=2)
    await bench.submit(every)  # its callback is told already
    await bench.complete()
    await bench.complete()
    await bench.fail()
    bench.start()
    received = await bench.receiver.until(6)
    assert await bench.settled(6) == ["delivered"] * 6
    found: dict[str, list[str]] = {"/every": [], "/some": []}
    for one in received:
        found[one.path].append(one.told["type"])
    assert sorted(found["/every"]) == ["batch.completed", "job.completed", "job.completed", "job.failed"]
    assert sorted(found["/some"]) == ["batch.completed", "job.failed"]
    batch = next(one.told["data"] for one in received if one.told["type"] == "batch.completed")
    counts = {"total": 2, "completed": batch["completed"], "failed": batch["failed"], "cancelled": 0}
    assert batch == {"batch": "batch_1", **counts}
    assert batch["completed"] + batch["failed"] == 2
    assert len({one.id for one in received}) == 6
    assert await bench.outbox.forget(every)
    await bench.submit()
    await bench.fail()
    assert await bench.settled(7) == ["delivered"] * 7
    assert bench.receiver.received[-1].path == "/some"


async def test_a_deliverer_that_dies_in_the_middle_of_a_try_loses_nothing(bench: Bench) -> None:
    await bench.submit(bench.receiver.url("/hang"))
    await bench.complete()
    lost, _ = await bench.outbox.claim(0.3, 1, 1, {})  # and its deliverer is gone
    first = bench.start(webhook_timeout_s=30)
    await bench.receiver.until(1)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    (message_id,) = await bench.states()
    # The next one takes it when the lease has run out; what the first would say now does not count.
    await bench.store.client.zadd(bench.store.keys.outbox, {message_id: 0})
    bench.start(webhook_schedule_s=())
    assert await bench.settled() == ["failed"]
    assert len({(one.id, one.body) for one in bench.receiver.received}) == 1
    assert len(bench.receiver.received) == 2
    verdict = Schedule(()).after_answer(200, {}, 1, 0.0)
    assert not await bench.outbox.settle(lost[0], verdict, 200)
    assert await bench.settled() == ["failed"]


async def test_what_became_of_a_try_may_be_said_twice_and_counts_once(bench: Bench) -> None:
    await bench.submit(bench.receiver.url())
    await bench.complete()
    again, given_up = (Schedule(waits_s, 0.0).after_failure("x", 1) for waits_s in ((0.0,), ()))
    for outcome, verdict in (("retried", again), ("failed", given_up)):
        (message,), _ = await bench.outbox.claim(60, 9, 9, {})
        for _ in range(2):
            assert await bench.outbox.settle(message, verdict, 0)
        assert (await bench.outbox.totals())[outcome] == 1
    assert (await bench.outbox.claim(60, 9, 9, {})) == ([], None)
    (known,) = await bench.outbox.deliveries(("failed",), 9)
    assert known.tries == 2


async def test_a_full_host_holds_up_no_other_however_much_waits_for_it(bench: Bench) -> None:
    await bench.submit("http://busy.example/", count=250)
    await bench.submit("http://free.example/")
    for _ in range(251):
        await bench.fail()
    found: list[str] = []
    busy: Counter[str] = Counter()
    for _ in range(3):
        messages, _ = await bench.outbox.claim(60, 16, 4, busy)
        found += [one.url for one in messages]
        busy.update(urlsplit(one.url).netloc for one in messages)
    assert Counter(found) == {"http://busy.example/": 4, "http://free.example/": 1}


async def test_what_waits_outlives_a_restart_of_the_database(redis_program: ServerProgram, receiver: Receiver) -> None:
    with tempfile.TemporaryDirectory(prefix="sonic-") as folder:
        for running in range(2):
            with RedisServer(Path(folder), program=redis_program, outlives_us=False) as server:
                settings = Settings(url=server.url, webhook_secrets=(SECRET,), private_hosts=("127.0.0.1",))
                store = Store(connect(server.url), settings)
                one = Bench(store, Outbox(store), receiver, settings)
                if not running:
                    await store.register(Identity("a", "boot"))
                    await one.submit(receiver.url())
                    await one.complete()
                    (body,) = [each.body for each in await one.outbox.deliveries(("pending",), 9)]
                else:
                    delivering = one.start()
                    assert await one.settled() == ["delivered"]
                    delivering.cancel()
                    await asyncio.gather(delivering, return_exceptions=True)
                await store.close()
    assert [each.body.decode() for each in receiver.received] == [body]


async def test_several_deliverers_share_the_messages_and_no_host_gets_many_at_once(bench: Bench) -> None:
    await bench.submit(bench.receiver.url("/slow"), count=20)
    for _ in range(20):
        await bench.complete()
    for _ in range(2):
        bench.start()
    assert await bench.settled(20) == ["delivered"] * 20
    assert len(bench.receiver.received) == 20
    assert len({one.id for one in bench.receiver.received}) == 20
    assert bench.receiver.most_at_once <= 8  # four of each


async def test_a_callback_into_the_network_around_us_is_refused_and_the_operators_own_is_not(bench: Bench) -> None:
    own = bench.receiver.url("/own")
    await bench.outbox.listen([Endpoint(own)], mails=False)
    await bench.submit(bench.receiver.url("/private"))
    await bench.complete()
    bench.start(private_hosts=(), webhooks=(own,))
    assert await bench.settled(2) == ["delivered", "failed"]
    assert [one.path for one in bench.receiver.received] == ["/own"]
    (refused,) = await bench.outbox.deliveries(("failed",), 9)
    assert "private network" in refused.said


async def test_no_secret_is_in_a_log_or_in_the_queue(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bench.receiver.answers["/hook"] = [(500, {}), (410, {})]
    bench.start(webhook_secrets=(NEXT_SECRET, SECRET))
    await bench.submit(bench.receiver.url("/hook?token=query-secret"))
    await bench.complete()
    assert await bench.settled() == ["failed"]
    kept = ""
    async for key in bench.store.client.scan_iter(match=f"{bench.settings.prefix}:*"):
        kept += repr(await _content(bench, key))
    assert "/hook" in kept
    for secret in (SECRET, NEXT_SECRET, SECRET[6:30], NEXT_SECRET[6:30]):
        assert secret not in caplog.text
        assert secret not in kept
        assert secret not in repr(bench.settings)
    assert "webhook msg_" in caplog.text
    assert "query-secret" not in "\n".join(one.getMessage() for one in caplog.records if one.name.startswith("sonic"))
    assert all("query-secret" not in json.dumps(one.to_dict()) for one in await bench.outbox.deliveries(("failed",), 9))


async def _content(bench: Bench, key: str) -> Any:
    readers: dict[str, Callable[[], Any]] = {
        "hash": lambda: bench.store.client.hgetall(key),
        "stream": lambda: bench.store.client.xrange(key),
        "zset": lambda: bench.store.client.zrange(key, 0, -1),
        "list": lambda: bench.store.client.lrange(key, 0, -1),
        "set": lambda: bench.store.client.smembers(key),
        "string": lambda: bench.store.client.get(key),
    }
    return await readers[await bench.store.client.type(key)]()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://host/x", "is no http:// or https:// address."),
        ("https:///x", "is no http:// or https:// address."),
        ("https://user:top-secret@host/", "holds a user or password"),
        ("https://host:99999/", "can be read"),
        ("https://host/a b", "plain characters"),
        ("https://host/#x", "without a fragment"),
        ("https://host/" + "x" * 2000, "2000"),
    ],
)
def test_a_callback_that_is_none_is_refused_with_the_job(url: str, words: str) -> None:
    fields = {"image": "file:///a.png", "audio": "file:///a.wav", "output": "file:///a.mp4", "callback": url}
    with pytest.raises(BadJob, match=r"^callback: ") as raised:
        JobSpec.parse(fields)
    assert words in str(raised.value)
    assert "top-secret" not in str(raised.value)
    assert not what_is_wrong_with_url("https://host:8443/a?b=c,d")


async def test_the_command_lists_shows_replays_and_enables(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    url = bench.receiver.url("/hook")
    await bench.outbox.listen([Endpoint.parse(f"{url} job.failed")], mails=False)
    bench.receiver.answers["/hook"] = [(410, {})]
    bench.start()
    await bench.submit()
    await bench.fail()
    assert await bench.settled() == ["failed"]

    async def run(*arguments: str, status: int = 0) -> Any:
        parsed = parser().parse_args(arguments)
        assert await webhooks(parsed, bench.store) == status
        said = capsys.readouterr().out
        return json.loads(said) if parsed.json else said

    listed = await run("webhooks", "list", "--json")
    (message,) = listed["messages"]
    assert (message["state"], message["status"], message["event"]) == ("failed", 410, "job.failed")
    assert listed["endpoints"][0]["disabled_s"]
    shown = await run("webhooks", "show", message["message_id"])
    assert '"type":"job.failed"' in shown
    assert "disabled since" in await run("webhooks", "list")
    assert "gets messages again" in await run("webhooks", "enable", url)
    assert "is delivered again." in await run("webhooks", "replay", "--failed")
    with pytest.raises(BadJob, match="there is no webhook 'msg_none'"):
        await run("webhooks", "show", "msg_none")
    assert "was not disabled" in await run("webhooks", "enable", url, status=1)
    assert await bench.settled() == ["delivered"]


async def test_a_process_of_its_own_delivers_and_without_a_secret_says_what_it_needs(bench: Bench) -> None:
    variables = {
        "SONIC_QUEUE_URL": bench.settings.url,
        "SONIC_QUEUE_QUEUE": bench.settings.queue,
        "SONIC_QUEUE_WEBHOOKS": bench.receiver.url("/own"),
    }
    command = [sys.executable, "-m", "comfyui_sonic.queue_bridge.cli", "notify"]
    refused = await asyncio.to_thread(
        subprocess.run, command, env=os.environ | variables, capture_output=True, text=True, timeout=60
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith("webhook_secrets: ")
    await bench.submit(bench.receiver.url("/own"))
    await bench.complete()
    process = await asyncio.create_subprocess_exec(
        *command,
        env=os.environ | variables | {"SONIC_QUEUE_WEBHOOK_SECRETS": SECRET},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        (one,) = await bench.receiver.until(1)
        assert is_signed(one, SECRET)
        assert await bench.settled() == ["delivered"]
    finally:
        process.terminate()
        _, said = await process.communicate()
    assert process.returncode == 130
    assert SECRET.encode() not in said


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed, whose example is tried here.")
async def test_the_examples_of_the_document_verify_what_is_sent_and_nothing_else(bench: Bench, tmp_path: Path) -> None:
    bench.start(webhook_secrets=(NEXT_SECRET, SECRET))
    await bench.submit(bench.receiver.url())
    await bench.complete()
    (one,) = await bench.receiver.until(1)
    text = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")
    python, node = (text.partition(f"```{name}\n")[2].partition("```")[0] for name in ("python", "js"))
    (tmp_path / "verify.py").write_text(
        python + "\nimport json, sys\nheaders, body, secret = json.load(sys.stdin)\n"
        "sys.stdout.write(str(verified(headers, body.encode(), secret)).lower())\n"
    )
    (tmp_path / "verify.mjs").write_text(
        node
        + "\nimport { readFileSync } from 'node:fs';\nconst [headers, body, secret] = JSON.parse(readFileSync(0));\n"
        "process.stdout.write(String(verified(headers, Buffer.from(body), secret)));\n"
    )
    body, forged = one.body.decode(), one.body.decode().replace("completed", "failed")
    for program in ([sys.executable, "verify.py"], ["node", "verify.mjs"]):
        for content, secret, expected in (
            (body, SECRET, "true"),
            (forged, SECRET, "false"),
            (body, "whsec_" + "A" * 44, "false"),
        ):
            given = json.dumps([one.headers, content, secret])
            done = subprocess.run(program, input=given, capture_output=True, text=True, cwd=tmp_path, timeout=30)
            assert done.stdout == expected, done.stderr
