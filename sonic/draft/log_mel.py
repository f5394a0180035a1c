"""Speech -> log-mel features that know nothing of loudness or microphone: in blocks of flat memory."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
HOP = 160  # 10 ms
WINDOW = 400  # 25 ms
FFT = 512
MELS = 40
MELS_PER_SECOND = SAMPLE_RATE // HOP
LOWEST_HZ, HIGHEST_HZ = 60.0, 7_600.0
FLOOR = -13.0  # log10 of the least mel power
QUIETEST = -8.0  # log10 of power (about -73 dBFS): what is softer as a whole is not made louder
RANGE = 4.5  # what lies more than 45 dB below a band's usual strength is cut off
GATE = 3.0  # frames less than 30 dB below the level tell the colour of the microphone
COLOUR_PRIOR_FRAMES = 200.0  # two seconds of a neutral microphone are taken as already heard
NEUTRAL_COLOUR = (-1.3, -3.0)  # from the lowest to the highest band, relative to the level
LN10 = math.log(10.0)
_BLOCK_FRAMES = 2_000


@functools.cache
def _filters() -> NDArray[np.float32]:
    """Triangular mel filters, (FFT // 2 + 1, MELS)."""
    low, high = (2595.0 * np.log10(1.0 + hz / 700.0) for hz in (LOWEST_HZ, HIGHEST_HZ))
    edges = 700.0 * (10.0 ** (np.linspace(low, high, MELS + 2) / 2595.0) - 1.0)
    bins = np.fft.rfftfreq(FFT, 1.0 / SAMPLE_RATE)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters: NDArray[np.float32] = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    return filters


@functools.cache
def _window() -> NDArray[np.float32]:
    window: NDArray[np.float32] = (np.hanning(WINDOW + 1)[:-1] / np.sqrt(FFT * WINDOW)).astype(np.float32)
    return window


def log_mel(speech: NDArray[np.float32]) -> NDArray[np.float32]:
    """log10 of mel power, one row per 10 ms; row j is centred at (j + 0.5) * 10 ms.

    speech: (samples,) float32 mono at 16 kHz -> (ceil(samples / 160), 40) float32, at least one row.
    """
    rows = max(1, -(-len(speech) // HOP))
    out = np.empty((rows, MELS), np.float32)
    lead = (WINDOW - HOP) // 2
    for first in range(0, rows, _BLOCK_FRAMES):
        count = min(_BLOCK_FRAMES, rows - first)
        start = first * HOP - lead
        piece = np.zeros((count - 1) * HOP + WINDOW, np.float32)
        inside = speech[max(0, start) : start + len(piece)]
        piece[max(0, -start) : max(0, -start) + len(inside)] = inside
        frames = np.lib.stride_tricks.sliding_window_view(piece, WINDOW)[::HOP] * _window()
        spectrum = np.fft.rfft(frames, FFT, axis=1)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        out[first : first + count] = np.log10(power @ _filters() + 10.0**FLOOR)
    return out


def normalise(mel: torch.Tensor) -> torch.Tensor:
    """Take out loudness and the colour of the microphone.

    mel: (..., rows, 40) from `log_mel` -> the same shape; 0 is the usual strength of a band while somebody speaks,
    silence is -RANGE. The level is gated as in loudness metering, so that long pauses do not lift the rest.
    """
    loudness = torch.logsumexp(mel * LN10, dim=-1) / LN10  # (..., rows)
    level = _mean_power(loudness, torch.ones_like(loudness, dtype=torch.bool))
    level = _mean_power(loudness, loudness >= level - 1.0).clamp(min=QUIETEST)
    heard = (loudness >= level - GATE).to(mel.dtype)[..., None]
    relative = mel - level[..., None]
    neutral = torch.linspace(*NEUTRAL_COLOUR, MELS, dtype=mel.dtype)
    colour = ((relative * heard).sum(dim=-2, keepdim=True) + neutral * COLOUR_PRIOR_FRAMES) / (
        heard.sum(dim=-2, keepdim=True) + COLOUR_PRIOR_FRAMES
    )
    return (relative - colour).clamp(min=-RANGE)


def _mean_power(loudness: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """log10 of the mean power of the chosen rows, (..., rows) -> (..., 1)."""
    total = torch.logsumexp(torch.where(chosen, loudness, -torch.inf) * LN10, dim=-1, keepdim=True) / LN10
    return total - torch.log10(chosen.sum(dim=-1, keepdim=True).to(loudness.dtype))
