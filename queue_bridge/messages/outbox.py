"""What is to be told outside, in Redis: webhooks and mails that were written with the ends of jobs, and their tries.

Several deliverers share it. Who has claimed something has it for the time of a lease; then another one may go on.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..database.redis_connection import answer_to
from ..errors import JobError
from ..job import JobRecord
from ..mail import Digest
from ..queue.keys import MAIL
from ..queue.store import Store
from ..web_address import safe_address
from ..webhook import Endpoint, Verdict

REPLAYS_A_CALL = 200
TOLD_AGAIN_S = 3600.0


@dataclass(frozen=True)
class Message:
    """A webhook that one deliverer has for the time of a lease. body: its bytes, the same at every try.

    tries: how many there were before.
    """

    message_id: str
    token: int
    tries: int
    url: str
    event: str
    body: bytes


@dataclass(frozen=True)
class Delivery:
    """What is known of a webhook, for people. Times are seconds since 1970; about: a job's or a batch's id.

    state: pending, delivered or failed. status: of the last answer, 0 for none. due_s: of the next try, when pending.
    """

    message_id: str
    state: str
    event: str
    about: str
    url: str
    made_s: float
    tries: int
    status: int
    said: str
    tried_s: float | None
    due_s: float | None
    body: str

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``: without what may be secret in the address, and without the body."""
        plain = {name: value for name, value in self.__dict__.items() if name != "body"}
        return {**plain, "url": safe_address(self.url)}


class Outbox:
    """The outbox of one queue. Raises QueueUnavailable when its server does not answer; every call may be repeated."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    async def listen(self, endpoints: Iterable[Endpoint], *, mails: bool) -> None:
        """From now on the ends of jobs are told to these as well. Only ``forget`` ends that."""
        for endpoint in endpoints:
            await self._store.call("listen", "add", endpoint.url, " ".join(endpoint.events))
        if mails:
            await self._store.call("listen", "add", MAIL, "")

    async def enable(self, url: str) -> bool:
        """Let an address that has answered 410 get webhooks again; False when it was not disabled."""
        return bool(await self._store.call("listen", "enable", url, "") == "ok")

    async def forget(self, url: str) -> bool:
        """Tell an address (or "mail") of no end any more; False when it was not told."""
        return bool(await self._store.call("listen", "forget", url, "") == "ok")

    async def claim(
        self, lease_s: float, most: int, a_host: int, busy: Mapping[str, int]
    ) -> tuple[list[Message], float | None]:
        """Messages that are due, and in how many seconds to ask again unless a try ends sooner, None for never.

        most: at most so many. a_host: to one host at once; busy: how many of them are under way already, by host.
        """
        counts = [value for pair in busy.items() for value in pair]
        due_ms, *found = await self._store.call("outbox_claim", round(lease_s * 1000), most, a_host, *counts)
        messages = [
            Message(name, token, tries, url, event, _valid(body)) for name, token, tries, url, event, body in found
        ]
        return messages, due_ms / 1000 if due_ms >= 0 else None

    async def wait(self, seen: str, timeout_s: float) -> str:
        """Return when there is another message behind ``seen``, at the latest after so long, and where to wait from."""
        read = self._store.client.xread({self._keys.outbox_wake: seen}, block=max(1, round(timeout_s * 1000)))
        answer = await self._ask(read)
        return str(answer[0][1][-1][0]) if answer else seen

    async def settle(self, message: Message, verdict: Verdict, status: int) -> bool:
        """Say what became of a try; False when another deliverer has the message by now."""
        values = (verdict.outcome, round(verdict.delay_s * 1000), status, verdict.said, safe_address(message.url))
        answer = await self._store.call("outbox_settle", message.message_id, message.token, *values)
        return bool(answer == "ok")

    async def traceparent_of(self, message: Message) -> str:
        """The trace of the job that a webhook tells of; '' for another webhook, or a job that is in none."""
        with contextlib.suppress(JobError, ValueError):
            about = json.loads(message.body)["data"].get("task_id")
            fields = await self._ask(self._store.client.hgetall(self._keys.job(str(about)))) if about else {}
            return JobRecord.from_hash(fields, str(about)).spec.traceparent if fields else ""
        return ""

    async def replay(self, message_ids: Sequence[str]) -> dict[str, Literal["ok", "pending", "missing"]]:
        """Deliver messages again, as they were; what became of each."""
        answers: dict[str, Literal["ok", "pending", "missing"]] = {}
        for start in range(0, len(message_ids), REPLAYS_A_CALL):
            part = list(dict.fromkeys(message_ids[start : start + REPLAYS_A_CALL]))
            answers |= dict(zip(part, await self._store.call("outbox_replay", *part), strict=True))
        return answers

    async def alert(self, kind: str, about: str, sentence: str, again_s: float = TOLD_AGAIN_S) -> bool:
        """Put a sentence into the next mail of a kind, unless the same thing was told within ``again_s``."""
        answer = await self._store.call("alert", kind, about, sentence, round(again_s * 1000))
        return bool(answer == "ok")

    async def tell_unserved(self, lane: str, sentence: str) -> None:
        """Mail that nobody serves what waits in a lane; several that notice it tell it once."""
        await self.alert("unserved", lane, sentence)

    async def claim_mail(self, lease_s: float) -> Digest | None:
        """What is to be mailed now, or None."""
        answer = await self._store.call("mail_claim", round(lease_s * 1000))
        if not answer:
            return None
        kind, token, first, dropped, *lines = answer
        told = [json.loads(line) for line in lines]
        return Digest(kind, token, first, dropped, [(line["at"] / 1000, line["text"]) for line in told])

    async def settle_mail(self, digest: Digest, *, sent: bool, wait_s: float) -> None:
        """Say that it was sent, or not. wait_s: until the next mail of its kind, or until it is tried again."""
        count = len(digest.lines) if sent else 0
        await self._store.call("mail_settle", digest.kind, digest.token, count, digest.dropped, round(wait_s * 1000))

    # --- looking ---

    async def endpoints(self) -> list[dict[str, Any]]:
        """The addresses that are told of every end, and those that are disabled."""
        sinks = await self._ask(self._store.client.hgetall(self._keys.sinks))
        disabled = await self._ask(self._store.client.hgetall(self._keys.disabled))
        urls = sorted((set(sinks) | set(disabled)) - {MAIL})
        return [
            {
                "url": url,
                "events": sinks.get(url, "").split(),
                "every_job": url in sinks,
                "disabled_s": int(disabled[url]) / 1000 if url in disabled else None,
            }
            for url in urls
        ]

    async def totals(self) -> dict[str, int]:
        """How many webhooks were ever "delivered" or given up ("failed"), and how many tries were "retried"."""
        found = await self._ask(self._store.client.hgetall(self._keys.outbox_totals))
        return {name: int(value) for name, value in found.items()}

    async def waiting(self) -> int:
        """How many webhooks have not been delivered yet."""
        return int(await self._ask(self._store.client.zcard(self._keys.outbox)))

    async def deliveries(self, states: Iterable[str], limit: int) -> list[Delivery]:
        """Webhooks in these states: pending ones, the next first, then the others, the latest first."""
        wanted = set(states)
        due: dict[str, float] = {}
        if "pending" in wanted:
            found = await self._ask(self._store.client.zrange(self._keys.outbox, 0, limit - 1, withscores=True))
            due = {name: score / 1000 for name, score in found}
        ended: list[str] = []
        if wanted - {"pending"}:
            ended = await self._ask(self._store.client.lrange(self._keys.outbox_ended, 0, -1))
        deliveries: list[Delivery] = []
        for name in dict.fromkeys([*due, *ended]):
            if len(deliveries) == limit:
                break
            one = await self.delivery(name, due.get(name))
            if one and one.state in wanted:
                deliveries.append(one)
        return deliveries

    async def delivery(self, message_id: str, due_s: float | None = None) -> Delivery | None:
        """One webhook, or None when it is unknown or no longer kept."""
        fields = await self._ask(self._store.client.hgetall(self._keys.message(message_id)))
        if not fields:
            return None
        return Delivery(
            message_id=message_id,
            state=fields["state"],
            event=fields["event"],
            about=fields["about"],
            url=fields["url"],
            made_s=int(fields["made_ms"]) / 1000,
            tries=int(fields.get("tries", 0)),
            status=int(fields.get("status", 0)),
            said=fields.get("said", ""),
            tried_s=int(fields["tried_ms"]) / 1000 if "tried_ms" in fields else None,
            due_s=due_s,
            body=_valid(fields["body"]).decode(),
        )

    async def _ask(self, command: Any) -> Any:
        return await answer_to(command, self._store.settings.url)


def _valid(body: str) -> bytes:
    """JSON is UTF-8; a job may have had other bytes in a sentence. The same bytes each time."""
    return body.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode()
