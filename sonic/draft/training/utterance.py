"""One synthesised utterance: what to say, and what came out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import soxr
from numpy.typing import NDArray

from ..log_mel import SAMPLE_RATE
from .phonemes import Phoneme


@dataclass(frozen=True)
class Utterance:
    """engine: which synthesiser; rate: 1 = normal; pitch: 0..99; size: of the speaker, by resampling."""

    engine: Literal["espeak", "flite"]
    voice: str
    text: str
    rate: float
    pitch: int
    size: float


@dataclass(frozen=True)
class Recording:
    """speech: (samples,) float32 mono 16 kHz; phonemes in time order, seconds."""

    speech: NDArray[np.float32]
    phonemes: list[Phoneme]


def resized(speech: NDArray[np.float32], sample_rate: int, phonemes: list[Phoneme], size: float) -> Recording:
    """To 16 kHz, played ``size`` times faster: a smaller speaker with a higher voice."""
    out = soxr.resample(speech, sample_rate * size, SAMPLE_RATE).astype(np.float32)
    return Recording(out, [Phoneme(p.symbol, p.start / size, p.stop / size) for p in phonemes])
