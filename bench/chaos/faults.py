"""What goes wrong, when, and to whom: a plan out of a seed, and the hands that carry it out."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from comfyui_sonic.queue_bridge.database.redis_connection import connect, queue_errors
from comfyui_sonic.queue_bridge.database.redis_server import RedisServer, running_server
from comfyui_sonic.queue_bridge.errors import BridgeError

from .fleet import Fleet, Server
from .history import EVERY_OWNER, Fault
from .wire import EDGES, Edge, Trap, Wire

if TYPE_CHECKING:
    from .wire import Link

log = logging.getLogger("bench.chaos")

KILL, FREEZE, HOLD = "instance killed", "instance frozen", "connection held"
CUT, CUT_ALL, SWALLOW = "connection cut", "every connection cut", "answer lost"
DATABASE = "database killed"
WEIGHTS = {KILL: 30, FREEZE: 16, HOLD: 10, CUT: 10, CUT_ALL: 8, SWALLOW: 16, DATABASE: 10}
AT_RANDOM, DUE = "any time", "retry due"
SEVERAL = 0.15  # of the strikes are two or three faults at once
AIMED = 0.7
TRAP_S = 10.0  # an edge that nobody has reached by then is not waited for


@dataclass(frozen=True)
class Strike:
    """kinds: what happens at once. edge: when, None for any time. due: rather when the retry seen there is due."""

    kinds: tuple[str, ...]
    edge: Edge | None = None
    due: bool = False

    @property
    def moment(self) -> str:
        return DUE if self.due else self.edge.name if self.edge else AT_RANDOM


def plan(count: int, draw: random.Random) -> list[Strike]:
    """Strikes with ``count`` faults in all: every kind and every edge in turn, in an order of chance."""
    strikes: list[Strike] = []
    retrying = next(edge for edge in EDGES if edge.name == "settled, not known")
    moments: list[tuple[Edge, bool]] = []
    left = count
    while left > 0:
        several = left >= 3 and draw.random() < SEVERAL
        size = draw.randint(2, 3) if several else 1
        kinds = tuple(draw.choices(list(WEIGHTS), list(WEIGHTS.values()), k=size))
        if draw.random() < AIMED:
            moments = moments or draw.sample([*((edge, False) for edge in EDGES), (retrying, True)], len(EDGES) + 1)
            strikes.append(Strike(kinds, *moments.pop()))
        else:
            strikes.append(Strike(kinds))
        left -= size
    return strikes


class Hands:
    """Carries strikes out and writes down what was done. lease_s, backoff_s: as the instances have them."""

    def __init__(
        self, wire: Wire, fleet: Fleet, redis: RedisServer, draw: random.Random, lease_s: float, backoff_s: float
    ) -> None:
        self.done: list[Fault] = []
        self._wire = wire
        self._fleet = fleet
        self._redis = redis
        self._draw = draw
        self._lease_s = lease_s
        self._backoff_s = backoff_s
        self._database = asyncio.Lock()

    async def strike(self, strike: Strike) -> None:
        """Wait for the moment, at most TRAP_S, and let it happen."""
        if strike.edge is None:
            await self._all(strike, self._anyone())
            return
        sprung = asyncio.get_running_loop().create_future()
        afterwards: list[asyncio.Task[None]] = []

        async def spring(link: Link) -> None:
            sprung.set_result(link)
            server = next(one for one in self._fleet.servers if one.link is link)
            if strike.due:
                return
            task = asyncio.create_task(self._all(strike, server))
            afterwards.append(task)
            await asyncio.sleep(0)  # what strikes at once has struck before anything passes on

        trap = Trap(strike.edge, spring)
        self._wire.traps.append(trap)
        try:
            async with asyncio.timeout(TRAP_S):
                await sprung
        except TimeoutError:
            if trap in self._wire.traps:
                self._wire.traps.remove(trap)
            await self._all(Strike(strike.kinds), self._anyone())
            return
        if strike.due:
            await asyncio.sleep(self._backoff_s)
            await self._all(strike, self._anyone())
        await asyncio.gather(*afterwards)

    def exited(self, server: Server) -> None:
        """A job has ended its server's process; noticed a moment later."""
        now = _now_ms()
        self.done.append(Fault("job ends its server", "running", (server.name,), now - 1000, now))

    async def heal(self) -> None:
        """Nothing is to go wrong any more."""
        self._wire.traps.clear()
        async with self._database:
            await asyncio.to_thread(self._start_database)
        for server in self._fleet.servers:
            server.link.swallow = 0
            server.send(signal.SIGCONT)

    async def _all(self, strike: Strike, server: Server) -> None:
        victims = [server, *(self._anyone() for _ in strike.kinds[1:])]
        await asyncio.gather(
            *(self._one(kind, strike.moment, victim) for kind, victim in zip(strike.kinds, victims, strict=True))
        )

    async def _one(self, kind: str, moment: str, server: Server) -> None:
        log.info("%s (%s): %s", kind, moment, server.name)
        began = _now_ms()
        seconds = self._lease_s + self._draw.uniform(0.3, 2.0)
        owners: tuple[str, ...] = (server.name,)
        until = began
        if kind == KILL:
            self._fleet.kill(server)
        elif kind == FREEZE:
            self._fleet.freeze(server, seconds)
            until = began + round(seconds * 1000)
        elif kind == HOLD:
            server.link.hold(seconds)
            until = began + round(seconds * 1000)
        elif kind == CUT:
            server.link.cut()
        elif kind == SWALLOW:
            server.link.swallow += 1
        else:
            owners = (EVERY_OWNER,)
            await (self._cut_all() if kind == CUT_ALL else self._kill_database())
            until = _now_ms()
        self.done.append(Fault(kind, moment, owners, began, until))

    async def _cut_all(self) -> None:
        client = connect(self._redis.url)
        try:
            with queue_errors(self._redis.url):
                await client.client_kill_filter(_type="normal", skipme=True)
        except BridgeError:  # the database is away just now: they are cut
            pass
        finally:
            await client.aclose()

    async def _kill_database(self) -> None:
        """Kill it where it is, and start it again after a while, at times a longer one than a lease."""
        pause_s = self._draw.choice((0.0, 0.2, 0.5, 1.0, self._lease_s + 1.0))
        async with self._database:
            running = await asyncio.to_thread(running_server, self._redis.data_directory)
            if running:
                os.kill(running.process, signal.SIGKILL)
            await asyncio.sleep(pause_s)
            await asyncio.to_thread(self._start_database)

    def _start_database(self) -> None:
        self._redis.start()
        self._redis.wait_until_ready()

    def _anyone(self) -> Server:
        return self._draw.choice(self._fleet.servers)


class Pace:
    """Spreads strikes evenly over the jobs. share: how much of the work is done, 0..1."""

    def __init__(self, strikes: list[Strike], hands: Hands, share: Callable[[], float]) -> None:
        self._strikes = strikes
        self._hands = hands
        self._share = share

    async def run(self) -> None:
        """Until all have been carried out; cancelled, it begins no more and waits for none."""
        under_way: set[asyncio.Task[None]] = set()
        try:
            for number, strike in enumerate(self._strikes, 1):
                while self._share() < number / (len(self._strikes) + 1):
                    await asyncio.sleep(0.05)
                task = asyncio.create_task(self._hands.strike(strike))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            await asyncio.gather(*under_way)
        finally:
            for task in under_way:
                task.cancel()


def _now_ms() -> int:
    return round(time.time() * 1000)
