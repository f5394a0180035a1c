"""One place for a ComfyUI server and what becomes of it: started, in the queue, ended, started again, or not yet.

Only rules: whoever calls says what is seen of the process and of the queue, and does what is answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ..health import UNHEALTHY
from .launch_comfyui import WORKER_DIED

CRASH_LOOP = 5  # failures in a row without a stable time between them
FEW = 2  # failures that may pass
SHORT_S = 10.0  # a wait during which no other place needs to do its work
MORE_S = 10.0  # after a grace that is over: the prompt's end, and telling the queue


class Phase(StrEnum):
    OFF = "off"
    STARTING = "starting"  # until it is in the queue
    SERVING = "serving"
    DRAINING = "draining"  # told to end: no new job, the one at hand to its end
    WAITING = "waiting"  # after a failure, for the next start


class Action(StrEnum):
    """What the caller is to do. END: SIGTERM to the server. HURRY: the same once more. KILL: all of it, now."""

    NOTHING = ""
    START = "start"
    END = "end"
    HURRY = "hurry"
    KILL = "kill"


@dataclass(frozen=True)
class Patience:
    """Seconds; docs/configuration.md explains the settings ``fleet_...`` and ``drain_grace_s`` that these are."""

    backoff_s: float = 1.0
    backoff_max_s: float = 300.0
    fault_s: float = 60.0
    stable_s: float = 300.0
    lost_s: float = 60.0
    start_s: float = 300.0
    drain_s: float = 600.0


@dataclass(frozen=True)
class Seen:
    """alive: the process runs; else status is how it ended, and words what it said last.

    in_queue: this very process is registered there; None when the queue cannot be asked. running: its job, or ''.
    """

    alive: bool
    status: int | None = None
    words: str = ""
    in_queue: bool | None = None
    running: str = ""


class Place:
    """name: of the instance in the queue. ``look`` is called again and again, and its answer is to be done at once."""

    def __init__(self, name: str, patience: Patience) -> None:
        self.name = name
        self.phase = Phase.OFF
        self.wanted = False
        self.since_s = 0.0  # of the phase
        self.idle_since_s: float | None = None
        self.running = ""
        self.failures = 0  # in a row
        self.starts = 0
        self.next_start_s = 0.0
        self.last_end = ""  # the last failure, as a sentence
        self._patience = patience
        self._told_s = 0.0  # since when it is in the queue, or the queue was not to be asked
        self._drain_until_s = 0.0
        self._hurried = False
        self._refresh = False

    @property
    def usable(self) -> bool:
        """It runs or will in a moment, as far as can be told; or it is off and could be started."""
        if self.phase is Phase.DRAINING:
            return self._refresh
        if self.phase is Phase.WAITING:
            return self.failures <= FEW and self.next_start_s - self.since_s <= SHORT_S
        return self.phase is not Phase.STARTING or self.failures <= FEW

    @property
    def trouble(self) -> str:
        """A sentence when it fails again and again, else ''."""
        if self.failures < CRASH_LOOP:
            return ""
        return f"{self.name} fails again and again, {self.failures} times in a row. {self.last_end}"

    def refresh(self) -> None:
        """Let the job at hand end and start a new process. Heeded when it runs."""
        self._refresh = self.phase in (Phase.STARTING, Phase.SERVING)

    @property
    def refreshing(self) -> bool:
        return self._refresh

    def hurry(self, grace_s: float, now_s: float) -> None:
        """When it is told to end: the job at hand has no longer than this from now on."""
        if not self._hurried:
            self._drain_until_s = min(self._drain_until_s, now_s + grace_s)

    def start_failed(self, sentence: str, now_s: float) -> None:
        """The process could not even be started."""
        self._fail(sentence, now_s, 0.0)

    def explain(self, words: str) -> None:
        """Words of the server itself belong to the failure that was just seen."""
        self.last_end = f"{self.last_end} {words}".strip()

    def look(self, seen: Seen, now_s: float, may_start: bool = True) -> Action:
        """What is to be done. may_start: it is its turn; on a machine they start one after the other."""
        if self.phase is Phase.OFF or self.phase is Phase.WAITING:
            return self._look_at_nothing(now_s, may_start)
        self.running = seen.running
        if self.phase is Phase.DRAINING:
            return self._look_at_leaving(seen, now_s)
        if not seen.alive:
            fault = seen.status == UNHEALTHY
            why = _how_it_ended(seen.status)
            self._fail(f"It ended {why}.", now_s, self._patience.fault_s if fault else 0.0)
            return Action.KILL  # what is left of it
        if not self.wanted or self._refresh:
            return self._leave(now_s)
        return self._look_at_living(seen, now_s)

    def _look_at_nothing(self, now_s: float, may_start: bool) -> Action:
        if not self.wanted:
            self._enter(Phase.OFF, now_s)
            return Action.NOTHING
        if not may_start or (self.phase is Phase.WAITING and now_s < self.next_start_s):
            return Action.NOTHING
        self._begin(now_s)
        return Action.START

    def _look_at_living(self, seen: Seen, now_s: float) -> Action:
        if seen.in_queue is not False:
            if seen.in_queue and self.phase is Phase.STARTING:
                self._enter(Phase.SERVING, now_s)
            self._told_s = now_s  # while the queue cannot be asked, nothing is concluded, and nobody is late
        if self.phase is Phase.SERVING:
            busy = bool(seen.running) or not seen.in_queue
            self.idle_since_s = None if busy else self.idle_since_s or now_s
            if seen.in_queue and now_s - self.since_s >= self._patience.stable_s:
                self.failures = 0
        limit_s = self._patience.start_s if self.phase is Phase.STARTING else self._patience.lost_s
        if now_s - self._told_s <= limit_s:
            return Action.NOTHING
        how = "did not join the queue" if self.phase is Phase.STARTING else "was alive but out of the queue"
        self._fail(f"It {how} for {limit_s:g} s, and was ended.", now_s, 0.0)
        return Action.KILL

    def _look_at_leaving(self, seen: Seen, now_s: float) -> Action:
        if not seen.alive:
            again, self._refresh = self._refresh and self.wanted, False
            self._enter(Phase.OFF, now_s)
            if again:
                self.failures = 0
            return Action.KILL  # what is left of it; if it is wanted, the next look starts it
        if now_s < self._drain_until_s:
            return Action.NOTHING
        if not self._hurried:
            self._hurried = True
            self._drain_until_s = now_s + MORE_S
            return Action.HURRY
        return Action.KILL

    def _leave(self, now_s: float) -> Action:
        self._enter(Phase.DRAINING, now_s)
        self._drain_until_s, self._hurried = now_s + self._patience.drain_s, False
        return Action.END

    def _begin(self, now_s: float) -> None:
        self._enter(Phase.STARTING, now_s)
        self.starts += 1
        self._told_s = now_s

    def _fail(self, sentence: str, now_s: float, at_least_s: float) -> None:
        self.failures += 1
        self._refresh = False
        self.last_end = sentence
        longer = min(self.failures - 1, 30)
        wait_s = min(
            max(self._patience.backoff_s, at_least_s) * 2**longer, max(self._patience.backoff_max_s, at_least_s)
        )
        self.next_start_s = now_s + wait_s
        self._enter(Phase.WAITING, now_s)

    def _enter(self, phase: Phase, now_s: float) -> None:
        if phase is not self.phase:
            self.phase, self.since_s, self.idle_since_s = phase, now_s, None
        if phase in (Phase.OFF, Phase.WAITING):
            self.running = ""


def _how_it_ended(status: int | None) -> str:
    if status == UNHEALTHY:
        return f"with exit status {status}, since its card has failed or a prompt hung"
    if status == WORKER_DIED:
        return f"with exit status {status}, since the thread that runs prompts has ended"
    if status is not None and status < 0:
        return f"by signal {-status}"
    return f"with exit status {status}"
