"""What is wrong with a request, as the Comfy API says it: ``{"error": {"code", "message", "details"}}``."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from aiohttp import web

from ...errors import BadWorkflow
from ..problem import KINDS, Problem

CODES: Mapping[str, str] = MappingProxyType(
    {
        "bad-request": "invalid_request",
        "unauthorized": "unauthorized",
        "forbidden": "forbidden",
        "not-found": "not_found",
        "method-not-allowed": "method_not_allowed",
        "too-slow": "request_timeout",
        "conflict": "conflict",
        "not-finished": "not_found",
        "gone": "output_unavailable",
        "precondition-failed": "precondition_failed",
        "too-large": "payload_too_large",
        "unsupported-media-type": "unsupported_media_type",
        "range": "range_not_satisfiable",
        "invalid": "invalid_request",
        "idempotency-key-reused": "idempotency_key_reuse",
        "too-many-requests": "rate_limited",
        "backlog-full": "queue_full",
        "internal": "upstream_error",
        "unavailable": "upstream_error",
        "no-room": "no_room",
    }
)
STATUS_OF: Mapping[str, HTTPStatus] = MappingProxyType({"output_unavailable": HTTPStatus.NOT_FOUND})
# What only the Comfy API knows.
REFUSALS: Mapping[str, HTTPStatus] = MappingProxyType(
    {
        "invalid_cursor": HTTPStatus.BAD_REQUEST,
        "invalid_metadata_filter": HTTPStatus.BAD_REQUEST,
        "blob_not_found": HTTPStatus.NOT_FOUND,
        "hash_mismatch": HTTPStatus.CONFLICT,
        "asset_in_use": HTTPStatus.CONFLICT,
        "invalid_workflow": HTTPStatus.UNPROCESSABLE_ENTITY,
        "workflow_format_ui": HTTPStatus.UNPROCESSABLE_ENTITY,
        "missing_asset": HTTPStatus.UNPROCESSABLE_ENTITY,
        "metadata_invalid": HTTPStatus.UNPROCESSABLE_ENTITY,
        "extra_data_not_supported": HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)


class Refusal(Problem):
    """A problem that only the Comfy API knows. code: one of REFUSALS. details: for programs."""

    def __init__(self, code: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__("invalid", message, **(details or {}))
        self.code = code
        self.status = REFUSALS[code]


def enveloped(problem: Problem) -> web.Response:
    """The answer that says a problem as the Comfy API does."""
    code = problem.code if isinstance(problem, Refusal) else CODES[problem.kind]
    error = {"code": code, "message": problem.detail, "details": problem.more or None}
    body = json.dumps({"error": error}, ensure_ascii=False).encode("utf-8", "replace")
    status = STATUS_OF.get(code, problem.status)
    return web.Response(status=status, body=body, content_type="application/json", headers=problem.headers)


def of_bad_workflow(error: BadWorkflow, code: str = "invalid_workflow") -> Refusal:
    """What is wrong with a workflow, by node and input."""
    node_errors = {
        node_id: [{"field": field, "reason": reason} for field, reason in found]
        for node_id, found in error.node_errors.items()
    }
    return Refusal(code, str(error), {"node_errors": node_errors} if node_errors else None)


def statuses_of(kinds: Collection[str]) -> dict[int, list[str]]:
    """The codes of these kinds of problems by their status, for the description."""
    found: dict[int, list[str]] = {}
    for kind in (one for one in (*KINDS, *REFUSALS) if one in kinds):
        code = CODES.get(kind, kind)
        status = REFUSALS.get(kind) or STATUS_OF.get(code) or KINDS[kind][0]
        if code not in found.setdefault(int(status), []):
            found[int(status)].append(code)
    return found
