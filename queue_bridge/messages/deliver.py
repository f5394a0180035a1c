"""Delivers webhooks and mails out of the outbox: in a ComfyUI server beside its work, or by ``sonic-queue notify``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from dataclasses import dataclass
from email.message import EmailMessage
from urllib.parse import urlsplit

import aiohttp

from ..config import Settings
from ..errors import AddressRefused, QueueUnavailable
from ..mail import MailServer, message
from ..now_and_then import now_and_then
from ..places.public_http import open_public_session
from ..tracing import Attributes, NoTracing, PassedOn, Span, Tracing
from ..web_address import Reach, safe_address
from ..webhook import Endpoint, Schedule, Verdict, headers
from .outbox import Message, Outbox

log = logging.getLogger("sonic.deliver")

AT_ONCE, AT_ONCE_A_HOST = 16, 4
LOOK_S = 5.0  # a new message wakes its deliverers at once; they look this often nevertheless
AWAY_S = 5.0  # between two looks while the queue does not answer
LEASE_SCALE, LEASE_LEAST_S = 4.0, 5.0  # a lease, in time limits of a try
ANSWER_BYTES = 4096  # of an answer, so that its connection can be used again; nobody looks at it
MAIL_LOOK_S, MAIL_LIMIT_S, MAIL_LEASE_S, MAIL_AGAIN_S = 5.0, 30.0, 120.0, 60.0


@dataclass(frozen=True)
class _Ways:
    """strangers: to addresses that came with jobs; own: to the operator's, which may lie in the network around us."""

    strangers: aiohttp.ClientSession
    own: aiohttp.ClientSession
    own_urls: frozenset[str]

    def to(self, url: str) -> aiohttp.ClientSession:
        return self.own if url in self.own_urls else self.strangers


class Webhooks:
    """One deliverer of webhooks."""

    def __init__(self, outbox: Outbox, settings: Settings, tracing: Tracing | None = None) -> None:
        self._outbox = outbox
        self._settings = settings
        self._tracing = tracing or NoTracing()
        self._schedule = Schedule(settings.webhook_schedule_s, settings.jitter)
        self._lease_s = max(LEASE_LEAST_S, LEASE_SCALE * settings.webhook_timeout_s)
        self._running: dict[asyncio.Task[None], str] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Deliver until this task is cancelled. A try that is cut off is repeated when its lease has run out."""
        reach, urls = self._settings.reach, frozenset(one.url for one in endpoints(self._settings))
        hosts = tuple(host for url in urls if (host := urlsplit(url).hostname))
        around = Reach((*reach.private_hosts, *hosts), reach.ports)
        listening = asyncio.create_task(self._listen())
        try:
            async with open_public_session(reach) as strangers, open_public_session(around) as own:
                ways = _Ways(strangers, own, urls)
                while True:
                    self._wake.clear()
                    await self._rest(await self._look(ways))
        finally:
            for task in (*self._running, listening):
                task.cancel()

    async def _listen(self) -> None:
        """Wake the look whenever there is a new message."""
        seen = "0-0"
        while True:
            try:
                seen = await self._outbox.wait(seen, LOOK_S)
                self._wake.set()
            except QueueUnavailable as error:
                log.debug("%s", error)
                await asyncio.sleep(AWAY_S)

    async def _rest(self, wait_s: float) -> None:
        """Until it is time to look, or a try has ended."""
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _look(self, ways: _Ways) -> float:
        """Begin every try that is due and that there is room for; seconds until the next look."""
        room = AT_ONCE - len(self._running)
        if not room:
            return LOOK_S
        try:
            busy = Counter(self._running.values())
            messages, due_s = await self._outbox.claim(self._lease_s, room, AT_ONCE_A_HOST, busy)
        except QueueUnavailable as error:
            log.debug("%s", error)
            return AWAY_S
        except Exception:
            log.exception("An error that was not foreseen; webhooks are looked for again in %g s.", AWAY_S)
            return AWAY_S
        for one in messages:
            task = asyncio.create_task(self._try(ways.to(one.url), one))
            self._running[task] = urlsplit(one.url).netloc.lower()
            task.add_done_callback(self._ended)
        return LOOK_S if due_s is None else min(LOOK_S, due_s + 0.005)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("A webhook's try ended in an error that was not foreseen.", exc_info=error)

    async def _try(self, session: aiohttp.ClientSession, one: Message) -> None:
        span = await self._span_of(one) if self._tracing.is_on else PassedOn("")
        verdict, status = await self._post(session, one, span.traceparent)
        failed = "" if verdict.outcome == "delivered" else str(status or "not sent")
        span.end(failed, {"sonic.outcome": verdict.outcome, "http.response.status_code": status})
        log.log(
            logging.INFO if verdict.outcome == "delivered" else logging.WARNING,
            *("webhook %s to %s, try %d: %s", one.message_id, safe_address(one.url), one.tries + 1, verdict.said),
        )
        while True:  # or what was delivered would be sent again
            try:
                await self._outbox.settle(one, verdict, status)
                return
            except QueueUnavailable as error:
                log.debug("%s", error)
                await asyncio.sleep(AWAY_S)

    async def _span_of(self, one: Message) -> Span:
        """A try as a span of its job's trace. Of the address it says the host, as the rest may be secret."""
        parent = ""
        with contextlib.suppress(QueueUnavailable):
            parent = await self._outbox.traceparent_of(one)
        attributes: Attributes = {
            "sonic.webhook_id": one.message_id,
            "sonic.event": one.event,
            "sonic.try": one.tries + 1,
            "server.address": urlsplit(one.url).hostname or "",
        }
        return self._tracing.start("webhook", parent, "client", attributes)

    async def _post(self, session: aiohttp.ClientSession, one: Message, traceparent: str) -> tuple[Verdict, int]:
        tries, limit_s = one.tries + 1, self._settings.webhook_timeout_s
        signed = headers(one.message_id, time.time(), one.body, self._settings.webhook_secrets)
        if traceparent:
            signed["traceparent"] = traceparent
        try:
            async with (
                asyncio.timeout(limit_s),
                session.post(one.url, data=one.body, headers=signed, allow_redirects=False) as answer,
            ):
                await answer.content.read(ANSWER_BYTES)
                return self._schedule.after_answer(answer.status, answer.headers, tries, time.time()), answer.status
        except TimeoutError:
            said = f"It did not answer within {limit_s:g} s."
        except AddressRefused as error:  # by the settings of this process; another one may have others
            said = f"Not sent: {error}"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            said = _why(error)
        return self._schedule.after_failure(said, tries), 0


def _why(error: Exception) -> str:
    """What went wrong on the way, without the address, which may hold a secret."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return "No safe connection: its certificate or its TLS is refused."
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "Its host is unknown."
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"No connection: {error.strerror or 'it is refused'}."
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "It closed the connection without an answer."
    return f"The message could not be sent ({type(error).__name__})."


class Mails:
    """Sends what the operator is to be told, one mail for all that has come together of a kind."""

    def __init__(self, outbox: Outbox, settings: Settings) -> None:
        self._outbox = outbox
        self._settings = settings

    async def run(self) -> None:
        """Send until this task is cancelled."""
        await now_and_then(self.send_due, MAIL_LOOK_S, log)

    async def send_due(self) -> int:
        """Send what is due; how many mails that were."""
        sent = 0
        while digest := await self._outbox.claim_mail(MAIL_LEASE_S):
            mail = message(digest, self._settings.queue, self._settings.mail_from, self._settings.mail_to)
            reason = await self._hand_in(mail)
            if reason:
                log.warning("The mail '%s' could not be sent: %s It is tried again.", mail["Subject"], reason)
            else:
                sent += 1
            wait_s = MAIL_AGAIN_S if reason else self._settings.mail_every_min * 60
            await self._outbox.settle_mail(digest, sent=not reason, wait_s=wait_s)
        return sent

    async def _hand_in(self, mail: EmailMessage) -> str:
        """Why the server did not take it, as a sentence, or ''."""
        import aiosmtplib  # here, as most servers never send a mail

        server = MailServer.parse(self._settings.smtp_url)
        try:
            await aiosmtplib.send(
                mail,
                hostname=server.host,
                port=server.port,
                username=server.user or None,
                password=server.password or None,
                use_tls=server.tls,
                start_tls=server.starttls,
                timeout=MAIL_LIMIT_S,
            )
        except aiosmtplib.SMTPResponseException as error:
            return f"{server.host} answered {error.code}."  # its words may quote ours
        except (aiosmtplib.SMTPException, OSError) as error:
            return f"{server.host}:{server.port} could not be used ({type(error).__name__})."
        return ""


def endpoints(settings: Settings) -> list[Endpoint]:
    """The operator's own addresses."""
    return [Endpoint.parse(text) for text in settings.webhooks]


def delivers(settings: Settings) -> bool:
    """Whether a process with these settings can deliver anything."""
    return bool(settings.webhook_secrets or settings.smtp_url)


async def deliver(outbox: Outbox, settings: Settings, tracing: Tracing | None = None) -> None:
    """Deliver what this process has the settings for, until this task is cancelled; returns when that is nothing.

    tracing: told of every try of a webhook.
    """

    async def listen() -> None:
        await outbox.listen(endpoints(settings), mails=bool(settings.smtp_url))

    if settings.webhooks and not settings.webhook_secrets:
        log.warning("webhooks: without webhook_secrets none is delivered from here; set them.")
    if not settings.webhooks and not delivers(settings):
        return
    tasks = [asyncio.create_task(now_and_then(listen, 60.0, log), name="sonic_listen")]
    if settings.webhook_secrets:
        tasks.append(asyncio.create_task(Webhooks(outbox, settings, tracing).run(), name="sonic_webhooks"))
    if settings.smtp_url:
        tasks.append(asyncio.create_task(Mails(outbox, settings).run(), name="sonic_mails"))
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
