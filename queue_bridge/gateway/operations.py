"""What the gateway can do: a table of operations, from which it is routed, checked and described."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from aiohttp import web

from .context import Asked
from .fields import Field

Handler = Callable[[web.Request, Asked], Awaitable[web.StreamResponse]]
JSON = "application/json"
MULTIPART = "multipart/form-data"
COMFY = "/api/v2/"  # addresses of the Comfy API, whose errors have another form
# Of fields in an address, where it is not any id; other addresses lead nowhere.
PATTERNS: Mapping[str, str] = MappingProxyType(
    {"hash": r"blake3:[0-9a-f]{64}", "asset_id": r"asset_[0-9a-f]{24}|out[0-9]{1,4}-[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"}
)
UNLOCKED = "metrics"  # the operation that needs no key on the machine itself


@dataclass(frozen=True)
class Answer:
    """One answer. schema: the name of a schema in SCHEMAS or '' for none; content: its type; also: others of it."""

    status: int
    meaning: str
    schema: str = ""
    content: str = JSON
    also: Sequence[str] = ()
    headers: Sequence[str] = ()


@dataclass(frozen=True)
class Operation:
    """One method of one path. scope: what the caller's key must allow, '' for anybody.

    query: fields behind the ?. body: by the type of its content, the name of its schema. problems: kinds of problems
    beside those that every operation may have. labels: ``NAME`` of fields ``NAME[...]`` behind the ?,
    which the handler reads.
    """

    name: str
    method: str
    path: str
    handler: Handler
    scope: str
    summary: str
    answers: Sequence[Answer]
    query: Sequence[Field] = ()
    headers: Sequence[Field] = ()
    body: dict[str, str] | None = None
    problems: Sequence[str] = ()
    labels: str = ""

    @property
    def of_comfy(self) -> bool:
        """Whether it belongs to the Comfy API."""
        return self.path.startswith(COMFY)

    @property
    def route(self) -> str:
        """The path as the router wants it."""
        return re.sub(
            r"\{(\w+)\}", lambda one: f"{{{one[1]}:{PATTERNS[one[1]]}}}" if one[1] in PATTERNS else one[0], self.path
        )

    @property
    def path_fields(self) -> list[str]:
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]


Schema = dict[str, Any]
