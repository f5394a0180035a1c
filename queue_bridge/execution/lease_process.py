"""The process that renews a lease: a loop of its own, with a connection of its own, beside the server.

It is told the state, a line of JSON each time it changes: settings, what the instance says of itself and the jobs it
holds, or the list of these alone. It answers with lines: what is to be logged, that it has joined, that a job is lost.
It renews for a parent that runs, not for one that is stopped, and when the parent has ended it says so in the queue and
ends. Its connection has a name: when that is gone from the server's list, the others know that both ended at once.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from ..config import Settings
from ..database.redis_connection import SOCKET_TIMEOUT_S, as_queue_error, connect_sync
from ..errors import BridgeError, QueueUnavailable
from ..parent_process import Life, life_of_parent
from ..queue.presence import Identity, connection_name, lives, registration
from ..queue.scripts import Argument, Scripts

GATHER_S = 0.05  # what the parent says meanwhile is read together
TICK_S = 0.2  # how soon a parent's end or halt is seen
LOOK_S = 0.5  # how often somebody looks for connections that are gone
MISSED_S = 1.0  # a connection that is away for so long does not come back by itself
AGAIN_S = 0.5  # between two tries while the queue does not answer

Message = Mapping[str, Any]
Start = tuple[str, int]  # a job and its token


class LeaseProcess:
    """Everything that is kept for one parent. state: the first one that it tells."""

    def __init__(self, state: Message) -> None:
        self._settings = Settings(**state["settings"])
        self._identity = Identity(**state["identity"])
        self._parent: int = state["parent"]
        self._state: Message = {"held": []}
        self._burns_s: dict[Start, float] = {}  # of each fuse
        self._take(state)
        self._scripts = Scripts(self._settings)
        self._client: Redis | None = None
        self._name = connection_name(self._settings.queue, self._identity)
        self._registered = False
        self._heard_s = time.monotonic()
        self._said: set[str] = set()

    def run(self, inbox: queue.SimpleQueue[Message | None]) -> None:
        beat_s = look_s = time.monotonic()
        wait_s = 0.0  # it joins at once
        while True:
            there = self._hear(inbox, wait_s)
            if self._state["leave"]:
                return self._leave()
            if not there:
                return self._bury()
            wait_s = min(TICK_S, self._settings.heartbeat_s)
            life = life_of_parent(self._parent)
            if life is Life.GONE:
                return self._bury()
            if life is Life.STOPPED:
                continue
            now = time.monotonic()
            for held in self._state["held"]:
                if now > self._burns_s.get(_start_of(held), now):
                    self._burn(held)
            if now >= beat_s:
                beat_s = now + (self._settings.heartbeat_s if self._try(self._beat) else AGAIN_S)
            if now >= look_s:
                look_s = now + LOOK_S
                if not self._try(self._look):
                    beat_s = now  # reconnect before others take us for dead

    # --- what the parent says ---------------------------------------------------------------------------------------

    def _hear(self, inbox: queue.SimpleQueue[Message | None], wait_s: float) -> bool:
        """Take all that it has said; False when it has ended, or has become another program."""
        with contextlib.suppress(queue.Empty):
            message = inbox.get(timeout=wait_s)
            while message is not None:
                self._take(message)
                message = inbox.get_nowait()
            return False
        return True

    def _take(self, message: Message) -> None:
        before = {_start_of(one): one["fuse"] for one in self._state["held"]}
        self._state = {**self._state, **message}
        burns_s = {}
        for one in message["held"]:
            start, fuse = _start_of(one), one["fuse"]
            if fuse and fuse == before.get(start) and start in self._burns_s:
                burns_s[start] = self._burns_s[start]
            elif fuse:
                burns_s[start] = time.monotonic() + fuse["seconds"]
        self._burns_s = burns_s

    def _bury(self) -> None:
        """Say for the parent that it has died, so that its job need not wait for the lease."""
        with contextlib.suppress(BridgeError):
            self._call("bury", self._identity.name, self._identity.boot)

    def _leave(self) -> None:
        try:
            for held in self._state["held"]:
                self._call("settle", held["job"], held["token"], *held["given_back"])
            self._call("leave", self._identity.name, self._identity.boot)
        except BridgeError as error:
            self._log(logging.WARNING, f"leaving the queue: {error}")

    def _burn(self, held: Message) -> None:
        """The parent lets nobody look at a clock, so its job ends here, and the parent too when that is wanted."""
        fuse = held["fuse"]
        try:
            self._call("settle", held["job"], held["token"], *fuse["failure"])
        except BridgeError as error:
            self._log(logging.WARNING, f"{error}")
        self._log(logging.ERROR, fuse["sentence"])
        self._lose(held)
        if fuse["end"]:
            with contextlib.suppress(BridgeError):
                self._call("leave", self._identity.name, self._identity.boot)
            with contextlib.suppress(OSError):
                os.kill(self._parent, getattr(signal, "SIGKILL", signal.SIGTERM))

    # --- what is kept ----------------------------------------------------------------------------------------------

    def _try(self, step: Any) -> bool:
        try:
            step()
        except QueueUnavailable as error:
            self._client = None
            self._log_once(f"{error} Trying again.")
            return False
        return True

    def _beat(self) -> None:
        if time.monotonic() - self._heard_s > self._settings.lease_s / 2:  # others may have been cut off with us
            self._call("spare", round(self._settings.lease_s * 1000))
        if not self._register():
            for held in self._state["held"]:
                self._lose(held)
            return
        lease_ms = round(self._settings.lease_s * 1000)
        for held in self._state["held"]:
            if (
                life_of_parent(self._parent) is Life.RUNS
                and self._call("renew", held["job"], held["token"], lease_ms) != "ok"
            ):
                self._lose(held)
        self._call("tend")
        self._heard_s = time.monotonic()
        self._said.clear()  # all is well, so the next trouble is news

    def _register(self) -> bool:
        """Say that the instance lives; False while another one of its name does."""
        me, lease_s, described = self._identity, self._settings.lease_s, self._state["described"]
        answer = self._call("register", *registration(me, lease_s, described, connection=self._name))
        if answer[0] == "taken" and answer[1] == me.host and not lives(int(answer[2])):
            values = registration(me, lease_s, described, connection=self._name, predecessor_is_dead=True)
            answer = self._call("register", *values)
        if answer[0] == "taken":
            self._registered = False
            self._log_once(
                f"Another instance is called '{me.name}' (process {answer[2]} on {answer[1]}), so this one takes no "
                "jobs; give it another name with SONIC_QUEUE_INSTANCE."
            )
            return False
        if not self._registered:
            self._registered = True
            self._said.clear()
            self._log(logging.INFO, f"instance '{me.name}' takes jobs from the queue '{self._settings.queue}'")
            _say({"joined": True})
        return True

    def _look(self) -> None:
        """Find instances whose connection is gone from the server's list. One looks for all of them."""
        if not (self._name and self._registered):
            return
        connections = self._call("look", round(LOOK_S * 900))
        if not connections:
            return
        client = self._connect()
        try:
            there = {one.get("name", "") for one in client.client_list(_type="normal")}
        except ResponseError:  # NoPermissionError among them
            self._no_names("does not let its user see its clients (CLIENT LIST)")
            return
        except (RedisError, OSError) as error:
            raise as_queue_error(error, self._settings.url) from error
        if self._name not in there:  # something stands between us that gives its own connections
            self._no_names("does not show the names of its clients")
            return
        values: list[Argument] = []
        for name, boot, connection in connections:
            if connection not in there:
                values += [name, boot]
        if values and self._call("missed", round(MISSED_S * 1000), *values):
            self._log(logging.WARNING, "an instance has ended without a word; its job goes on elsewhere")

    def _no_names(self, why: str) -> None:
        self._name = ""
        self._log(logging.INFO, f"The queue's server {why}; an instance that dies is noticed by its lease alone.")

    def _lose(self, held: Message) -> None:
        self._state = {**self._state, "held": [one for one in self._state["held"] if one is not held]}
        self._burns_s.pop(_start_of(held), None)
        _say({"lost": _start_of(held)})

    def _connect(self) -> Redis:
        """One connection, made anew after every trouble, so that it always has its name."""
        if self._client is None:
            timeout_s = min(SOCKET_TIMEOUT_S, max(1.0, self._settings.lease_s / 3))
            client = connect_sync(self._settings.url, timeout_s=timeout_s, name=self._name)
            try:
                client.ping()
            except NoPermissionError:
                if not self._name:
                    raise
                self._no_names("does not let its user name a connection (CLIENT SETNAME)")
                return self._connect()
            self._client = client
        return self._client

    def _call(self, name: str, *values: Argument) -> Any:
        try:
            script = self._connect().register_script(self._scripts.source(name))
            return script(keys=[self._scripts.routing_key], args=self._scripts.arguments(*values))
        except (RedisError, OSError) as error:
            self._client = None
            raise as_queue_error(error, self._settings.url) from error

    def _log(self, level: int, text: str) -> None:
        _say({"log": text, "level": level})

    def _log_once(self, text: str) -> None:
        """Warn once, not at every beat."""
        if text not in self._said:
            self._said.add(text)
            self._log(logging.WARNING, text)


def _start_of(held: Message) -> Start:
    return held["job"], held["token"]


def _say(message: Message) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more, which the next look at the parent tells, too
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def main() -> int:
    """Keep what the parent says, until it leaves or ends."""
    inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()

    def read() -> None:
        rest = b""
        with open(0, "rb", buffering=0, closefd=False) as pipe:  # sys.stdin would be waited for at our end
            while piece := pipe.read(65536):
                *lines, rest = (rest + piece).split(b"\n")
                for line, following in itertools.pairwise([*lines, b""]):
                    if not (line[:1] == following[:1] == b"["):  # else the jobs that are held are others by now
                        said = json.loads(line)
                        inbox.put({"held": said} if isinstance(said, list) else said)
                time.sleep(GATHER_S)
        inbox.put(None)

    threading.Thread(target=read, name="reads_parent", daemon=True).start()
    first = inbox.get()
    if first is not None:
        LeaseProcess(first).run(inbox)
    return 0
