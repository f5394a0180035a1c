"""The gateway as an aiohttp application: routes, and what holds for every request."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus

from aiohttp import hdrs, web

from ..config import Settings
from ..errors import QueueUnavailable
from ..messages.deliver import deliver
from ..messages.outbox import Outbox
from ..now_and_then import now_and_then
from ..oversight.alert_watch import AlertWatch
from ..pipelines.templates import Template
from ..queue.asset_records import AssetRecords
from ..queue.queue_view import QueueView
from ..queue.store import Store
from ..tracing import NoTracing, Tracing
from .access import admitted
from .api import OPERATIONS
from .api_keys import ApiKeys, Caller
from .comfy.api import COMFY_OPERATIONS
from .comfy.envelope import enveloped
from .context import GATEWAY, Asked, Gateway
from .event_stream import EventStream
from .fields import checked_query
from .new_tasks import TRACEPARENT
from .openapi import description
from .operations import COMFY, Answer, Operation
from .page import page_routes
from .places import Places
from .problem import Problem, of_http_error
from .queue_info import SharedOverview
from .thumbnails import Thumbnails
from .traffic import Traffic
from .uploads import SWEEP_S, OldUploads

log = logging.getLogger("sonic.gateway")

Served = Callable[[web.Request], Awaitable[web.StreamResponse]]
Admit = Callable[[web.Request, Gateway, Operation], Awaitable[Caller]]
LASTING = frozenset(
    {"followTask", "followBatch", "watch", "getResult", "getJobEvents", "getAssetContent"}
)  # last as long as their client wants
AWAY_S = 2
HEADERS: Mapping[str, str] = {
    "Server": "sonic-queue",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
HSTS = "max-age=31536000"
ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Range, If-Range, X-API-Key, traceparent"
EXPOSED_HEADERS = "Location, Retry-After, ETag, Content-Range, Accept-Ranges, Content-Disposition"


def build_app(
    settings: Settings,
    store: Store,
    view: QueueView,
    templates: Mapping[str, Template],
    *,
    is_open: bool = False,
    tracing: Tracing | None = None,
) -> web.Application:
    """The application. is_open: whoever reaches it may do everything without a key. tracing: told of submissions.

    store, view: of one client that many may ask at once. Raises ConfigError.
    """
    keys, events = ApiKeys(store), EventStream(view)
    places, shared = Places.of(settings), (Traffic(), SharedOverview(view), Thumbnails(), AssetRecords(store))
    gateway = Gateway(settings, store, view, templates, places, keys, events, *shared, tracing or NoTracing(), is_open)
    app = web.Application(middlewares=[unserved], client_max_size=0)
    app[GATEWAY] = gateway
    for operation in described((*OPERATIONS, *COMFY_OPERATIONS), templates):
        app.router.add_route(operation.method, operation.route, served(operation, admitted))
    for address, serve in page_routes():
        app.router.add_get(address, _shown(serve))
    app.on_response_prepare.append(_with_headers)
    app.cleanup_ctx.append(sweep)
    app.cleanup_ctx.append(_watch)
    return app


def described(operations: Sequence[Operation], templates: Mapping[str, Template]) -> tuple[Operation, ...]:
    """These operations, and one that describes all of them and itself."""
    text = ""

    async def openapi(request: web.Request, asked: Asked) -> web.Response:
        return web.Response(text=text, content_type="application/json")

    answers = (Answer(200, "this document", "Description"),)
    own = Operation("openapi", "GET", "/openapi.json", openapi, "", "This description.", answers)
    document = description((*operations, own), templates)
    document["components"]["schemas"]["Description"] = {"type": "object"}
    text = json.dumps(document, ensure_ascii=False)
    return (*operations, own)


def served(operation: Operation, admit: Admit) -> Served:
    """The handler of an operation, with what all of them share. admit: says who asks, or raises Problem."""

    async def answered(request: web.Request) -> web.StreamResponse:
        gateway = request.app[GATEWAY]
        caller = await admit(request, gateway, operation)
        asked = Asked(gateway, caller, checked_query(operation.query, request.query, but=operation.labels))
        if TRACEPARENT in operation.headers:
            return await _traced(request, asked, operation)
        return await operation.handler(request, asked)

    async def handler(request: web.Request) -> web.StreamResponse:
        return await _counted(request, operation.name, answered)

    return handler


async def _traced(request: web.Request, asked: Asked, operation: Operation) -> web.StreamResponse:
    """A request that makes jobs; their spans go on below its own."""
    attributes = {"http.request.method": operation.method, "http.route": operation.path}
    parent = request.headers.get(TRACEPARENT.name, "")
    span = asked.gateway.tracing.start("submit", parent, "server", attributes)
    failed, status = "broken off", 0
    try:
        response = await operation.handler(request, replace(asked, traceparent=span.traceparent))
        failed, status = "", response.status
        return response
    except Problem as problem:
        failed, status = problem.kind, problem.status
        raise
    finally:
        span.end(failed, {"http.response.status_code": status} if status else {})


def _shown(serve: Served) -> Served:
    """The handler of a file of the page, which is none of the operations."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return await _counted(request, "page", serve)

    return handler


@web.middleware
async def unserved(request: web.Request, handler: Served) -> web.StreamResponse:
    """What no operation serves: addresses and methods that there are not, and a browser's asking ahead."""
    if request.match_info.http_exception is None:
        return await handler(request)
    if request.method == hdrs.METH_OPTIONS and _allowed_origin(request):
        return web.Response(status=204)
    return await _counted(request, "none", handler)


async def _counted(request: web.Request, name: str, handler: Served) -> web.StreamResponse:
    """Every error as a problem, and every answer counted."""
    gateway, began = request.app[GATEWAY], time.monotonic()
    with gateway.traffic.one_more():
        response = await _attempted(request, name, handler)
    if not response.prepared and (not request.content.is_eof() or gateway.events.ended):
        response.force_close()  # what is left of the body is not waited for, nor a further request when this ends
    gateway.traffic.count(name, response.status, None if name in LASTING else time.monotonic() - began)
    return response


async def _attempted(request: web.Request, name: str, handler: Served) -> web.StreamResponse:
    try:
        return await handler(request)
    except Problem as problem:
        return _said(request, problem)
    except web.HTTPException as error:
        return error if error.status < HTTPStatus.BAD_REQUEST else _said(request, of_http_error(error))
    except QueueUnavailable as error:
        log.warning("%s", error)
        detail = "Send the same request again in a moment; with an Idempotency-Key nothing is made twice."
        return _said(request, Problem("unavailable", detail, {"Retry-After": str(AWAY_S)}))
    except (ConnectionError, TimeoutError):  # the client is gone, or reads nothing
        log.debug("a client of %s is gone", name)
        return web.Response(status=499)
    except Exception:
        log.exception("An error that was not foreseen in %s.", name)
        return _said(request, Problem("internal", "This should not happen; the gateway's log has more."))


def _said(request: web.Request, problem: Problem) -> web.Response:
    """A problem in the form that the clients of this address know."""
    return enveloped(problem) if request.path.startswith(COMFY) else problem.response()


def _allowed_origin(request: web.Request) -> str:
    origin = request.headers.get(hdrs.ORIGIN, "")
    return origin if origin in request.app[GATEWAY].settings.gateway_origins else ""


async def _with_headers(request: web.Request, response: web.StreamResponse) -> None:
    policy = response.headers.get("Content-Security-Policy", HEADERS["Content-Security-Policy"])  # the page has its own
    response.headers.update({**HEADERS, "Content-Security-Policy": policy})
    response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    if request.secure:
        response.headers["Strict-Transport-Security"] = HSTS
    if request.app[GATEWAY].settings.gateway_origins:
        response.headers["Vary"] = "Origin"
    if origin := _allowed_origin(request):
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
        response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        if request.method == hdrs.METH_OPTIONS:
            response.headers["Access-Control-Allow-Methods"] = "GET, HEAD, POST, DELETE"
            response.headers["Access-Control-Allow-Headers"] = ALLOWED_HEADERS
            response.headers["Access-Control-Max-Age"] = "600"


async def sweep(app: web.Application) -> AsyncIterator[None]:
    """Removes old uploads as long as the application serves."""
    gateway = app[GATEWAY]
    uploads = OldUploads(gateway.view, gateway.places, gateway.assets)
    sweeping = asyncio.create_task(now_and_then(uploads.sweep, SWEEP_S, log))
    yield
    await gateway.events.stop()
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)


async def _watch(app: web.Application) -> AsyncIterator[None]:
    """A gateway may be all that lives when no ComfyUI does, so it looks for alerts and delivers webhooks as well."""
    gateway = app[GATEWAY]
    beside = [asyncio.create_task(AlertWatch(gateway.store, gateway.view, gateway.settings.alert_limits).run())]
    if gateway.settings.notify:
        beside.append(asyncio.create_task(deliver(Outbox(gateway.store), gateway.settings, gateway.tracing)))
    yield
    for one in beside:
        one.cancel()
    await asyncio.gather(*beside, return_exceptions=True)
