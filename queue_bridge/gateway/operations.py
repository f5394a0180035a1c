"""What the gateway can do: a table of operations, from which it is routed, checked and described."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from .context import Asked
from .fields import Field

Handler = Callable[[web.Request, Asked], Awaitable[web.StreamResponse]]
JSON = "application/json"
MULTIPART = "multipart/form-data"
COMFY = "/api/v2/"  # addresses of the Comfy API, whose errors have another form
PATTERNS = {"hash": r"blake3:[0-9a-f]{64}"}  # of fields in an address, where it is not an id
UNLOCKED = "metrics"  # the operation that needs no key on the machine itself


@dataclass(frozen=True)
class Answer:
    """One answer. schema: the name of a schema in SCHEMAS or '' for none; content: its type."""

    status: int
    meaning: str
    schema: str = ""
    content: str = JSON
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
    def path_fields(self) -> list[str]:
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]


Schema = dict[str, Any]
