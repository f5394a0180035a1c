"""Whose turn it is in one ComfyUI: the queue's, or that of the people who queue prompts in its browser.

Between two jobs of the queue up to ``share`` of their prompts run. So nobody at the browser waits for a whole batch,
and a hundred prompts from the browser do not keep the queue out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class LocalPrompts:
    """What people have queued in this ComfyUI.

    running: whether one of their prompts runs now. waiting: the numbers by which ComfyUI orders those that wait.
    served: how many of theirs have begun since the last job of the queue began.
    """

    running: bool
    waiting: Collection[float]
    served: int


def queue_may_claim(local: LocalPrompts, share: int) -> bool:
    """True when the queue's next job would be ComfyUI's next prompt, so that it is time to claim one.

    Not earlier: a job that is claimed waits here, while another instance might have run it.
    """
    if not local.running and not local.waiting:
        return True
    # Behind the last one of the share, when another would slip in between its end and our claim.
    return local.served >= share and bool(local.waiting)


def number_of_job(local: LocalPrompts, share: int, next_number: float) -> float:
    """Where the queue's prompt goes among those that wait: behind the rest of their share, ahead of all others.

    next_number: that of the last place.
    """
    left = max(0, share - local.served)
    if len(local.waiting) <= left:
        return next_number
    ahead_of = sorted(local.waiting)
    return (ahead_of[left] + (ahead_of[left - 1] if left else ahead_of[left] - 1)) / 2
