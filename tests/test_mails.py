"""Mails to the operator, over a real SMTP server: what is told, how often, and that nothing is lost."""

from __future__ import annotations

import asyncio
import email
import email.policy
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from email.message import EmailMessage
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.execution.unserved import LOOKS, Unserved
from comfyui_sonic.queue_bridge.job import JobSpec, new_job_id
from comfyui_sonic.queue_bridge.mail import Digest, MailServer, message
from comfyui_sonic.queue_bridge.messages.deliver import Mails
from comfyui_sonic.queue_bridge.messages.outbox import Outbox
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Store, Submission
from comfyui_sonic.queue_bridge.retry import Verdict
from comfyui_sonic.queue_bridge.states import State

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
DEAD = Verdict(State.FAILED, "retries used up", dead_letter=True, counter="failures")
PASSWORD = "mail pass:word/1"


@dataclass
class Postbox:
    """What arrives at a real server. refuse: how many of the next mails it does not take."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    refuse: int = 0

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        if self.refuse:
            self.refuse -= 1
            return "451 not now"
        parsed = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        self.mails.append(parsed)
        return "250 OK"

    def text(self, number: int = -1) -> str:
        return str(self.mails[number].get_content())


@dataclass
class Clock:
    now_s: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Bench:
    store: Store
    outbox: Outbox
    postbox: Postbox
    clock: Clock
    settings: Settings

    @property
    def mails(self) -> Mails:
        return Mails(self.outbox, self.settings)

    async def die(self, batch: str = "") -> str:
        spec = JobSpec(new_job_id(), "file:///a.png", "file:///a.wav", "file:///a.mp4", batch=batch)
        await self.store.submit([Submission(spec, 512)])
        await self.store.register(Identity("a", "boot"))
        job = await self.store.claim("a", "boot", ("512",))
        await self.store.settle(job, DEAD, "安娜: planted.", "may pass", "a")  # type: ignore[arg-type]
        return spec.task_id


def check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    known = isinstance(data, LoginPassword) and data == LoginPassword(b"sonic", PASSWORD.encode())
    return AuthResult(success=known, handled=known)


@pytest.fixture
async def bench(redis_url: str) -> AsyncIterator[Bench]:
    postbox, clock = Postbox(), Clock()
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = {"authenticator": check, "auth_required": True, "auth_require_tls": False}
    server = await loop.create_server(lambda: SMTP(postbox, loop=loop, **options), "127.0.0.1", 0)
    postbox.port = server.sockets[0].getsockname()[1]
    settings = Settings(
        url=redis_url,
        queue=f"mails-{new_job_id()}",
        smtp_url=f"smtp://sonic:mail%20pass%3Aword%2F1@127.0.0.1:{postbox.port}",
        mail_from="sonic@shop.example",
        mail_to=("op@shop.example", "other@shop.example"),
    )
    store = Store(connect(redis_url), settings, clock=clock)
    outbox = Outbox(store)
    await outbox.listen([], mails=True)
    yield Bench(store, outbox, postbox, clock, settings)
    server.close()
    await store.close()


async def test_a_job_in_the_dead_letter_is_mailed_at_once_and_the_next_ones_together(bench: Bench) -> None:
    first = await bench.die()
    assert await bench.mails.send_due() == 1
    mail = bench.postbox.mails[0]
    assert mail["Subject"] == f"[sonic {bench.settings.queue}] jobs in the dead letter: 1"
    assert (mail["From"], mail["To"]) == ("sonic@shop.example", "op@shop.example, other@shop.example")
    assert f"The job {first} lies in the dead letter: 安娜: planted." in bench.postbox.text()
    later = [await bench.die() for _ in range(3)]
    assert await bench.mails.send_due() == 0
    bench.clock.now_s += bench.settings.mail_every_min * 60 + 1
    assert await bench.mails.send_due() == 1
    assert all(task_id in bench.postbox.text() for task_id in later)
    assert first not in bench.postbox.text()
    assert len({mail["Message-ID"] for mail in bench.postbox.mails}) == 2
    bench.clock.now_s += bench.settings.mail_every_min * 60 + 1
    assert await bench.mails.send_due() == 0


async def test_a_mail_that_is_not_taken_is_tried_again_with_the_same_id_and_what_came_meanwhile(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await bench.die()
    bench.postbox.refuse = 1
    assert await bench.mails.send_due() == 0
    assert "127.0.0.1 answered 451." in caplog.text
    assert await bench.mails.send_due() == 0
    bench.clock.now_s += 61
    lost = await bench.outbox.claim_mail(10)  # and its sender is gone
    assert lost
    assert await bench.mails.send_due() == 0
    bench.clock.now_s += 11
    assert await bench.mails.send_due() == 1
    await bench.outbox.settle_mail(lost, sent=False, wait_s=0)  # too late to count
    bench.clock.now_s += 3600
    assert await bench.mails.send_due() == 0
    again = message(lost, bench.settings.queue, bench.settings.mail_from, ["x@shop.example"])
    assert bench.postbox.mails[0]["Message-ID"] == again["Message-ID"]
    assert PASSWORD not in caplog.text
    assert PASSWORD not in repr(bench.settings)


@pytest.mark.parametrize(
    "url", ["smtp://sonic:wrong@127.0.0.1:{port}", "smtp+starttls://127.0.0.1:{port}", "smtp://127.0.0.1:1"]
)
async def test_a_server_that_does_not_let_us_in_is_one_sentence(
    bench: Bench, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.die()
    settings = replace(bench.settings, smtp_url=url.format(port=bench.postbox.port))
    assert await Mails(bench.outbox, settings).send_due() == 0
    assert "could not be sent: 127.0.0.1" in caplog.text
    assert "wrong" not in caplog.text
    assert bench.postbox.mails == []


async def test_the_end_of_a_batch_is_summed_up(bench: Bench) -> None:
    await bench.die("batch_7")
    await bench.mails.send_due()
    subjects = {mail["Subject"].partition("] ")[2] for mail in bench.postbox.mails}
    assert subjects == {"jobs in the dead letter: 1", "batches ended: 1"}
    told = "\n".join(bench.postbox.text(number) for number in range(2))
    assert "The batch batch_7 has ended: 0 completed, 1 failed, 0 cancelled." in told


async def test_jobs_that_nobody_serves_are_mailed_once_however_many_notice(bench: Bench) -> None:
    spec = JobSpec(new_job_id(), "file:///a.png", "file:///a.wav", "file:///a.mp4")
    await bench.store.submit([Submission(spec, 1024)])
    view = QueueView(bench.store.client, bench.store.keys, bench.settings.url)
    for _ in range(2):
        unserved = Unserved(view, tell=bench.outbox.tell_unserved)
        for _ in range(LOOKS):
            await unserved.look()
    assert await bench.mails.send_due() == 1
    assert bench.postbox.text().count("1 job waits for an instance that serves resolution 1024") == 1


async def test_where_nobody_sends_mails_none_is_written(bench: Bench) -> None:
    await bench.outbox.forget("mail")
    await bench.die("batch_8")
    await bench.outbox.alert("unserved", "1024", "x")
    assert await bench.outbox.claim_mail(10) is None


async def test_a_flood_keeps_the_latest_and_says_how_many_are_left_out(bench: Bench) -> None:
    for number in range(1003):
        await bench.outbox.alert("unserved", str(number), f"sentence {number}.")
    assert await bench.mails.send_due() == 1
    assert bench.postbox.mails[0]["Subject"].endswith(": 1003")
    text = bench.postbox.text()
    assert "3 older ones are left out." in text
    assert "sentence 2." not in text
    assert "sentence 3." in text


def test_a_mail_sent_twice_has_one_id_and_every_server_address_is_read() -> None:
    digest = Digest("dead letter", 1, 7, 0, [(0.0, "x")])
    one, two = (message(digest, "sonic", "a@b.example", ["c@d"]) for _ in range(2))
    assert one.as_bytes() == two.as_bytes()
    assert one["Message-ID"] == "<sonic.dead-letter.7.1@b.example>"
    assert MailServer.parse("smtps://u%40x:p%2F@h") == MailServer("h", 465, "u@x", "p/", tls=True, starttls=False)
    assert MailServer.parse("smtp+starttls://h").port == 587
