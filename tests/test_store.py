"""The queue's promises, on a real server: one owner, one result, order, budgets, and calls that may be repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.errors import LeaseLost
from comfyui_sonic.queue_bridge.job import FILE, RAW, JobRecord, JobSpec, Priority, new_job_id
from comfyui_sonic.queue_bridge.packed import short_key
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Idle, Store, Submission, Unregistered
from comfyui_sonic.queue_bridge.retry import FailureKind, Verdict, judge
from comfyui_sonic.queue_bridge.states import State

LANES = ("512", "768", "1024")


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now_s: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass
class Bench:
    """One queue of its own on the shared server, and the hands of several instances."""

    store: Store
    view: QueueView
    clock: Clock
    settings: Settings
    boots: dict[str, str] = field(default_factory=dict)

    async def register(self, name: str, boot: str = "boot-1", *, predecessor_is_dead: bool = False) -> bool:
        self.boots[name] = boot
        return await self.store.register(Identity(name, boot), predecessor_is_dead=predecessor_is_dead)

    async def claim(self, name: str = "a", lanes: tuple[str, ...] = LANES, claim_id: str | None = None) -> JobRecord:
        answer = await self.ask(name, lanes, claim_id)
        assert isinstance(answer, JobRecord)
        return answer

    async def ask(
        self, name: str = "a", lanes: tuple[str, ...] = LANES, claim_id: str | None = None
    ) -> JobRecord | Idle:
        return await self.store.claim(name, self.boots[name], lanes, claim_id=claim_id)

    async def sleep(
        self, name: str, lanes: tuple[str, ...] = LANES, claim_id: str | None = None, wait_s: float = 60.0
    ) -> Idle:
        answer = await self.store.claim(name, self.boots[name], lanes, claim_id=claim_id, wait_s=wait_s)
        assert isinstance(answer, Idle)
        return answer

    async def submit(
        self, count: int = 1, priority: Priority = "normal", tier: int = 512, engine: str = "auto"
    ) -> list[str]:
        jobs = [Submission(spec(priority), tier, engine) for _ in range(count)]
        return [answer.task_id for answer in await self.store.submit(jobs)]

    async def state(self, task_id: str) -> State:
        record = await self.view.job(task_id)
        assert record
        return record.state


def spec(priority: Priority = "normal", batch: str = "") -> JobSpec:
    return JobSpec(new_job_id(), "file:///a.png", "file:///a.wav", "file:///a.mp4", priority=priority, batch=batch)


@pytest.fixture
async def bench(redis_url: str) -> AsyncIterator[Bench]:
    settings = Settings(url=redis_url, queue=f"test-{new_job_id()}", lease_s=30.0, crashes=3, priority_share=10)
    clock = Clock()
    store = Store(connect(redis_url), settings, clock=clock)
    made = Bench(store, QueueView(store.client, store.keys, redis_url), clock, settings)
    await made.register("a")
    await made.register("b")
    yield made
    await store.close()


async def test_deaths_broken_cards_and_errors_take_from_budgets_of_their_own(bench: Bench) -> None:
    (task_id,) = await bench.submit()
    policy = replace(bench.settings, retries=2, backoff_s=0.0).retry_policy

    async def fails(kind: FailureKind) -> None:
        job = await bench.claim()
        verdict = judge(kind, failures=job.failures, tier=512, policy=policy, device_faults=job.device_faults)
        await bench.store.settle(job, verdict, "x", str(kind), "a")

    for _ in range(2):
        await fails(FailureKind.DEVICE_FAULT)
        await fails(FailureKind.MAY_PASS)
        await bench.claim()
        bench.clock.pass_s(bench.settings.lease_s + 1)  # it dies
        assert await bench.register("a")
        assert await bench.register("b")
        await bench.store.tend()
    record = await bench.view.job(task_id)
    assert record
    assert (record.state, record.failures, record.device_faults, record.crashes) == (State.QUEUED, 2, 2, 2)
    await fails(FailureKind.DEVICE_FAULT)
    record = await bench.view.job(task_id)
    assert record
    assert (record.state, record.error_kind) == (State.FAILED, "device fault")
    assert await bench.store.restart(task_id) == "ok"
    record = await bench.view.job(task_id)
    assert record
    assert (record.failures, record.device_faults, record.crashes) == (0, 0, 0)


async def test_jobs_of_a_lane_start_in_the_order_of_their_submission(bench: Bench) -> None:
    expected = await bench.submit(3) + await bench.submit(3)
    assert [(await bench.claim()).task_id for _ in expected] == expected


async def test_lanes_take_turns_in_an_instance_that_serves_them_all(bench: Bench) -> None:
    large, small = await bench.submit(3, tier=1024), await bench.submit(2)
    expected = [large[0], small[0], large[1], small[1], large[2]]
    assert [(await bench.claim()).task_id for _ in expected] == expected


async def test_a_priority_job_starts_before_every_waiting_one(bench: Bench) -> None:
    await bench.submit(5)
    (urgent,) = await bench.submit(priority="priority", tier=1024)
    assert (await bench.claim()).task_id == urgent


async def test_one_turn_in_ten_is_a_normal_jobs_while_priority_waits(bench: Bench) -> None:
    await bench.submit(40)
    await bench.submit(40, priority="priority")
    order = [(await bench.claim()).spec.priority for _ in range(30)]
    assert order.count("normal") == 3
    assert order[:9] == ["priority"] * 9


async def test_an_instance_gets_only_what_it_serves_and_the_rest_waits(bench: Bench) -> None:
    (large,) = await bench.submit(tier=1024)
    (sonic,) = await bench.submit(tier=512, engine="sonic")
    assert isinstance(await bench.ask(lanes=("512", "768")), Idle)
    assert (await bench.claim(lanes=("512", "512-sonic"))).task_id == sonic
    assert (await bench.claim(lanes=("1024",))).task_id == large


async def test_two_instances_never_get_the_same_job(bench: Bench) -> None:
    submitted = await bench.submit(60)
    claimed = await asyncio.gather(*(bench.claim("ab"[number % 2]) for number in range(60)))
    assert sorted(job.task_id for job in claimed) == sorted(submitted)


async def test_a_claim_whose_answer_was_lost_claims_nothing_more(bench: Bench) -> None:
    await bench.submit(2)
    first = await bench.claim(claim_id="same")
    again = await bench.claim(claim_id="same")
    assert (again.task_id, again.token, again.attempt) == (first.task_id, first.token, 1)
    assert (await bench.claim(claim_id="next")).task_id != first.task_id


async def test_a_submission_may_be_repeated(bench: Bench) -> None:
    jobs = [Submission(spec(), 512, idempotency_key=f"key-{number}") for number in range(3)]
    first = await bench.store.submit(jobs)
    assert [answer.made for answer in first] == [True] * 3
    assert [answer.made for answer in await bench.store.submit(jobs)] == [False] * 3
    others = [replace(job, spec=spec()) for job in jobs]
    found = await bench.store.submit(others)
    assert [(answer.task_id, answer.made) for answer in found] == [(answer.task_id, False) for answer in first]
    assert (await bench.view.counts()).queued == 3


async def test_the_same_order_can_be_made_again_only_when_its_job_has_ended(bench: Bench) -> None:
    job = Submission(spec(), 512, idempotency_key="key")
    (first,) = await bench.store.submit([job])
    (while_queued,) = await bench.store.submit([replace(job, spec=spec())], again=True)
    assert (while_queued.task_id, while_queued.made) == (first.task_id, False)
    await bench.store.complete(await bench.claim(), {})
    (anew,) = await bench.store.submit([replace(job, spec=spec())], again=True)
    assert anew.made
    assert anew.task_id != first.task_id
    (found,) = await bench.store.submit([replace(job, spec=spec())])
    assert (found.task_id, found.made) == (anew.task_id, False)


async def test_a_result_is_committed_once_and_the_commit_may_be_repeated(bench: Bench) -> None:
    await bench.submit()
    job = await bench.claim()
    await bench.store.complete(job, {"output": "first"})
    await bench.store.complete(job, {"output": "second"})
    record = await bench.view.job(job.task_id)
    assert record
    assert (record.state, record.percent, record.result) == (State.COMPLETED, 100.0, {"output": "first"})


async def test_a_paused_owner_can_do_nothing_to_a_job_that_another_has(bench: Bench) -> None:
    await bench.submit()
    paused = await bench.claim("a")
    bench.clock.pass_s(31)
    owner = await bench.claim("b")
    assert (owner.task_id, owner.token) == (paused.task_id, paused.token + 1)
    verdict = judge(FailureKind.MAY_PASS, failures=0, tier=512, policy=bench.settings.retry_policy)
    for call in (
        bench.store.complete(paused, {"output": "stale"}),
        bench.store.stage(paused, {"staged": "stale"}),
        bench.store.progress(paused, 99.0, "stale", None),
        bench.store.renew(paused),
        bench.store.settle(paused, verdict, "stale"),
    ):
        with pytest.raises(LeaseLost):
            await call
    await bench.store.complete(owner, {"output": "fresh"})
    record = await bench.view.job(owner.task_id)
    assert record
    assert record.result == {"output": "fresh"}


async def test_a_renewed_lease_does_not_run_out(bench: Bench) -> None:
    await bench.submit()
    job = await bench.claim("a")
    for _ in range(5):
        bench.clock.pass_s(20)
        await bench.store.renew(job)
        await bench.store.tend()
    assert await bench.state(job.task_id) is State.RUNNING
    assert isinstance(await bench.ask("b"), Idle)


async def test_an_orphan_is_found_behind_any_number_of_live_jobs(bench: Bench) -> None:
    await bench.submit(50)
    jobs = [await bench.claim("a") for _ in range(50)]
    bench.clock.pass_s(20)
    for job in jobs[:-1]:
        await bench.store.renew(job)
    bench.clock.pass_s(11)
    assert (await bench.claim("b")).task_id == jobs[-1].task_id


async def test_a_job_that_came_back_starts_before_what_never_started(bench: Bench) -> None:
    first, *_ = await bench.submit(4)
    assert (await bench.claim("a")).task_id == first
    bench.clock.pass_s(31)
    assert (await bench.claim("b")).task_id == first


async def test_a_job_under_which_three_instances_died_is_a_dead_letter_that_says_so(bench: Bench) -> None:
    (poison,) = await bench.submit()
    for name in "aba":
        assert (await bench.claim(name)).task_id == poison
        bench.clock.pass_s(31)
        await bench.register("a"), await bench.register("b")
    assert isinstance(await bench.ask(), Idle)
    record = await bench.view.job(poison)
    assert record
    assert (record.state, record.crashes, record.failures) == (State.FAILED, 3, 0)
    assert record.error == (
        "The instances that ran this job died 3 times, the last one being a; it is not tried again by itself."
    )
    assert [entry["kind"] for entry in record.history] == ["crash"] * 3
    assert (await bench.view.counts()).dead == 1


async def test_a_failure_that_may_pass_is_tried_again_when_it_is_due_and_then_lies_in_the_dead_letter(
    bench: Bench,
) -> None:
    (task_id,) = await bench.submit()
    for failures in range(4):
        job = await bench.claim()
        assert (job.task_id, job.failures, job.attempt) == (task_id, failures, failures + 1)
        verdict = judge(FailureKind.MAY_PASS, failures=failures, tier=512, policy=bench.settings.retry_policy)
        await bench.store.settle(job, verdict, f"error {failures}", "may pass", "a")
        if failures < 3:
            assert await bench.state(task_id) is State.RETRYING
            bench.clock.pass_s(verdict.delay_s - 0.1)
            idle = await bench.ask()
            assert isinstance(idle, Idle)
            assert idle.due_s == pytest.approx(0.1, abs=0.02)
            bench.clock.pass_s(0.2)
            await bench.register("a")
    record = await bench.view.job(task_id)
    assert record
    assert (record.state, record.error) == (State.FAILED, "error 3")
    assert [entry["error"] for entry in record.history] == [f"error {number}" for number in range(4)]
    assert (await bench.view.counts()).dead == 1
    assert await bench.store.restart(task_id) == "ok"
    assert (await bench.view.counts()).dead == 0
    job = await bench.claim()
    assert (job.task_id, job.failures, job.error) == (task_id, 0, "")


async def test_bad_input_fails_at_once_and_is_no_dead_letter(bench: Bench) -> None:
    (task_id,) = await bench.submit()
    verdict = judge(FailureKind.BAD_INPUT, failures=0, tier=512, policy=bench.settings.retry_policy)
    await bench.store.settle(await bench.claim(), verdict, "No face.", "bad input", "a")
    assert await bench.state(task_id) is State.FAILED
    assert (await bench.view.counts()).dead == 0


async def test_out_of_memory_moves_a_job_to_the_lane_below(bench: Bench) -> None:
    (task_id,) = await bench.submit(tier=1024, engine="auto")
    await bench.submit(3, tier=768)
    job = await bench.claim()
    verdict = judge(FailureKind.OUT_OF_MEMORY, failures=0, tier=1024, policy=bench.settings.retry_policy)
    await bench.store.settle(job, verdict, "CUDA out of memory.", "out of memory", "a")
    again = await bench.claim(lanes=("512", "768"))
    assert (again.task_id, again.lane, again.degradations, again.failures) == (task_id, "768", 1, 0)


async def test_giving_a_job_back_takes_nothing_from_its_budgets(bench: Bench) -> None:
    await bench.submit()
    job = await bench.claim()
    await bench.store.settle(job, Verdict(State.QUEUED, "given back"))
    again = await bench.claim("b")
    assert (again.task_id, again.failures, again.crashes, again.history) == (job.task_id, 0, 0, ())


async def test_percent_never_goes_back_not_even_with_another_start(bench: Bench) -> None:
    await bench.submit()
    job = await bench.claim()
    for percent in (10.0, 40.0, 30.0):
        await bench.store.progress(job, percent, "Make frames", 3.0)
    await bench.store.settle(job, Verdict(State.QUEUED, "given back"))
    again = await bench.claim()
    await bench.store.progress(again, 5.0, "Fetch", None)
    record = await bench.view.job(job.task_id)
    assert record
    assert (record.percent, record.stage, record.seconds_left) == (40.0, "Fetch", None)


async def test_a_second_instance_of_one_name_takes_nothing_until_the_first_is_silent(bench: Bench) -> None:
    await bench.submit()
    job = await bench.claim("a")
    assert not await bench.register("a", "boot-2")
    with pytest.raises(Unregistered):
        await bench.ask("a")
    assert await bench.register("a", "boot-2", predecessor_is_dead=True)
    assert (await bench.claim("a")).task_id == job.task_id, "what its predecessor ran is taken up at once"


async def test_what_an_instance_is_told_to_wait_for_wakes_it(bench: Bench) -> None:
    idle = await bench.ask()
    assert isinstance(idle, Idle)
    loop = asyncio.get_running_loop()
    started = loop.time()
    waiting = asyncio.create_task(bench.store.sleep(idle, 5.0))
    await asyncio.sleep(0.05)
    await bench.submit()
    await waiting
    assert loop.time() - started < 1.0


async def test_nothing_is_missed_between_the_question_and_the_sleep(bench: Bench) -> None:
    idle = await bench.ask()
    assert isinstance(idle, Idle)
    await bench.submit()
    await asyncio.wait_for(bench.store.sleep(idle, 60.0), 1.0)


async def test_a_new_job_is_handed_to_an_instance_that_sleeps(bench: Bench) -> None:
    idle = await bench.sleep("a")
    (task_id,) = await bench.submit()
    job = await bench.store.sleep(idle, 60.0)
    assert job and (job.task_id, job.state, job.owner, job.token, job.attempt) == (task_id, State.RUNNING, "a", 1, 1)
    assert job.spec.image == "file:///a.png"
    assert isinstance(await bench.ask("b"), Idle), "nothing waits any more"
    assert (await bench.view.counts()).queued == 0
    await bench.store.complete(job, {})
    assert await bench.state(task_id) is State.COMPLETED


async def test_a_handed_job_whose_answer_was_lost_is_the_answer_to_the_same_claim(bench: Bench) -> None:
    await bench.sleep("a", claim_id="one")
    (task_id,) = await bench.submit()
    job = await bench.claim("a", claim_id="one")
    assert (job.task_id, job.token) == (task_id, 1)
    await bench.store.complete(job, {})
    assert isinstance(await bench.ask("a", claim_id="one"), Idle)


async def test_a_handed_job_is_read_once(bench: Bench) -> None:
    idle = await bench.sleep("a")
    await bench.submit()
    job = await bench.store.sleep(idle, 60.0)
    assert job
    await bench.store.complete(job, {})
    again = await bench.sleep("a")
    bench.clock.pass_s(1)
    assert await bench.store.sleep(again, 0.01) is None


THREE = ("file:///a.png", "file:///a.wav", "file:///a.mp4")
PROMPT = {"1": {"class_type": "LoadImage", "inputs": {"image": {FILE: "file:///a.png"}}}}


class NewerSpec(JobSpec):
    """What another version of this program may submit."""

    def asked(self) -> dict[str, Any]:
        return {**super().asked(), "colour": "red"}


SPECS: dict[str, Callable[[str], JobSpec]] = {
    "as usual": lambda id_: JobSpec(
        id_, *THREE, config={"seed": 3}, labels={"shop": "7"}, callback="https://a.example/"
    ),
    "of another version": lambda id_: NewerSpec(id_, *THREE),
    "a prompt": lambda id_: JobSpec(id_, "", "", "file:///a.zip", workflow=RAW, prompt=PROMPT),
}


@pytest.mark.parametrize("kind", SPECS)
async def test_a_job_is_handed_over_as_it_would_be_claimed(bench: Bench, kind: str) -> None:
    specs = [SPECS[kind](new_job_id()) for _ in range(2)]
    idle = await bench.sleep("a")
    await bench.store.submit([Submission(specs[0], 512)], caller="shop")
    handed = await bench.store.sleep(idle, 60.0)
    await bench.store.submit([Submission(specs[1], 512)], caller="shop")
    claimed = await bench.claim("b")
    assert handed and handed.task_id == handed.spec.task_id == specs[0].task_id
    own = {"task_id": claimed.task_id, "owner": "b", "stage": ""}
    assert replace(handed, **own, spec=replace(handed.spec, task_id=claimed.task_id)) == claimed


class UnreadableSpec(JobSpec):
    """What no version can read."""

    def asked(self) -> dict[str, Any]:
        return {**super().asked(), "colour": "red", "config": [1]}


async def test_a_handed_job_that_cannot_be_read_ends_with_a_sentence_and_the_next_one_runs(bench: Bench) -> None:
    spec = UnreadableSpec(new_job_id(), *THREE)
    idle = await bench.sleep("a")
    await bench.store.submit([Submission(spec, 512)])
    assert await bench.store.sleep(idle, 60.0) is None
    record = await bench.view.job(spec.task_id)
    assert record and (record.state, record.error_kind) == (State.FAILED, "bad input")
    assert record.error.startswith("This job cannot be read by this version (")
    (task_id,) = await bench.submit()
    assert (await bench.claim("a")).task_id == task_id


async def test_those_who_have_slept_longest_are_handed_jobs_and_the_rest_waits(bench: Bench) -> None:
    await bench.register("c")
    first = await bench.sleep("b")
    bench.clock.pass_s(1)
    second = await bench.sleep("a")
    one, two, three = await bench.submit(3)
    jobs = [await bench.store.sleep(idle, 60.0) for idle in (first, second)]
    assert [job and (job.task_id, job.owner) for job in jobs] == [(one, "b"), (two, "a")]
    assert (await bench.claim("c")).task_id == three


async def test_who_has_slept_too_long_is_handed_nothing(bench: Bench) -> None:
    await bench.sleep("a", wait_s=5.0)
    bench.clock.pass_s(5.5)
    (task_id,) = await bench.submit()
    assert await bench.state(task_id) is State.QUEUED


async def test_who_drains_or_has_died_is_handed_nothing(bench: Bench) -> None:
    await bench.sleep("a")
    await bench.store.drain("a", 60.0)
    await bench.sleep("b")
    await bench.register("b", "boot-2", predecessor_is_dead=True)
    (task_id,) = await bench.submit()
    assert await bench.state(task_id) is State.QUEUED
    assert (await bench.claim("b")).task_id == task_id


async def test_a_sleeper_is_handed_jobs_of_those_lanes_only_that_it_asked_for_last(bench: Bench) -> None:
    await bench.sleep("a", lanes=LANES)
    idle = await bench.sleep("a", lanes=("768",))
    (small,) = await bench.submit(tier=512)
    assert await bench.state(small) is State.QUEUED
    (large,) = await bench.submit(tier=768)
    job = await bench.store.sleep(idle, 60.0)
    assert job and job.task_id == large


async def test_a_new_job_is_not_handed_over_past_one_that_waits(bench: Bench) -> None:
    await bench.submit()
    job = await bench.claim("b")
    idle = await bench.sleep("a")
    await bench.store.settle(job, Verdict(State.QUEUED, "given back"))
    (later,) = await bench.submit()
    assert await bench.store.sleep(idle, 60.0) is None, "it is woken"
    assert [(await bench.claim("a")).task_id, (await bench.claim("b")).task_id] == [job.task_id, later]


async def test_whoever_dies_in_its_sleep_gives_a_handed_job_back_as_if_nothing_had_been(bench: Bench) -> None:
    await bench.sleep("a")
    (task_id,) = await bench.submit()
    bench.clock.pass_s(bench.settings.lease_s + 1)
    await bench.register("b", "boot-2", predecessor_is_dead=True)
    job = await bench.claim("b")
    assert (job.task_id, job.token, job.attempt, job.crashes) == (task_id, 2, 1, 0)


async def test_a_handed_job_whose_reports_were_all_lost_counts_as_begun_when_its_owner_says_what_became_of_it(
    bench: Bench,
) -> None:
    idle = await bench.sleep("a")
    await bench.submit(tier=1024)
    job = await bench.store.sleep(idle, 60.0)
    assert job
    await bench.store.settle(job, Verdict(State.QUEUED, "lower resolution", tier=768), "It is full.", "out of memory")
    again = await bench.claim("a")
    assert (again.task_id, again.token, again.attempt, again.lane) == (job.task_id, 2, 2, "768")


async def test_the_events_say_which_starts_were_handed_over(bench: Bench) -> None:
    after = await bench.view.last_event()
    await bench.submit()
    asked_for = await bench.claim("b")
    await bench.sleep("a")
    (handed,) = await bench.submit()
    events, _ = await bench.view.events(after, 0.1)
    told = {event["job"]: event.get("handed") for event in events if event["cause"] == "claimed"}
    assert told == {asked_for.task_id: None, handed: "1"}


async def test_a_stream_counts_what_waits_and_its_lag_says_so(bench: Bench) -> None:
    await bench.submit(5)
    await bench.claim()
    assert await bench.view.lag("pending", "512") == 4
    assert (await bench.view.counts()).waiting["pending"] == {"512": 4}
    for _ in range(4):
        await bench.store.complete(await bench.claim(), {})
    assert await bench.view.lag("pending", "512") == 0


async def test_a_job_that_came_back_counts_as_waiting(bench: Bench) -> None:
    await bench.submit(2)
    await bench.store.settle(await bench.claim(), Verdict(State.QUEUED, "given back"))
    assert await bench.view.lag("pending", "512") == 2
    assert (await bench.view.counts()).queued == 2


async def test_a_completed_job_still_says_what_it_was(bench: Bench) -> None:
    asked = replace(spec("priority", batch="b"), name="声音.mp4", config={"seed": 7})
    await bench.store.submit([Submission(asked, 512)])
    job = await bench.claim()
    await bench.store.stage(job, {"staged": "x" * 100})
    await bench.store.complete(job, {"output": "file:///a.mp4"})
    record = await bench.view.job(job.task_id)
    assert record
    assert record.spec == replace(asked, config={})
    assert (record.lane, record.attempt, record.result) == ("512", 1, {"output": "file:///a.mp4"})
    assert record.submitted_s and record.started_s and record.ended_s


async def test_a_batch_counts_its_jobs(bench: Bench) -> None:
    await bench.store.submit([Submission(spec(batch="b"), 512) for _ in range(3)])
    await bench.store.complete(await bench.claim(), {})
    verdict = judge(FailureKind.BAD_INPUT, failures=0, tier=512, policy=bench.settings.retry_policy)
    await bench.store.settle(await bench.claim(), verdict, "No face.")
    counts = await bench.view.batch("b")
    assert (counts["total"], counts["completed"], counts["failed"]) == (3, 1, 1)


async def test_an_ended_job_is_forgotten_after_its_time_and_its_key_with_it(bench: Bench) -> None:
    await bench.store.submit([Submission(spec(), 512, idempotency_key="key")])
    job = await bench.claim()
    await bench.store.complete(job, {})
    client, keys = bench.store.client, bench.store.keys
    bench.clock.pass_s(6.9 * 24 * 3600)
    await bench.store.tend()
    assert await bench.store.known("key") == job.task_id
    assert await bench.state(job.task_id) is State.COMPLETED
    bench.clock.pass_s(0.2 * 24 * 3600)
    await bench.store.tend()
    assert await bench.store.known("key") is None
    assert await client.exists(keys.job(job.task_id), keys.ended, keys.idempotency(short_key("key"))[0]) == 0


async def test_a_job_that_was_put_back_is_remembered_from_its_second_end(bench: Bench) -> None:
    (task_id,) = await bench.submit()
    verdict = judge(FailureKind.BAD_INPUT, failures=0, tier=512, policy=bench.settings.retry_policy)
    await bench.store.settle(await bench.claim(), verdict, "No face.", "bad input", "a")
    bench.clock.pass_s(5 * 24 * 3600)
    await bench.register("a")
    await bench.store.restart(task_id)
    await bench.store.complete(await bench.claim(), {})
    assert await bench.view.ids([State.COMPLETED], 10) == [task_id]
    bench.clock.pass_s(5 * 24 * 3600)
    await bench.store.tend()
    assert await bench.state(task_id) is State.COMPLETED
    bench.clock.pass_s(3 * 24 * 3600)
    await bench.store.tend()
    assert await bench.view.job(task_id) is None


async def test_a_job_that_nobody_can_read_fails_with_a_sentence_and_stops_no_other(bench: Bench) -> None:
    broken, good = await bench.submit(2)
    client, keys = bench.store.client, bench.store.keys
    await client.hset(keys.job(broken), "spec", '{"image": 3}')
    assert isinstance(await bench.ask(), Idle)
    assert (await bench.claim()).task_id == good
    state, error = await client.hmget(keys.job(broken), "state", "error")
    assert state == "failed"
    assert error.startswith("This job cannot be read by this version (image: is no text.")
    shown = await bench.view.jobs([broken, good])
    assert (shown[broken].state, shown[broken].error) == (State.FAILED, error)


async def test_every_change_is_an_event(bench: Bench) -> None:
    after = await bench.view.last_event()
    (task_id,) = await bench.submit()
    job = await bench.claim()
    await bench.store.progress(job, 50.0, "Make frames", 2.0)
    await bench.store.complete(job, {})
    events, _ = await bench.view.events(after, 0.1)
    assert [(event["state"], event["cause"]) for event in events if event["job"] == task_id] == [
        ("queued", "submitted"),
        ("running", "claimed"),
        ("running", "progress"),
        ("completed", "completed"),
    ]


async def test_who_was_cut_off_spares_every_lease_once_but_not_again_and_again(bench: Bench) -> None:
    (task_id,) = await bench.submit()
    await bench.claim()
    bench.clock.pass_s(31)
    await bench.store.spare()
    await bench.store.tend()
    assert await bench.state(task_id) is State.RUNNING, "its owner may have been cut off, too"
    bench.clock.pass_s(29)
    await bench.store.spare()
    bench.clock.pass_s(2)
    await bench.store.tend()
    assert await bench.state(task_id) is State.QUEUED
