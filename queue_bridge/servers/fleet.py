"""One ComfyUI server for each card of this machine: started, watched, started again, and as many as there is work for.

The queue is only read here. A server is told to end by SIGTERM, upon which its bridge takes no new job and lets the
one at hand end; its grace is ``drain_grace_s``, and a second SIGTERM cuts that short. So a fleet that dies leaves no
wish behind in the queue, and its servers end with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Settings
from ..database.redis_connection import safe_url
from ..errors import BridgeError, FleetError, InstanceError, QueueUnavailable
from ..queue.queue_view import QueueView
from ..tiers import lanes_of
from .devices import Device
from .fleet_folders import lay_out
from .fleet_place import MORE_S, Action, Patience, Phase, Place, Seen
from .fleet_scale import Backlog, Limits, Past, Seat, decide
from .fleet_state import tell
from .instance import Instance
from .local_fleet import why_it_takes_no_jobs
from .log_files import turn, turn_if_large

log = logging.getLogger("sonic.fleet")

PACK = Path(__file__).resolve().parent.parent.parent
TICK_S = 0.1
LOOK_S = 0.5  # at the queue
AGES_S = 5.0  # how long the oldest jobs have waited is asked less often
LOGS_S = 10.0
CORES_A_START = 4  # a ComfyUI that starts keeps some cores busy; on fewer they start one after the other
MEBIBYTE = 2**20
LOAD = ("gpu_used", "gpu_memory_used")  # of what a server tells of its card


@dataclass(frozen=True)
class Plan:
    """comfyui: the folder with main.py. folder: everything of the fleet lies below it. models: shared by all.

    low, high: servers at least and at most. port: of the first device, the others follow; 0 takes free ones.
    arguments: further ones of ComfyUI.
    """

    comfyui: Path
    folder: Path
    devices: tuple[Device, ...]
    low: int
    high: int
    port: int = 0
    models: Path = Path()
    arguments: tuple[str, ...] = ()


class Server:
    """One device's place, and the process that is there or not."""

    def __init__(self, plan: Plan, settings: Settings, number: int) -> None:
        self.device = plan.devices[number]
        self.place = Place(f"{_host(settings)}-{self.device.label}", _patience(settings))
        self.base = plan.folder / "instances" / self.device.label
        self.log_file = plan.folder / "logs" / f"{self.device.label}.log"
        self.lanes: frozenset[str] | None = None
        self.draining = False
        self.load: dict[str, float] = {}
        self.instance: Instance | None = None
        self._plan = plan
        self._settings = settings
        self._port = plan.port + number if plan.port else 0
        self._on_processor = sum(not one.uuid for one in plan.devices)

    def look(self, registered: Mapping[str, Mapping[str, Any]] | None, now_s: float, may_start: bool) -> None:
        """See what has become of it, and do what follows. registered: the queue's instances, None when it is away."""
        before = self.place.phase
        action = self.place.look(self._seen(registered), now_s, may_start)
        try:
            self._do(action)
        except (BridgeError, OSError) as error:
            self.place.start_failed(str(error), now_s)
        if self.place.phase is not before:
            self._say(before)

    def seat(self) -> Seat:
        place = self.place
        serving = place.phase is Phase.SERVING
        return Seat(
            place.name, place.wanted, place.usable, serving, place.idle_since_s, self.lanes, serving and self.draining
        )

    @property
    def takes_jobs(self) -> bool:
        """False also for one that serves, but that an operator has drained, or that can run nothing any more."""
        return self.place.phase is Phase.SERVING and not self.draining

    def told(self, since_1970_s: float) -> dict[str, Any]:
        """What is told of it; since_1970_s turns our clock's times into everybody's."""
        place = self.place
        return {
            "name": place.name,
            "device": self.device.name,
            "uuid": self.device.uuid,
            "phase": str(place.phase),
            "takes_jobs": self.takes_jobs,
            "wanted": place.wanted,
            "since_s": round(place.since_s + since_1970_s, 1) if place.since_s else None,
            "running": place.running,
            "starts": place.starts,
            "failures": place.failures,
            "last_end": place.last_end,
            "next_start_s": round(place.next_start_s + since_1970_s, 1) if place.phase is Phase.WAITING else None,
            "process": self.instance.process.pid if self.instance and self.instance.process else None,
            "address": self.instance.address if self.instance else "",
            "log": str(self.log_file),
            **self.load,
        }

    def _seen(self, registered: Mapping[str, Mapping[str, Any]] | None) -> Seen:
        process = self.instance.process if self.instance else None
        status = process.poll() if process else None
        entry = (registered or {}).get(self.place.name)
        # Its predecessor may be there for a moment. On Windows the interpreter of a venv is a child of what we started.
        ours = process is not None and status is None and (os.name == "nt" or _process_of(entry) == process.pid)
        self.load = {name: entry[name] for name in LOAD if name in entry} if entry and ours else {}
        if entry is None or not ours:
            in_queue = None if registered is None else False
            return Seen(alive=process is not None and status is None, status=status, in_queue=in_queue)
        self.lanes = frozenset(lanes_of(entry.get("tiers", ()), entry.get("engines", ())))
        self.draining = bool(entry.get("draining")) or bool(entry.get("unhealthy"))
        return Seen(alive=True, in_queue=True, running=str(entry.get("running", "")))

    def _do(self, action: Action) -> None:
        if action is Action.START:
            self._start()
        elif self.instance is None:
            return
        elif action in (Action.END, Action.HURRY):
            self.instance.ask_to_leave()
        elif action is Action.KILL:
            self.instance.kill()

    def _start(self) -> None:
        if self.instance and self.instance.is_alive():
            process = self.instance.process
            raise InstanceError(f"Process {process.pid if process else '?'}, the one before, hangs and does not end.")
        lay_out(self.base, self._plan.comfyui, self._plan.models, PACK)
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        turn(self.log_file, self._settings.fleet_logs)
        self.instance = Instance(
            self._plan.comfyui,
            self.base,
            port=self._port,
            arguments=(*self.device.arguments, *self._plan.arguments),
            log_file=self.log_file,
            environment=self._environment(),
        )
        self.instance.start()

    def _environment(self) -> dict[str, str]:
        return {
            **self.device.environment(self._on_processor),
            "SONIC_QUEUE_URL": self._settings.url,
            "SONIC_QUEUE_INSTANCE": self.place.name,
            "SONIC_QUEUE_GRACE_S": f"{max(self._settings.grace_s, self._settings.drain_grace_s):g}",
        }

    def _say(self, before: Phase) -> None:
        """One line for each change."""
        place = self.place
        if place.phase is Phase.STARTING and self.instance:
            log.info("%s starts at %s on %s", place.name, self.instance.address, self.device.name)
        elif place.phase is Phase.SERVING:
            log.info("%s takes jobs", place.name)
        elif place.phase is Phase.DRAINING:
            log.info("%s drains%s", place.name, f" ({place.running} is running)" if place.running else "")
        elif place.phase is Phase.OFF and before is Phase.DRAINING:
            log.info("%s has ended", place.name)
        elif place.phase is Phase.WAITING:
            if not place.last_end.startswith("It ended by signal"):
                place.explain(self._words())
            wait_s = place.next_start_s - place.since_s
            log.warning("%s: %s It starts again in %.0f s.", place.name, place.trouble or place.last_end, wait_s)

    def _words(self) -> str:
        said = why_it_takes_no_jobs(self.log_file)
        if not said and self.instance and self.instance.process and self.instance.process.returncode is not None:
            said = f"Its last words: {self.instance.last_words()}"
        return f"{said} Its log is {self.log_file}.".strip()


class Fleet:
    """Runs until it is told to ``leave``. view: reads the queue."""

    def __init__(self, plan: Plan, settings: Settings, view: QueueView) -> None:
        self.servers = [Server(plan, settings, number) for number in range(len(plan.devices))]
        self._plan = plan
        self._settings = settings
        self._view = view
        self._limits = Limits(
            plan.low,
            plan.high,
            settings.fleet_up_jobs,
            settings.fleet_up_age_s,
            settings.fleet_down_idle_s,
            settings.fleet_cooldown_s,
        )
        self._past = Past()
        self._registered: dict[str, dict[str, Any]] | None = None
        self._backlog = Backlog({}, {})
        self._ages_s = -AGES_S
        self._away = ""
        self._last_change = ""
        self._leave_s: float | None = None
        self._restarts_asked = self._restarts_done = 0
        self._restart_trouble = ""
        self._told: dict[str, Any] = {}
        self._since_1970_s = time.time() - time.monotonic()
        self._logs_s = time.monotonic()

    def leave(self) -> None:
        """End every server and then ``run``: jobs at hand have ``grace_s``, or no time at all when asked twice."""
        again = self._leave_s is not None
        self._leave_s = time.monotonic() + (0.0 if again else self._settings.grace_s)
        log.info("All servers end%s", " at once; their jobs go back" if again else "")

    def restart(self) -> None:
        """Start every server anew, one after the other, each when its job has ended."""
        self._restarts_asked += 1

    async def run(self) -> None:
        """Until it was told to leave and every server has ended."""
        beside = [asyncio.create_task(self._watch_queue()), asyncio.create_task(self._restart_when_asked())]
        try:
            while not self._gone():
                self._tick(time.monotonic())
                await asyncio.sleep(TICK_S)
        finally:
            for task in beside:
                task.cancel()
            for server in self.servers:
                # One that ended long ago may have left its number to another program.
                if server.instance and server.instance.is_alive():
                    server.instance.kill()
            await asyncio.gather(*beside, return_exceptions=True)

    def told(self) -> dict[str, Any]:
        """What ``fleet status`` shows."""
        troubles = [server.place.trouble for server in self.servers]
        return {
            "process": os.getpid(),
            "queue": self._settings.queue,
            "at": safe_url(self._settings.url),
            "min": self._plan.low,
            "max": self._plan.high,
            "wanted": sum(server.place.wanted for server in self.servers),
            "serving": sum(server.takes_jobs for server in self.servers),
            "waiting": dict(self._backlog.jobs),
            "last_change": self._last_change,
            "leaving": self._leave_s is not None,
            "restarts_asked": self._restarts_asked,
            "restarts_done": self._restarts_done,
            "restart_trouble": self._restart_trouble,
            "says": [one for one in (self._away, self._restart_trouble, *troubles) if one],
            "instances": [server.told(self._since_1970_s) for server in self.servers],
        }

    def _gone(self) -> bool:
        if self._leave_s is None:
            return False
        if all(server.place.phase is Phase.OFF for server in self.servers):
            return True
        return time.monotonic() > self._leave_s + 2 * MORE_S  # one hangs where not even SIGKILL reaches it

    def _tick(self, now_s: float) -> None:
        if self._leave_s is None:
            self._scale(now_s)
        else:
            for server in self.servers:
                server.place.wanted = False
                server.place.hurry(self._leave_s - now_s, now_s)
        slots = max(1, (os.cpu_count() or 1) // CORES_A_START)
        for server in self.servers:
            starting = sum(one.place.phase is Phase.STARTING for one in self.servers)
            server.look(self._registered, now_s, starting < slots)
        if now_s - self._logs_s > LOGS_S:
            self._logs_s = now_s
            self._cut_logs()
        self._tell()

    def _scale(self, now_s: float) -> None:
        decision, self._past = decide(
            self._limits, [server.seat() for server in self.servers], self._backlog, self._past, now_s
        )
        for server in self.servers:
            if server.place.name in decision.start:
                server.place.wanted = True
            elif server.place.name in decision.end:
                server.place.wanted = False
        if decision.why:
            changed = ", ".join(decision.start or decision.end)
            self._last_change = f"{changed} {'up' if decision.start else 'down'}: {decision.why}"
            log.info("%s", self._last_change)

    def _cut_logs(self) -> None:
        limit = round(self._settings.fleet_log_mib * MEBIBYTE)
        for server in self.servers:
            try:
                turn_if_large(server.log_file, limit, self._settings.fleet_logs)
            except OSError as error:
                log.warning("The log '%s' cannot be cut: %s.", server.log_file, error.strerror or error)

    def _tell(self) -> None:
        state = self.told()
        if state == self._told:
            return
        try:
            tell(self._plan.folder, state)
        except OSError as error:  # a full disk ends no server
            log.debug("the state cannot be written: %s", error)
        else:
            self._told = state

    async def _watch_queue(self) -> None:
        while True:
            try:
                found = {one["name"]: one for one in await self._view.instances()}
                self._backlog = await self._look_at_backlog()
                self._registered = found
                if self._away:
                    log.info("The queue answers again.")
                self._away = ""
            except QueueUnavailable as error:
                if not self._away:
                    log.warning("%s", error)
                # Who is missing now may be there: nothing follows from it, and nothing is added or taken away.
                self._registered, self._away, self._backlog = None, str(error), Backlog({}, {})
            except Exception:
                log.exception("An error that was not foreseen; the queue is looked at again.")
                self._registered = None
            await asyncio.sleep(LOOK_S)

    async def _look_at_backlog(self) -> Backlog:
        jobs: dict[str, int] = {}
        for lanes in (await self._view.counts()).waiting.values():
            for lane, count in lanes.items():
                if count:
                    jobs[lane] = jobs.get(lane, 0) + count
        if not jobs:
            return Backlog({}, {})
        now_s = time.monotonic()
        if now_s - self._ages_s < AGES_S:
            return Backlog(jobs, self._backlog.oldest_s)
        self._ages_s = now_s
        oldest: dict[str, float] = {}
        for (_, lane), submitted_s in (await self._view.oldest_s()).items():
            oldest[lane] = max(oldest.get(lane, 0.0), time.time() - submitted_s)
        return Backlog(jobs, oldest)

    async def _restart_when_asked(self) -> None:
        while True:
            if self._restarts_done < self._restarts_asked:
                asked = self._restarts_asked  # one more that is asked for meanwhile is one more round
                log.info("Every server starts anew, one after the other")
                self._restart_trouble = ""
                try:
                    await self._restart_all()
                    log.info("Every server has been started anew")
                except FleetError as error:
                    self._restart_trouble = str(error)
                    log.warning("%s", error)
                self._restarts_done = asked
            await asyncio.sleep(TICK_S)

    async def _restart_all(self) -> None:
        for place in [server.place for server in self.servers]:
            starts = place.starts
            place.refresh()
            if not place.refreshing:
                continue  # it does not run; its next start is a new one anyway
            while place.wanted and not (place.phase is Phase.SERVING and place.starts > starts):
                if place.phase is Phase.WAITING and place.starts > starts:
                    raise FleetError(
                        f"{place.name} did not come back, so the others were not started anew. {place.last_end}"
                    )
                await asyncio.sleep(TICK_S)


def _process_of(entry: Mapping[str, Any] | None) -> int:
    text = str((entry or {}).get("process", ""))
    return int(text) if text.isdecimal() else 0


def _host(settings: Settings) -> str:
    """What the instances' names begin with."""
    return settings.instance or re.sub(r"[^A-Za-z0-9_.-]", "-", platform.node()).strip("-.") or "comfyui"


def _patience(settings: Settings) -> Patience:
    return Patience(
        backoff_s=settings.fleet_backoff_s,
        backoff_max_s=settings.fleet_backoff_max_s,
        fault_s=settings.fleet_fault_s,
        stable_s=settings.fleet_stable_s,
        lost_s=settings.fleet_lost_s,
        start_s=settings.fleet_start_s,
        drain_s=max(settings.grace_s, settings.drain_grace_s) + MORE_S,
    )
