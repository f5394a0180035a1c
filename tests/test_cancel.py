"""What an operator can do with a job, on a real server: cancel it, and what lies in the dead letter, by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.errors import LeaseLost, StartStopped
from comfyui_sonic.queue_bridge.execution.wishes import wish_for
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Idle, Store, Submission
from comfyui_sonic.queue_bridge.retry import FailureKind, Verdict, judge
from comfyui_sonic.queue_bridge.states import State

LANES = ("512", "768", "1024")
CANCELLED = Verdict(State.CANCELLED, "cancelled")


class Operator:
    """One queue of its own, two instances, and a clock that a test moves on."""

    def __init__(self, url: str) -> None:
        self.now_s = 1_800_000_000.0
        self.settings = Settings(url=url, queue=f"cancel-{new_job_id()}")
        self.store = Store(connect(url), self.settings, clock=lambda: self.now_s)
        self.view = QueueView(self.store.client, self.store.keys, url)

    async def submit(self, count: int = 1, tier: int = 512, batch: str = "") -> list[str]:
        where = ("file:///a.png", "file:///a.wav", "file:///a.mp4")
        jobs = [JobSpec(new_job_id(), *where, batch=batch) for _ in range(count)]
        return [answer.task_id for answer in await self.store.submit([Submission(job, tier) for job in jobs])]

    async def claim(self, name: str = "a", claim_id: str | None = None) -> JobRecord:
        answer = await self.store.claim(name, "boot", LANES, claim_id=claim_id)
        assert isinstance(answer, JobRecord)
        return answer

    async def record(self, task_id: str) -> JobRecord:
        found = await self.view.job(task_id)
        assert found
        return found

    async def pass_s(self, seconds: float) -> None:
        self.now_s += seconds
        for name in "ab":
            await self.store.register(Identity(name, "boot"))

    async def fail(self, job: JobRecord, kind: FailureKind = FailureKind.MAY_PASS, failures: int = 99) -> None:
        tier = int(job.lane)
        verdict = judge(kind, failures=failures, tier=tier, policy=self.settings.retry_policy)
        await self.store.settle(job, verdict, "It failed.", str(kind), "a")

    async def lag(self, lane: str = "512", job_class: str = "pending") -> int | None:
        return await self.view.lag(job_class, lane)


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[Operator]:
    operator = Operator(redis_url)
    await operator.pass_s(0)
    yield operator
    await operator.store.close()


async def test_a_queued_job_is_cancelled_at_once_and_never_starts(queue: Operator) -> None:
    first, unwanted, last = await queue.submit(3)
    after = await queue.view.last_event()
    assert await queue.store.cancel([unwanted]) == {unwanted: "cancelled"}
    assert await queue.store.cancel([unwanted]) == {unwanted: "cancelled"}, "asking again changes nothing"
    events, _ = await queue.view.events(after, 0.1)
    told = [(event["job"], event["state"], event["cause"]) for event in events]
    assert told == [(unwanted, "cancelled", "cancelled")]
    assert [(await queue.claim()).task_id for _ in range(2)] == [first, last]
    assert isinstance(await queue.store.claim("a", "boot", LANES), Idle)
    record = await queue.record(unwanted)
    assert (record.state, record.attempt, record.ended_s) == (State.CANCELLED, 0, queue.now_s)
    assert (await queue.view.counts()).totals["cancelled"] == 1


@pytest.mark.parametrize("claimed_before", [0, 1, 3])
async def test_lag_and_counts_say_what_waits_wherever_a_job_is_taken_out(queue: Operator, claimed_before: int) -> None:
    """Autoscalers read the lag: neither 'nothing to do' nor more than there is."""
    jobs = await queue.submit(12)
    for _ in range(claimed_before):
        await queue.store.complete(await queue.claim(), {})
    waiting = jobs[claimed_before:]
    for unwanted in (waiting[0], waiting[4], waiting[5], waiting[-1]):
        await queue.store.cancel([unwanted])
        waiting.remove(unwanted)
        if claimed_before:  # without a group, which the first claim makes, there is no lag
            assert await queue.lag() == len(waiting)
        assert (await queue.view.counts()).waiting["pending"] == {"512": len(waiting)}
    waiting += await queue.submit(2)
    for left in range(len(waiting) - 1, -1, -1):
        assert (await queue.claim()).task_id == waiting.pop(0)
        assert await queue.lag() == left
    await queue.submit()
    assert await queue.lag() == 1


async def test_a_whole_queue_is_cancelled_and_the_next_job_starts_at_once(queue: Operator) -> None:
    await queue.submit()
    await queue.store.complete(await queue.claim(), {})
    jobs = await queue.submit(1500)
    assert set((await queue.store.cancel(jobs)).values()) == {"cancelled"}
    assert (await queue.lag(), (await queue.view.counts()).queued) == (0, 0)
    (wanted,) = await queue.submit()
    assert (await queue.claim()).task_id == wanted


async def test_a_job_that_waits_for_a_retry_or_came_back_is_cancelled_at_once(queue: Operator) -> None:
    retrying, returned = await queue.submit(2)
    await queue.fail(await queue.claim(), failures=0)
    await queue.store.settle(await queue.claim(), Verdict(State.QUEUED, "given back"))
    assert await queue.store.cancel([retrying, returned]) == {retrying: "cancelled", returned: "cancelled"}
    counts = await queue.view.counts()
    assert (counts.retrying, counts.queued) == (0, 0)
    await queue.pass_s(1000)
    assert isinstance(await queue.store.claim("a", "boot", LANES), Idle)
    assert {(await queue.record(one)).state for one in (retrying, returned)} == {State.CANCELLED}


async def test_the_owner_of_a_running_job_is_told_at_once_and_ends_it(queue: Operator) -> None:
    unwanted, other = await queue.submit(2)
    job, neighbour = await queue.claim("a"), await queue.claim("b")
    waiting = [asyncio.create_task(wish_for(queue.store, name, one)) for name, one in (("a", job), ("b", neighbour))]
    await asyncio.sleep(0.1)
    assert await queue.store.cancel([unwanted]) == {unwanted: "cancelling"}
    stop = await asyncio.wait_for(waiting[0], 0.5)
    assert isinstance(stop, StartStopped)
    assert stop.cause == "cancelled"
    record = await queue.record(unwanted)
    assert (record.state, record.cancelling) == (State.RUNNING, True)
    assert await queue.store.cancel([unwanted]) == {unwanted: "cancelling"}
    for _ in range(2):  # its answer may have been lost
        await queue.store.settle(job, CANCELLED)
    record = await queue.record(unwanted)
    assert (record.state, record.cancelling, record.failures) == (State.CANCELLED, False, 0)
    assert not waiting[1].done(), "the other one goes on"
    waiting[1].cancel()
    await queue.store.complete(neighbour, {})
    assert (await queue.record(other)).state is State.COMPLETED


async def test_a_wish_from_before_the_owner_looked_is_found(queue: Operator) -> None:
    (unwanted,) = await queue.submit()
    job = await queue.claim()
    await queue.store.cancel([unwanted])
    stop = await asyncio.wait_for(wish_for(queue.store, "a", job), 0.5)
    assert isinstance(stop, StartStopped)


async def test_a_dead_owners_cancelled_job_ends_with_its_lease_and_is_not_started_again(queue: Operator) -> None:
    (unwanted,) = await queue.submit()
    dead = await queue.claim()
    await queue.store.cancel([unwanted])
    await queue.pass_s(31)
    assert isinstance(await queue.store.claim("b", "boot", LANES), Idle)
    record = await queue.record(unwanted)
    assert (record.state, record.crashes) == (State.CANCELLED, 0)
    with pytest.raises(LeaseLost):
        await queue.store.complete(dead, {})


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(State.RETRYING, "failed, may pass", delay_s=1.0, counter="failures"),
        Verdict(State.FAILED, "retries used up", dead_letter=True, counter="failures"),
        Verdict(State.QUEUED, "lower resolution", tier=512, counter="degradations"),
        Verdict(State.QUEUED, "drained"),
        CANCELLED,
    ],
)
async def test_whatever_becomes_of_its_start_a_cancelled_job_ends_as_that(queue: Operator, verdict: Verdict) -> None:
    (unwanted,) = await queue.submit(tier=1024)
    job = await queue.claim()
    await queue.store.cancel([unwanted])
    for _ in range(2):
        await queue.store.settle(job, verdict, "It failed.", "may pass", "a")
    record = await queue.record(unwanted)
    assert (record.state, record.error, record.failures) == (State.CANCELLED, "", 0)
    counts = await queue.view.counts()
    assert (counts.queued, counts.retrying, counts.dead, counts.running) == (0, 0, 0, 0)


async def test_a_job_that_has_ended_stays_what_it_is(queue: Operator) -> None:
    done, failed = await queue.submit(2)
    await queue.store.complete(await queue.claim(), {"output": "x"})
    await queue.fail(await queue.claim())
    answers = await queue.store.cancel([done, failed, "tsk_unknown"])
    assert answers == {done: "completed", failed: "failed", "tsk_unknown": "missing"}
    assert (await queue.record(done)).result == {"output": "x"}
    assert (await queue.view.counts()).dead == 1


async def test_a_video_that_is_chosen_completes_its_job_in_spite_of_a_cancellation(queue: Operator) -> None:
    (late,) = await queue.submit()
    job = await queue.claim()
    await queue.store.stage(job, {"staged": "here"})
    assert await queue.store.cancel([late]) == {late: "staged"}
    await queue.store.complete(job, {"output": "x"})
    assert (await queue.record(late)).state is State.COMPLETED


async def test_a_video_is_not_chosen_any_more_once_its_job_is_cancelled(queue: Operator) -> None:
    (unwanted,) = await queue.submit()
    job = await queue.claim()
    await queue.store.cancel([unwanted])
    with pytest.raises(StartStopped):
        await queue.store.stage(job, {"staged": "here"})
    assert (await queue.record(unwanted)).staged is None


async def test_a_choice_that_led_nowhere_is_taken_back_and_the_job_can_be_cancelled_again(queue: Operator) -> None:
    (task_id,) = await queue.submit()
    job = await queue.claim()
    await queue.store.stage(job, {"staged": "vanished"})
    await queue.store.unstage(job)
    assert await queue.store.cancel([task_id]) == {task_id: "cancelling"}


async def test_a_cancelled_job_can_be_put_back_by_hand(queue: Operator) -> None:
    (task_id,) = await queue.submit(batch="b")
    job = await queue.claim()
    await queue.store.cancel([task_id])
    await queue.store.settle(job, CANCELLED)
    assert (await queue.view.batch("b"))["cancelled"] == 1
    assert await queue.store.restart(task_id) == "ok"
    again = await queue.claim()
    assert (again.task_id, again.cancelling) == (task_id, False)
    assert (await queue.view.batch("b"))["cancelled"] == 0


async def test_cancelling_while_everybody_claims_leaves_each_job_with_one_end(queue: Operator) -> None:
    jobs = await queue.submit(120)
    ended: dict[str, State] = {}

    async def work(name: str) -> None:
        while True:
            job = await queue.store.claim(name, "boot", LANES)
            if isinstance(job, Idle):
                return
            await asyncio.sleep(0.001)
            try:
                await queue.store.stage(job, {"staged": "x"})
                await queue.store.complete(job, {})
            except StartStopped:
                await queue.store.settle(job, CANCELLED)

    async def cancel() -> dict[str, str]:
        answers: dict[str, str] = {}
        for task_id in jobs[::-2]:
            answers |= await queue.store.cancel([task_id])
        return answers

    *_, answers = await asyncio.gather(work("a"), work("b"), cancel())
    await work("a")
    for task_id, record in (await queue.view.jobs(jobs)).items():
        ended[task_id] = record.state
        wished = answers.get(task_id)
        expected = State.CANCELLED if wished in ("cancelled", "cancelling") else State.COMPLETED
        assert record.state is expected, (task_id, wished)
    assert set(ended.values()) == {State.CANCELLED, State.COMPLETED}
    assert await queue.lag() == 0


async def test_a_job_from_the_dead_letter_starts_again_with_all_its_budgets_and_its_own_resolution(
    queue: Operator,
) -> None:
    (task_id,) = await queue.submit(tier=1024)
    await queue.fail(await queue.claim(), FailureKind.OUT_OF_MEMORY)
    await queue.fail(await queue.claim(), FailureKind.OUT_OF_MEMORY)
    job = await queue.claim()
    assert (job.lane, job.degradations) == ("512", 2)
    await queue.fail(job)
    assert await queue.view.dead() == [task_id]
    assert await queue.store.restart(task_id) == "ok"
    assert await queue.view.dead() == []
    again = await queue.claim()
    assert (again.task_id, again.lane) == (task_id, "1024")
    assert (again.failures, again.degradations, again.crashes) == (0, 0, 0)
    assert len(again.history) == 3, "what happened to it is still told"


async def test_a_dropped_job_stays_failed_and_is_no_dead_letter(queue: Operator) -> None:
    task_id, waiting = await queue.submit(2)
    await queue.fail(await queue.claim())
    after = await queue.view.last_event()
    answers = await queue.store.drop([task_id, waiting, "tsk_unknown"])
    assert answers == {task_id: "ok", waiting: "queued", "tsk_unknown": "missing"}
    events, _ = await queue.view.events(after, 0.1)
    assert [(event["job"], event["state"], event["cause"]) for event in events] == [(task_id, "failed", "dropped")]
    assert await queue.store.drop([task_id]) == {task_id: "failed"}
    record = await queue.record(task_id)
    assert (record.state, record.error) == (State.FAILED, "It failed.")
    assert (await queue.view.counts()).dead == 0


async def test_what_has_ended_long_ago_is_forgotten_in_bounded_steps(queue: Operator) -> None:
    await queue.submit(1200)
    for _ in range(1200):
        await queue.fail(await queue.claim())
    client, keys = queue.store.client, queue.store.keys
    assert (await client.llen(keys.ended), await client.zcard(keys.dead)) == (1200, 1200)
    await queue.pass_s(7.1 * 24 * 3600)
    left = []
    for _ in range(3):
        await queue.store.tend()
        left.append((await client.llen(keys.ended), await client.zcard(keys.dead)))
    assert left == [(700, 700), (200, 200), (0, 0)]


async def test_a_batch_is_remembered_for_as_long_as_its_jobs(redis_url: str) -> None:
    days = 400.0
    settings = Settings(url=redis_url, queue=f"cancel-{new_job_id()}", retention_days=days)
    store = Store(connect(redis_url), settings)
    where = ("file:///a.png", "file:///a.wav", "file:///a.mp4")
    await store.submit([Submission(JobSpec(new_job_id(), *where, batch="b"), 512, idempotency_key="k")])
    assert await store.client.pttl(store.keys.batch("b")) > 0.99 * days * 24 * 3600 * 1000
    await store.close()


async def test_names_of_instances_that_died_do_not_pile_up(queue: Operator) -> None:
    client, keys = queue.store.client, queue.store.keys
    await client.sadd(keys.instances, *(f"pod-{number}" for number in range(30)))
    for number in range(20):
        await queue.store.register(Identity(f"new-{number}", "boot"))
    names = await client.smembers(keys.instances)
    assert not [name for name in names if name.startswith("pod-")]
    assert len(names) == 22
