"""Loudness as people hear it (ITU-R BS.1770-5, EBU R 128), and speech brought to one loudness for the models.

A recording at -45 LUFS is a whisper beside one at -23 LUFS, though the same was said. The models hear all of them at
-23 LUFS, the level of broadcasts; the sound of the finished video stays as it was recorded.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

TARGET_LUFS = -23.0
BLOCK_S, STEP_S = 0.4, 0.1
SILENCE_LUFS = -70.0  # quieter blocks are no part of the programme
RELATIVE_GATE = 10.0  # nor are those so much below the rest
MOST_GAIN_DB = 40.0  # what needs more is noise and not speech
_OFFSET = -0.691  # so that 1 kHz at full scale reads -3.01
_AT_ONCE = 2**20  # samples; a long recording is filtered piece by piece


def integrated_loudness(speech: NDArray[np.float32], rate: int) -> float:
    """LUFS of (samples,) mono at ``rate`` Hz; -inf for silence and for less than one block of 0.4 s."""
    power = _step_powers(speech, rate)
    steps = round(BLOCK_S / STEP_S)
    if len(power) < steps:
        return -math.inf
    blocks = np.convolve(power, np.full(steps, 1 / steps), mode="valid")
    heard = blocks[blocks > 10 ** ((SILENCE_LUFS - _OFFSET) / 10)]
    if not len(heard):
        return -math.inf
    gated = heard[heard > heard.mean() * 10 ** (-RELATIVE_GATE / 10)]
    return _OFFSET + 10 * math.log10(gated.mean())


def at_usual_loudness(speech: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """The speech at -23 LUFS; silence and what is shorter than 0.4 s stay as they are.

    Numbers beyond 1 may come out, which no model minds: nothing is limited, so nothing is distorted.
    """
    loudness = integrated_loudness(speech, rate)
    if not math.isfinite(loudness):
        return speech
    gain_db = min(TARGET_LUFS - loudness, MOST_GAIN_DB)
    return np.asarray(speech * np.float32(10 ** (gain_db / 20)), np.float32)


def _step_powers(speech: NDArray[np.float32], rate: int) -> NDArray[np.float64]:
    """Mean square of the weighted speech in every whole tenth of a second."""
    from scipy.signal import sosfilt, sosfilt_zi  # half a second to import: only where a sound is prepared

    sections = _k_weighting(rate)
    state = np.zeros_like(sosfilt_zi(sections))
    size = round(STEP_S * rate)
    piece = max(1, _AT_ONCE // size) * size
    powers = []
    for start in range(0, len(speech) // size * size, piece):
        stop = min(start + piece, len(speech) // size * size)
        weighted, state = sosfilt(sections, speech[start:stop].astype(np.float64), zi=state)
        powers.append(np.square(weighted).reshape(-1, size).mean(axis=1))
    return np.concatenate(powers) if powers else np.zeros(0)


def _k_weighting(rate: int) -> NDArray[np.float64]:
    """The two filters of BS.1770 for any rate, (2, 6) second-order sections.

    The standard lists numbers for 48 kHz only. These are the analogue filters behind them (the head's shelf and a
    high-pass), put through the bilinear transform again.
    """
    gain_db, corner, quality = 3.999843853973347, 1681.974450955533, 0.7071752369554196
    k = math.tan(math.pi * corner / rate)
    high = 10 ** (gain_db / 20)
    band = high**0.4996667741545416
    first = 1 + k / quality + k * k
    shelf = [
        (high + band * k / quality + k * k) / first,
        2 * (k * k - high) / first,
        (high - band * k / quality + k * k) / first,
        1.0,
        2 * (k * k - 1) / first,
        (1 - k / quality + k * k) / first,
    ]
    corner, quality = 38.13547087602444, 0.5003270373238773
    k = math.tan(math.pi * corner / rate)
    first = 1 + k / quality + k * k
    high_pass = [1.0, -2.0, 1.0, 1.0, 2 * (k * k - 1) / first, (1 - k / quality + k * k) / first]
    return np.array([shelf, high_pass])
