"""API keys: made by the operator, shown once, kept as digests in the queue's database; and what each may do.

A key is ``sq_<id>_<secret>``. The secret is 256 random bits, so a plain SHA-256 of it is as safe as any slow hash:
nobody can try 2^256 of them, however fast each try is. Slow hashes are for what people choose. The comparison takes the
same time for every wrong secret.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import BadJob
from ..queue.store import Store

SCOPES = ("submit", "read", "admin")
KEY = re.compile(r"sq_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}")


@dataclass(frozen=True)
class Caller:
    """Who asks. id: of the API key, '' for nobody in particular. rate: requests a minute, backlog: jobs that have not
    ended; 0 for any number."""

    id: str = ""
    name: str = ""
    scopes: frozenset[str] = frozenset()
    rate: int = 0
    backlog: int = 0

    def may(self, scope: str) -> bool:
        return not scope or scope in self.scopes or "admin" in self.scopes

    def sees(self, caller: str) -> bool:
        """Whether it may look at what that caller has submitted."""
        return "admin" in self.scopes or caller == self.id


NOBODY = Caller(scopes=frozenset(SCOPES))  # who needs no key: at the machine itself, or where the operator says so


@dataclass(frozen=True)
class ApiKey:
    """What is kept of a key. digest: of its secret, '' once it is revoked. created_s, revoked_s: since 1970."""

    id: str
    name: str
    scopes: tuple[str, ...]
    rate: int
    backlog: int
    created_s: float
    digest: str
    revoked_s: float = 0.0

    @property
    def caller(self) -> Caller:
        return Caller(self.id, self.name, frozenset(self.scopes), self.rate, self.backlog)

    def told(self) -> dict[str, Any]:
        """For people and programs: without the digest."""
        told = asdict(self)
        del told["digest"]
        return {**told, "scopes": list(self.scopes), "revoked": not self.digest}


class ApiKeys:
    """The keys of one queue. Raises QueueUnavailable when its server does not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    async def create(self, name: str, scopes: Collection[str], rate: int = 0, backlog: int = 0) -> tuple[ApiKey, str]:
        """A new key and its text, which nothing can show again. Raises BadJob for a wrong argument."""
        if not NAME.fullmatch(name):
            raise BadJob("name", "takes 1 to 100 characters that can be seen.")
        for scope in scopes:
            if scope not in SCOPES:
                raise BadJob("--scopes", f"'{scope}' is not one of {', '.join(SCOPES)}.")
        if not scopes:
            raise BadJob("--scopes", f"name at least one of {', '.join(SCOPES)}.")
        key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        ordered = tuple(scope for scope in SCOPES if scope in scopes)
        made = ApiKey(key_id, name, ordered, rate, backlog, round(time.time(), 3), _digest(secret))
        await self._write(made)
        return made, f"sq_{key_id}_{secret}"

    async def list(self) -> list[ApiKey]:
        """All that ever were, the oldest first."""
        found: list[str] = await self._store.ask("HVALS", self._keys.api_keys)
        return sorted((_read(text) for text in found), key=lambda one: one.created_s)

    async def revoke(self, key_id: str) -> ApiKey | None:
        """It opens nothing from now on; None when there is no such key. What it has submitted stays."""
        found = await self._find(key_id)
        if found is None:
            return None
        if found.digest:
            found = ApiKey(**{**asdict(found), "digest": "", "revoked_s": round(time.time(), 3)})
            await self._write(found)
        return found

    async def any(self) -> bool:
        """Whether there ever was a key: from then on one is needed, even when all are revoked."""
        return bool(await self._store.ask("HLEN", self._keys.api_keys))

    async def caller_of(self, text: str) -> Caller | None:
        """Whose key this is, or None."""
        match = KEY.fullmatch(text)
        if not match:
            return None
        found = await self._find(match[1])
        # Compared even when there is none, so that the time does not tell which ids there are.
        same = hmac.compare_digest(_digest(match[2]), found.digest if found and found.digest else "0" * 64)
        return found.caller if same and found else None

    async def _find(self, key_id: str) -> ApiKey | None:
        text = await self._store.ask("HGET", self._keys.api_keys, key_id)
        return _read(text) if text else None

    async def _write(self, one: ApiKey) -> None:
        text = json.dumps(asdict(one), ensure_ascii=False)
        await self._store.ask("HSET", self._keys.api_keys, one.id, text)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _read(text: str) -> ApiKey:
    fields = json.loads(text)
    return ApiKey(**{**fields, "scopes": tuple(fields["scopes"])})
