"""What is wrong with a request, as RFC 9457 says it: an object of type application/problem+json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from aiohttp import web

CONTENT_TYPE = "application/problem+json"
TYPE = "urn:sonic-queue:problem:"
# Every kind of problem, with its status and its title; a kind is a word that programs may compare.
KINDS: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "bad-request": (400, "The request cannot be read"),
        "unauthorized": (401, "An API key is needed"),
        "forbidden": (403, "This API key may not do that"),
        "not-found": (404, "There is no such thing"),
        "method-not-allowed": (405, "This method is not allowed here"),
        "too-slow": (408, "The request came too slowly"),
        "conflict": (409, "The task is in another state"),
        "not-finished": (409, "There is no video yet"),
        "gone": (410, "The video is no longer there"),
        "precondition-failed": (412, "The video is another one"),
        "too-large": (413, "The request is too large"),
        "unsupported-media-type": (415, "This kind of content is not taken"),
        "range": (416, "There is no such part of the video"),
        "invalid": (422, "The request cannot be carried out as it is"),
        "idempotency-key-reused": (422, "This Idempotency-Key belongs to another request"),
        "too-many-requests": (429, "Too many requests"),
        "backlog-full": (429, "Too many tasks have not ended"),
        "internal": (500, "Something went wrong here"),
        "unavailable": (503, "The queue cannot be reached"),
        "no-room": (507, "There is no room for the upload"),
    }
)


class Problem(Exception):
    """Raised where a request cannot be served; ``problems`` answers with it.

    kind: one of KINDS. detail: a sentence for a person. headers: of the answer. more: further members of the object.
    """

    def __init__(self, kind: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status, self.title = KINDS[kind]
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = more

    def response(self) -> web.Response:
        said = {"type": TYPE + self.kind, "title": self.title, "status": self.status, "detail": self.detail}
        body = json.dumps({**said, **self.more}, ensure_ascii=False).encode("utf-8", "replace")
        return web.Response(status=self.status, body=body, content_type=CONTENT_TYPE, headers=self.headers)


OF_STATUS: Mapping[int, str] = MappingProxyType(
    {404: "not-found", 405: "method-not-allowed", 413: "too-large", 415: "unsupported-media-type"}
)


def of_http_error(error: web.HTTPException) -> Problem:
    """The same for what aiohttp itself refuses."""
    if error.status == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = error.headers.get("Allow", "")
        return Problem("method-not-allowed", f"Possible here: {allowed}.", {"Allow": allowed})
    kind = OF_STATUS.get(error.status, "bad-request" if error.status < HTTPStatus.INTERNAL_SERVER_ERROR else "internal")
    details = {"not-found": "Nothing is at this address; /openapi.json lists what there is."}
    return Problem(kind, details.get(kind, f"{error.reason}."))
