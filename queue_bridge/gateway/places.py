"""The gateway's own folder, and which files a request may name."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from ..config import Settings
from ..errors import AddressRefused, BadJob, ConfigError
from ..job import ID, JobRecord, JobSpec
from ..places.job_files import path_in
from ..places.job_places import output_address
from ..places.storage import Storage
from ..storage_places import is_object, object_address
from ..web_address import Reach, check_address, is_web

UNFINISHED = ".part"
LINK_S = 600.0
OWNED_FOLDER = re.compile(rf"({ID.pattern})\.[0-9a-f]{{16}}")  # its task or batch, and what keeps it apart


class Places:
    """folder: the gateway's own, in which uploads and results lie; clients cannot name what is in it.

    storage, reach, results: as in job_places.py. Raises ConfigError when the folder is none that the ComfyUI servers
    may use.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        folder: Path,
        storage: Storage | None = None,
        reach: Reach | None = None,
        results: str = "",
    ) -> None:
        self._storage, self._reach, self._below = storage or Storage(), reach or Reach(), results
        self.folder = folder.resolve()
        self._roots = tuple(root.resolve() for root in roots)
        if not any(self.folder.is_relative_to(root) for root in self._roots):
            raise ConfigError("gateway_folder", f"'{folder}' lies in none of the roots, so no ComfyUI could read it.")
        self.uploads = self.folder / "uploads"
        self.results = self.folder / "results"
        try:
            for made in (self.uploads, self.results):
                made.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"'{folder}' cannot be made ({error.strerror or error}); let the gateway's user write there."
            raise ConfigError("gateway_folder", reason) from error

    @classmethod
    def of(cls, settings: Settings) -> Places:
        if not settings.gateway_folder:
            raise ConfigError("gateway_folder", "name a folder in the roots for uploads and results.")
        storage = Storage(settings.places, settings.limits)
        return cls(settings.roots, Path(settings.gateway_folder), storage, settings.reach, settings.results)

    def check_address(self, uri: str, field: str) -> None:
        """Raises BadJob when a client may not name this. Whether it is there, the worker sees."""
        if is_web(uri):
            try:
                check_address(uri, self._reach)
            except AddressRefused as error:
                raise BadJob(field, str(error)) from None
        elif is_object(uri):
            self._storage.check(object_address(uri, field), field)
        elif not uri.isprintable() or urlsplit(uri).scheme != "file":
            raise BadJob(field, "is no address that is taken here; it begins with file://, https:// or s3://.")
        elif path_in(self._roots, uri, field).is_relative_to(self.folder):
            raise BadJob(field, "lies in the gateway's own folder, whose files cannot be named.")

    def check_callback(self, url: str) -> None:
        """Raises BadJob when an address is none that a webhook of a client's may go to."""
        if url:
            try:
                check_address(url, self._reach)
            except AddressRefused as error:
                raise BadJob("callback", str(error)) from None

    def check_output(self, uri: str) -> None:
        """The same for the place of a video, which may hold {task_id} and be below the setting ``results``."""
        whole = output_address(JobSpec("task", "", "", uri, batch="batch"), self._below)
        if is_web(whole):
            raise BadJob("output", "is a web address, and a video cannot be put there; name file:///... or s3://....")
        self.check_address(whole, "output")
        if not urlsplit(whole).path.lower().endswith(".mp4"):
            raise BadJob("output", "does not end with .mp4.")

    def result_of(self, task_id: str) -> Path:
        """Where the video of a task goes that names no place itself."""
        return self.results / f"{datetime.now(UTC):%Y%m%d}" / f"{task_id}.mp4"

    def video_of(self, record: JobRecord) -> Path | str:
        """The file of a job's video, or the address of its object. Raises BadJob when it lies outside the roots."""
        output = output_address(record.spec, self._below)
        return output if is_object(output) else path_in(self._roots, output, "output")

    def portrait_of(self, record: JobRecord) -> Path:
        """The file of a job's portrait. Raises BadJob when it lies outside the roots, or is no file here."""
        return path_in(self._roots, record.spec.image, "image")

    async def link_to(self, address: str) -> str:
        """Where anybody can get an object for a few minutes. Raises BadJob, FileUnreachable."""
        return await self._storage.result_link(address, LINK_S)

    def is_own(self, uri: str) -> bool:
        """Whether an address of a job is one that its client need not know."""
        return uri.startswith(f"{self.folder.as_uri()}/")

    def request_folder(self, task_id: str) -> Path:
        """The one folder with what a task was asked for as a workflow; it goes with its task as uploads do."""
        return self.uploads / f"{task_id}.{hashlib.sha256(task_id.encode()).hexdigest()[:16]}"

    def upload_folder(self, name: str) -> tuple[Path, Path]:
        """A new folder for the files of a task or batch: where they are written, and where they lie when whole.

        No two requests share one, though they be about the same task.
        """
        folder = f"{name}.{secrets.token_hex(8)}"
        return self.uploads / f".{folder}{UNFINISHED}", self.uploads / folder
