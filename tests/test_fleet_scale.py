"""How many servers a host runs: the decision alone, with a clock of the test's own."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from comfyui_sonic.queue_bridge.servers.fleet_scale import Backlog, Decision, Limits, Past, Seat, decide
from hypothesis import example, given, settings
from hypothesis import strategies as st

LANES = frozenset({"512", "768", "1024"})
NOBODY = Backlog({}, {})
LIMITS = Limits(low=1, high=4, up_jobs=4, up_age_s=60.0, down_idle_s=300.0, cooldown_s=60.0)


def seats(serving: int, off: int, *, idle_since_s: float | None = None) -> list[Seat]:
    running = [Seat(f"gpu{n}", True, True, True, idle_since_s, LANES) for n in range(serving)]
    return running + [Seat(f"gpu{n}", lanes=LANES) for n in range(serving, serving + off)]


def decision(
    found: list[Seat], backlog: Backlog = NOBODY, *, now_s: float = 1000.0, limits: Limits = LIMITS
) -> Decision:
    return decide(limits, found, backlog, Past(), now_s)[0]


def jobs(count: int, age_s: float = 0.0, lane: str = "512") -> Backlog:
    return Backlog({lane: count}, {lane: age_s})


def test_at_the_start_the_least_number_is_started() -> None:
    assert decision(seats(0, 4), limits=Limits(2, 4)).start == ("gpu0", "gpu1")


def test_without_servers_at_all_one_job_starts_one() -> None:
    limits = Limits(0, 4)
    assert decision(seats(0, 4), limits=limits) == Decision()
    assert decision(seats(0, 4), jobs(1), limits=limits).start == ("gpu0",)


def test_a_long_backlog_adds_at_most_as_many_as_there_are() -> None:
    assert decision(seats(1, 3), jobs(4)) == Decision()
    assert decision(seats(1, 3), jobs(5)) == Decision(start=("gpu1",), why="5 jobs wait for 1 server")
    assert decision(seats(2, 2), jobs(100)).start == ("gpu2", "gpu3")


def test_a_job_that_waits_for_long_adds_one() -> None:
    assert decision(seats(1, 3), jobs(1, 59.0)) == Decision()
    assert decision(seats(1, 3), jobs(1, 60.0, "768")).why == "a job of resolution 768 has waited for 60 s"


def test_one_that_still_starts_is_waited_for() -> None:
    starting = [*seats(1, 0), Seat("gpu1", wanted=True), Seat("gpu2")]
    assert decision(starting, jobs(100, 1000.0)) == Decision()


def test_jobs_that_no_server_of_ours_can_run_add_none() -> None:
    assert decision(seats(1, 3), jobs(100, 9999.0, "1024-sonic")) == Decision()
    unknown = [*seats(1, 0), Seat("gpu1")]
    assert decision(unknown, jobs(100, 9999.0, "1024-sonic")).start == ("gpu1",), "it may be able to"


def test_a_card_that_serves_what_waits_goes_first() -> None:
    small, large = Seat("gpu1", lanes=frozenset({"512"})), Seat("gpu2", lanes=LANES)
    assert decision([*seats(1, 0), small, large], jobs(9, 99.0, "1024")).start == ("gpu2",)


def test_one_that_waits_after_a_failure_is_stood_in_for_where_there_is_a_free_place() -> None:
    broken = Seat("gpu0", wanted=True, usable=False)
    assert decision([broken, Seat("gpu1")]).start == ("gpu1",)
    assert decision([broken, Seat("gpu1", wanted=True, serving=True)]) == Decision()


def test_a_server_that_an_operator_drains_is_none_for_the_backlog() -> None:
    drained = Seat("gpu0", True, True, True, None, LANES, draining=True)
    assert decision([drained, Seat("gpu1")], jobs(1)).start == ("gpu1",)


def test_only_idle_servers_are_ended_one_at_a_time_and_the_first_places_stay() -> None:
    found = seats(3, 0, idle_since_s=700.0)
    found[2] = Seat("gpu2", True, True, True, None, LANES)  # has a job
    assert decision(found, now_s=999.0) == Decision()
    assert decision(found, now_s=1000.0) == Decision(end=("gpu1",), why="it has had nothing to do for 300 s")
    assert decision(seats(1, 3, idle_since_s=0.0)) == Decision()


def test_nothing_is_ended_while_a_job_waits() -> None:
    assert decision(seats(3, 0, idle_since_s=0.0), jobs(1)) == Decision()


def test_after_every_change_there_is_a_rest_whatever_comes_but_for_a_job_that_no_server_is_there_for() -> None:
    ended, past = decide(LIMITS, seats(2, 2, idle_since_s=0.0), NOBODY, Past(), 1000.0)
    assert ended.end == ("gpu1",)
    found = seats(1, 3)
    assert decide(LIMITS, found, jobs(99, 999.0), past, 1059.0) == (Decision(), past)
    assert decide(LIMITS, found, jobs(99, 999.0), past, 1060.0)[0].start == ("gpu1",)
    assert decide(Limits(0, 4), seats(0, 4), jobs(1), past, 1001.0)[0].start == ("gpu0",)


@dataclass
class Machine:
    """A host in a simulation: servers take a while to start and then jobs one after the other."""

    limits: Limits
    work_s: float
    start_s: float = 20.0
    queue: deque[float] = field(default_factory=deque)  # when they came
    ready: dict[str, float] = field(default_factory=dict)
    busy: dict[str, float] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    past: Past = field(default_factory=Past)
    changes: list[tuple[float, int]] = field(default_factory=list)

    def step(self, now_s: float) -> None:
        for name in self.ready:
            if now_s < max(self.ready[name], self.busy.get(name, 0.0)):
                self.idle.pop(name, None)
            elif self.queue:
                self.queue.popleft()
                self.busy[name] = now_s + self.work_s
                self.idle.pop(name, None)
            else:
                self.idle.setdefault(name, now_s)
        oldest_s = {"512": now_s - self.queue[0]} if self.queue else {}
        places = [self.seat(f"gpu{n}", now_s) for n in range(self.limits.high)]
        chosen, self.past = decide(self.limits, places, Backlog({"512": len(self.queue)}, oldest_s), self.past, now_s)
        for name in chosen.start:
            assert name not in self.ready
            self.ready[name] = now_s + self.start_s
        for name in chosen.end:
            assert now_s - self.idle[name] >= self.limits.down_idle_s, "it had a job until now"
            del self.ready[name], self.idle[name]
        if chosen.start or chosen.end:
            assert chosen.why
            self.changes.append((now_s, len(chosen.start) - len(chosen.end)))
        assert self.limits.low <= len(self.ready) <= self.limits.high

    def seat(self, name: str, now_s: float) -> Seat:
        serving = name in self.ready and now_s >= self.ready[name]
        return Seat(name, name in self.ready, True, serving, self.idle.get(name), LANES if serving else None)


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    high = draw(st.integers(1, 8))
    return Limits(
        low=draw(st.integers(0, high)),
        high=high,
        up_jobs=draw(st.integers(1, 20)),
        up_age_s=draw(st.floats(1, 600)),
        down_idle_s=draw(st.floats(0, 600)),
        cooldown_s=draw(st.floats(0, 300)),
    )


bursts = st.lists(st.tuples(st.integers(0, 3600), st.integers(1, 200)), max_size=6)


@settings(max_examples=30, deadline=None)
@example(Limits(1, 7, up_jobs=1, up_age_s=1.0, down_idle_s=0.0, cooldown_s=111.0), [(0, 1), (0, 24), (1090, 2)], 41.0)
@given(limits(), bursts, st.floats(1, 300))
def test_whatever_comes_there_are_never_too_few_or_too_many_and_changes_rest(
    given_limits: Limits, came: list[tuple[int, int]], work_s: float
) -> None:
    machine = Machine(given_limits, work_s)
    for now_s in range(0, 7200, 10):
        machine.queue.extend(float(now_s) for at_s, count in came if at_s // 10 * 10 == now_s for _ in range(count))
        machine.step(float(now_s))
    for (before_s, before), (after_s, after) in zip(machine.changes, machine.changes[1:], strict=False):
        emergency = given_limits.low == 0 and after > 0  # the first server for a job that waits does not rest
        assert after_s - before_s >= given_limits.cooldown_s or emergency, (before, after)
        if before > 0 > after:
            assert after_s - before_s >= machine.start_s, "one that starts is waited for"


@settings(max_examples=15, deadline=None)
@given(limits(), st.floats(1, 60), st.integers(1, 8))
def test_under_a_steady_load_the_number_of_servers_comes_to_rest(
    given_limits: Limits, work_s: float, every: int
) -> None:
    """One job every so many seconds, for hours. An idle time that is shorter than the pauses would let it breathe."""
    steady = Limits(**{**given_limits.__dict__, "down_idle_s": 1200.0})
    machine = Machine(steady, work_s)
    for now_s in range(0, 20_000, 5):
        if now_s % (5 * every) == 0:
            machine.queue.append(float(now_s))
        machine.step(float(now_s))
    late = [change for at_s, change in machine.changes if at_s > 15_000]
    assert sum(map(abs, late)) <= 1, machine.changes


@settings(max_examples=15, deadline=None)
@given(limits(), st.integers(1, 400))
def test_after_a_burst_all_is_done_and_the_least_number_is_left(given_limits: Limits, count: int) -> None:
    machine = Machine(given_limits, work_s=10.0)
    machine.queue.extend([0.0] * count)
    for now_s in range(0, 20_000, 5):
        machine.step(float(now_s))
    assert not machine.queue
    assert len(machine.ready) == given_limits.low
