"""What a failed start leads to."""

from __future__ import annotations

import pytest
from comfyui_sonic.queue_bridge.errors import (
    BadJob,
    BelowQuality,
    FileUnreachable,
    PromptFailed,
    PromptOverdue,
    PromptRejected,
    PromptStuck,
)
from comfyui_sonic.queue_bridge.retry import FailureKind, RetryPolicy, judge, kind_of, sentence_of
from comfyui_sonic.queue_bridge.states import State
from hypothesis import given
from hypothesis import strategies as st

POLICY = RetryPolicy(retries=3, backoff_s=60.0, jitter=0.2)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadJob("image", "is missing."), FailureKind.BAD_INPUT),
        (PromptFailed("No face.", error_type="NoFace"), FailureKind.BAD_INPUT),
        (PromptRejected("It is not there.", bad_input=True), FailureKind.BAD_INPUT),
        (PromptRejected("A node is missing."), FailureKind.MAY_PASS),
        (PromptFailed("x", error_type="OutOfMemoryError"), FailureKind.OUT_OF_MEMORY),
        (PromptFailed("x", error_type="pack.sonic.errors.NotEnoughMemory"), FailureKind.OUT_OF_MEMORY),
        (PromptFailed("CUDA out of memory. Tried", error_type="RuntimeError"), FailureKind.OUT_OF_MEMORY),
        (PromptFailed("CUBLAS_STATUS_ALLOC_FAILED", error_type="RuntimeError"), FailureKind.OUT_OF_MEMORY),
        (PromptFailed("CUDA error: out of memory", error_type="AcceleratorError"), FailureKind.OUT_OF_MEMORY),
        (PromptFailed("CUDA error: an illegal memory access was", error_type="RuntimeError"), FailureKind.DEVICE_FAULT),
        (PromptFailed("CUDA error: device-side assert triggered", error_type="X"), FailureKind.DEVICE_FAULT),
        (PromptFailed("CUDA error: unspecified launch failure", error_type="X"), FailureKind.DEVICE_FAULT),
        (PromptFailed("CUDA error: uncorrectable ECC error encountered", error_type="X"), FailureKind.DEVICE_FAULT),
        (PromptFailed("HIP error: invalid device function", error_type="RuntimeError"), FailureKind.DEVICE_FAULT),
        (PromptFailed("something new", error_type="AcceleratorError"), FailureKind.DEVICE_FAULT),
        (PromptFailed("the SPECCIAL file is missing", error_type="RuntimeError"), FailureKind.MAY_PASS),
        (PromptOverdue("The prompt took longer than its limit."), FailureKind.MAY_PASS),
        (PromptStuck("The prompt did not end."), FailureKind.MAY_PASS),
        (PromptFailed("shape mismatch", error_type="RuntimeError"), FailureKind.MAY_PASS),
        (FileUnreachable("The drive is away."), FailureKind.MAY_PASS),
        (KeyError("x"), FailureKind.MAY_PASS),
    ],
)
def test_a_failure_is_told_by_its_class_and_words(error: Exception, kind: FailureKind) -> None:
    assert kind_of(error) is kind


def test_bad_input_fails_at_once_and_is_no_dead_letter() -> None:
    verdict = judge(FailureKind.BAD_INPUT, failures=0, tier=1024, policy=POLICY)
    assert (verdict.state, verdict.dead_letter) == (State.FAILED, False)


def test_waits_double_and_after_the_last_retry_comes_the_dead_letter() -> None:
    verdicts = [judge(FailureKind.MAY_PASS, failures=count, tier=512, policy=POLICY) for count in range(4)]
    assert [verdict.state for verdict in verdicts] == [State.RETRYING] * 3 + [State.FAILED]
    assert verdicts[3].dead_letter
    for verdict, base in zip(verdicts[:3], (60, 120, 240), strict=True):
        assert base <= verdict.delay_s <= base * 1.2


def test_out_of_memory_goes_down_the_tiers_without_using_up_a_retry_and_then_counts_as_any_failure() -> None:
    tiers = [1024]
    while (verdict := judge(FailureKind.OUT_OF_MEMORY, failures=0, tier=tiers[-1], policy=POLICY)).tier:
        assert (verdict.state, verdict.delay_s, verdict.counter) == (State.QUEUED, 0.0, "degradations")
        tiers.append(verdict.tier)
    assert tiers == [1024, 768, 512]
    assert verdict.state is State.RETRYING


def test_a_device_fault_uses_up_no_retry_and_the_third_card_is_the_last() -> None:
    verdicts = [
        judge(FailureKind.DEVICE_FAULT, failures=3, tier=512, policy=POLICY, device_faults=count) for count in range(3)
    ]
    assert [verdict.state for verdict in verdicts] == [State.QUEUED, State.QUEUED, State.FAILED]
    assert {verdict.counter for verdict in verdicts} == {"device_faults"}
    assert verdicts[2].dead_letter


def test_a_video_that_falls_short_comes_back_at_once_for_another_seed_and_uses_up_no_retry() -> None:
    kind = kind_of(BelowQuality("It flickers."))
    verdict = judge(kind, failures=3, tier=512, policy=POLICY)
    assert (verdict.state, verdict.delay_s, verdict.counter) == (State.QUEUED, 0.0, "redraws")


@given(retry=st.integers(1, 20), draw=st.floats(0, 1))
def test_jitter_never_shortens_a_wait(retry: int, draw: float) -> None:
    base = POLICY.backoff_s * 2 ** (retry - 1)
    assert base <= POLICY.delay_s(retry, lambda: draw) <= base * (1 + POLICY.jitter) + 1e-6


def test_an_unforeseen_error_is_named_with_its_first_line_only() -> None:
    assert sentence_of(ValueError("\n  too short\n  at line 3")) == "ValueError: too short"
    assert sentence_of(KeyError()) == "KeyError."
