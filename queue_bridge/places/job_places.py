"""Where a job's inputs come from and where its video goes: files, web addresses, object stores."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ..errors import BadJob, FileUnreachable, JobError
from ..fetch_limits import Limits
from ..job import JobSpec
from ..quality_gate import write_report
from ..storage_places import is_object, object_address
from ..web_address import Reach, is_web
from .job_files import JobFiles
from .job_objects import JobObjects
from .public_http import fetch
from .storage import Storage

# Letters of any language, digits and a few marks: what every file system and ComfyUI take in a name.
NO_NAME = re.compile(r"[^\w.()+ -]+|^\.+")
NAME_CHARACTERS = 80
DISCARD_S = 15.0
MARK = re.compile(r"\{(\w*)\}")

# Of an input that is no file: it counts as the same for the few minutes that a job is made ready ahead.
ELSEWHERE = (-1, -1)


class JobPlaces:
    """files: for addresses of files. storage: the object stores that jobs may name.

    results: a folder or an object store's address, which a job's output may be relative to; '' when it may not.
    reach: what web addresses may lead to. limits: of inputs that are fetched.
    """

    def __init__(
        self,
        files: JobFiles,
        storage: Storage | None = None,
        results: str = "",
        reach: Reach | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._files = files
        self._storage = storage or Storage()
        self._objects = JobObjects(self._storage)
        self._results = results
        self._reach = reach or Reach()
        self._limits = limits or Limits()

    @property
    def input_directory(self) -> Path:
        return self._files.input_directory

    @property
    def files(self) -> JobFiles:
        return self._files

    def comes_from_afar(self, spec: JobSpec) -> bool:
        """Whether an input has to be fetched, which may take long and can be broken off."""
        return any(is_web(uri) or is_object(uri) for uri in spec.files.values())

    async def sources(self, spec: JobSpec) -> tuple[tuple[int, int], ...]:
        """What shows whether a copy of a job's files is still true; empty when one is away."""
        try:
            return tuple([await self._source(uri, field) for field, uri in spec.files.items()])
        except OSError:
            return ()

    async def _source(self, uri: str, field: str) -> tuple[int, int]:
        if is_web(uri) or is_object(uri):
            return ELSEWHERE
        return await asyncio.to_thread(self._files.source_of, uri, field)

    async def fetch(self, spec: JobSpec, token: int) -> dict[str, str]:
        """Lay a job's files into ComfyUI's input folder for one start; returns their names there, by field.

        Raises BadJob for what is not there or may not be named, FileUnreachable for what may be there later.
        """
        return {field: await self._fetch(spec, token, field, uri) for field, uri in spec.files.items()}

    async def _fetch(self, spec: JobSpec, token: int, field: str, uri: str) -> str:
        if not is_web(uri) and not is_object(uri):
            return await asyncio.to_thread(self._files.copy_input, spec, token, field, uri)
        try:
            if is_web(uri):
                return await self._download(spec, token, field, uri)
            address = object_address(uri, field)
            self._storage.check(address, field)
            place = await asyncio.to_thread(self._files.input_place, spec, token, field, plain_name(address.name))
            await self._storage.download(address, place)
            return self._files.input_name(place)
        except BadJob:
            raise
        except JobError as error:
            raise BadJob(field, str(error)) from None
        except FileUnreachable as error:
            said = str(error)
            raise FileUnreachable(said if said.startswith(f"{field}: ") else f"{field}: {said}") from None
        except OSError as error:
            raise self._files.not_laid(field, error) from error

    async def _download(self, spec: JobSpec, token: int, field: str, uri: str) -> str:
        place = await asyncio.to_thread(self._files.input_place, spec, token, field, "")
        fetched = await fetch(uri, place, self._reach, self._limits)
        named = place.with_name(plain_name(fetched.name) or field)
        return self._files.input_name(await asyncio.to_thread(place.replace, named))

    async def check_output(self, spec: JobSpec) -> None:
        """Whether a video can be put into its place, before anything is computed. Raises BadJob, FileUnreachable."""
        spec = self._resolved(spec)
        if is_object(spec.output):
            self._objects.check_output(spec)
        else:
            await asyncio.to_thread(self._files.check_output, spec)

    def output_prefix(self, spec: JobSpec, token: int) -> str:
        """Where the prompt saves its video, below ComfyUI's output folder; no other start saves there."""
        return self._files.output_prefix(spec, token)

    async def stage(self, produced: Path, spec: JobSpec, token: int) -> dict[str, Any]:
        """Lay a finished video beside its place; returns what ``deliver`` needs. Raises FileUnreachable."""
        spec = self._resolved(spec)
        if is_object(spec.output):
            return await self._objects.stage(produced, spec, token)
        return await asyncio.to_thread(self._files.stage, produced, spec, token)

    async def deliver(self, laid: Mapping[str, Any], task_id: str) -> bool:
        """Put a chosen video into its place, and what was measured of it beside it; False when it is nowhere."""
        place, quality = str(laid["place"]), laid.get("result", {}).get("quality")
        if is_object(place):
            published = await self._objects.publish(laid, task_id)
            if published and quality:
                await self._objects.write_report(place, quality)
            return published
        published = await asyncio.to_thread(self._files.publish, laid)
        if published and quality:
            await asyncio.to_thread(write_report, Path(place), quality, task_id)
        return published

    async def discard(self, spec: JobSpec, token: int | None = None) -> None:
        """Remove what a start, or every one, has laid beside the video's place, for jobs that are over or another's."""
        try:
            spec = self._resolved(spec)
            if not is_object(spec.output):
                return await asyncio.to_thread(self._files.discard, spec, token)
            async with asyncio.timeout(DISCARD_S):
                await self._objects.discard(spec, token)
        except (JobError, TimeoutError):
            return None

    async def remove_result(
        self, place: str, described: Mapping[str, Any]
    ) -> Literal["removed", "not ours", "out of reach"]:
        """Remove a video that the queue has put in its place and nobody has changed since."""
        if is_object(place):
            return await self._objects.remove_result(place, described)
        return await asyncio.to_thread(self._files.remove_result, place, described)

    async def tidy(self, task_id: str, token: int) -> None:
        """Remove what a start left in ComfyUI's folders."""
        await asyncio.to_thread(self._files.folders.remove, task_id, token)

    def _resolved(self, spec: JobSpec) -> JobSpec:
        """The job with the whole address of its video's place."""
        return replace(spec, output=output_address(spec, self._results))


def output_address(spec: JobSpec, results: str) -> str:
    """The whole address of the video's place: ``{task_id}`` and ``{batch}`` are filled in, and a relative one is below
    ``results``, the setting. Raises BadJob."""
    known = {"task_id": spec.task_id, "batch": spec.batch}

    def fill(mark: re.Match[str]) -> str:
        if not known.get(mark.group(1)):
            raise BadJob("output", f"'{mark.group(0)}' is not known of this job; there are {{task_id}} and {{batch}}.")
        return known[mark.group(1)]

    output = MARK.sub(fill, spec.output)
    if "://" in output:
        return output
    if not results:
        raise BadJob(
            "output", f"'{output}' is below the folder of results, and this instance has no setting 'results'."
        )
    if "\\" in output or any(part in ("", ".", "..") for part in output.split("/")):
        raise BadJob("output", f"'{output}' is no place below the folder of results.")
    if is_object(results):
        return f"{results.rstrip('/')}/{output}"
    return (Path(results) / output).as_uri()


def plain_name(name: str) -> str:
    """A name from elsewhere as one for a file here, with its ending; '' when nothing is left of it."""
    plain = NO_NAME.sub("", name).strip(" .")
    stem, dot, ending = plain.rpartition(".")
    if not dot or len(ending) > 10:
        return plain[:NAME_CHARACTERS]
    return f"{stem[:NAME_CHARACTERS]}.{ending}"
