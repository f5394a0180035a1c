"""What the gateway counts of its own requests, for /metrics: few numbers, whoever asks for whatever."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator

LOOK_S = 0.02
BUCKETS_S = (0.005, 0.02, 0.1, 0.25, 1.0, 5.0)


class Traffic:
    """requests: by operation and status. seconds: by operation, how many took at most so long."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.buckets: Counter[tuple[str, float]] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.counts: Counter[str] = Counter()
        self._at_hand = 0

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        """While a request is at hand."""
        self._at_hand += 1
        try:
            yield
        finally:
            self._at_hand -= 1

    async def done_within(self, seconds: float) -> None:
        """Return when no request is at hand any more, at the latest after so long."""
        deadline = asyncio.get_running_loop().time() + seconds
        while self._at_hand and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(LOOK_S)

    def count(self, operation: str, status: int, seconds: float | None) -> None:
        """seconds: None for what lasts as long as somebody listens."""
        self.requests[operation, status] += 1
        if seconds is not None:
            self.counts[operation] += 1
            self.seconds[operation] += seconds
            for limit in BUCKETS_S:
                self.buckets[operation, limit] += seconds <= limit
