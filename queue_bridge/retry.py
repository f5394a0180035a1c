"""What becomes of a job whose start has failed: how a failure is told apart, and what each kind leads to."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from .errors import BelowQuality, BridgeError, JobError, PromptFailed, PromptRejected
from .states import State
from .tiers import lower_tier

# torch names the class OutOfMemoryError; libraries below it fail with a plain RuntimeError and these words.
OUT_OF_MEMORY_ERRORS = ("OutOfMemoryError", "NotEnoughMemory")  # the second is ours, raised before any work is begun
OUT_OF_MEMORY = re.compile(r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED", re.IGNORECASE)
# What leaves a card unusable until its process ends: every later call fails, whatever the job.
DEVICE_FAULT = re.compile(
    r"(CUDA|HIP) error: (?!out of memory)|illegal memory access|device-side assert|unspecified launch failure"
    r"|(uncorrectable|double-bit) ECC|ECC error|fallen off the bus"
)
DEVICE_FAULTS_MAX = 3  # a job that has broken so many cards is not given a further one


class FailureKind(StrEnum):
    """BAD_INPUT: the caller's. OUT_OF_MEMORY: of the card. DEVICE_FAULT: the card's. BELOW_QUALITY: made, but not good
    enough. MAY_PASS: everything else."""

    BAD_INPUT = "bad input"
    OUT_OF_MEMORY = "out of memory"
    DEVICE_FAULT = "device fault"
    BELOW_QUALITY = "below quality"
    MAY_PASS = "may pass"


@dataclass(frozen=True)
class RetryPolicy:
    """retries: further starts after a failure that may pass. backoff_s: wait before the first, doubled each time.

    jitter: the wait is longer by up to this part, at random, so that jobs that failed together do not come together.
    """

    retries: int = 3
    backoff_s: float = 60.0
    jitter: float = 0.2

    def delay_s(self, retry: int, draw: Callable[[], float] = random.random) -> float:
        """Seconds before retry number ``retry`` (1 is the first). draw: 0..1."""
        return self.backoff_s * float(2 ** (retry - 1)) * (1.0 + self.jitter * draw())


@dataclass(frozen=True)
class Verdict:
    """What a failed start leads to; the fields are those of lua/settle.lua.

    state, cause: where the job goes and why. delay_s: for retrying. tier: for another resolution, 0 for none.
    dead_letter: whether another attempt by hand makes sense. counter: the budget that this failure takes from.
    """

    state: State
    cause: str
    delay_s: float = 0.0
    tier: int = 0
    dead_letter: bool = False
    counter: str = ""


def kind_of(error: BaseException) -> FailureKind:
    """Which kind of failure an error is."""
    if isinstance(error, JobError):
        return FailureKind.BAD_INPUT
    if isinstance(error, BelowQuality):
        return FailureKind.BELOW_QUALITY
    if isinstance(error, PromptRejected | PromptFailed) and error.bad_input:
        return FailureKind.BAD_INPUT
    if isinstance(error, PromptFailed) and (
        error.error_type.endswith(OUT_OF_MEMORY_ERRORS) or OUT_OF_MEMORY.search(str(error))
    ):
        return FailureKind.OUT_OF_MEMORY
    if isinstance(error, PromptFailed) and (error.error_type == "AcceleratorError" or DEVICE_FAULT.search(str(error))):
        return FailureKind.DEVICE_FAULT
    return FailureKind.MAY_PASS


def sentence_of(error: BaseException) -> str:
    """What a person reads about an error; of an unforeseen one the class is named, too."""
    if isinstance(error, BridgeError):
        return str(error)
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else f"{type(error).__name__}."


def judge(kind: FailureKind, *, failures: int, tier: int, policy: RetryPolicy, device_faults: int = 0) -> Verdict:
    """What a failure leads to.

    failures: earlier failures of this job that might have passed. tier: the resolution tier it was started at.
    device_faults: how many cards it has broken before.
    """
    if kind is FailureKind.BAD_INPUT:
        return Verdict(State.FAILED, "bad input")
    if kind is FailureKind.OUT_OF_MEMORY and (lower := lower_tier(tier)):
        return Verdict(State.QUEUED, "lower resolution", tier=lower, counter="degradations")
    if kind is FailureKind.DEVICE_FAULT:
        if device_faults + 1 < DEVICE_FAULTS_MAX:
            return Verdict(State.QUEUED, "device fault", counter="device_faults")
        return Verdict(State.FAILED, "device fault too often", dead_letter=True, counter="device_faults")
    if kind is FailureKind.BELOW_QUALITY:
        return Verdict(State.QUEUED, "another seed", counter="redraws")
    if failures < policy.retries:
        delay_s = policy.delay_s(failures + 1)
        return Verdict(State.RETRYING, "failed, may pass", delay_s=delay_s, counter="failures")
    return Verdict(State.FAILED, "retries used up", dead_letter=True, counter="failures")
