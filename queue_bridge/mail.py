"""Mails to the operator: what they say, and how the server for them is named. Knows neither Redis nor SMTP."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

ADDRESS = re.compile(r"[^\s@<>,;:\"]+@[^\s@<>,;:\"]+")
SCHEMES: Mapping[str, int] = MappingProxyType({"smtp": 25, "smtp+starttls": 587, "smtps": 465})
# The kinds, as lua/*.lua and unserved.py name them, with what a subject calls them.
SUBJECTS: Mapping[str, str] = MappingProxyType(
    {
        "dead letter": "jobs in the dead letter",
        "unserved": "jobs that no instance serves",
        "endpoint disabled": "webhook addresses disabled",
        "webhook failed": "webhooks that could not be delivered",
        "batch ended": "batches ended",
        "alert": "alerts",
    }
)


@dataclass(frozen=True)
class MailServer:
    """Where mails are handed in. tls: from the first byte on; starttls: asked for, and insisted on."""

    host: str
    port: int
    user: str
    password: str
    tls: bool
    starttls: bool

    @classmethod
    def parse(cls, url: str) -> MailServer:
        """The server of a checked ``smtp_url``."""
        parts = urlsplit(url)
        return cls(
            host=parts.hostname or "",
            port=parts.port or SCHEMES[parts.scheme],
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            tls=parts.scheme == "smtps",
            starttls=parts.scheme == "smtp+starttls",
        )


def what_is_wrong_with_server(url: str) -> str:
    """Why this cannot be the ``smtp_url``, without quoting it, or ''."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "host or port cannot be read; in a password, write @ : / ? # % as %40 %3A %2F %3F %23 %25."
    if parts.scheme not in SCHEMES or not host:
        return "is none of smtp://HOST, smtp+starttls://HOST and smtps://HOST."
    if parts.path.strip("/") or parts.query or parts.fragment:
        return "has something behind host and port; in a password, write / ? # as %2F %3F %23."
    return ""


@dataclass(frozen=True)
class Digest:
    """What has come together of one kind. lines: (seconds since 1970, sentence). first: the number of the first one.

    dropped: how many older ones there was no room for.
    """

    kind: str
    token: int
    first: int
    dropped: int
    lines: Sequence[tuple[float, str]]


def message(digest: Digest, queue: str, sender: str, receivers: Sequence[str]) -> EmailMessage:
    """The mail. Sent twice after a lost answer, it has the same Message-ID."""
    mail = EmailMessage()
    what = SUBJECTS.get(digest.kind, digest.kind)
    count = len(digest.lines) + digest.dropped
    mail["Subject"] = f"[sonic {queue}] {what}: {count}"
    mail["From"], mail["To"] = sender, ", ".join(receivers)
    last_s = digest.lines[-1][0] if digest.lines else 0.0
    mail["Date"] = format_datetime(datetime.fromtimestamp(last_s, UTC))
    kind = digest.kind.replace(" ", "-")
    mail["Message-ID"] = f"<{queue}.{kind}.{digest.first}.{count}@{sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    lines = [f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%S} UTC  {text}" for at_s, text in digest.lines]
    if digest.dropped:
        lines.insert(0, f"{digest.dropped} older ones are left out.")
    mail.set_content("\n".join([*lines, ""]))
    return mail
