"""A job's video in an object store, which its place holds whole or not at all, as with a file.

It is first uploaded under a key that only this start uses. Which start's video is the job's is then decided in the
queue (lua/stage.lua), and only that one is copied to its place, within the store, by whoever comes to do it. So a start
that wakes up late has nothing that it could put there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..errors import BadJob, BridgeError, FileUnreachable, ObjectMissing
from ..job import JobSpec
from ..quality_gate import SUFFIX
from ..storage_places import ObjectAddress, object_address
from .storage import Storage

log = logging.getLogger("sonic.job_objects")

VIDEO = "video/mp4"
JSON = "application/json"


class JobObjects:
    """The same steps as in JobFiles, for places in object stores."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def check_output(self, spec: JobSpec) -> ObjectAddress:
        """The video's place, before anything is computed. Raises BadJob when none can be there."""
        place = self._address(spec.output)
        if not place.name.lower().endswith(spec.suffix):
            raise BadJob("output", f"'{place.name}' does not end with {spec.suffix}.")
        return place

    async def stage(self, produced: Path, spec: JobSpec, token: int) -> dict[str, Any]:
        """Upload a finished video beside its place; returns what ``publish`` needs. Raises FileUnreachable."""
        place = self.check_output(spec)
        staged = _laid(place, spec.task_id).inside(f"{token}.part")
        digest = await asyncio.to_thread(_digest, produced)
        await self._storage.upload(produced, staged, VIDEO, digest)
        size = produced.stat().st_size
        return {"staged": str(staged), "place": str(place), "sha256": digest, "bytes": size}

    async def publish(self, staged: Mapping[str, Any], task_id: str) -> bool:
        """Copy a staged video to its place; True also when that has been done before.

        False when the video is nowhere, so that it has to be made again. Raises FileUnreachable.
        """
        source, place = (self._address(str(staged[name])) for name in ("staged", "place"))
        try:
            await self._storage.copy(source, place)
        except ObjectMissing:
            if not await self._is_there(place, staged):
                return False
        else:
            await self._check_copied(place, int(staged["bytes"]))
        await self._discard(place, task_id)
        return True

    async def write_report(self, place: str, quality: Mapping[str, Any]) -> None:
        """Keep what was measured beside the video; a store that takes the video and not this costs nobody the video."""
        report = _report_beside(self._address(place))
        try:
            content = json.dumps(dict(quality), ensure_ascii=False, indent=2).encode()
            await self._storage.upload(content, report, JSON)
        except BridgeError as error:
            log.warning("%s", error)

    async def discard(self, spec: JobSpec, token: int | None = None) -> None:
        """Remove what a start, or every one, has laid beside the video's place, for jobs that are over or another's."""
        try:
            place = self._address(spec.output)
        except BridgeError:
            return
        await self._discard(place, spec.task_id, token)

    async def remove_result(
        self, place: str, described: Mapping[str, Any]
    ) -> Literal["removed", "not ours", "out of reach"]:
        """Remove a video that the queue has put in its place and nobody has changed since. described: bytes, sha256.

        "not ours": it is gone, or another file; "out of reach": not in our buckets, or the store is away.
        """
        try:
            address = self._address(place)
            if not described or not await self._is_there(address, described):
                return "not ours"
            await self._storage.remove(address)
            await self._storage.remove(_report_beside(address))
        except BridgeError:
            return "out of reach"
        return "removed"

    async def _check_copied(self, place: ObjectAddress, size: int) -> None:
        """A store that does not know copies takes one for an empty upload, and says that all went well.

        Raises FileUnreachable, before what was copied is removed.
        """
        stored = await self._storage.stored(place)
        found = stored.bytes if stored else 0
        if found != size:
            raise FileUnreachable(f"'{place}' was not copied whole: the store holds {found} of {size} bytes there.")

    async def _is_there(self, place: ObjectAddress, described: Mapping[str, Any]) -> bool:
        """Whether the video in its place is this one: the queue has written its SHA-256 with it."""
        stored = await self._storage.stored(place)
        return stored is not None and (stored.bytes, stored.digest) == (described["bytes"], described["sha256"])

    async def _discard(self, place: ObjectAddress, task_id: str, token: int | None = None) -> None:
        """What cannot be removed lies there unseen; nobody's video depends on it."""
        folder = _laid(place, task_id)
        try:
            if token is not None:
                return await self._storage.remove(folder.inside(f"{token}.part"))
            for laid in await self._storage.under(folder):
                await self._storage.remove(laid)
        except BridgeError as error:
            log.info("job %s: what was uploaded in vain stays in '%s/': %s", task_id, folder, error)

    def _address(self, uri: str) -> ObjectAddress:
        address = object_address(uri, "output")
        self._storage.check(address, "output")
        return address


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _laid(place: ObjectAddress, task_id: str) -> ObjectAddress:
    """Where the starts of a job lay their videos; a folder, as stores list by folders."""
    return place.beside(f".sonic-{task_id}")


def _report_beside(place: ObjectAddress) -> ObjectAddress:
    return place.beside(place.name[: -len(".mp4")] + SUFFIX)
