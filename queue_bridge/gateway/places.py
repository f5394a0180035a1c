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
from ..errors import BadJob, ConfigError
from ..job import ID
from ..job_files import SCHEMES, path_in

UNFINISHED = ".part"
OWNED_FOLDER = re.compile(rf"({ID.pattern})\.[0-9a-f]{{16}}")  # its task or batch, and what keeps it apart


class Places:
    """folder: the gateway's own, in which uploads and results lie; clients cannot name what is in it.

    Raises ConfigError when it is none that the ComfyUI servers may use.
    """

    def __init__(self, roots: Sequence[Path], folder: Path) -> None:
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
            raise ConfigError("gateway_folder", f"'{folder}' cannot be made: {error.strerror or error}.") from error

    @classmethod
    def of(cls, settings: Settings) -> Places:
        if not settings.gateway_folder:
            raise ConfigError("gateway_folder", "name a folder in the roots for uploads and results.")
        return cls(settings.roots, Path(settings.gateway_folder))

    def check_address(self, uri: str, field: str) -> None:
        """Raises BadJob when a client may not name this file. Whether it is there, the worker sees."""
        scheme = urlsplit(uri).scheme if uri.isprintable() else ""
        if scheme not in SCHEMES:
            raise BadJob(field, f"is no address that is taken here; it begins with {' or '.join(sorted(SCHEMES))}://.")
        if scheme == "file" and path_in(self._roots, uri, field).is_relative_to(self.folder):
            raise BadJob(field, "lies in the gateway's own folder, whose files cannot be named.")

    def check_output(self, uri: str) -> None:
        """The same for the place of a video."""
        self.check_address(uri, "output")
        if not urlsplit(uri).path.lower().endswith(".mp4"):
            raise BadJob("output", "does not end with .mp4.")

    def result_of(self, task_id: str) -> Path:
        """Where the video of a task goes that names no place itself."""
        return self.results / f"{datetime.now(UTC):%Y%m%d}" / f"{task_id}.mp4"

    def file_of(self, uri: str) -> Path:
        """The file of a job, of whatever kind its own place is. Raises BadJob when it lies outside the roots."""
        return path_in(self._roots, uri, "output")

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
