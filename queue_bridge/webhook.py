"""What a webhook is, after Standard Webhooks (https://www.standardwebhooks.com): who gets it, its signature, its tries.

Knows neither Redis nor HTTP. The message itself is written by lua/common.lua, in the step that ends the job.
"""

from __future__ import annotations

import base64
import binascii
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal
from urllib.parse import urlsplit

from standardwebhooks import Webhook

EVENTS = ("job.completed", "job.failed", "job.cancelled", "batch.completed", "alert.began", "alert.ended")
LONGEST_URL = 2000
SECRET_PREFIX = "whsec_"
SECRETS_MAX = 2
LONGEST_WAIT_S = 86_400.0  # that a receiver may ask for by Retry-After
TOO_BUSY = (429, 503)
NO_LONGER_THERE = 410

Outcome = Literal["delivered", "retry", "failed", "gone"]


@dataclass(frozen=True)
class Endpoint:
    """An address of the operator's that is told of ends. events: which; empty for all."""

    url: str
    events: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """One entry of the setting ``webhooks``: an address, and behind it the events, separated by spaces."""
        url, *events = text.split()
        return cls(url, tuple(events))


def what_is_wrong_with(text: str) -> str:
    """Why this cannot be an entry of ``webhooks``, to follow its name, or ''."""
    url, *events = text.split() or [""]
    if unknown := [event for event in events if event not in EVENTS]:
        return f"names the event '{unknown[0]}'; the events are {', '.join(EVENTS)}."
    return what_is_wrong_with_url(url)


def what_is_wrong_with_url(url: str) -> str:
    """Why nothing can be delivered there, to follow its name, or ''. Whether it is a private address shows later."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is no address that can be read."
    if parts.scheme not in ("http", "https") or not host:
        return "is no http:// or https:// address."
    if parts.username is not None or parts.password is not None:
        return "holds a user or password, which would be kept with the job; leave them out, the signature tells enough."
    if len(url) > LONGEST_URL or not re.fullmatch(r"[!-~]+", url) or parts.fragment:
        return f"is no address of up to {LONGEST_URL} plain characters without a fragment."
    return ""


def is_secret(text: str) -> bool:
    """Whether it has the form of a signing secret: ``whsec_`` and 24 to 64 bytes in Base64."""
    if not text.startswith(SECRET_PREFIX):
        return False
    try:
        return 24 <= len(base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)) <= 64
    except (binascii.Error, ValueError):
        return False


def headers(message_id: str, at_s: float, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """The headers of one try; a signature for each secret, so that a receiver may know the old one or the new one."""
    at = datetime.fromtimestamp(int(at_s), UTC)
    signatures = (Webhook(secret).sign(message_id, at, body.decode()) for secret in secrets)
    return {
        "Content-Type": "application/json",
        "User-Agent": "sonic-queue",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at_s)),
        "webhook-signature": " ".join(signatures),
    }


@dataclass(frozen=True)
class Verdict:
    """What a try leads to. delay_s: for ``retry``. said: what the receiver did, as a sentence."""

    outcome: Outcome
    delay_s: float
    said: str


@dataclass(frozen=True)
class Schedule:
    """When a message is tried again. waits_s: before each further try; jitter: longer by up to this part."""

    waits_s: Sequence[float]
    jitter: float = 0.2
    draw: Callable[[], float] = random.random

    def after_answer(self, status: int, answered: Mapping[str, str], tries: int, now_s: float) -> Verdict:
        """What an answer leads to. tries: the number of this one, 1 is the first. answered: its headers."""
        if 200 <= status < 300:
            return Verdict("delivered", 0.0, f"It answered {status}.")
        if status == NO_LONGER_THERE:
            return Verdict("gone", 0.0, "It answered 410: it wants no more messages.")
        said = f"It answered {status}."
        if 300 <= status < 400:
            said = f"It answered {status}; redirections are not followed."
        wait_s = _asked_wait_s(answered.get("Retry-After", ""), now_s) if status in TOO_BUSY else 0.0
        return self.after_failure(said, tries, wait_s)

    def after_failure(self, said: str, tries: int, at_least_s: float = 0.0) -> Verdict:
        """What it leads to that nothing answered, or something unfit."""
        if tries > len(self.waits_s):
            return Verdict("failed", 0.0, said)
        wait_s = self.waits_s[tries - 1] * (1.0 + self.jitter * self.draw())
        return Verdict("retry", max(wait_s, at_least_s), said)


def _asked_wait_s(text: str, now_s: float) -> float:
    """Seconds out of a Retry-After, which is a number or a date; 0 for what is neither."""
    try:
        asked_s = float(text) if re.fullmatch(r"\d+", text) else parsedate_to_datetime(text).timestamp() - now_s
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(asked_s, 0.0), LONGEST_WAIT_S)
