"""What becomes of one place for a server: the rules alone, with a clock of the test's own."""

from __future__ import annotations

import pytest
from comfyui_sonic.queue_bridge.servers.fleet_place import CRASH_LOOP, MORE_S, Action, Patience, Phase, Place, Seen
from hypothesis import given
from hypothesis import strategies as st

PATIENCE = Patience(
    backoff_s=1.0, backoff_max_s=60.0, fault_s=30.0, stable_s=100.0, lost_s=20.0, start_s=50.0, drain_s=600.0
)
IDLE = Seen(alive=True, in_queue=True)
BUSY = Seen(alive=True, in_queue=True, running="tsk_1")
UP = Seen(alive=True, in_queue=False)
GONE = Seen(alive=False)


def ended(status: int) -> Seen:
    return Seen(alive=False, status=status)


def serving(now_s: float = 0.0) -> Place:
    place = Place("host-gpu0", PATIENCE)
    place.wanted = True
    assert place.look(GONE, now_s) is Action.START
    assert place.look(IDLE, now_s) is Action.NOTHING
    assert place.phase is Phase.SERVING
    return place


def crash(place: Place, now_s: float, status: int = 1) -> float:
    """It ends at this time; returns when it may start again."""
    assert place.look(ended(status), now_s) is Action.KILL
    assert place.phase is Phase.WAITING
    return place.next_start_s


def test_what_is_not_wanted_stays_off() -> None:
    place = Place("host-gpu0", PATIENCE)
    assert (place.look(GONE, 0.0), place.phase) == (Action.NOTHING, Phase.OFF)


def test_it_waits_for_its_turn_to_start() -> None:
    place = Place("host-gpu0", PATIENCE)
    place.wanted = True
    assert place.look(GONE, 0.0, may_start=False) is Action.NOTHING
    assert place.look(GONE, 1.0) is Action.START


def test_each_failure_in_a_row_doubles_the_wait_up_to_the_longest() -> None:
    place, now_s, waits = serving(), 10.0, []
    for _ in range(9):
        again_s = crash(place, now_s)
        waits.append(again_s - now_s)
        assert place.look(GONE, again_s - 0.01) is Action.NOTHING
        assert place.look(GONE, again_s) is Action.START
        now_s = again_s + 1.0
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_a_stable_time_makes_the_next_failure_the_first() -> None:
    place = serving()
    again_s = crash(place, 10.0)
    assert place.look(GONE, again_s) is Action.START
    place.look(IDLE, again_s + 1.0)
    place.look(IDLE, again_s + 102.0)
    assert crash(place, again_s + 103.0) - (again_s + 103.0) == 1.0


def test_a_broken_card_waits_longer() -> None:
    place = serving()
    assert crash(place, 10.0, 71) == 40.0
    assert place.last_end == "It ended with exit status 71, since its card has failed or a prompt hung."
    assert not place.usable, "so another place does its work"
    place.look(GONE, 40.0)
    assert crash(place, 41.0, 71) == 101.0


def test_one_that_fails_again_and_again_is_told_of_in_a_sentence_and_tried_on() -> None:
    place, now_s = serving(), 0.0
    for number in range(CRASH_LOOP):
        assert place.trouble == ""
        again_s = crash(place, now_s + 1.0)
        if number < CRASH_LOOP - 1:
            assert place.look(GONE, again_s) is Action.START
        now_s = again_s
    assert place.trouble == ("host-gpu0 fails again and again, 5 times in a row. It ended with exit status 1.")
    assert place.look(GONE, now_s) is Action.START
    assert not place.usable, "nobody counts on it yet"


def test_one_that_never_joins_is_ended() -> None:
    place = Place("host-gpu0", PATIENCE)
    place.wanted = True
    place.look(GONE, 0.0)
    assert place.look(UP, 50.0) is Action.NOTHING
    assert place.look(UP, 50.1) is Action.KILL
    assert place.last_end == "It did not join the queue for 50 s, and was ended."


def test_one_that_lives_out_of_the_queue_is_started_again() -> None:
    place = serving()
    assert place.look(UP, 20.0) is Action.NOTHING
    assert place.look(IDLE, 21.0) is Action.NOTHING
    assert place.look(UP, 41.0) is Action.NOTHING
    assert place.look(UP, 41.1) is Action.KILL
    assert place.look(GONE, 42.2) is Action.START


def test_while_the_queue_is_away_nothing_is_concluded() -> None:
    place = serving()
    for now_s in range(1, 1000):
        assert place.look(Seen(alive=True, in_queue=None), float(now_s)) is Action.NOTHING
    assert place.look(UP, 1000.0) is Action.NOTHING, "it has its time to come back"
    assert place.idle_since_s is None


def test_it_is_idle_since_it_has_no_job() -> None:
    place = serving()
    place.look(BUSY, 5.0)
    assert (place.idle_since_s, place.running) == (None, "tsk_1")
    place.look(IDLE, 6.0)
    place.look(IDLE, 9.0)
    assert place.idle_since_s == 6.0


def test_one_that_is_no_longer_wanted_ends_when_its_job_has() -> None:
    place = serving()
    place.wanted = False
    assert place.look(BUSY, 10.0) is Action.END
    assert place.look(BUSY, 609.0) is Action.NOTHING
    assert place.look(ended(0), 609.5) is Action.KILL
    assert (place.phase, place.failures) == (Phase.OFF, 0)


def test_a_job_that_does_not_end_in_time_is_given_back_and_then_all_is_killed() -> None:
    place = serving()
    place.wanted = False
    assert place.look(BUSY, 10.0) is Action.END
    assert place.look(BUSY, 610.0) is Action.HURRY
    assert place.look(BUSY, 610.0 + MORE_S) is Action.KILL
    assert place.look(BUSY, 610.1 + MORE_S) is Action.KILL, "until it is dead"


def test_when_all_ends_the_grace_is_shorter() -> None:
    place = serving()
    place.wanted = False
    place.look(BUSY, 10.0)
    place.hurry(30.0, 10.0)
    assert place.look(BUSY, 39.9) is Action.NOTHING
    assert place.look(BUSY, 40.0) is Action.HURRY
    place.hurry(0.0, 40.0)
    assert place.look(BUSY, 40.1) is Action.NOTHING, "it has the time to tell the queue"


def test_one_that_is_refreshed_drains_and_starts_at_once() -> None:
    place = serving()
    place.refresh()
    assert place.look(BUSY, 10.0) is Action.END
    assert place.usable
    assert place.look(BUSY, 11.0) is Action.NOTHING
    assert place.look(ended(0), 12.0) is Action.KILL
    assert place.look(GONE, 12.1) is Action.START
    place.look(IDLE, 13.0)
    assert (place.phase, place.starts, place.failures, place.refreshing) == (Phase.SERVING, 2, 0, False)


def test_one_that_does_not_run_is_not_refreshed() -> None:
    place = serving()
    crash(place, 1.0)
    place.refresh()
    assert not place.refreshing


def test_one_that_is_wanted_again_while_it_drains_starts_again() -> None:
    place = serving()
    place.wanted = False
    place.look(IDLE, 1.0)
    place.wanted = True
    assert place.look(ended(0), 2.0) is Action.KILL
    assert place.look(GONE, 2.1) is Action.START


def test_a_start_that_is_not_possible_is_a_failure() -> None:
    place = Place("host-gpu0", PATIENCE)
    place.wanted = True
    place.look(GONE, 0.0)
    place.start_failed("Port 8188 is in use by another program.", 0.0)
    assert (place.phase, place.next_start_s, place.last_end[:9]) == (Phase.WAITING, 1.0, "Port 8188")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (-9, "It ended by signal 9."),
        (70, "It ended with exit status 70, since the thread that runs prompts has ended."),
    ],
)
def test_how_it_ended_is_a_sentence(status: int, words: str) -> None:
    place = serving()
    crash(place, 1.0, status)
    assert place.last_end == words


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([IDLE, BUSY, UP, ended(1), ended(71), ended(0)]))))
def test_a_process_is_started_only_when_none_is_there(steps: list[tuple[bool, Seen]]) -> None:
    place, there, now_s = Place("host-gpu0", PATIENCE), False, 0.0
    for wanted, seen in steps:
        now_s += 7.0
        place.wanted = wanted
        action = place.look(seen if there else GONE, now_s)
        there = there and seen.alive and action is not Action.KILL
        if action is Action.START:
            assert not there
            assert wanted
            there = True
        if place.phase in (Phase.OFF, Phase.WAITING):
            assert not there
