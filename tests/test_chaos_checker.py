"""Every rule of the checker finds the fault that it is there for, planted in the history of a real run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from comfyui_sonic.bench.chaos import checker, report
from comfyui_sonic.bench.chaos.checker import RULES, check
from comfyui_sonic.bench.chaos.history import Delivery, Event, History, Order, Record, Video

RECORDED = (
    Path(__file__).parent / "data" / "chaos_history.json"
)  # python -m bench.chaos --history, fewer steps of progress
Plant = Callable[[History], History]
PLANTS: dict[str, list[Plant]] = {}


@pytest.fixture(scope="module")
def recorded() -> History:
    return History.from_json(RECORDED.read_text(encoding="utf-8"))


def breaks(rule: checker.Rule) -> Callable[[Plant], Plant]:
    """A change of a history that breaks this rule."""

    def remember(plant: Plant) -> Plant:
        PLANTS.setdefault(rule.__name__, []).append(plant)
        return plant

    return remember


# --- hands to plant with ---


def order_of(history: History, kind: str = "plain") -> Order:
    return next(order for order in history.orders if order.kind == kind)


def with_order(history: History, order: Order) -> History:
    return replace(history, orders=tuple(order if one.task_id == order.task_id else one for one in history.orders))


def with_record(history: History, job: str, record: Record | None) -> History:
    records = {name: one for name, one in history.records.items() if name != job}
    return replace(history, records=records | ({job: record} if record else {}))


def with_video(history: History, name: str, video: Video | None) -> History:
    videos = tuple(one for one in history.videos if one.name != name)
    return replace(history, videos=(*videos, video) if video else videos)


def video_of(history: History, order: Order) -> Video:
    return next(video for video in history.videos if video.name == order.output)


def events_of(history: History, job: str) -> list[Event]:
    return [event for event in history.events if event.job == job]


def with_events(history: History, job: str, change: Callable[[list[Event]], list[Event]]) -> History:
    """The events of one job as ``change`` makes them; those of the others stay."""
    others = [event for event in history.events if event.job != job]
    return replace(history, events=(*others, *change(events_of(history, job))))


def at(events: list[Event], cause: str) -> int:
    return next(place for place, event in enumerate(events) if event.cause == cause)


def crashed_job(history: History) -> str:
    return next(event.job for event in history.events if event.cause == "instance died")


def lost_at_first(history: History, *, told: Mapping[str, str], stages: Sequence[str] = (), times: int = 1) -> History:
    """A job as if its first starts had been lost, none of them counted. told: what else their claims say; stages: of
    which each of them reports."""
    job = order_of(history).task_id

    def later(events: list[Event]) -> list[Event]:
        submitted, *rest = events
        lost = list[Event]()
        for token in range(1, times + 1):
            claimed = {"instance": "gpu-1", "attempt": "1", "token": str(token), **told}
            lost.append(Event(job, "running", "claimed", submitted.at_ms, claimed))
            lost += [
                Event(job, "running", "progress", submitted.at_ms, {"percent": "0", "stage": stage}) for stage in stages
            ]
            lost.append(Event(job, "queued", "instance died", submitted.at_ms))
        moved = [
            replace(one, fields={**one.fields, "token": str(one.token + times)}) if "token" in one.fields else one
            for one in rest
        ]
        return [submitted, *lost, *moved]

    record = history.records[job]
    return with_events(with_record(history, job, replace(record, token=record.token + times)), job, later)


HANDED = {"handed": "1"}


# --- one broken promise each ---


@breaks(checker.every_accepted_job_has_ended)
def a_job_is_lost(history: History) -> History:
    return with_record(history, order_of(history).task_id, None)


@breaks(checker.every_accepted_job_has_ended)
def a_job_is_stuck(history: History) -> History:
    job = order_of(history).task_id
    return with_record(history, job, replace(history.records[job], state="running"))


@breaks(checker.every_job_ends_as_it_should)
def bad_material_is_called_a_crash(history: History) -> History:
    job = order_of(history, "bad material").task_id
    return with_events(
        history, job, lambda events: [*events[:-1], replace(events[-1], cause="instance died too often")]
    )


@breaks(checker.every_job_ends_as_it_should)
def a_poison_job_is_failed_although_no_fault_has_hit_its_starts(history: History) -> History:
    innocent = replace(order_of(history, "ends its server always"), outcomes=(("completed", "completed"),))
    return replace(with_order(history, innocent), faults=())


@breaks(checker.the_record_says_what_the_events_say)
def a_record_was_changed_without_an_event(history: History) -> History:
    job = order_of(history).task_id
    return with_record(history, job, replace(history.records[job], state="failed"))


@breaks(checker.every_change_is_an_allowed_one)
def a_job_fails_after_it_has_completed(history: History) -> History:
    job = order_of(history).task_id
    return with_events(
        history, job, lambda events: [*events, Event(job, "failed", "retries used up", events[-1].at_ms + 1)]
    )


@breaks(checker.every_change_is_an_allowed_one)
def a_job_reports_progress_after_its_end(history: History) -> History:
    job = order_of(history).task_id
    late = {"percent": "99"}
    return with_events(
        history, job, lambda events: [*events, Event(job, "running", "progress", events[-1].at_ms + 1, late)]
    )


@breaks(checker.every_change_is_an_allowed_one)
def a_running_job_is_claimed_by_another(history: History) -> History:
    job = order_of(history).task_id

    def twice(events: list[Event]) -> list[Event]:
        place = at(events, "claimed")
        return [*events[: place + 1], events[place], *events[place + 1 :]]

    return with_events(history, job, twice)


@breaks(checker.a_job_completes_once)
def a_job_completes_twice(history: History) -> History:
    job = order_of(history).task_id
    return with_events(history, job, lambda events: [*events, events[-1]])


@breaks(checker.fencing_tokens_rise)
def a_second_start_has_the_token_of_the_first(history: History) -> History:
    job = crashed_job(history)

    def same(events: list[Event]) -> list[Event]:
        return [
            replace(event, fields={**event.fields, "token": "1"}) if event.cause == "claimed" else event
            for event in events
        ]

    return with_events(history, job, same)


@breaks(checker.fencing_tokens_rise)
def a_record_holds_another_token_than_was_given(history: History) -> History:
    job = order_of(history).task_id
    return with_record(history, job, replace(history.records[job], token=7))


@breaks(checker.nobody_but_the_owner_chooses_a_result)
def a_start_that_lost_its_job_chooses_its_result(history: History) -> History:
    job = order_of(history, "ends its server once").task_id

    def stale(events: list[Event]) -> list[Event]:
        place = at(events, "staged")
        return [*events[:place], replace(events[place], fields={"token": "1"}), *events[place + 1 :]]

    return with_events(history, job, stale)


@breaks(checker.nobody_but_the_owner_chooses_a_result)
def a_result_is_chosen_for_a_job_that_nobody_runs(history: History) -> History:
    job = order_of(history, "ends its server once").task_id

    def early(events: list[Event]) -> list[Event]:
        place = at(events, "instance died")
        chosen = Event(job, "running", "staged", events[place].at_ms, {"token": "1"})
        return [*events[: place + 1], chosen, *events[place + 1 :]]

    return with_events(history, job, early)


@breaks(checker.the_committed_result_is_the_chosen_one)
def another_starts_result_is_committed_than_was_chosen(history: History) -> History:
    job = order_of(history, "ends its server once").task_id
    return with_record(history, job, replace(history.records[job], result_attempt=1))


@breaks(checker.the_committed_result_is_the_chosen_one)
def a_result_is_committed_that_was_never_chosen(history: History) -> History:
    job = order_of(history).task_id
    return with_events(history, job, lambda events: [event for event in events if event.cause != "staged"])


@breaks(checker.every_completed_job_has_its_video_whole)
def a_video_is_missing(history: History) -> History:
    return with_video(history, order_of(history).output, None)


@breaks(checker.every_completed_job_has_its_video_whole)
def a_video_is_half_written(history: History) -> History:
    order = order_of(history)
    return with_video(history, order.output, replace(video_of(history, order), frames=0))


@breaks(checker.every_completed_job_has_its_video_whole)
def a_video_is_the_one_of_another_job(history: History) -> History:
    order = order_of(history)
    return with_video(history, order.output, replace(video_of(history, order), marker="job-99999"))


@breaks(checker.every_completed_job_has_its_video_whole)
def a_video_was_replaced_by_a_later_start(history: History) -> History:
    order = order_of(history)
    return with_video(history, order.output, replace(video_of(history, order), sha256="0" * 64))


@breaks(checker.nothing_else_lies_beside_the_videos)
def a_start_leaves_its_unfinished_video(history: History) -> History:
    name = f".{order_of(history).task_id}.1.part"
    return with_video(history, name, Video(name, "0" * 64, "", 0))


@breaks(checker.nothing_else_lies_beside_the_videos)
def a_failed_job_has_a_video(history: History) -> History:
    order = order_of(history, "bad material")
    return with_video(history, order.output, Video(order.output, "0" * 64, order.task_id, order.frames))


@breaks(checker.counters_count_what_happened)
def a_failure_is_not_counted(history: History) -> History:
    job = order_of(history, "raises always").task_id
    return with_record(history, job, replace(history.records[job], failures=1))


@breaks(checker.counters_count_what_happened)
def a_start_is_not_counted(history: History) -> History:
    job = order_of(history, "raises always").task_id
    return with_record(history, job, replace(history.records[job], attempt=1))


@breaks(checker.counters_count_what_happened)
def a_start_that_its_instance_has_asked_for_is_lost_and_not_counted(history: History) -> History:
    return lost_at_first(history, told={})


@breaks(checker.counters_count_what_happened)
def a_handed_start_is_lost_after_it_has_begun_and_not_counted(history: History) -> History:
    return lost_at_first(history, told=HANDED, stages=("Fetch",))


@breaks(checker.counters_count_what_happened)
def a_handed_start_that_is_lost_before_it_has_begun_costs_an_attempt(history: History) -> History:
    job, lost = order_of(history).task_id, lost_at_first(history, told=HANDED)
    return with_record(lost, job, replace(lost.records[job], attempt=2))


@breaks(checker.counters_count_what_happened)
def a_handed_start_that_is_lost_before_it_has_begun_costs_a_crash(history: History) -> History:
    job, lost = order_of(history).task_id, lost_at_first(history, told=HANDED)
    return with_record(lost, job, replace(lost.records[job], crashes=1))


@breaks(checker.budgets_are_kept)
def a_job_is_tried_more_often_than_is_allowed(history: History) -> History:
    job = order_of(history, "raises always").task_id

    def more(events: list[Event]) -> list[Event]:
        place = at(events, "failed, may pass")
        return [*events[:place], *[events[place]] * 3, *events[place:]]

    return with_events(history, job, more)


@breaks(checker.budgets_are_kept)
def a_poison_job_goes_on(history: History) -> History:
    job = order_of(history, "ends its server always").task_id
    return with_events(
        history, job, lambda events: [*events[:-1], replace(events[-1], state="queued", cause="instance died")]
    )


@breaks(checker.budgets_are_kept)
def retries_are_used_up_too_early(history: History) -> History:
    job = order_of(history, "raises always").task_id

    def fewer(events: list[Event]) -> list[Event]:
        place = at(events, "failed, may pass")
        return [*events[:place], *events[place + 1 :]]

    return with_events(history, job, fewer)


@breaks(checker.budgets_are_kept)
def a_job_goes_down_more_tiers_than_there_are(history: History) -> History:
    job = order_of(history, "out of memory").task_id

    def more(events: list[Event]) -> list[Event]:
        place = at(events, "lower resolution")
        return [*events[:place], *[events[place]] * 2, *events[place:]]

    return with_events(history, job, more)


@breaks(checker.bad_material_fails_at_once)
def bad_material_is_tried_again(history: History) -> History:
    job = order_of(history, "bad material").task_id
    return with_events(
        history, job, lambda events: [*events[:-1], replace(events[-1], cause="failed, may pass"), events[-1]]
    )


@breaks(checker.progress_does_not_go_back)
def progress_goes_back(history: History) -> History:
    job = order_of(history).task_id

    def back(events: list[Event]) -> list[Event]:
        last = max(place for place, event in enumerate(events) if event.cause == "progress")
        return [
            *events[:last],
            replace(events[last], fields={**events[last].fields, "percent": "0"}),
            *events[last + 1 :],
        ]

    return with_events(history, job, back)


@breaks(checker.a_prompt_runs_only_for_a_start)
def a_prompt_runs_twice_for_one_start(history: History) -> History:
    return replace(history, prompts={**history.prompts, order_of(history).task_id: 2})


@breaks(checker.a_repeated_submission_finds_its_job)
def a_repeated_submission_makes_another_job(history: History) -> History:
    order = order_of(history)
    return with_order(history, replace(order, repeats=(*order.repeats, "job-99999")))


@breaks(checker.a_repeated_submission_finds_its_job)
def a_job_is_there_that_nobody_has_submitted(history: History) -> History:
    job = order_of(history).task_id
    return replace(history, orders=tuple(order for order in history.orders if order.task_id != job))


@breaks(checker.nothing_is_left_in_the_queue)
def a_ghost_waits(history: History) -> History:
    return replace(history, rest=replace(history.rest, waiting=1))


@breaks(checker.nothing_is_left_in_the_queue)
def a_ghost_holds_a_lease(history: History) -> History:
    return replace(history, rest=replace(history.rest, running=1))


@breaks(checker.nothing_is_left_in_the_queue)
def a_ghost_is_to_be_tried_again(history: History) -> History:
    return replace(history, rest=replace(history.rest, retrying=1))


@breaks(checker.nothing_is_left_in_the_queue)
def a_failed_job_is_not_in_the_dead_letter(history: History) -> History:
    return replace(history, rest=replace(history.rest, dead=history.rest.dead - 1))


@breaks(checker.totals_count_every_job_once)
def a_job_is_counted_twice(history: History) -> History:
    totals = history.rest.totals
    return replace(history, rest=replace(history.rest, totals={**totals, "completed": totals["completed"] + 1}))


@breaks(checker.totals_count_every_job_once)
def a_batch_forgets_a_job(history: History) -> History:
    name, counts = next(iter(history.rest.batches.items()))
    batches = {**history.rest.batches, name: {**counts, "completed": counts["completed"] - 1}}
    return replace(history, rest=replace(history.rest, batches=batches))


@breaks(checker.one_message_has_one_content)
def a_message_is_sent_with_two_contents(history: History) -> History:
    return replace(history, deliveries=(Delivery("msg_1", "a"), Delivery("msg_1", "a"), Delivery("msg_1", "b")))


# --- the tests ---


def test_a_real_run_breaks_no_rule(recorded: History) -> None:
    assert check(recorded) == []


@pytest.mark.parametrize(
    ("told", "stages"), [(HANDED, ()), (HANDED, ("Waiting",)), ({}, ("Waiting",)), ({}, ("Fetch", "Waiting"))]
)
def test_starts_that_are_lost_before_they_have_begun_count_for_nothing(
    recorded: History, told: Mapping[str, str], stages: Sequence[str]
) -> None:
    often = recorded.limits.crashes + 1
    assert check(lost_at_first(recorded, told=told, stages=stages, times=often)) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_finds_what_is_planted_for_it(recorded: History, rule: checker.Rule) -> None:
    assert PLANTS[rule.__name__], "a rule that nothing breaks proves nothing"
    for plant in PLANTS[rule.__name__]:
        assert check(plant(recorded), [rule]), plant.__name__


def test_a_fault_explains_that_a_job_has_failed_and_nothing_else_does(recorded: History) -> None:
    innocent = replace(order_of(recorded, "ends its server always"), outcomes=(("completed", "completed"),))
    blamed = with_order(recorded, innocent)
    assert check(blamed) == [], "its servers were hit each time"
    assert {found.job for found in check(replace(blamed, faults=()))} == {innocent.task_id}


def test_a_start_that_no_fault_explains_counts_as_a_duplicate(recorded: History) -> None:
    explained, unexplained = report.figures_of(recorded), report.figures_of(replace(recorded, faults=()))
    assert (explained["duplicated_starts"], explained["lost"], explained["stuck"]) == (0, 0, 0)
    assert unexplained["duplicated_starts"] == explained["starts_lost_to_faults"] > 0


def test_a_lost_and_a_twice_completed_job_are_counted(recorded: History) -> None:
    found = report.figures_of(a_job_is_lost(a_job_completes_twice(recorded)))
    assert (found["lost"], found["duplicated_results"]) == (1, 1)


def test_a_violation_is_told_with_everything_that_happened_to_its_job(recorded: History) -> None:
    planted = a_job_completes_twice(recorded)
    (story, *_) = report.stories_of(planted, check(planted))
    assert story["job"] == order_of(recorded).task_id
    assert len(story["events"]) == len(events_of(planted, story["job"]))


def test_a_history_is_read_as_it_was_written(recorded: History) -> None:
    assert History.from_json(recorded.to_json()) == recorded
