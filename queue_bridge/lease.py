"""Keeps an instance and its running job alive in the queue, from a thread that a busy event loop cannot hold up.

One thread with a connection of its own renews the lease, says that the instance lives, and looks after what is due. It
also notices when the queue says that the job is another's. A queue that does not answer says nothing of the kind: the
work goes on, and whether it counts is decided by the token when it is committed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from .config import Settings
from .errors import BridgeError, QueueUnavailable
from .job import JobRecord
from .presence import Identity, lives, registration
from .redis_connection import as_queue_error, connect_sync
from .retry import Verdict
from .scripts import Argument, Scripts
from .states import State
from .store import settlement

log = logging.getLogger("sonic.lease")


@dataclass
class _Held:
    job: JobRecord
    lost: Callable[[], None]


class LeaseKeeper:
    """describe: what the instance says of itself. registered: called from the thread whenever it has (re)joined."""

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
        self._scripts = Scripts(settings)
        self._client: Redis | None = None
        self._held: _Held | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._said = ""
        self._registered = False
        self._thread = threading.Thread(target=self._run, name="sonic_lease", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def hold(self, job: JobRecord, lost: Callable[[], None]) -> None:
        """Renew this job's lease from now on. lost: called from the thread, once, when it is no longer ours."""
        with self._lock:
            self._held = _Held(job, lost)

    def drop(self) -> None:
        """Renew nothing any more."""
        with self._lock:
            self._held = None

    def leave(self) -> None:
        """Stop; give back a job that is still held, without its counting as a failure. For the end of the process."""
        self._stopping.set()
        self._thread.join(2.0)
        with self._lock:
            held, self._held = self._held, None
        try:
            if held:
                verdict = Verdict(State.QUEUED, "given back")
                self._call("settle", held.job.task_id, held.job.token, *settlement(held.job, verdict, "", "", ""))
            self._call("leave", self._identity.name, self._identity.boot)
        except BridgeError as error:
            log.warning("leaving the queue: %s", error)

    def _run(self) -> None:
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                self._beat()
            except QueueUnavailable as error:
                self._client = None
                self._say(f"{error} Trying again.")
            self._stopping.wait(max(0.05, self._settings.heartbeat_s - (time.monotonic() - started)))

    def _beat(self) -> None:
        if not self._register():
            self._lose()
            return
        with self._lock:
            held = self._held
        if held:
            lease_ms = round(self._settings.lease_s * 1000)
            if self._call("renew", held.job.task_id, held.job.token, lease_ms) != "ok":
                self._lose(held)
        self._call("tend")
        self._said = ""  # all is well, so the next trouble is news

    def _register(self) -> bool:
        """Say that this instance lives; False while another one of its name does."""
        me, lease_s, described = self._identity, self._settings.lease_s, self._describe()
        answer = self._call("register", *registration(me, lease_s, described))
        if answer[0] == "taken" and answer[1] == me.host and not lives(int(answer[2])):
            answer = self._call("register", *registration(me, lease_s, described, predecessor_is_dead=True))
        if answer[0] == "taken":
            self._registered = False
            self._say(
                f"Another instance is called '{me.name}' (process {answer[2]} on {answer[1]}), so this one takes no "
                "jobs; give it another name with SONIC_QUEUE_INSTANCE."
            )
            return False
        if not self._registered:
            self._registered = True
            self._said = ""
            log.info("instance '%s' takes jobs from the queue '%s'", me.name, self._settings.queue)
            self._joined()
        return True

    def _lose(self, held: _Held | None = None) -> None:
        with self._lock:
            lost = self._held if held is None or self._held is held else None
            if lost:
                self._held = None
        if lost:
            log.warning("the lease of job %s is lost; what was made for it here does not count", lost.job.task_id)
            lost.lost()

    def _call(self, name: str, *values: Argument) -> Any:
        try:
            if self._client is None:
                self._client = connect_sync(self._settings.url)
            script = self._client.register_script(self._scripts.source(name))
            return script(keys=[self._scripts.routing_key], args=self._scripts.arguments(*values))
        except (RedisError, OSError) as error:
            raise as_queue_error(error, self._settings.url) from error

    def _say(self, text: str) -> None:
        """Warn once, not at every beat."""
        if text != self._said:
            self._said = text
            log.warning("%s", text)
