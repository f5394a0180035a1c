"""The queue's own database server: one per data folder, durable, found again by later commands.

The server itself holds a lock on a file in its folder (it inherits the open file), so the lock is free exactly when no
server lives there, whatever has died: nobody can start a second writer on the same data, and nothing has to be mended
after a kill.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import signal
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO
from urllib.parse import quote

from redis.exceptions import RedisError

from ..errors import RedisServerError
from ..ports import free_port, port_is_free
from .redis_connection import connect_sync
from .redis_program import ServerProgram, find_server_program

if sys.platform != "win32":
    import fcntl

log = logging.getLogger("sonic.redis_server")

WATCHER = Path(__file__).with_name("end_with_starter.py")
HOST = "127.0.0.1"
LOCK, ADDRESS, PASSWORD = "redis.lock", "redis-server.json", "redis.password"
CONFIG, LOG, PID, SOCKET = "redis.conf", "redis.log", "redis.pid", "redis.sock"
AOF_FOLDER = "appendonlydir"
SOCKET_PATH_LIMIT = 103  # bytes; macOS has room for 104 with the closing zero, Linux for 108
POLL_S = 0.01
START_TIMEOUT_S = 60.0  # a long append-only file takes its time
JOIN_TIMEOUT_S = 15.0
ASK_TIMEOUT_S = 2.0
STOP_GRACE_S = 5.0  # for each of SHUTDOWN and SIGTERM
DAMAGED = re.compile(r"(?:reading the append only|Checking RDB) file (\S+\.(?:aof|rdb))\b")


@dataclass(frozen=True)
class RunningRedis:
    """A server that answers. process: its id. address: for people. url: for clients, with the password if any."""

    process: int
    address: str
    url: str = field(repr=False)
    loading: bool = False


class RedisServer:
    """A database server of our own on this machine.

    data_directory: where its data, log and socket live; made when missing.
    port: None for a unix socket that only this user may open; a TCP port on 127.0.0.1 with a password otherwise, 0 for
    the port it had last or a free one.
    durable: every change is on disk before it is answered; otherwise a crash may cost the last second.
    program: which server to start; found by itself when None.
    outlives_us: when false, the server ends as soon as this process ends, however that happens.

    When a server already runs on the folder it is used as it is, wherever it listens: ``started_here`` is then False.
    """

    def __init__(
        self,
        data_directory: Path,
        *,
        port: int | None = None,
        durable: bool = False,
        program: ServerProgram | None = None,
        outlives_us: bool = True,
    ) -> None:
        self.data_directory = data_directory.absolute()
        self.port = port
        self.durable = durable
        self.program = program
        self.outlives_us = outlives_us
        self.started_here = False
        self.process: subprocess.Popen[bytes] | None = None
        self._log_from = 0  # where this start begins in the log

    @property
    def url(self) -> str:
        """The address for clients, with the password if there is one; known once the server was started or joined."""
        found = _client_url(self.data_directory)
        if found is None:
            raise RedisServerError(f"No database server was started in '{self.data_directory}' yet.")
        return found

    @property
    def log_file(self) -> Path:
        return self.data_directory / LOG

    def start(self) -> None:
        """Start the server, or join the one that runs already; ``wait_until_ready`` comes next.

        Raises RedisServerError when the folder cannot be written, the port is taken, there is no fit program, or a
        server runs there that does not answer.
        """
        if sys.platform == "win32":
            find_server_program()  # says what to do there
        self.started_here = False
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        while True:
            lock = self._take_lock()
            with lock or contextlib.nullcontext():
                if running := _ask(self.data_directory):  # asked with the lock too: somebody may have removed its file
                    self._join(running)
                    return
                if lock is not None:
                    self._launch(lock)
                    return
            if time.monotonic() > deadline:
                raise RedisServerError(_mute(self.data_directory))
            time.sleep(POLL_S)

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return when the server has loaded its data and answers; raises RedisServerError when it ends before."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            running = _ask(self.data_directory)
            if running and not running.loading:
                log.info("The database server answers at %s (process %d)", running.address, running.process)
                return
            if not self.is_alive():
                raise RedisServerError(self._why_it_ended())
            time.sleep(POLL_S)
        raise RedisServerError(
            f"The database server did not become ready within {timeout_s:.0f} s; its log is {self.log_file}."
        )

    def is_alive(self) -> bool:
        """True while a server lives on this folder, whoever started it."""
        if self.process is not None:
            self.process.poll()  # so that an ended one does not stay behind as a zombie
        return _lives(self.data_directory)

    def stop(self) -> None:
        """End the server of this folder, whoever started it; its data stay. Safe to call again."""
        stop_running(self.data_directory)
        if self.process is not None:
            if self.process.stdin:
                self.process.stdin.close()
            self.process.wait()
        self.started_here = False

    def __enter__(self) -> RedisServer:
        self.start()
        try:
            self.wait_until_ready()
        except BaseException:
            self._stop_ours()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_ours()

    def _stop_ours(self) -> None:
        """One that was only joined belongs to somebody else."""
        if self.started_here:
            self.stop()

    # --- starting ---

    def _take_lock(self) -> BinaryIO | None:
        """The folder's lock, or None when somebody else starts or runs a server there."""
        try:
            self.data_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return _locked(self.data_directory)
        except OSError as error:
            raise RedisServerError(
                f"The folder '{self.data_directory}' for the queue's data cannot be written: {error.strerror or error}."
            ) from error

    def _launch(self, lock: BinaryIO) -> None:
        """Start the process; the lock goes over to it. What is told about it is on disk before it runs."""
        program = self.program or self._program_before() or find_server_program()
        if not program.new_enough:
            raise RedisServerError(
                f"'{program.path}' is {program.kind.capitalize()} {program.version}; version 7.0 or newer is needed."
            )
        folder, config = self.data_directory, self.data_directory / CONFIG
        address = self._new_address() | {"program": str(program.path)}
        for stale in (folder / PID, Path(address.get("socket") or folder / SOCKET)):
            stale.unlink(missing_ok=True)
        _write_private(folder / ADDRESS, json.dumps(address))
        _write_private(config, self._config(address))
        command = [str(program.path), str(config)]
        if not self.outlives_us:  # -I -S: the watcher needs nothing but the standard library, and starts faster so
            command = [sys.executable, "-I", "-S", str(WATCHER), str(lock.fileno()), *command]
        self._log_from = self.log_file.stat().st_size if self.log_file.exists() else 0
        try:
            with self.log_file.open("ab") as output:
                self.process = subprocess.Popen(
                    command,
                    cwd=folder,
                    stdin=subprocess.DEVNULL if self.outlives_us else subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(lock.fileno(),),
                    start_new_session=True,  # Ctrl-C in the terminal is not meant for the database
                    umask=0o077,
                )
        except OSError as error:
            raise RedisServerError(
                f"The database server could not be started with '{program.path}': {error.strerror or error}."
            ) from error
        self.program, self.started_here = program, True
        log.info("Starting %s %s in %s (process %d)", program.kind, program.version, folder, self.process.pid)

    def _program_before(self) -> ServerProgram | None:
        """The program that wrote the data here, while it can still be run: another one may not be able to read them."""
        before = _read_address(self.data_directory).get("program")
        if before is None or not (self.data_directory / AOF_FOLDER).exists():
            return None
        try:
            program = ServerProgram.at(Path(before))
        except RedisServerError as error:
            log.warning("%s Another database server is taken.", error)
            return None
        return program if program.new_enough else None

    def _join(self, running: RunningRedis) -> None:
        if self.durable:  # whoever started it may have asked for less
            with contextlib.closing(connect_sync(running.url)) as client:
                client.config_set("appendfsync", "always")
        log.info("Joining the database server at %s (process %d)", running.address, running.process)

    def _new_address(self) -> dict[str, Any]:
        before = _read_address(self.data_directory)
        if self.port is None:
            return {"socket": str(_socket_path(self.data_directory, before.get("socket")))}
        if self.port and not port_is_free(self.port, HOST):
            raise RedisServerError(f"Port {self.port} is in use by another program; choose another one.")
        last = before.get("port")
        kept = last if isinstance(last, int) and port_is_free(last, HOST) else None
        if not (self.data_directory / PASSWORD).exists():
            _write_private(self.data_directory / PASSWORD, secrets.token_urlsafe(32))
        return {"port": self.port or kept or free_port(HOST)}

    def _config(self, address: dict[str, Any]) -> str:
        folder = self.data_directory
        settings = {
            "port": address.get("port", 0),
            "bind": HOST,
            "dir": folder,
            "logfile": self.log_file,
            "pidfile": folder / PID,
            "daemonize": "no",
            "always-show-logo": "no",
            "appendonly": "yes",
            "appenddirname": AOF_FOLDER,
            "appendfsync": "always" if self.durable else "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",  # a full memory refuses new jobs; it never drops old ones
            "enable-debug-command": "no",
            "enable-module-command": "no",
            "enable-protected-configs": "no",
        }
        if "socket" in address:
            settings |= {"unixsocket": address["socket"], "unixsocketperm": "600"}
        else:
            settings["requirepass"] = _read_password(folder)
        return "".join(f"{name} {_quoted(str(value))}\n" for name, value in settings.items())

    def _why_it_ended(self) -> str:
        """One sentence from what the server wrote to its log."""
        said = self._said()
        if not self.started_here:
            return f"The database server in '{self.data_directory}' ended; its log is {self.log_file}."
        if any("in use" in line for line in said) and self.port is not None:
            port = _read_address(self.data_directory).get("port")
            return f"Port {port} is in use by another program; choose another one."
        for line in reversed(said):
            if (damaged := DAMAGED.search(line)) and self.program:
                return self._about_damage(self.data_directory / AOF_FOLDER / damaged[1], self.program)
        status = self.process.returncode if self.process else None
        last = said[-1].rstrip(".") if said else "it said nothing"
        how = f"ended while starting (exit status {status}): {last}"
        return f"The database server {how}. The whole log is {self.log_file}."

    @staticmethod
    def _about_damage(file: Path, program: ServerProgram) -> str:
        if file.suffix == ".rdb":
            return f"The queue's data in '{file}' are damaged and cannot be mended; put a copy of {file.parent} back."
        return (
            f"The queue's data in '{file}' are damaged; keep a copy of that folder, then cut off what comes after the "
            f"damage with: {program.check_command(file)}"
        )

    def _said(self) -> list[str]:
        """What this start wrote to the log, without process id, date and level."""
        try:
            with self.log_file.open("rb") as file:
                file.seek(self._log_from)
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return []
        lines = (re.sub(r"^\d+:\w \d+ \w+ \d+ [\d:.]+ [.\-*#] ", "", line).strip() for line in text.splitlines())
        return [line for line in lines if line]


# --- a server that runs already --------------------------------------------------------------------------------------


def running_server(data_directory: Path) -> RunningRedis | None:
    """The server that lives on this folder, or None; raises RedisServerError when one lives but does not answer."""
    folder = data_directory.absolute()
    deadline = time.monotonic() + JOIN_TIMEOUT_S
    while _lives(folder):
        if running := _ask(folder):
            return running
        if time.monotonic() > deadline:
            raise RedisServerError(_mute(folder))
        time.sleep(POLL_S)
    return None


def stop_running(data_directory: Path) -> RunningRedis | None:
    """Stop the server of this folder: SHUTDOWN, then SIGTERM, then SIGKILL; its data stay.

    Returns what was stopped, or None when none was up.
    """
    folder = data_directory.absolute()
    if not _lives(folder):
        _clean(folder)
        return None
    running = _ask(folder)
    if running:
        client = connect_sync(running.url, timeout_s=STOP_GRACE_S)
        with contextlib.suppress(RedisError), contextlib.closing(client):
            client.shutdown()
    stopped = running or _described(folder)
    if (running and _ends_within(folder, STOP_GRACE_S)) or _end_by_signals(folder):
        _clean(folder)
        return stopped
    raise RedisServerError(f"The server in '{folder}' did not stop; end its process {_process(folder)} yourself.")


def _end_by_signals(folder: Path) -> bool:
    """SIGTERM, then SIGKILL, for a server that does not listen; true when it has ended."""
    for number in (signal.SIGTERM, signal.SIGKILL) if sys.platform != "win32" else ():
        process = _process(folder)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        if _ends_within(folder, STOP_GRACE_S):
            return True
    return False


def _lives(folder: Path) -> bool:
    """True while a server (or its starter, for a moment) holds the folder's lock, or a server answers without one."""
    if sys.platform == "win32":
        return False
    with contextlib.suppress(FileNotFoundError), (folder / LOCK).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return _ask(folder) is not None


def _locked(folder: Path) -> BinaryIO | None:
    """The open lock file of the folder, or None when somebody holds it."""
    assert sys.platform != "win32"
    file = os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _ask(folder: Path) -> RunningRedis | None:
    """The server that answers at the folder's address and is the one of this folder, not another one there."""
    told = _described(folder)
    if told is None:
        return None
    try:
        with contextlib.closing(connect_sync(told.url, timeout_s=ASK_TIMEOUT_S)) as client:
            facts = client.info()
    except (RedisError, OSError):
        return None
    return replace(told, loading=bool(facts.get("loading"))) if facts.get("process_id") == told.process else None


def _described(folder: Path) -> RunningRedis | None:
    """The server as its files tell of it, whether or not it answers."""
    url, address, process = _client_url(folder), _read_address(folder), _process(folder)
    if url is None or process is None:
        return None
    return RunningRedis(process, str(address.get("socket") or f"{HOST}:{address.get('port')}"), url)


def _ends_within(folder: Path, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while _lives(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _mute(folder: Path) -> str:
    process = _process(folder)
    which = f" (process {process})" if process else ""
    return f"A database server{which} runs in '{folder}' but does not answer; its log is {folder / LOG}."


# --- its files -------------------------------------------------------------------------------------------------------


def _client_url(folder: Path) -> str | None:
    address = _read_address(folder)
    if address.get("socket"):
        return f"unix://{quote(str(address['socket']))}"
    if address.get("port"):
        return f"redis://:{_read_password(folder)}@{HOST}:{address['port']}/0"
    return None


def _read_address(folder: Path) -> dict[str, Any]:
    try:
        address = json.loads((folder / ADDRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return address if isinstance(address, dict) else {}


def _read_password(folder: Path) -> str:
    try:
        return (folder / PASSWORD).read_text(encoding="ascii").strip()
    except OSError as error:
        raise RedisServerError(
            f"The server's password in '{folder / PASSWORD}' cannot be read: {error.strerror or error}."
        ) from error


def _process(folder: Path) -> int | None:
    try:
        return int((folder / PID).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _socket_path(folder: Path, before: str | None) -> Path:
    """The socket in the folder or, where that path is too long for one, in a private folder for temporary files."""
    if _fits(folder / SOCKET):
        return folder / SOCKET
    if before and _is_private(Path(before).parent):
        return Path(before)
    for place in (tempfile.gettempdir(), "/tmp"):
        if _fits(Path(place) / "sonic-queue-12345678" / SOCKET):
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="sonic-queue-", dir=place)) / SOCKET
    raise RedisServerError(
        f"The path '{folder / SOCKET}' is too long for a unix socket and there is no place for temporary files; "
        "choose a shorter folder, or a port."
    )


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= SOCKET_PATH_LIMIT


def _is_private(folder: Path) -> bool:
    """True for a folder that only this user may enter; where all may write, another user could wait with a trap."""
    try:
        entry = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(entry.st_mode) and stat.S_IMODE(entry.st_mode) == 0o700 and entry.st_uid == os.getuid()


def _clean(folder: Path) -> None:
    """Remove what a stopped server may leave; its address stays, so that it comes back at the same port."""
    lock = _locked(folder) if (folder / LOCK).exists() else None
    if lock is None:  # somebody has just started a new one
        return
    with lock:
        (folder / PID).unlink(missing_ok=True)
        socket_path = _read_address(folder).get("socket")
        if socket_path:
            Path(socket_path).unlink(missing_ok=True)
            if Path(socket_path).parent != folder:
                with contextlib.suppress(OSError):
                    Path(socket_path).parent.rmdir()


def _write_private(path: Path, text: str) -> None:
    """Write a file that only this user may read; it appears whole or not at all."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    unfinished.replace(path)


def _quoted(value: str) -> str:
    """A value of redis.conf; in double quotes everything but these three stands for itself."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
