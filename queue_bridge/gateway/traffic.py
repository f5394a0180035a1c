"""What the gateway counts of its own requests, for /metrics: few numbers, whoever asks for whatever."""

from __future__ import annotations

from collections import Counter, defaultdict

BUCKETS_S = (0.005, 0.02, 0.1, 0.25, 1.0, 5.0)


class Traffic:
    """requests: by operation and status. seconds: by operation, how many took at most so long."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.buckets: Counter[tuple[str, float]] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.counts: Counter[str] = Counter()

    def count(self, operation: str, status: int, seconds: float | None) -> None:
        """seconds: None for what lasts as long as somebody listens."""
        self.requests[operation, status] += 1
        if seconds is not None:
            self.counts[operation] += 1
            self.seconds[operation] += seconds
            for limit in BUCKETS_S:
                self.buckets[operation, limit] += seconds <= limit
