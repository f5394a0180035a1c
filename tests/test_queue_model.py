"""The real scripts on a real server do what a plain model does, whatever comes after whatever."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable
from typing import Any

import pytest
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.errors import LeaseLost, StartStopped
from comfyui_sonic.queue_bridge.job import CLASS_OF, JobRecord, JobSpec, Priority, new_job_id
from comfyui_sonic.queue_bridge.queue.keys import CLASSES
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Idle, Store, Submission, Unregistered
from comfyui_sonic.queue_bridge.retry import Verdict
from comfyui_sonic.queue_bridge.states import TERMINAL, State
from comfyui_sonic.queue_bridge.tiers import TIERS
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from .queue_model import ModelJob, QueueModel

LEASE_S, CRASHES, SHARE = 600.0, 3, 3  # longer than a run takes, since instances are forgotten by the server's clock
SLEEP_S = 5.0
WORKERS = ("a", "b", "c")
JOBS_MAX = 6  # few, so that much happens to each
LANES = tuple(str(tier) for tier in TIERS)
COMPARED = (
    *(
        "state",
        "lane",
        "token",
        "attempt",
        "failures",
        "crashes",
        "degradations",
        "device_faults",
        "redraws",
        "percent",
    ),
    "owner",
    "cancelling",
)

workers = st.sampled_from(WORKERS)
picks = st.sampled_from((0, 0, 0, 0, 0, 1, 1, 2, 3, 5))  # an index; what is most likely to change something comes first


class QueueMachine(RuleBasedStateMachine):
    """A new rule: draw, call the store, call the model, compare the answers; the invariants compare the rest."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.now_s = 1_800_000_000.0
        self.settings = Settings(
            url=url, queue=f"model-{new_job_id()}", lease_s=LEASE_S, crashes=CRASHES, priority_share=SHARE
        )
        self.store = Store(connect(url), self.settings, clock=lambda: self.now_s)
        self.view = QueueView(self.store.client, self.store.keys, url)
        self.model = QueueModel(LEASE_S, CRASHES, SHARE, self.now_s)
        self.starts: list[JobRecord] = []  # every one that ever was, so also those whose token is stale
        self.claim_ids = dict.fromkeys(WORKERS, "")
        self.idles: dict[str, Idle] = {}  # the last answers of those that went to sleep
        self.numbers = itertools.count(1)
        self.tokens: dict[str, int] = {}
        for name in WORKERS:
            self.boot(name)

    def teardown(self) -> None:
        async def clear() -> None:
            keys = [key async for key in self.store.client.scan_iter(match=f"{self.settings.prefix}*", count=1000)]
            await self.store.client.unlink(*keys)
            await self.store.close()

        self.run(clear())
        self.runner.close()

    def run(self, call: Awaitable[Any]) -> Any:
        async def awaited() -> Any:
            return await call

        return self.runner.run(awaited())

    def owned(self, call: Awaitable[None]) -> str:
        """The answer of a call that only the owner of a start may make."""
        try:
            self.run(call)
        except LeaseLost:
            return "stale"
        except StartStopped as stop:
            return stop.cause
        return "ok"

    def start_at(self, pick: int) -> JobRecord:
        """Starts whose token is the last one come first, then the stale ones; of each the newest first."""
        starts = sorted(self.starts[::-1], key=lambda start: start.token != self.model.jobs[start.task_id].token)
        return starts[pick % len(starts)]

    def boot(self, name: str, *, predecessor_is_dead: bool = True) -> None:
        me = Identity(name, f"boot-{next(self.numbers)}")
        answer = self.run(self.store.register(me, predecessor_is_dead=predecessor_is_dead))
        assert answer == self.model.register(name, me.boot, predecessor_is_dead=predecessor_is_dead)

    # --- submitting ---

    @precondition(lambda self: len(self.model.jobs) < JOBS_MAX)
    @rule(
        count=st.integers(1, 3),
        priority=st.sampled_from(("normal", "normal", "priority")),
        tier=st.sampled_from(TIERS),
        keyed=st.booleans(),
        batch=st.sampled_from(("", "batch-1", "batch-2")),
    )
    def submit(self, count: int, priority: Priority, tier: int, keyed: bool, batch: str) -> None:
        names = [f"job-{next(self.numbers)}" for _ in range(count)]
        self.put([(name, f"key-of-{name}" if keyed else "") for name in names], priority, tier, batch)

    @precondition(lambda self: self.model.jobs)
    @rule(pick=picks, same_id=st.booleans(), again=st.booleans())
    def submit_the_same(self, pick: int, same_id: bool, again: bool) -> None:
        job = self.job_at(pick)
        name = job.id if same_id or not job.key else f"job-{next(self.numbers)}"
        priority: Priority = "priority" if job.job_class == "priority" else "normal"
        self.put([(name, job.key)], priority, int(job.lane), job.batch, again=again)

    def put(
        self, named: list[tuple[str, str]], priority: Priority, tier: int, batch: str, *, again: bool = False
    ) -> None:
        jobs = [
            Submission(
                JobSpec(name, "file:///a", "file:///b", "file:///c.mp4", priority=priority, batch=batch),
                tier,
                "auto",
                key,
            )
            for name, key in named
        ]
        answers = self.run(self.store.submit(jobs, again=again))
        for answer, (name, key) in zip(answers, named, strict=True):
            expected = self.model.submit(name, CLASS_OF[priority], str(tier), key, batch, again=again)
            assert (answer.task_id, answer.made, answer.state) == expected

    # --- instances ---

    @rule(name=workers, lanes=st.sampled_from((LANES, LANES, LANES[:1], LANES[1:])))
    def claim(self, name: str, lanes: tuple[str, ...]) -> None:
        self.claim_ids[name] = f"claim-{next(self.numbers)}"
        self.ask(name, lanes)

    @rule(name=workers, lanes=st.sampled_from((LANES, LANES, LANES[:1], LANES[1:])))
    def claim_or_sleep(self, name: str, lanes: tuple[str, ...]) -> None:
        self.claim_ids[name] = f"claim-{next(self.numbers)}"
        self.ask(name, lanes, wait_s=SLEEP_S)

    @precondition(lambda self: self.model.handed)
    @rule(pick=picks)
    def wake_up_with_a_job(self, pick: int) -> None:
        name, task_id = list(self.model.handed.items())[pick % len(self.model.handed)]
        answer = self.run(self.store.sleep(self.idles[name], 0.001))
        assert answer and (answer.task_id, answer.owner, answer.state) == (task_id, name, State.RUNNING)
        self.starts.append(answer)

    # Together, since by chance they would seldom come in this order.
    @precondition(lambda self: len(self.model.jobs) < JOBS_MAX)
    @rule(names=st.permutations(WORKERS), seconds=st.sampled_from((0.0, 1.0, SLEEP_S)), count=st.integers(1, 3))
    def jobs_come_while_instances_sleep(self, names: list[str], seconds: float, count: int) -> None:
        for name in names[:2]:
            self.claim_or_sleep(name, LANES)
            self.time_passes(seconds)
        self.submit(count, "normal", TIERS[0], True, "")

    @rule(name=workers)
    def claim_once_more_after_a_lost_answer(self, name: str) -> None:
        if self.claim_ids[name]:
            self.ask(name, LANES)

    def ask(self, name: str, lanes: tuple[str, ...], *, wait_s: float = 0.0) -> None:
        boot = self.model.boots[name]
        answer = self.run(self.store.claim(name, boot, lanes, claim_id=self.claim_ids[name], wait_s=wait_s))
        expected = self.model.claim(name, boot, self.claim_ids[name], lanes, wait_s=wait_s)
        assert (None if isinstance(answer, Idle) else answer.task_id) == expected
        if isinstance(answer, JobRecord):
            assert (answer.owner, answer.token) == (name, self.model.jobs[answer.task_id].token)
            self.starts.append(answer)
        else:
            if wait_s:
                self.idles[name] = answer
            times = [job.due_s for job in self.model.jobs.values() if job.state == "retrying"]
            times += [job.lease_s for job in self.model.running()]
            assert answer.due_s == pytest.approx(min(times) - self.now_s) if times else answer.due_s is None

    @rule(name=workers, lanes=st.sampled_from((LANES, LANES, LANES[:1], LANES[1:])))
    def set_aside(self, name: str, lanes: tuple[str, ...]) -> None:
        boot = self.model.boots[name]
        answer = self.run(self.store.set_aside(name, boot, lanes))
        assert (answer.task_id if answer else None) == self.model.set_aside(name, boot, lanes)

    @precondition(lambda self: self.model.aside)
    @rule(name=workers, pick=picks)
    def find_at_fault_what_is_set_aside(self, name: str, pick: int) -> None:
        aside = list(self.model.aside.values())
        task_id = aside[pick % len(aside)]
        record = self.run(self.view.job(task_id))
        assert self.run(self.store.refuse(record, name, "It is at fault.")) == self.model.refuse(task_id, name)

    @rule(name=workers)
    def drain(self, name: str) -> None:
        assert set(self.run(self.store.drain(name, 60.0))) == set(self.model.drain(name))

    @rule(name=workers)
    def undrain(self, name: str) -> None:
        assert self.run(self.store.undrain(name)) == (name in self.model.draining)
        self.model.draining.discard(name)

    @rule(name=workers)
    def crash_and_start_anew(self, name: str) -> None:
        self.boot(name)

    # Together, since by chance they would seldom come in this order.
    @rule(name=workers, times=st.integers(1, CRASHES))
    def one_job_after_another_start_kills_its_instance(self, name: str, times: int) -> None:
        for _ in range(times):
            self.claim(name, LANES)
            self.boot(name)

    @rule(first=workers, second=workers)
    def another_takes_it_before_a_lost_answer_is_asked_for_again(self, first: str, second: str) -> None:
        self.claim(first, LANES)
        self.time_passes(LEASE_S + 1)
        self.claim(second, LANES)
        self.claim_once_more_after_a_lost_answer(first)

    @rule(name=workers)
    def a_second_one_of_a_living_name_is_refused(self, name: str) -> None:
        self.boot(name, predecessor_is_dead=False)

    @rule(name=workers)
    def an_unknown_process_gets_nothing(self, name: str) -> None:
        with pytest.raises(Unregistered):
            self.run(self.store.claim(name, "another boot", LANES))

    # --- the owner of a start, or one who believes to be it ---

    @precondition(lambda self: self.starts)
    @rule(pick=picks, percent=st.integers(0, 99), stage=st.sampled_from(("Inference", "Waiting")))
    def progress(self, pick: int, percent: int, stage: str) -> None:
        job = self.start_at(pick)
        answer = self.owned(self.store.progress(job, percent, stage, None))
        assert answer == self.model.progress(job.task_id, job.token, percent, stage)

    @precondition(lambda self: self.starts)
    @rule(pick=picks)
    def renew(self, pick: int) -> None:
        job = self.start_at(pick)
        assert self.owned(self.store.renew(job)) == self.model.renew(job.task_id, job.token)

    @precondition(lambda self: self.starts)
    @rule(pick=picks)
    def stage(self, pick: int) -> None:
        job = self.start_at(pick)
        answer = self.owned(self.store.stage(job, {"by": job.token}))
        assert answer == self.model.stage(job.task_id, job.token)

    @precondition(lambda self: self.starts)
    @rule(pick=picks)
    def complete(self, pick: int) -> None:
        job = self.start_at(pick)
        answer = self.owned(self.store.complete(job, {"by": job.token}))
        assert answer == self.model.settle(job.task_id, job.token, "completed")

    @precondition(lambda self: self.starts)
    @rule(pick=picks, delay_s=st.sampled_from((0.0, 60.0, 240.0)))
    def fail_in_a_way_that_may_pass(self, pick: int, delay_s: float) -> None:
        verdict = Verdict(State.RETRYING, "failed, may pass", delay_s=delay_s, counter="failures")
        self.settle(self.start_at(pick), verdict)

    @precondition(lambda self: self.starts)
    @rule(pick=picks)
    def fail_for_the_last_time(self, pick: int) -> None:
        verdict = Verdict(State.FAILED, "retries used up", dead_letter=True, counter="failures")
        self.settle(self.start_at(pick), verdict)

    @precondition(lambda self: self.starts)
    @rule(pick=picks)
    def fail_because_of_the_material(self, pick: int) -> None:
        self.settle(self.start_at(pick), Verdict(State.FAILED, "bad input"))

    @precondition(lambda self: self.starts)
    @rule(pick=picks, tier=st.sampled_from(TIERS[:-1]))
    def run_out_of_memory(self, pick: int, tier: int) -> None:
        verdict = Verdict(State.QUEUED, "lower resolution", tier=tier, counter="degradations")
        self.settle(self.start_at(pick), verdict)

    @precondition(lambda self: self.starts)
    @rule(pick=picks)
    def break_the_card(self, pick: int) -> None:
        self.settle(self.start_at(pick), Verdict(State.QUEUED, "device fault", counter="device_faults"))

    @precondition(lambda self: self.starts)
    @rule(pick=picks)
    def fall_short(self, pick: int) -> None:
        self.settle(self.start_at(pick), Verdict(State.QUEUED, "another seed", counter="redraws"))

    @precondition(lambda self: self.starts)
    @rule(pick=picks)
    def end_as_an_operator_wished(self, pick: int) -> None:
        self.settle(self.start_at(pick), Verdict(State.CANCELLED, "cancelled"))

    @precondition(lambda self: self.starts)
    @rule(pick=picks)
    def give_back(self, pick: int) -> None:
        self.settle(self.start_at(pick), Verdict(State.QUEUED, "given back"))

    def settle(self, job: JobRecord, verdict: Verdict) -> None:
        answer = self.owned(self.store.settle(job, verdict, "A sentence.", "may pass", "a"))
        assert answer == self.model.settle(
            job.task_id,
            job.token,
            verdict.state,
            verdict.cause,
            delay_s=verdict.delay_s,
            lane=str(verdict.tier or ""),
            dead=verdict.dead_letter,
            counter=verdict.counter,
        )

    # --- by hand, and by time ---

    @precondition(lambda self: self.model.jobs)
    @rule(pick=picks)
    def restart(self, pick: int) -> None:
        job = self.job_at(pick)
        assert self.run(self.store.restart(job.id)) == self.model.restart(job.id)

    @precondition(lambda self: self.model.jobs)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        job = self.job_at(-1 - pick)
        assert self.run(self.store.cancel([job.id])) == {job.id: self.model.cancel(job.id)}

    @precondition(lambda self: self.model.jobs)
    @rule(pick=picks)
    def drop(self, pick: int) -> None:
        job = self.job_at(pick)
        assert self.run(self.store.drop([job.id])) == {job.id: self.model.drop(job.id)}

    @rule(seconds=st.sampled_from((1.0, 60.0, LEASE_S / 2, LEASE_S + 1)))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.model.now_s = self.now_s

    @rule()
    def tend(self) -> None:
        assert self.run(self.store.tend()) == self.model.tend()

    def job_at(self, pick: int) -> ModelJob:
        """Ended jobs come first."""
        jobs = sorted(self.model.jobs.values(), key=lambda job: State(job.state) not in TERMINAL)
        return jobs[pick % len(jobs)]

    # --- what must be true at any time ---

    @invariant()
    def every_job_is_as_in_the_model(self) -> None:
        records = self.run(self.view.jobs(list(self.model.jobs)))
        assert set(records) == set(self.model.jobs), "nothing is lost, and nothing comes from nowhere"
        for job in self.model.jobs.values():
            record = records[job.id]
            found = {name: getattr(record, name) for name in COMPARED}
            assert (job.id, found) == (job.id, {name: getattr(job, name) for name in COMPARED})
            assert (record.staged or {}).get("by", 0) == job.staged
            assert job.token >= self.tokens.get(job.id, 0), "a fencing token never goes back"
            self.tokens[job.id] = job.token

    @invariant()
    def every_job_is_in_exactly_the_place_of_its_state(self) -> None:
        jobs = self.model.jobs.values()
        leases, delayed, dead, *flows = self.run(self.sets())
        assert leases == {job.id: job.lease_s for job in jobs if job.state == "running"}
        assert delayed == {job.id: job.due_s for job in jobs if job.state == "retrying"}
        assert set(dead) == {job.id for job in jobs if job.dead}
        waiting = self.run(self.view.counts()).waiting
        for (job_class, lane), found in zip(itertools.product(CLASSES, LANES), flows, strict=True):
            assert waiting[job_class].get(lane, 0) == len(self.model.waiting(job_class, {lane}))
            assert found == {batch: turn / 1000 for batch, turn in self.model.flows.get((job_class, lane), {}).items()}

    @invariant()
    def totals_and_batches_count_every_job_once(self) -> None:
        states = [job.state for job in self.model.jobs.values()]
        totals, batches = self.run(self.counts())
        assert totals == {name: count for name, count in self.model.totals.items() if name in totals or count}
        assert totals.get("submitted", 0) == len(self.model.jobs)
        for state in TERMINAL:
            assert totals.get(state, 0) == states.count(state)
        for name, found in batches.items():
            mine = [job.state for job in self.model.jobs.values() if job.batch == name]
            assert found.pop("total") == len(mine)
            assert {state: count for state, count in found.items() if count} == {
                str(state): mine.count(state) for state in TERMINAL if state in mine
            }

    async def sets(self) -> list[dict[str, float]]:
        """Jobs with their times, of the sets ordered by time; then batches with a thousandth of their turns."""
        keys = self.store.keys
        flows = [keys.flows(job_class, lane) for job_class, lane in itertools.product(CLASSES, LANES)]
        async with self.store.client.pipeline(transaction=False) as pipeline:
            for key in (keys.leases, keys.delayed, keys.dead, *flows):
                pipeline.zrange(key, 0, -1, withscores=True)
            return [{job: score / 1000 for job, score in found} for found in await pipeline.execute()]

    async def counts(self) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
        """Totals, and the counts of every batch."""
        batches = {name: await self.view.batch(name) for name in self.model.batches}
        for one in batches.values():
            del one["submitted_ms"]
        return (await self.view.counts()).totals, batches


@pytest.mark.slow
def test_the_scripts_do_what_the_model_does(redis_url: str) -> None:
    run_state_machine_as_test(
        lambda: QueueMachine(redis_url),
        settings=settings(
            max_examples=70,
            stateful_step_count=60,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
