"""Resolution tiers, and the lanes in which jobs wait for an instance that can run them."""

from __future__ import annotations

from collections.abc import Collection

TIERS = (512, 768, 1024)  # short side in pixels; a job belongs to the smallest that holds it, a larger one to the last
EVERYWHERE = frozenset({"auto", "draft"})  # engines of every instance: draft needs nothing, auto takes what is there


def tier_of(resolution: int) -> int:
    """The tier of a short side in pixels."""
    return next((tier for tier in TIERS if resolution <= tier), TIERS[-1])


def lower_tier(tier: int) -> int | None:
    """The next tier below, or None."""
    below = [candidate for candidate in TIERS if candidate < tier]
    return below[-1] if below else None


def lane_of(tier: int, engine: str) -> str:
    """Where a job waits: its tier, and its engine where not every instance has that one."""
    return str(tier) if engine in EVERYWHERE else f"{tier}-{engine}"


def lanes_of(tiers: Collection[int], engines: Collection[str]) -> tuple[str, ...]:
    """The lanes that an instance with these tiers and engines serves."""
    special = sorted(set(engines) - EVERYWHERE)
    return tuple(lane for tier in sorted(tiers) for lane in [str(tier), *(lane_of(tier, name) for name in special)])


def tier_of_lane(lane: str) -> int:
    return int(lane.partition("-")[0])
