"""The queue for the browser of one ComfyUI server: the gateway's own operations, as many as its sidebar tab needs.

Who reaches a ComfyUI server needs no key there, so these may do what anybody at it may: send files of their own, look
at and handle jobs that belong to no API key. What another site asks for through a browser is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from ..config import Settings
from ..errors import BadJob, BadWorkflow
from ..pipelines.graph_material import material_of
from ..pipelines.templates import Template
from ..places.job_places import plain_name
from ..queue.asset_records import AssetRecords
from ..queue.queue_view import QueueView
from ..queue.store import Store
from ..tracing import NoTracing
from .api import OPERATIONS
from .api_keys import ApiKeys, Caller
from .app import described, served, sweep, unserved
from .body import BATCH_BYTES, content_type, read_json
from .context import GATEWAY, Asked, Gateway
from .event_stream import EventStream
from .fields import Field, checked
from .new_tasks import IDEMPOTENCY_KEY, digest_of, new_id, of_job_error
from .operations import JSON, Answer, Operation
from .page import FOLDER as PANEL
from .page import Serve, file_routes
from .places import Places
from .problem import Problem
from .queue_info import SharedOverview
from .result_download import FilePlace, finished
from .tasks import MEGABYTE, queue_upload
from .thumbnails import Thumbnails
from .traffic import Traffic
from .uploads import copied

SIDEBAR = PANEL.parent / "sidebar"
BROWSER = Caller(scopes=frozenset({"submit", "read"}))  # sees what belongs to no API key
SAFE = ("GET", "HEAD")
SHARED = frozenset(
    {
        *("createTask", "listTasks", "getTask", "cancelTask", "retryTask", "getThumbnail", "watch"),
        *("getResult", "headResult", "getResultLink", "createBatch"),
    }
)
MAKING = frozenset({"createTask", "createBatch", "submitGraph"})
HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
GRAPH = (
    Field("prompt", "object", "what the browser would queue, in ComfyUI's API format", required=True),
    Field("name", "string", "for people", high=200),
)


@dataclass(frozen=True)
class Folders:
    """ComfyUI's own. file_of: the file that a node names; raises BadJob when it lies elsewhere.

    shared: every server that takes jobs reaches the folder of uploads and results.
    """

    input: Path
    file_of: Callable[[str, str], Path]
    shared: bool


FOLDERS = web.AppKey("FOLDERS", Folders)


def tab_app(
    settings: Settings,
    store: Store,
    view: QueueView,
    templates: Mapping[str, Template],
    places: Places,
    folders: Folders,
) -> web.Application:
    """The application, to be mounted in ComfyUI's. store, view: of one client that many may ask at once."""
    own = (ApiKeys(store), EventStream(view), Traffic(), SharedOverview(view), Thumbnails(), AssetRecords(store))
    app = web.Application(middlewares=[unserved], client_max_size=0)
    app[GATEWAY] = Gateway(settings, store, view, templates, places, *own, NoTracing(), takes_addresses=False)
    app[FOLDERS] = folders
    shared = [one for one in OPERATIONS if one.name in SHARED]
    for one in (*described(shared, templates), *OWN):
        operation = replace(one, handler=_where_all_reach(one)) if one.name in MAKING else one
        app.router.add_route(operation.method, operation.route, served(operation, from_this_server))
    _with_page(app, {"on": True, "queue": settings.queue})
    app.cleanup_ctx.append(sweep)
    app.on_shutdown.append(_send_away)
    return app


async def _send_away(app: web.Application) -> None:
    await app[GATEWAY].events.stop()


def off_app(why: str) -> web.Application:
    """The same where there is no queue. why: a sentence about a wrong setting, or '' where none is made."""
    app = web.Application()
    _with_page(app, {"on": False, "why": why})
    return app


def _with_page(app: web.Application, state: Mapping[str, Any]) -> None:
    async def show_state(request: web.Request) -> web.Response:
        return web.json_response(state)

    routes: list[tuple[str, Serve]] = [("/state", show_state)]
    routes += [*file_routes(PANEL, "/page/panel"), *file_routes(SIDEBAR, "/page/sidebar")]
    for address, serve in routes:
        app.router.add_get(address, serve)
    app.on_response_prepare.append(_with_headers)


async def _with_headers(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", "no-store")


async def from_this_server(request: web.Request, gateway: Gateway, operation: Operation) -> Caller:
    """Whoever is at this ComfyUI. Raises Problem for what a page of another site asks for."""
    if request.method not in SAFE and not _is_own_page(request.headers, request.headers.get("Host", "")):
        raise Problem("forbidden", "Only a page of this ComfyUI may ask for this.")
    return BROWSER


def _is_own_page(headers: Mapping[str, str], host: str) -> bool:
    """By what the browser itself says, where it says it; on plain HTTP elsewhere than here it names an origin only."""
    if site := headers.get("Sec-Fetch-Site"):
        return site in ("same-origin", "none")
    origin = headers.get("Origin")
    return origin is None or origin.partition("://")[2].lower() == host.lower()


def _where_all_reach(operation: Operation) -> Callable[[web.Request, Asked], Any]:
    """The handler, after a look whether whoever takes the job could read its files."""

    async def handler(request: web.Request, asked: Asked) -> web.StreamResponse:
        if not request.app[FOLDERS].shared and len((await asked.gateway.overview.now()).instances) > 1:
            raise Problem(
                "invalid",
                "Several servers take jobs and could not read what is sent here; set SONIC_QUEUE_GATEWAY_FOLDER of "
                "this ComfyUI to a folder in the SONIC_QUEUE_ROOTS of all.",
            )
        return await operation.handler(request, asked)

    return handler


async def submit_graph(request: web.Request, asked: Asked) -> web.Response:
    """The portrait, the recording and the settings of a graph as a task, with copies of its files."""
    gateway = asked.gateway
    content_type(request, JSON)
    body = checked(GRAPH, await read_json(request, BATCH_BYTES, gateway.settings.gateway_read_s))
    try:
        found = await asyncio.to_thread(material_of, body["prompt"], gateway.templates)
        file_of = request.app[FOLDERS].file_of
        files = {name: file_of(name, file) for name, file in found.files.items()}
    except BadWorkflow as error:
        raise Problem("invalid", str(error)) from error
    except BadJob as error:
        raise of_job_error(error) from error
    fresh_id, limit = new_id("tsk"), round(gateway.settings.gateway_upload_mb * MEGABYTE)
    async with copied(gateway.places, fresh_id, files, limit) as upload:
        said = [found.warning] if found.warning else []
        fields = {"name": body.get("name") or upload.names["audio"], "config": dict(found.config)}
        fields["workflow"] = found.template
        return await queue_upload(request, asked, upload, fields, digest_of(["graph", body]), fresh_id, said)


async def copy_result(request: web.Request, asked: Asked) -> web.Response:
    """The video of a task becomes a file of ComfyUI's input folder, which its nodes load."""
    record, place = await finished(request, asked)
    if not isinstance(place, FilePlace) or place.path.suffix.lower() != ".mp4":
        raise Problem("gone", "The result is no video in a folder that this ComfyUI reaches.")
    stem = plain_name(f"{record.spec.name.rpartition('/')[2] or 'video'}.mp4").removesuffix(".mp4") or "video"
    name = f"{stem}_{record.task_id[-6:]}.mp4"
    try:
        await asyncio.to_thread(_copied_whole, place.path, request.app[FOLDERS].input / name)
    except OSError as error:
        raise Problem("gone", f"The video cannot be copied: {error.strerror or error}.") from error
    return web.json_response({"file": name})


def _copied_whole(source: Path, place: Path) -> None:
    part = place.with_name(f".{place.name}.part")
    try:
        shutil.copyfile(source, part)
        part.replace(place)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


OWN = (
    Operation(
        "submitGraph", "POST", "/v1/graph", submit_graph, "submit", "Submit what a graph makes a video of.",
        (Answer(202, "in the queue", "Accepted", headers=("Location",)),), headers=(IDEMPOTENCY_KEY,),
    ),
    Operation(
        "copyResult", "POST", "/v1/tasks/{task_id}/input", copy_result, "submit",
        "Copy the video into ComfyUI's input folder.", (Answer(200, "its name there"),),
        problems=("not-finished", "gone"),
    ),
)  # fmt: skip
