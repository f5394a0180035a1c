"""What must be true of any history, however much went wrong: facts in, violations out. Reads nothing, asks nobody.

A further promise is one more function in RULES.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from comfyui_sonic.queue_bridge.job_progress import WAITING
from comfyui_sonic.queue_bridge.states import TERMINAL, TRANSITIONS, State

from .history import EVERY_OWNER, Event, Fault, History, Order

BY_HAND = "retried by hand"
DIED = ("instance died", "instance died too often")
TOO_OFTEN = ("failed", DIED[1])
# What is told of a job without a change of its state, and in which states that may be.
NOTES: Mapping[str, frozenset[State]] = {
    "progress": frozenset({State.RUNNING}),
    "staged": frozenset({State.RUNNING}),
    "to be cancelled": frozenset({State.RUNNING}),
    "dropped": frozenset({State.FAILED}),
}
DEAD_LETTER = frozenset({"retries used up", "instance died too often"})
GIVEN_BACK = frozenset({"given back", "drained"})


@dataclass(frozen=True)
class Violation:
    """rule: the name of the function that found it. job: its id, or ''. text: what is wrong, in one sentence."""

    rule: str
    job: str
    text: str


class Facts:
    """A history, looked up by job."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.orders = {order.task_id: order for order in history.orders}
        self._events: dict[str, list[Event]] = defaultdict(list)
        for event in history.events:
            self._events[event.job].append(event)

    def events(self, job: str) -> Sequence[Event]:
        return self._events.get(job, ())

    def since_restart(self, job: str) -> Sequence[Event]:
        """The events behind the last restart by hand, which gives all budgets back."""
        events = self.events(job)
        last = max((place for place, event in enumerate(events) if event.cause == BY_HAND), default=-1)
        return events[last + 1 :]

    @cached_property
    def jobs(self) -> frozenset[str]:
        """Every job that anything is known of."""
        return frozenset(self.orders) | frozenset(self._events) | frozenset(self.history.records)

    @cached_property
    def claims(self) -> Mapping[str, Mapping[int, Event]]:
        """The starts of every job by their token."""
        return {
            job: {event.token: event for event in events if event.cause == "claimed"}
            for job, events in self._events.items()
        }

    @cached_property
    def crashes(self) -> Sequence[tuple[Event, Event]]:
        """(start, how its instance was given up) of every start that was lost."""
        found = []
        for events in self._events.values():
            start = None
            for event in events:
                if event.cause == "claimed":
                    start = event
                elif event.cause in DIED and start:
                    found.append((start, event))
        return found

    def causes_of(self, start: Event, crash: Event) -> list[Fault]:
        """The faults that may have cost a start its lease."""
        owner, reach = start.fields.get("instance", ""), self.history.limits.reach_ms
        return [
            fault
            for fault in self.history.faults
            if (EVERY_OWNER in fault.owners or owner in fault.owners)
            and fault.at_ms <= crash.at_ms
            and fault.until_ms + reach >= start.at_ms
        ]


def uncounted(events: Sequence[Event]) -> Counter[str]:
    """How many starts count for nothing, by what ended them: those taken back, those lost before their prompt began.

    A job that was handed to a sleeping instance has not begun until something is reported of it; one that was asked for
    has, unless it is reported to wait for its turn.
    """
    found, waits = Counter[str](), False
    for event in events:
        if event.cause == "claimed":
            waits = "handed" in event.fields
        elif event.cause == "progress":
            waits = event.fields.get("stage") == WAITING
        elif event.cause in GIVEN_BACK or (event.cause == DIED[0] and waits):
            found[event.cause] += 1
    return found


Rule = Callable[[Facts], Iterator[tuple[str, str]]]


def every_accepted_job_has_ended(facts: Facts) -> Iterator[tuple[str, str]]:
    for job in facts.orders:
        record = facts.history.records.get(job)
        if record is None:
            yield job, "the queue has accepted it and does not know it any more"
        elif State(record.state) not in TERMINAL:
            yield job, f"it is still {record.state}"


def every_job_ends_as_it_should(facts: Facts) -> Iterator[tuple[str, str]]:
    for job, order in facts.orders.items():
        end = next((event for event in reversed(facts.events(job)) if event.cause not in NOTES), None)
        if end and State(end.state) in TERMINAL and not _is_expected(facts, order, end):
            wanted = " or ".join(f"{state} ({cause})" for state, cause in order.outcomes)
            yield job, f"a job of the kind '{order.kind}' is {end.state} ({end.cause}), not {wanted}"


def _is_expected(facts: Facts, order: Order, end: Event) -> bool:
    """A job of which every start was hit by a fault may fail for that, whatever its kind."""
    if (end.state, end.cause) in order.outcomes:
        return True
    mine = [pair for pair in facts.crashes if pair[0].job == order.task_id]
    return (end.state, end.cause) == TOO_OFTEN and all(facts.causes_of(*pair) for pair in mine)


def the_record_says_what_the_events_say(facts: Facts) -> Iterator[tuple[str, str]]:
    for job, record in facts.history.records.items():
        last = facts.events(job)[-1] if facts.events(job) else None
        if last is None or last.state != record.state:
            yield job, f"its record says {record.state}, its last event {last.state if last else 'nothing'}"


def every_change_is_an_allowed_one(facts: Facts) -> Iterator[tuple[str, str]]:
    for job in facts.jobs:
        state: State | None = None
        for event in facts.events(job):
            after = State(event.state)
            if event.cause in NOTES:
                if state not in NOTES[event.cause]:
                    yield job, f"'{event.cause}' is told of it while it is {state}"
            elif state is None:
                if event.cause != "submitted":
                    yield job, f"its first event is '{event.cause}'"
                state = after
            elif state in TERMINAL and event.cause != BY_HAND:
                yield job, f"'{event.cause}' comes after its end ({state})"
            elif event.cause not in TRANSITIONS.get((state, after), ()):
                yield job, f"it went from {state} to {after} because of '{event.cause}'"
            if event.cause not in NOTES:
                state = after


def a_job_completes_once(facts: Facts) -> Iterator[tuple[str, str]]:
    for job in facts.jobs:
        ends = sum(event.state == State.COMPLETED for event in facts.events(job))
        if ends > 1:
            yield job, f"it has completed {ends} times"


def fencing_tokens_rise(facts: Facts) -> Iterator[tuple[str, str]]:
    for job in facts.jobs:
        tokens = [event.token for event in facts.events(job) if event.cause == "claimed"]
        if tokens != list(range(1, len(tokens) + 1)):
            yield job, f"the tokens of its starts are {tokens}"
        record = facts.history.records.get(job)
        if record and tokens and record.token != tokens[-1]:
            yield job, f"its record holds token {record.token}, its last start was given {tokens[-1]}"


def nobody_but_the_owner_chooses_a_result(facts: Facts) -> Iterator[tuple[str, str]]:
    for job in facts.jobs:
        token, running = 0, False
        for event in facts.events(job):
            if event.cause == "claimed":
                token, running = event.token, True
            elif event.cause == "staged" and (not running or event.token != token):
                yield job, f"start {event.token} chose its result although start {token} was the last"
            elif event.cause not in NOTES:
                running = False


def the_committed_result_is_the_chosen_one(facts: Facts) -> Iterator[tuple[str, str]]:
    for job, record in facts.history.records.items():
        if record.state != State.COMPLETED:
            continue
        chosen = [event.token for event in facts.events(job) if event.cause == "staged"]
        starts = facts.claims.get(job, {})
        if not chosen:
            yield job, "it has completed although no result was chosen"
        elif chosen[-1] in starts and int(starts[chosen[-1]].fields["attempt"]) != record.result_attempt:
            yield job, f"start {chosen[-1]} was chosen, but the result is of attempt {record.result_attempt}"


def every_completed_job_has_its_video_whole(facts: Facts) -> Iterator[tuple[str, str]]:
    videos = {video.name: video for video in facts.history.videos}
    for job, order in facts.orders.items():
        record = facts.history.records.get(job)
        if record is None or record.state != State.COMPLETED:
            continue
        video = videos.get(order.output)
        if video is None:
            yield job, f"its video {order.output} is not there"
        elif video.marker != job:
            yield job, f"its video {order.output} is the one of '{video.marker}'"
        elif video.frames != order.frames:
            yield job, f"its video {order.output} has {video.frames} of {order.frames} frames"
        elif video.sha256 != record.sha256:
            yield job, f"its video {order.output} is not the one that was committed"


def nothing_else_lies_beside_the_videos(facts: Facts) -> Iterator[tuple[str, str]]:
    completed = {job for job, record in facts.history.records.items() if record.state == State.COMPLETED}
    wanted = {order.output for job, order in facts.orders.items() if job in completed}
    for video in facts.history.videos:
        if video.name not in wanted:
            yield next((job for job in facts.orders if job in video.name), ""), f"{video.name} lies among the videos"


def counters_count_what_happened(facts: Facts) -> Iterator[tuple[str, str]]:
    for job, record in facts.history.records.items():
        events = facts.since_restart(job)
        causes = Counter(event.cause for event in events)
        expected = {
            "failures": causes["failed, may pass"] + causes["retries used up"],
            "crashes": causes[DIED[0]] + causes[DIED[1]] - uncounted(events)[DIED[0]],
            "degradations": causes["lower resolution"],
        }
        if record.state == State.COMPLETED:  # of which a queue need not keep them
            expected = {name: count for name, count in expected.items() if getattr(record, name)}
        for name, count in expected.items():
            if getattr(record, name) != count:
                yield job, f"its {name} are {getattr(record, name)}, but {count} happened"
        starts, void = len(facts.claims.get(job, {})), uncounted(facts.events(job)).total()
        if record.attempt != starts - void:
            yield job, f"its attempts are {record.attempt}, but of its {starts} starts {void} count for nothing"


def budgets_are_kept(facts: Facts) -> Iterator[tuple[str, str]]:
    limits = facts.history.limits
    for job in facts.jobs:
        events = facts.since_restart(job)
        causes = Counter(event.cause for event in events) - uncounted(events)
        if causes["failed, may pass"] > limits.retries:
            yield job, f"it was tried again {causes['failed, may pass']} times, {limits.retries} are allowed"
        if causes[DIED[0]] >= limits.crashes:
            yield job, f"it went on after {causes[DIED[0]]} crashes, {limits.crashes} end it"
        if causes["lower resolution"] > limits.degradations:
            yield job, f"it went down {causes['lower resolution']} tiers, there are {limits.degradations}"
        if causes["retries used up"] and causes["failed, may pass"] != limits.retries:
            yield job, f"its retries were used up after {causes['failed, may pass']} of {limits.retries}"


def bad_material_fails_at_once(facts: Facts) -> Iterator[tuple[str, str]]:
    for job in facts.jobs:
        causes = Counter(event.cause for event in facts.since_restart(job))
        if causes["bad input"] and causes["failed, may pass"]:
            yield job, "it was tried again although its material is at fault"


def progress_does_not_go_back(facts: Facts) -> Iterator[tuple[str, str]]:
    for job in facts.jobs:
        percents = [float(event.fields["percent"]) for event in facts.since_restart(job) if "percent" in event.fields]
        if percents != sorted(percents):
            yield job, "its progress went back"


def a_prompt_runs_only_for_a_start(facts: Facts) -> Iterator[tuple[str, str]]:
    for job, count in facts.history.prompts.items():
        if count > len(facts.claims.get(job, {})):
            yield job, f"its prompt began {count} times, but it was started {len(facts.claims.get(job, {}))} times"


def a_repeated_submission_finds_its_job(facts: Facts) -> Iterator[tuple[str, str]]:
    for job, order in facts.orders.items():
        for other in set(order.repeats) - {job}:
            yield job, f"submitting it again led to {other}"
    for job in facts.jobs - set(facts.orders):
        yield job, "nobody was told that it was accepted, but it is in the queue"


def nothing_is_left_in_the_queue(facts: Facts) -> Iterator[tuple[str, str]]:
    rest, records = facts.history.rest, facts.history.records
    states = Counter(record.state for record in records.values())
    for name, found, state in (
        ("waiting", rest.waiting, State.QUEUED),
        ("running", rest.running, State.RUNNING),
        ("retrying", rest.retrying, State.RETRYING),
    ):
        if found != states[state]:
            yield "", f"{found} are counted as {name}, but {states[state]} jobs are {state}"
    last = {job: facts.events(job)[-1].cause for job in records if facts.events(job)}
    dead = sum(cause in DEAD_LETTER for cause in last.values())
    if rest.dead != dead:
        yield "", f"{rest.dead} lie in the dead letter, but {dead} jobs ended that way"


def totals_count_every_job_once(facts: Facts) -> Iterator[tuple[str, str]]:
    records = facts.history.records
    states = Counter(record.state for record in records.values())
    expected = {"submitted": len(records)} | {str(state): states[state] for state in TERMINAL}
    for name, count in expected.items():
        if facts.history.rest.totals.get(name, 0) != count:
            yield "", f"the total of {name} is {facts.history.rest.totals.get(name, 0)}, but {count} jobs are"
    members: dict[str, list[str]] = defaultdict(list)
    for job, order in facts.orders.items():
        if order.batch and job in records:
            members[order.batch].append(records[job].state)
    for batch, found in facts.history.rest.batches.items():
        counts = {"total": len(members[batch])} | {str(state): members[batch].count(state) for state in TERMINAL}
        for name, count in counts.items():
            if found.get(name, 0) != count:
                yield "", f"the batch {batch} counts {found.get(name, 0)} as {name}, but {count} of its jobs are"


def one_message_has_one_content(facts: Facts) -> Iterator[tuple[str, str]]:
    contents: dict[str, set[str]] = defaultdict(set)
    for delivery in facts.history.deliveries:
        contents[delivery.id].add(delivery.content)
    for name, found in contents.items():
        if len(found) > 1:
            yield "", f"the message {name} was sent with {len(found)} contents"


RULES: tuple[Rule, ...] = (
    every_accepted_job_has_ended,
    every_job_ends_as_it_should,
    the_record_says_what_the_events_say,
    every_change_is_an_allowed_one,
    a_job_completes_once,
    fencing_tokens_rise,
    nobody_but_the_owner_chooses_a_result,
    the_committed_result_is_the_chosen_one,
    every_completed_job_has_its_video_whole,
    nothing_else_lies_beside_the_videos,
    counters_count_what_happened,
    budgets_are_kept,
    bad_material_fails_at_once,
    progress_does_not_go_back,
    a_prompt_runs_only_for_a_start,
    a_repeated_submission_finds_its_job,
    nothing_is_left_in_the_queue,
    totals_count_every_job_once,
    one_message_has_one_content,
)


def check(history: History, rules: Sequence[Rule] = RULES) -> list[Violation]:
    """Everything that breaks a rule."""
    facts = Facts(history)
    return [Violation(rule.__name__, job, text) for rule in rules for job, text in rule(facts)]
