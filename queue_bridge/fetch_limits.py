"""How large a job's input may be, and how long it may take to come."""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Of one file: its bytes, the seconds it may take in all, and those in which nothing may come."""

    bytes: int = 512 * MEBIBYTE
    total_s: float = 600.0
    idle_s: float = 30.0
