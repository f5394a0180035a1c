"""Submits the jobs of a run as the backlog gets short, and remembers what the queue has accepted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Sequence
from dataclasses import replace

from comfyui_sonic.queue_bridge.errors import QueueUnavailable
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Store

from .history import Order
from .workload import Job

log = logging.getLogger("bench.chaos")

REPEATED = 0.2  # of the bursts are submitted a second time
CALM = 0.3  # of the bursts wait until the queue is empty, and begin one by one: servers that sleep are handed jobs
CALM_S = 15.0  # after which such a burst waits no longer
ONE_BY_ONE = 6
LOOK_S = 0.3
TELL_S = 15.0


class Progress:
    """How much of the work is done, looked up while the run goes on."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.ended = 0

    @property
    def share(self) -> float:
        return self.ended / self.count

    async def watch(self, view: QueueView) -> None:
        told = time.monotonic()
        while True:
            with contextlib.suppress(QueueUnavailable):
                totals = (await view.counts()).totals
                self.ended = sum(totals.get(name, 0) for name in ("completed", "failed", "cancelled"))
            if time.monotonic() - told > TELL_S:
                told = time.monotonic()
                log.warning("%d of %d jobs have ended", self.ended, self.count)
            await asyncio.sleep(LOOK_S)


class Submitter:
    """Submits bursts as the backlog gets short or is gone, through a link that breaks like the others'."""

    def __init__(self, store: Store, progress: Progress, draw: random.Random) -> None:
        self.accepted: dict[str, Order] = {}
        self._store = store
        self._progress = progress
        self._draw = draw

    async def run(self, bursts: Sequence[Sequence[Job]]) -> None:
        for burst in bursts:
            is_calm = self._draw.random() < CALM
            await self._await_backlog(0 if is_calm else len(burst) / 2, CALM_S if is_calm else math.inf)
            singles = ONE_BY_ONE if is_calm else 0
            for part in (*([job] for job in burst[:singles]), burst[singles:]):
                for job, answer in zip(part, await self._submit(part), strict=True):
                    self.accepted[job.order.task_id] = replace(job.order, repeats=(answer,))
                if is_calm:
                    await asyncio.sleep(LOOK_S)
            if self._draw.random() < REPEATED:
                for job, answer in zip(burst, await self._submit(burst), strict=True):
                    order = self.accepted[job.order.task_id]
                    self.accepted[order.task_id] = replace(order, repeats=(*order.repeats, answer))

    async def _await_backlog(self, short: float, limit_s: float) -> None:
        until = time.monotonic() + limit_s
        while len(self.accepted) - self._progress.ended > short and time.monotonic() < until:
            await asyncio.sleep(LOOK_S)

    async def _submit(self, burst: Sequence[Job]) -> list[str]:
        """Until it is answered: only then has the queue accepted them."""
        while True:
            try:
                answers = await self._store.submit([job.submission for job in burst])
            except QueueUnavailable:
                await asyncio.sleep(0.2)
            else:
                return [answer.task_id for answer in answers]
