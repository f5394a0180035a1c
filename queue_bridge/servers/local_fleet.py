"""A queue and some ComfyUI servers of our own on this machine: started, reused when they were kept up, stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from ..config import load_settings
from ..database.redis_server import RedisServer, stop_running
from ..errors import InstanceError
from ..health import UNHEALTHY
from . import kept_server
from .instance import Instance, install_pack
from .kept_server import RunningServer
from .launch_comfyui import WORKER_DIED

log = logging.getLogger("sonic.local_fleet")

PACK = Path(__file__).resolve().parent.parent.parent
NAME = "SONIC_QUEUE_INSTANCE"
START_S = 60.0  # until one that is started again answers
REGISTER_S = 15.0  # a server that answers registers within a second; a queue that is being restarted takes longer
RESTARTED = frozenset({UNHEALTHY, WORKER_DIED})  # exit statuses after which a new process may do better
RESTARTS_MAX = 3  # of all servers together
LOGGED = re.compile(r"^(?:The queue bridge is off\. |Another instance is called |The queue's server ).*", re.M)


class LocalFleet:
    """comfyui: the folder with ComfyUI's main.py. directory: everything of ours lies below it.

    instances: how many servers; they get the ports from ``port`` on, or free ones for 0. roots: folders of the jobs.
    keep: they and the queue go on when this process ends. url: a queue that is there; else one is started here.
    """

    def __init__(
        self,
        comfyui: Path,
        directory: Path,
        *,
        instances: int = 2,
        port: int = 0,
        roots: Sequence[Path] = (),
        keep: bool = False,
        url: str = "",
    ) -> None:
        self._keep = keep
        self._given_url = url
        self._redis = RedisServer(queue_directory(directory), outlives_us=keep, durable=load_settings().durable)
        self._roots = tuple(roots)
        self._servers = [
            Instance(comfyui, base, port=port + number if port else 0, outlives_us=keep)
            for number, base in enumerate(instance_directories(directory, instances))
        ]
        self._started: list[Instance] = []
        self._restarts = 0
        self._stopping = False
        self._ready_s = self._registered_s = time.monotonic()
        self.addresses: list[str] = []

    @property
    def url(self) -> str:
        return self._given_url or self._redis.url

    def start_queue(self) -> str:
        """Start the queue's server, or join the one that runs; returns its URL."""
        if not self._given_url:
            self._redis.start()
            self._redis.wait_until_ready()
        return self.url

    def start_instances(self, say: Callable[[str], None]) -> None:
        """Start the servers one after the other, since together they would only wait for each other.

        Raises InstanceError when one cannot be started, or another run uses its folder.
        """
        for number, server in enumerate(self._servers, 1):
            if self._stopping:
                return
            server.environment |= self._environment(number)
            fingerprint = _fingerprint(server.environment)
            running = kept_server.running_server(server.base_directory)
            if running and not running.kept:
                raise InstanceError(f"Another run is using '{server.base_directory}'; wait for it to end.")
            if running and running.fingerprint == fingerprint:
                self.addresses.append(running.address)
                say(f"ComfyUI {number} is up at http://{running.address}.")
                continue
            if running:  # with other settings, such as other folders
                kept_server.stop_running(server.base_directory)
            install_pack(PACK, server.base_directory / "custom_nodes")
            self._started.append(server)
            server.start()
            kept_server.remember(server, kept=self._keep, fingerprint=fingerprint)
            server.wait_until_ready()
            self.addresses.append(server.address)
            self._ready_s = time.monotonic()
            say(f"ComfyUI {number} answers at http://{server.address}.")

    def check(self, registered: Collection[str]) -> None:
        """Raise InstanceError when no server of ours is left, or none takes jobs although it had the time to begin.

        One that has ended since it could run nothing any more is started again, a few times.
        registered: the names of the instances that the queue knows now.
        """
        self._restart_the_unhealthy()
        logs = " and ".join(str(server.log_file) for server in self._servers)
        if self._started and not any(server.is_alive() for server in self._started):
            raise InstanceError(f"Every ComfyUI has ended; the logs are {logs}. The jobs stay in the queue.")
        if set(registered) & {server.environment[NAME] for server in self._servers}:
            self._registered_s = time.monotonic()
        elif time.monotonic() - max(self._registered_s, self._ready_s) > REGISTER_S:
            reasons = [reason for server in self._servers if (reason := why_it_takes_no_jobs(server.log_file))]
            reason = reasons[0] if reasons else "their logs do not say why."
            raise InstanceError(f"No ComfyUI takes jobs from the queue: {reason} The logs are {logs}.")

    def _restart_the_unhealthy(self) -> None:
        for server in self._started:
            status = server.process.poll() if server.process else None
            if status not in RESTARTED or self._restarts >= RESTARTS_MAX or self._stopping:
                continue
            self._restarts += 1
            before = server.log_file.with_name(f"{server.log_file.stem}.before{self._restarts}.log")
            server.log_file.replace(before)
            log.warning("ComfyUI at %s could run nothing any more (see %s); starting it again.", server.address, before)
            server.stop()  # what is left of its group
            server.start()
            kept_server.remember(server, kept=self._keep, fingerprint=_fingerprint(server.environment))
            self._ready_s = time.monotonic() + START_S

    def stop(self, *, completed: bool) -> None:
        """End what was started here, unless it is to be kept. completed: false when a run broke off."""
        if self._keep and completed:
            return
        self._stopping = True
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave servers behind
        try:
            for server in self._started:
                server.stop()
                kept_server.forget(server.base_directory)
            if not self._given_url and self._redis.started_here:
                self._redis.stop()
        finally:
            signal.signal(signal.SIGINT, previous)

    def _environment(self, number: int) -> dict[str, str]:
        host = re.sub(r"[^A-Za-z0-9_.-]", "-", platform.node()).strip("-.") or "comfyui"
        return {
            "SONIC_QUEUE_URL": self.url,
            NAME: f"{host if self._given_url else 'comfyui'}-{number}",
            "SONIC_QUEUE_ROOTS": os.pathsep.join(str(root) for root in self._roots),
        }


def stop_fleet(directory: Path) -> list[RunningServer]:
    """Stop every server of this directory that was kept up, and then its queue; returns the servers."""
    stopped = []
    for base in sorted((directory / "instances").glob("*")):
        if server := kept_server.stop_running(base):
            stopped.append(server)
    stop_running(queue_directory(directory))
    return stopped


def why_it_takes_no_jobs(log_file: Path) -> str:
    """The last sentence in a server's log about its bridge, or ''."""
    try:
        found = LOGGED.findall(log_file.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return found[-1].strip() if found else ""


def queue_directory(directory: Path) -> Path:
    return directory / "queue"


def instance_directories(directory: Path, count: int) -> list[Path]:
    return [directory / "instances" / str(number) for number in range(1, count + 1)]


def _fingerprint(environment: Mapping[str, str]) -> str:
    """Tells whether a kept server was started with the same settings, without keeping a password."""
    return hashlib.sha256(json.dumps(dict(environment), sort_keys=True).encode()).hexdigest()
