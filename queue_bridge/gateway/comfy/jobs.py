"""Jobs of the Comfy API: a workflow goes in, and is a task like any other from then on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from ...errors import BadJob, BadWorkflow
from ...job import FILE, ID, LABEL, RAW, JobRecord, checked_labels
from ...pipelines.raw_prompt import check_classes
from ...pipelines.template_check import is_saved_by_the_browser
from ...pipelines.workflow_match import Matched, Workflow, asset_id_of, checked_workflow, matched
from ...queue.asset_records import Asset
from ..body import TASK_BYTES, content_type, read_json
from ..context import Asked, Gateway, record_of
from ..fields import Field, checked
from ..listing import submitted_jobs
from ..new_tasks import NewTask, digest_of, identified, looked_into, new_id, new_task, queued, with_duration
from ..operations import JSON
from ..problem import Problem
from ..uploads import Upload
from .assets import found_asset, path_of
from .envelope import Refusal, of_bad_workflow
from .job_view import Plan, job_view, own_address, plan_of, summary_of
from .kept_request import WORKFLOW_FILE, KeptRequest, kept_request

LABELS = "metadata"
FILTERS = 3
LOOKED_AT = 2000  # jobs, for one page of a list
INPUTS = ("image", "audio")
SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}$")
CURSOR = re.compile(rf"[0-9]{{1,15}}-[0-9]{{1,10}}_{ID.pattern}")
JOB = (
    Field("workflow", "object", "a prompt in ComfyUI's API format", required=True),
    Field(LABELS, "object", "names and texts by which the job is found again"),
    Field("priority", "integer", "above 0: before the others", low=-1_000_000, high=1_000_000),
    Field("extra_data", "object", "keys of partner nodes; refused"),
)
LIST = (
    Field("limit", "integer", "at most so many", low=1, high=100, default=50),
    Field("cursor", "string", "`next_cursor` of the page before"),
)


@dataclass(frozen=True)
class _Wanted:
    """A request that can be carried out.

    found: the template that it is, or None for a prompt of its own. fields: of the task. sources: files that it is to
    have, or their addresses, by field; places: (node, input) of each. kept: what it was.
    """

    found: Matched | None
    fields: Mapping[str, Any]
    sources: Mapping[str, Path | str]
    places: Mapping[str, tuple[tuple[str, str], ...]]
    kept: KeptRequest

    def place_of(self, name: str) -> tuple[str, str]:
        """Where in the workflow a field is set: node and input."""
        if name in self.places:
            return self.places[name][0]
        return self.found.place_of(name) if self.found else ("", "")


async def create_job(request: web.Request, asked: Asked) -> web.Response:
    gateway, caller = asked.gateway, asked.caller
    content_type(request, JSON)
    body = checked(JOB, await read_json(request, TASK_BYTES, gateway.settings.gateway_read_s))
    if body.get("extra_data"):
        raise Refusal(
            "extra_data_not_supported", "Keys of partner nodes would have to wait in the queue; none is taken."
        )
    wanted = await _wanted(asked, body)
    fresh_id = new_id("job")
    found = await identified(gateway, caller, request, digest_of(["comfy", body]), fresh_id)
    try:
        task = await _laid(asked, wanted, found.id)
        await queued(asked, [task], found)
    except Problem:
        if found.first and found.name:  # it led to nothing, so the key is free again
            await gateway.store.forget_request(found.name)
            await asyncio.to_thread(shutil.rmtree, gateway.places.request_folder(found.id), ignore_errors=True)
        raise
    record = await gateway.view.job(found.id)
    if record is None:
        raise Problem("not-found", "The job of this request is no longer kept.")
    plan = plan_of(wanted.found.template if wanted.found else None, wanted.kept)
    headers = {"Location": f"{request.path}/{found.id}"} | ({} if found.first else {"Idempotency-Replayed": "true"})
    return web.json_response(job_view(record, plan, gateway, own_address(request)), status=201, headers=headers)


async def _wanted(asked: Asked, body: Mapping[str, Any]) -> _Wanted:
    """What a request asks for. Raises Problem."""
    workflow, settings = body["workflow"], asked.gateway.settings
    if is_saved_by_the_browser(workflow):
        raise Refusal("workflow_format_ui", "This is a graph as the browser saves it; send File > Export (API).")
    fields: dict[str, Any] = {"priority": "priority" if body.get("priority", 0) > 0 else "normal"}
    try:
        fields["labels"] = checked_labels(body.get(LABELS) or {})
    except BadJob as error:
        raise Refusal("metadata_invalid", str(error).replace("labels:", "metadata:", 1)) from error
    try:
        checked_workflow(workflow)
        try:
            found = await asyncio.to_thread(matched, workflow, asked.gateway.templates)
        except BadWorkflow:
            if not settings.raw_nodes:
                raise
            check_classes(workflow, settings.raw_nodes)
            return await _raw(asked, workflow, fields)
    except BadWorkflow as error:
        raise of_bad_workflow(error) from error
    fields |= {"workflow": found.template.name, "config": dict(found.config), "name": _name_of(found)}
    sources: dict[str, Path | str] = {}
    for name in INPUTS:
        if name in found.template.filled:
            sources[name] = await _source(asked, found.filled.get(name), found.place_of(name))
    return _Wanted(found, fields, sources, {}, KeptRequest(workflow, found.nodes))


async def _raw(asked: Asked, workflow: Workflow, fields: Mapping[str, Any]) -> _Wanted:
    """What a prompt of a client's own asks for. Raises Problem."""
    places: dict[str, tuple[tuple[str, str], ...]] = {}
    for node_id, node in workflow.items():
        for name, value in node["inputs"].items():
            if isinstance(value, dict) and FILE in value:
                raise of_bad_workflow(BadWorkflow.at(node_id, name, f"holds '{FILE}', which no client may say."))
            if (asset_id := asset_id_of(value)) is not None:
                places[asset_id] = (*places.get(asset_id, ()), (node_id, name))
    sources, named = {}, {}
    for number, found in enumerate(places.values()):
        (node_id, name), *_ = found
        sources[f"file{number}"] = await _source(asked, workflow[node_id]["inputs"][name], found[0])
        named[f"file{number}"] = found
    return _Wanted(None, {**fields, "workflow": RAW}, sources, named, KeptRequest(workflow))


def _name_of(found: Matched) -> str:
    """What people call the job: what the workflow calls its file."""
    prefix = str(found.filled.get("output_prefix", "")).replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in prefix if letter.isprintable())[:200]


async def _source(asked: Asked, value: Any, place: tuple[str, str]) -> Path | str:
    """The file, or the address, that stands in an input of the workflow. Raises Problem "missing_asset"."""
    asset_id = asset_id_of(value)
    if asset_id is None and isinstance(value, str) and "://" in value:
        return value
    if asset_id is None:
        error = BadWorkflow.at(*place, "names no uploaded file; upload it, and set a reference (core/ASSET).")
        raise of_bad_workflow(error, "missing_asset")
    try:
        asset = await found_asset(asset_id, asked)
        if isinstance(asset, Asset):
            return path_of(asset, asked.gateway.places)
        if asset.record.spec.workflow == RAW:
            raise BadJob("output", "lies in a ZIP.")
        return await asyncio.to_thread(asked.gateway.places.video_of, asset.record)
    except (Problem, BadJob) as problem:
        error = BadWorkflow.at(*place, "names a file that is not there, or no longer kept; upload it.")
        raise of_bad_workflow(error, "missing_asset") from problem


async def _laid(asked: Asked, wanted: _Wanted, task_id: str) -> NewTask:
    """The task, with files of its own: what becomes of the uploaded ones is nothing to it. Raises Problem.

    The same request finds the files that it has laid down before.
    """
    gateway = asked.gateway
    part, _ = gateway.places.upload_folder(task_id)
    upload = Upload(part, gateway.places.request_folder(task_id))
    try:
        await asyncio.to_thread(_link, upload, wanted)
        suffixes, seconds = await asyncio.to_thread(looked_into, upload)
        suffixes |= {name: _suffix(wanted, name) for name in upload.files if name not in suffixes}
        fields, _ = with_duration(wanted.fields, seconds)
        files = {name: upload.folder / f"{name}{suffixes.get(name, '')}" for name in upload.files}
        if wanted.found is None:
            fields["prompt"] = _prompt(wanted, files)
            files = {"output": gateway.places.result_of(task_id).with_suffix(".zip")}
        else:
            fields |= {name: address for name, address in wanted.sources.items() if isinstance(address, str)}
            beside = next(iter(files.values()), upload.folder / WORKFLOW_FILE)
            for name in INPUTS:  # each job has both; a template that takes none is given what lies there anyway
                if name not in files and name not in fields:
                    files[name] = beside
        task = await asyncio.to_thread(new_task, gateway, asked.caller, fields, task_id, files)
        if not await asyncio.to_thread(upload.folder.is_dir):
            await _keep(upload, suffixes)
    except Problem as problem:
        raise _at_its_node(problem, wanted) from problem
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, part, ignore_errors=True))
    return task


async def _keep(upload: Upload, suffixes: Mapping[str, str]) -> None:
    try:
        await upload.keep(suffixes)
    except Problem:
        if not await asyncio.to_thread(upload.folder.is_dir):  # else the same request, at the same time, was first
            raise


def _link(upload: Upload, wanted: _Wanted) -> None:
    """Lay the files into a folder of their own; they share their bytes where the file system can do that."""
    upload.part.mkdir()
    wanted.kept.write(upload.part)
    for name, source in wanted.sources.items():
        if isinstance(source, str):
            continue
        place = upload.part / name
        try:
            with contextlib.suppress(OSError):
                os.link(source, place)
            if not place.exists():
                shutil.copyfile(source, place)
        except FileNotFoundError as error:
            gone = BadWorkflow.at(*wanted.place_of(name), "names a file whose bytes are gone; upload it again.")
            raise of_bad_workflow(gone, "missing_asset") from error
        upload.files[name] = place


def _suffix(wanted: _Wanted, name: str) -> str:
    """What the name of a file of a prompt ends with, as its client calls it; its content is its node's to look at."""
    node_id, field = wanted.place_of(name)
    reference = wanted.kept.workflow[node_id]["inputs"][field]
    found = SUFFIX.search(str(reference.get("info", {}).get("file_path", "")))
    return found[0].lower() if found else ""


def _prompt(wanted: _Wanted, files: Mapping[str, Path]) -> dict[str, Any]:
    """The prompt that an instance is to run: the client's, with the addresses of its files."""
    prompt = {node_id: {**node, "inputs": dict(node["inputs"])} for node_id, node in wanted.kept.workflow.items()}
    for name, places in wanted.places.items():
        source = wanted.sources[name]
        for node_id, name_of_input in places:
            prompt[node_id]["inputs"][name_of_input] = {
                FILE: source if isinstance(source, str) else files[name].as_uri()
            }
    return prompt


def _at_its_node(problem: Problem, wanted: _Wanted) -> Problem:
    """What is wrong with a parameter, as what is wrong with the node that has it."""
    field = str(problem.more.get("field", "")).removeprefix("config.")
    node_id, name_of_input = wanted.place_of(field)
    if problem.kind != "invalid" or isinstance(problem, Refusal) or not node_id:
        return problem
    reason = problem.detail.partition(": ")[2] or problem.detail
    return of_bad_workflow(BadWorkflow.at(node_id, name_of_input, f"({field}): {reason}"))


async def get_job(request: web.Request, asked: Asked) -> web.Response:
    return await _shown(request, asked, await record_of(request, asked))


async def cancel_job(request: web.Request, asked: Asked) -> web.Response:
    """Ask for its end; an ended job stays as it is."""
    record = await record_of(request, asked)
    await asked.gateway.store.cancel([record.task_id])
    return await _shown(request, asked, await asked.gateway.view.job(record.task_id) or record)


async def get_workflow(request: web.Request, asked: Asked) -> web.Response:
    record = await record_of(request, asked)
    kept = await asyncio.to_thread(kept_request, asked.gateway.places, record.task_id)
    if kept is None:
        raise Problem("not-found", "This job did not come as a workflow.")
    return web.json_response({"workflow": kept.workflow, "format": "api"})


async def list_jobs(request: web.Request, asked: Asked) -> web.Response:
    gateway, caller, query = asked.gateway, asked.caller, asked.query
    wanted, limit, cursor = _filters(request), query["limit"], query["cursor"]
    if cursor is not None and not CURSOR.fullmatch(cursor):
        raise Refusal("invalid_cursor", "No page here has this cursor.")
    place, _, task_id = (cursor or "").partition("_")
    callers = await gateway.view.callers() if "admin" in caller.scopes else [caller.id]
    after = (place, task_id) if place else None
    found: list[dict[str, Any]] = []
    seen, last = 0, after
    async with contextlib.aclosing(submitted_jobs(gateway.view, callers, after=after, most=LOOKED_AT)) as jobs:
        async for place_here, record in jobs:
            seen, last = seen + 1, place_here
            if record and all(record.spec.labels.get(name) == text for name, text in wanted.items()):
                found.append(summary_of(record))
            if len(found) == limit:
                break
    more = last and (len(found) == limit or seen >= LOOKED_AT)
    return web.json_response({"jobs": found} | ({"next_cursor": "_".join(last)} if more and last else {}))


def _filters(request: web.Request) -> dict[str, str]:
    """The labels that a job must have. Raises Problem."""
    wanted: dict[str, str] = {}
    for key, text in request.query.items():
        if not key.startswith(f"{LABELS}["):
            continue
        name = key.removeprefix(f"{LABELS}[").removesuffix("]")
        if not key.endswith("]") or not LABEL.fullmatch(name) or name in wanted:
            raise Refusal("invalid_metadata_filter", "A filter is metadata[NAME]=TEXT, each name once.")
        wanted[name] = text
    if len(wanted) > FILTERS:
        raise Refusal("invalid_metadata_filter", f"{FILTERS} filters are the limit.")
    return wanted


async def _shown(request: web.Request, asked: Asked, record: JobRecord) -> web.Response:
    plan = await plan_of_record(record, asked.gateway)
    return web.json_response(job_view(record, plan, asked.gateway, own_address(request)))


async def plan_of_record(record: JobRecord, gateway: Gateway) -> Plan:
    """The nodes of a job."""
    kept = await asyncio.to_thread(kept_request, gateway.places, record.task_id)
    return plan_of(gateway.templates.get(record.spec.workflow), kept)
