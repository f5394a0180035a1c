"""Who is next: batches take turns, within a batch the order of submission holds, and the count of a lane stays true."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, Priority, new_job_id
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Store, Submission
from comfyui_sonic.queue_bridge.retry import Verdict
from comfyui_sonic.queue_bridge.states import State

LANES = ("512", "768", "1024")


class Line:
    """One queue of its own, and one instance that serves all of it."""

    def __init__(self, url: str) -> None:
        settings = Settings(url=url, queue=f"test-{new_job_id()}", lease_s=3600.0)
        self.store = Store(connect(url), settings)
        self.view = QueueView(self.store.client, self.store.keys, url)
        self.me = Identity("a", "boot")

    async def submit(self, batch: str, count: int, priority: Priority = "normal", tier: int = 512) -> list[str]:
        def spec() -> JobSpec:
            return JobSpec(
                new_job_id(), "file:///a.png", "file:///a.wav", "file:///a.mp4", batch=batch, priority=priority
            )

        return [one.task_id for one in await self.store.submit([Submission(spec(), tier) for _ in range(count)])]

    async def claim(self, lanes: Sequence[str] = LANES) -> JobRecord:
        job = await self.store.claim(self.me.name, self.me.boot, lanes)
        assert isinstance(job, JobRecord)
        return job

    async def batches(self, count: int) -> str:
        """The batches of the next jobs, one letter each."""
        return "".join([(await self.claim()).spec.batch or "-" for _ in range(count)])

    async def cancel(self, task_ids: Sequence[str]) -> None:
        assert set((await self.store.cancel(task_ids)).values()) == {"cancelled"}

    async def set_aside(self) -> str:
        """The batch of the job that this instance makes ready."""
        job = await self.store.set_aside(self.me.name, self.me.boot, LANES)
        assert job
        return job.spec.batch


@pytest.fixture
async def line(redis_url: str) -> AsyncIterator[Line]:
    made = Line(redis_url)
    await made.store.register(made.me)
    yield made
    await made.store.close()


async def test_ten_jobs_of_one_customer_do_not_wait_for_eight_hundred_of_another(line: Line) -> None:
    await line.submit("A", 800)
    ten = await line.submit("B", 10)
    claimed = [await line.claim() for _ in range(20)]
    assert "".join(job.spec.batch for job in claimed) == "AB" * 10
    assert [job.task_id for job in claimed if job.spec.batch == "B"] == ten
    assert await line.batches(5) == "AAAAA"


async def test_a_batch_that_comes_while_another_runs_is_next_after_at_most_one_job_of_each(line: Line) -> None:
    await line.submit("A", 800)
    await line.batches(400)
    await line.submit("B", 10)
    assert await line.batches(6) in ("ABABAB", "BABABA")


async def test_all_batches_have_equal_shares(line: Line) -> None:
    sizes = {"A": 100, "B": 40, "C": 70, "D": 10}
    for batch, size in sizes.items():
        await line.submit(batch, size)
    assert Counter(await line.batches(40)) == dict.fromkeys("ABCD", 10)
    assert Counter(await line.batches(30)) == dict.fromkeys("ABC", 10)


async def test_jobs_without_a_batch_share_one_turn(line: Line) -> None:
    for _ in range(5):
        await line.submit("", 1)
    await line.submit("A", 3)
    assert await line.batches(8) == "-A-A-A--"


async def test_no_batch_waits_longer_than_one_turn_of_each_however_many_come(line: Line) -> None:
    await line.submit("old", 2)
    assert (await line.claim()).spec.batch == "old"
    for number in range(20):  # a new batch for every job that starts
        await line.submit(f"new-{number}", 1)
        started = (await line.claim()).spec.batch
        if started == "old":
            break
    assert number <= 1


async def test_priority_comes_before_every_batch_and_its_batches_take_turns_too(line: Line) -> None:
    await line.submit("A", 20)
    await line.submit("B", 4, "priority")
    await line.submit("C", 4, "priority")
    assert await line.batches(9) == "BCBCBCBCA"


async def test_a_job_that_came_back_is_its_batchs_next_and_takes_no_turn_of_another(line: Line) -> None:
    first, *_ = await line.submit("A", 3)
    await line.submit("B", 3)
    job = await line.claim()
    assert job.task_id == first
    await line.store.settle(job, Verdict(State.QUEUED, "given back"))
    assert (await line.claim()).spec.batch == "B"
    assert (await line.claim()).task_id == first
    assert await line.batches(4) == "BABA"


async def test_jobs_that_came_back_keep_the_order_of_their_submission(line: Line) -> None:
    submitted = await line.submit("A", 6)
    jobs = [await line.claim() for _ in range(4)]
    for job in (jobs[2], jobs[0], jobs[3], jobs[1]):
        await line.store.settle(job, Verdict(State.QUEUED, "given back"))
    assert [(await line.claim()).task_id for _ in range(6)] == submitted


async def test_a_thousand_cancelled_jobs_are_passed_over_within_one_claim_and_not_counted(line: Line) -> None:
    await line.cancel(await line.submit("A", 900))
    (wanted,) = await line.submit("A", 1)
    assert await line.view.lag("pending", "512") == 1
    assert (await line.view.counts()).queued == 1
    started = time.perf_counter()
    assert (await line.claim()).task_id == wanted
    assert time.perf_counter() - started < 0.5
    assert await line.view.lag("pending", "512") == 0


async def test_a_cancelled_job_that_is_put_back_starts_once(line: Line) -> None:
    first, second = await line.submit("A", 2)
    await line.cancel([first])
    await line.store.restart(first)
    assert await line.view.lag("pending", "512") == 2
    assert [(await line.claim()).task_id for _ in range(2)] == [first, second]
    assert not isinstance(await line.store.claim("a", "boot", LANES), JobRecord)
    assert await line.view.lag("pending", "512") == 0


async def test_a_job_that_somebody_deleted_leaves_no_count_behind(line: Line) -> None:
    deleted, kept = await line.submit("A", 2)
    await line.store.client.delete(line.store.keys.job(deleted))
    assert (await line.claim()).task_id == kept
    assert (await line.view.counts()).queued == 0
    assert await line.view.lag("pending", "512") == 0


async def test_a_lane_that_nobody_served_for_long_does_not_hold_the_others_up(line: Line) -> None:
    await line.submit("A", 50, tier=1024)
    await line.submit("B", 50)
    for _ in range(30):
        await line.claim(("512",))
    assert await line.batches(6) == "ABABAB"


async def test_what_is_listed_as_queued_is_in_the_order_of_its_start(line: Line) -> None:
    a, b = await line.submit("A", 3), await line.submit("B", 2)
    assert await line.view.ids([State.QUEUED], 10) == [a[0], b[0], a[1], b[1], a[2]]
    assert await line.view.ids([State.QUEUED], 2) == [a[0], b[0]]


@pytest.mark.slow
async def test_a_claim_costs_the_same_with_a_hundred_thousand_jobs_of_a_thousand_batches(line: Line) -> None:
    async def milliseconds() -> float:
        spent = []
        for _ in range(300):
            started = time.perf_counter()
            await line.claim()
            spent.append(time.perf_counter() - started)
        return 1000 * sorted(spent)[150]

    await line.submit("warm", 400)
    few = await milliseconds()
    for number in range(1000):
        await line.submit(f"batch-{number}", 100)
    assert await milliseconds() < 2 * few + 0.5


async def test_a_batch_whose_waiting_jobs_are_cancelled_has_no_turn_and_no_count_any_more(line: Line) -> None:
    cancelled = await line.submit("A", 5)
    await line.submit("B", 2)
    await line.submit("C", 2)
    await line.cancel(cancelled)
    assert await line.view.lag("pending", "512") == 4
    assert await line.store.client.zrange(line.store.keys.flows("pending", "512"), 0, -1) == ["B", "C"]
    assert await line.batches(4) == "BCBC"


async def test_a_job_that_is_set_aside_takes_its_batchs_turn_and_its_start_takes_none(line: Line) -> None:
    await line.submit("A", 4)
    await line.submit("B", 4)
    order = ""
    for _ in range(8):
        assert await line.set_aside() == await line.set_aside()
        order += await line.batches(1)
    assert order == "ABABABAB"


async def test_others_get_the_next_batchs_job_while_one_is_set_aside(line: Line) -> None:
    await line.submit("A", 3)
    await line.submit("B", 3)
    other = Identity("b", "boot")
    await line.store.register(other)
    assert await line.set_aside() == "A"
    taken = [await line.store.claim(other.name, other.boot, LANES) for _ in range(2)]
    assert [job.spec.batch for job in taken if isinstance(job, JobRecord)] == ["B", "A"]
    assert await line.batches(1) == "A", "what it has made ready, though it is B's turn"
    assert await line.batches(3) == "BAB"
