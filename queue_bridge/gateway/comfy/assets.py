"""Files of the Comfy API: uploaded once, named in workflows, downloaded again. The outputs of a job are files, too."""

from __future__ import annotations

import asyncio
import mimetypes
import re
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiohttp import web
from blake3 import blake3

from ...errors import BadJob, FileUnreachable
from ...execution.result_bundle import window
from ...job import ID, RAW, JobRecord
from ...queue.asset_records import Asset, blob_id
from ..body import TASK_BYTES, content_type, read_json
from ..context import Asked, Gateway
from ..fields import Field, checked, invalid
from ..new_tasks import digest_of, identified, new_id
from ..operations import JSON, MULTIPART, PATTERNS
from ..places import Places
from ..problem import Problem
from ..result_download import LinkPlace, result_place, send_file
from ..task_view import time_text
from ..tasks import MEGABYTE
from ..uploads import received
from .envelope import Refusal
from .job_view import OUTPUT, Output, content_url, kept_until_s, made_by, own_address

FILE = "file"
KIND = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,60}/[A-Za-z0-9!#$&^_.+-]{1,60}")
LONGEST_NAME = 200
HASH = re.compile(PATTERNS["hash"])
FROM_HASH = (
    Field("hash", "string", "the digest of the bytes", required=True, pattern=HASH.pattern),
    Field("file_path", "string", "the file's name", high=4096),
    Field("tags", "array", "not used"),
    Field("expires_in", "integer", "not used"),
)
LIST = (Field("limit", "integer", "at most so many", low=1, high=200, default=50),)


@dataclass(frozen=True)
class JobOutput:
    """An output of a job. number: which of its outputs."""

    record: JobRecord
    number: int
    output: Output


async def post_asset(request: web.Request, asked: Asked) -> web.Response:
    """Take a file in."""
    gateway, caller = asked.gateway, asked.caller
    content_type(request, MULTIPART)
    limit, pause_s = round(gateway.settings.gateway_upload_mb * MEGABYTE), gateway.settings.gateway_read_s
    fresh_id = new_id("asset")
    reading = received(
        request, gateway.places, fresh_id, (FILE,), limit, pause_s, ignored=("tags", "expires_in"), digest=blake3
    )
    async with reading as upload:
        if FILE not in upload.files:
            raise invalid(FILE, "is missing; send the bytes in this field of the form, with a file name.")
        digest = f"blake3:{upload.digests[FILE]}"
        expected = upload.texts.get("expected_hash", digest)
        if expected.lower() != digest:
            raise Refusal("hash_mismatch", f"The bytes that came have the hash {digest}.")
        kind, name = _kind(upload.texts.get("content_type", "")), _name(upload.texts.get("file_path", ""))
        found = await identified(gateway, caller, request, digest_of(["asset", digest, kind, name]), fresh_id)
        asset = Asset(found.id, caller.id, digest, kind, name, round(time.time(), 3))
        upload.is_of(asset.blob)
        await upload.keep({})
    # Not in the block: should the answer of the queue be lost, the bytes may be known there, so they stay.
    await _have_bytes(gateway, caller.id, digest)
    laid = replace(asset, folder=upload.folder.name, file=FILE, bytes=upload.sizes[FILE])
    kept, new = await gateway.assets.keep(laid) or (laid, True)
    if not new:
        await upload.drop()  # the same bytes lie there already
    return _answer(request, gateway, kept, new)


async def asset_from_hash(request: web.Request, asked: Asked) -> web.Response:
    """Another file over bytes that this caller has sent before."""
    gateway, caller = asked.gateway, asked.caller
    content_type(request, JSON)
    body = checked(FROM_HASH, await read_json(request, TASK_BYTES, gateway.settings.gateway_read_s))
    name = _name(body.get("file_path", ""))
    asset = Asset(new_id("asset"), caller.id, body["hash"], _guessed(name), name, round(time.time(), 3))
    kept = await gateway.assets.keep(asset) if await _have_bytes(gateway, caller.id, asset.hash) else None
    if kept is None:
        raise Refusal("blob_not_found", "There are no such bytes here; upload them.")
    return _answer(request, gateway, kept[0], False, status=201)


async def head_by_hash(request: web.Request, asked: Asked) -> web.Response:
    """Whether ``asset_from_hash`` would find these bytes."""
    digest = request.match_info["hash"]
    if not HASH.fullmatch(digest) or not await _have_bytes(asked.gateway, asked.caller.id, digest):
        raise Refusal("blob_not_found", "There are no such bytes here.")
    return web.Response(status=200)


async def list_assets(request: web.Request, asked: Asked) -> web.Response:
    """The caller's uploaded files, the last used first."""
    found = await asked.gateway.assets.latest(asked.caller.id, asked.query["limit"])
    return web.json_response({"assets": [asset_view(one, asked.gateway, own_address(request)) for one in found]})


async def get_asset(request: web.Request, asked: Asked) -> web.Response:
    gateway, base = asked.gateway, own_address(request)
    found = await found_asset(request.match_info["asset_id"], asked)
    if isinstance(found, Asset):
        return web.json_response(asset_view(found, gateway, base))
    record, output, until = found.record, found.output, time_text(kept_until_s(found.record.ended_s, gateway))
    asset_id = request.match_info["asset_id"]
    return web.json_response(
        {
            "id": asset_id,
            "hash": None,
            "size_bytes": output.bytes,
            "content_type": output.content_type,
            "file_path": output.name,
            "created_at": time_text(record.ended_s or record.submitted_s),
            "url": content_url(base, asset_id),
            "url_expires_at": until,
            "expires_at": until,
            "job_id": record.task_id,
        }
    )


async def get_content(request: web.Request, asked: Asked) -> web.StreamResponse:
    gateway = asked.gateway
    found = await found_asset(request.match_info["asset_id"], asked)
    if isinstance(found, Asset):
        return await send_file(request, path_of(found, gateway.places), found.name, found.type, shown="attachment")
    try:
        place = await result_place(found.record, gateway.places)
    except (BadJob, FileUnreachable) as error:
        raise Problem("gone", "The video lies where this gateway may not read.") from error
    if isinstance(place, LinkPlace):
        return web.Response(status=302, headers={"Location": place.url})
    return await send_file(
        request,
        place.path,
        found.output.name,
        found.output.content_type,
        window=await asyncio.to_thread(_window, found, place.path),
    )


async def delete_asset(request: web.Request, asked: Asked) -> web.Response:
    """Forget an uploaded file. What was submitted with it has its bytes still."""
    gateway, asset_id = asked.gateway, request.match_info["asset_id"]
    found = await found_asset(asset_id, asked)
    if not isinstance(found, Asset):
        raise Refusal("asset_in_use", "This is the output of a job and goes with it.")
    folder = await gateway.assets.drop(asset_id)
    if folder is None:
        raise _unknown()
    if folder:
        await asyncio.to_thread(shutil.rmtree, gateway.places.uploads / folder, ignore_errors=True)
    return web.Response(status=204)


async def found_asset(asset_id: str, asked: Asked) -> Asset | JobOutput:
    """The file with this id. Raises Problem "not-found" also for another caller's."""
    gateway = asked.gateway
    if match := OUTPUT.fullmatch(asset_id):
        record = await gateway.view.job(match[2])
        made = made_by(record) if record and asked.caller.sees(record.caller) else []
        if record is None or int(match[1]) >= len(made):
            raise _unknown()
        return JobOutput(record, int(match[1]), made[int(match[1])])
    found = await gateway.assets.find([asset_id]) if ID.fullmatch(asset_id) else {}
    if asset_id not in found or not asked.caller.sees(found[asset_id].caller):
        raise _unknown()
    return found[asset_id]


def _window(found: JobOutput, path: Path) -> tuple[int, int] | None:
    """Where in the file of a job an output lies, when that has several. Raises Problem."""
    if found.record.spec.workflow != RAW:
        return None
    try:
        return window(path, found.number)
    except OSError as error:
        raise Problem("gone", "The file was removed, or its folder cannot be reached.") from error


async def _have_bytes(gateway: Gateway, caller: str, digest: str) -> bool:
    """Whether these bytes of a caller lie here; what somebody has removed from the disk is forgotten."""
    blob = blob_id(caller, digest)
    folder = await gateway.assets.folder_of(blob)
    if folder and not await asyncio.to_thread((gateway.places.uploads / folder).is_dir):
        await gateway.assets.forget_bytes(blob)
        return False
    return bool(folder)


def path_of(asset: Asset, places: Places) -> Path:
    return places.uploads / asset.folder / asset.file


def asset_view(asset: Asset, gateway: Gateway, base: str) -> dict[str, Any]:
    """The object that the contract calls Asset."""
    until = time_text(kept_until_s(None, gateway))
    return {
        "id": asset.id,
        "hash": asset.hash,
        "size_bytes": asset.bytes,
        "content_type": asset.type,
        "file_path": asset.name,
        "created_at": time_text(asset.made_s),
        "url": content_url(base, asset.id),
        "url_expires_at": until,
        "expires_at": until,
        "job_id": None,
    }


def _answer(request: web.Request, gateway: Gateway, asset: Asset, new: bool, status: int = 0) -> web.Response:
    said = {**asset_view(asset, gateway, own_address(request)), "created_new": new}
    return web.json_response(said, status=status or (201 if new else 200))


def _unknown() -> Problem:
    return Problem("not-found", "There is no such file, or it is no longer kept.")


def _kind(text: str) -> str:
    return text.lower() if KIND.fullmatch(text) else "application/octet-stream"


def _guessed(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _name(file_path: str) -> str:
    """A file's name without folders and what cannot be seen; it names nothing on the disk."""
    name = file_path.replace("\\", "/").rpartition("/")[2]
    seen = "".join(letter for letter in name if letter.isprintable())[-LONGEST_NAME:]
    return seen.encode("utf-8", "replace").decode() or FILE
