"""Whose turn it is in a ComfyUI that both the queue and people at its browser use."""

from __future__ import annotations

import pytest
from comfyui_sonic.queue_bridge.execution.local_turns import LocalPrompts, number_of_job, queue_may_claim


@pytest.mark.parametrize(
    ("running", "waiting", "served", "share", "may"),
    [
        (False, (), 0, 1, True),  # nobody at the browser
        (True, (), 0, 1, False),  # it may end before the queue has a job to claim elsewhere
        (True, (5.0,), 0, 2, False),
        (False, (5.0,), 0, 1, False),  # about to begin
        (True, (), 1, 1, False),  # nothing waits behind it
        (True, (5.0,), 1, 1, True),  # the next one would be beyond the share
        (True, (5.0, 6.0), 2, 3, False),
        (True, (5.0, 6.0), 3, 3, True),
        (False, (5.0,), 4, 1, True),
    ],
)
def test_the_queue_claims_when_its_job_would_be_the_next_prompt(
    running: bool, waiting: tuple[float, ...], served: int, share: int, may: bool
) -> None:
    assert queue_may_claim(LocalPrompts(running, waiting, served), share) is may


@pytest.mark.parametrize(
    ("waiting", "served", "share", "position"),
    [
        ((), 0, 1, 0),
        ((3.0, 4.0, 5.0), 1, 1, 0),
        ((5.0, 3.0, 4.0), 0, 1, 1),
        ((3.0, 4.0, 5.0), 1, 3, 2),
        ((3.0,), 0, 1, 1),
    ],
)
def test_its_prompt_goes_behind_the_rest_of_the_share_and_ahead_of_all_others(
    waiting: tuple[float, ...], served: int, share: int, position: int
) -> None:
    number = number_of_job(LocalPrompts(True, waiting, served), share, next_number=9.0)
    assert sorted([*waiting, number]).index(number) == position


def test_prompts_that_jump_the_queue_of_comfyui_are_passed_in_the_same_way() -> None:
    """The browser's "front" gives negative numbers."""
    assert number_of_job(LocalPrompts(True, (-3.0, -2.0), 1), 1, next_number=9.0) < -3.0
