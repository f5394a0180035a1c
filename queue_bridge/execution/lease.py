"""Keeps an instance and the jobs at its hand alive in the queue, from a process that nothing in the server can hold up.

A node may block the event loop, or hold Python's lock in C for minutes; a thread would lose the lease then. So a small
process of its own (lease_process.py) renews it, for as long as this process lives and is not stopped: that is what a
lease means. This side tells it what to keep, and hears when the queue says that the job is another's. A queue that does
not answer says nothing of the kind: the work goes on, and whether it counts is decided by the token at its commit.

What is held is told before ``hold`` returns, with one short write that never waits, so that a node which lets no thread
run from its first moment is provided for. Everything else is told by a thread, or along with that: jobs may be short.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ..config import Settings
from ..job import JobRecord
from ..queue.presence import Identity
from ..queue.scripts import Argument
from ..queue.store import settlement
from ..retry import Verdict
from ..states import State

log = logging.getLogger("sonic.lease")

SCRIPT = Path(__file__).with_name("keep_lease.py")
LEAVE_S = 5.0  # for giving a job back at the end of the process
PAUSE_S = 1.0  # before a keeper that has ended twice in a row is started again
GATHER_S = 0.05  # the thread tells no more often
NEW_PROCESS_GROUP = 0x00000200  # subprocess.CREATE_NEW_PROCESS_GROUP, which exists on Windows only


_Start = tuple[str, int]  # a job and its token


@dataclass
class _Held:
    job: JobRecord
    lost: Callable[[], None]
    fuse: Mapping[str, Any] | None = None


class LeaseKeeper:
    """describe: what the instance says of itself. joined: called from a thread whenever it has (re)joined."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        describe: Callable[[], Mapping[str, Any]],
        joined: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._describe = describe
        self._joined = joined
        self._described: dict[str, Any] = {}
        self._held: dict[_Start, _Held] = {}
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = threading.Lock()  # to the process; what goes into it is in the order of what has happened
        self._told: subprocess.Popen[bytes] | None = None  # the process that knows more than what is held
        self._unsent = b""  # of a line that the pipe had no room for
        self._hearing = threading.Thread(target=self._hear, name="sonic_lease_hears", daemon=True)
        self._telling = threading.Thread(target=self._tell, name="sonic_lease_tells", daemon=True)

    @property
    def process(self) -> int | None:
        """The process that keeps the lease, or None when there is none."""
        process = self._process
        return process.pid if process and process.poll() is None else None

    def start(self) -> None:
        self._hearing.start()
        self._telling.start()

    def hold(self, job: JobRecord, lost: Callable[[], None]) -> None:
        """Renew this job's lease from now on. lost: called from a thread, once, when it is no longer ours."""
        with self._lock:
            self._held[_start_of(job)] = _Held(job, lost)
        self._tell_at_once()

    def fuse(self, job: JobRecord, seconds: float, failure: Sequence[Argument], sentence: str, *, end_us: bool) -> None:
        """For a server that cannot even look at a clock: after so long this job, if it is held, ends as a failure.

        failure: the arguments of its settlement. end_us: whether this process is ended then, too.
        """
        self._set_fuse(job, {"seconds": seconds, "failure": list(failure), "sentence": sentence, "end": end_us})

    def defuse(self, job: JobRecord) -> None:
        """What the fuse was for has ended."""
        self._set_fuse(job, None)

    def _set_fuse(self, job: JobRecord, fuse: Mapping[str, Any] | None) -> None:
        with self._lock:
            if held := self._held.get(_start_of(job)):
                held.fuse = fuse
        self._tell_at_once()

    def drop(self, job: JobRecord) -> None:
        """Renew this one no more; told with whatever is told next, at the latest at the next heartbeat."""
        with self._lock:
            self._held.pop(_start_of(job), None)

    def leave(self) -> None:
        """Stop; give back what is still held, without its counting as a failure. For the end of the process."""
        self._stopping.set()
        self._changed.set()
        process = self._process
        if process is None:
            return
        try:
            process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(RuntimeError):  # from its own thread
            self._hearing.join(1.0)
            self._telling.join(1.0)

    # --- the process ------------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        ended = 0
        while not self._stopping.is_set():
            try:
                process = self._launch()
            except OSError as error:
                log.warning("The process that keeps the lease cannot be started: %s. Trying again.", error)
                self._stopping.wait(PAUSE_S)
                continue
            assert process.stdout
            for line in process.stdout:
                ended = 0
                try:
                    self._take(json.loads(line))
                except ValueError:
                    log.debug("from the lease's process: %r", line)
            status = process.wait()
            process.stdout.close()
            if not self._stopping.is_set():
                log.warning("The process that keeps the lease has ended (exit status %d); starting another.", status)
                self._stopping.wait(PAUSE_S if ended else 0.0)
                ended += 1

    def _launch(self) -> subprocess.Popen[bytes]:
        # In a session of its own: a signal to the server's whole group, such as Ctrl-C, is not meant for it.
        own: dict[str, Any] = (
            {"start_new_session": True} if os.name == "posix" else {"creationflags": NEW_PROCESS_GROUP}
        )
        command = [sys.executable, "-u", str(SCRIPT)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **own)
        assert process.stdin
        with contextlib.suppress(AttributeError):  # on Windows before Python 3.12
            os.set_blocking(process.stdin.fileno(), False)
        self._process = process
        self._changed.set()
        return process

    def _take(self, message: Mapping[str, Any]) -> None:
        """Something that the process says."""
        if "log" in message:
            log.log(int(message["level"]), "%s", message["log"])
        if "joined" in message:
            self._joined()
        if "lost" in message:
            self._lose(message["lost"])

    def _lose(self, which: Sequence[Any]) -> None:
        with self._lock:
            held = self._held.pop((str(which[0]), int(which[1])), None)
        if held:
            log.warning("the lease of job %s is lost; what was made for it here does not count", held.job.task_id)
            held.lost()

    # --- what it is told --------------------------------------------------------------------------------------------

    def _tell_at_once(self) -> None:
        """Tell what is held, now; when that cannot be, the thread does."""
        process, told = self._process, False
        with self._pipe, contextlib.suppress(OSError):  # it has ended: another one is told all
            if process and process is self._told:
                told = self._write(process, self._list_of_held())
        if not told:
            self._changed.set()

    def _tell(self) -> None:
        """Tell the process the whole state now and then, and when it has changed, so that a new one knows all, too."""
        while True:
            self._changed.wait(self._settings.heartbeat_s)
            self._changed.clear()
            process, leaving = self._process, self._stopping.is_set()
            if process and not self._tell_all(process, leaving=leaving):
                self._changed.set()
            elif leaving:
                return
            time.sleep(GATHER_S)

    def _tell_all(self, process: subprocess.Popen[bytes], *, leaving: bool) -> bool:
        """False when there was no room for it. A process that has ended needs no telling."""
        if not leaving:
            try:
                self._described = dict(self._describe())
            except Exception as error:  # noqa: BLE001  # a broken card cannot even be asked for its memory
                log.debug("what the instance says of itself: %r", error)
        with self._pipe:
            if process is not self._told:
                self._told, self._unsent = process, b""
            # The address with its password goes this way, since everybody may read a command line.
            state = {
                "settings": _plain(self._settings),
                "identity": dataclasses.asdict(self._identity),
                "parent": os.getpid(),
                "described": self._described,
                "held": self._list_of_held(leaving=leaving),
                "leave": leaving,
            }
            try:
                return self._write(process, state)
            except OSError:  # another one is told
                return True

    def _write(self, process: subprocess.Popen[bytes], message: Mapping[str, Any] | Sequence[Any]) -> bool:
        """Whether all of it is in the pipe. Never waits for room: a process that is stopped makes none."""
        if not self._sent_all(process):
            return False
        self._unsent = _line(message)
        return self._sent_all(process)

    def _sent_all(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.stdin
        while self._unsent:
            try:
                count = os.write(process.stdin.fileno(), self._unsent)
            except BlockingIOError:
                return False
            if not count:
                return False
            self._unsent = self._unsent[count:]
        return True

    def _list_of_held(self, *, leaving: bool = False) -> list[dict[str, Any]]:
        with self._lock:
            return [_described(one, leaving=leaving) for one in self._held.values()]


def _line(message: Mapping[str, Any] | Sequence[Any]) -> bytes:
    try:
        return orjson.dumps(message) + b"\n"
    except TypeError:  # half a letter, as in a damaged file name
        return json.dumps(message).encode() + b"\n"


def _start_of(job: JobRecord) -> _Start:
    return job.task_id, job.token


def _described(held: _Held, *, leaving: bool) -> dict[str, Any]:
    one = {"job": held.job.task_id, "token": held.job.token, "fuse": held.fuse}
    if leaving:
        one["given_back"] = settlement(held.job, Verdict(State.QUEUED, "given back"), "", "", "")
    return one


def _plain(settings: Settings) -> dict[str, Any]:
    """The settings that the process needs; what holds paths is not among them."""
    values = {one.name: getattr(settings, one.name) for one in dataclasses.fields(settings)}
    return {name: value for name, value in values.items() if isinstance(value, str | int | float)}
