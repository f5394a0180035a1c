"""How well mouth shapes follow known phonemes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from ..mouth_shapes import MOUTH_SHAPES
from .phonemes import BILABIALS, LIP_TEETH, curves, split
from .utterance import Recording

FPS = 25
FINE_FPS = 100
Model = Callable[[NDArray[np.float32], float, int], NDArray[np.float32]]  # as mouth_shapes(speech, fps, frames)
OPEN, CLOSED, TEETH, SILENCE = (MOUTH_SHAPES.index(name) for name in ("open", "closed", "teeth", "silence"))


def ideal(recording: Recording, frames: int, fps: int = FPS) -> NDArray[np.float32]:
    """The ideal shapes at the middle of each video frame, (frames, 6)."""
    return curves(recording.phonemes, frames, fps)[0]


def correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def area_under_curve(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Chance that a positive scores above a negative."""
    ranks = rankdata([*positive, *negative])
    count = len(positive)
    return float((ranks[:count].sum() - count * (count + 1) / 2) / (count * len(negative)))


def energy_envelopes(speech: NDArray[np.float32], frames: int, fps: int = FPS) -> dict[str, NDArray[np.float64]]:
    """The simplest mouths: loudness in three scales and four widths of smoothing."""
    hop = 160
    power = np.square(speech[: len(speech) // hop * hop].reshape(-1, hop).astype(np.float64)).mean(1) + 1e-10
    times = (np.arange(len(power)) + 0.5) * hop / 16_000
    out = {}
    for sigma in (1, 3, 5, 8):  # in 10 ms
        kernel = np.exp(-0.5 * (np.arange(-4 * sigma, 4 * sigma + 1) / sigma) ** 2)
        smooth = np.convolve(np.pad(power, 4 * sigma), kernel / kernel.sum(), "valid")
        loud = 10 * np.log10(smooth / np.percentile(smooth, 95))
        scales = {"rms": np.sqrt(smooth), "cube root": np.cbrt(smooth), "decibel": np.maximum(loud, -35.0)}
        for name, curve in scales.items():
            out[f"{name} {10 * sigma} ms"] = np.interp((np.arange(frames) + 0.5) / fps, times, curve)
    return out


def score(recordings: Sequence[Recording], model: Model) -> dict[str, float]:
    """Correlations over all frames of all recordings together; AUC over phonemes, each by its mean closure."""
    got, want, energies = [], [], []
    for recording in recordings:
        frames = max(1, int(len(recording.speech) / 16_000 * FPS))
        got.append(model(recording.speech, FPS, frames))
        want.append(ideal(recording, frames))
        energies.append(energy_envelopes(recording.speech, frames))
    made, target = np.concatenate(got), np.concatenate(want)
    spoken = target[:, SILENCE] < 0.5
    envelopes = {
        name: correlation(np.concatenate([one[name] for one in energies]), target[:, OPEN]) for name in energies[0]
    }
    closed, teeth = _phoneme_scores(recordings, model)
    out = {
        f"r_{name}": correlation(made[:, i], target[:, i]) for i, name in enumerate(MOUTH_SHAPES) if target[:, i].any()
    }
    out["r_open_while_speaking"] = correlation(made[spoken, OPEN], target[spoken, OPEN])
    out["r_open_energy_envelope"] = max(envelopes.values())
    out["gain_over_envelope"] = out["r_open"] - out["r_open_energy_envelope"]
    out["bilabial_auc"] = area_under_curve(*closed)
    out["bilabials"] = len(closed[0])
    out["bilabials_hit"] = float(np.mean(np.array(closed[0]) > 0.4))
    out["others_closed"] = float(np.mean(np.array(closed[1]) > 0.4))
    if teeth[0]:
        out["lip_teeth_auc"] = area_under_curve(*teeth)
    silent = target[:, SILENCE] > 0.95
    if silent.any():
        out["open_in_silence"] = float(made[silent, OPEN].mean())
    out["open_while_speaking"] = float(made[spoken, OPEN].mean())
    out["best_offset_ms"] = best_offset_ms(recordings, model)
    return out


def _phoneme_scores(
    recordings: Sequence[Recording], model: Model
) -> tuple[tuple[list[float], list[float]], tuple[list[float], list[float]]]:
    closed: tuple[list[float], list[float]] = ([], [])
    teeth: tuple[list[float], list[float]] = ([], [])
    for recording in recordings:
        shapes = model(recording.speech, FINE_FPS, max(1, int(len(recording.speech) / 16_000 * FINE_FPS)))
        for phoneme in (part for whole in recording.phonemes for part in split(whole)):
            first = int(phoneme.start * FINE_FPS)
            rows = shapes[first : max(first + 1, int(phoneme.stop * FINE_FPS))]
            if not phoneme.symbol or not len(rows):
                continue
            closed[phoneme.symbol not in BILABIALS].append(float(rows[:, CLOSED].mean()))
            teeth[phoneme.symbol not in LIP_TEETH].append(float(rows[:, TEETH].mean()))
    return closed, teeth


def best_offset_ms(recordings: Sequence[Recording], model: Model, reach_ms: int = 200) -> float:
    """How much later than the ideal the jaw moves, by the best correlation; positive is late."""
    got, want = [], []
    for recording in recordings:
        frames = max(1, int(len(recording.speech) / 16_000 * FINE_FPS))
        got.append(model(recording.speech, FINE_FPS, frames)[:, OPEN])
        want.append(ideal(recording, frames, FINE_FPS)[:, OPEN])
    reach = reach_ms * FINE_FPS // 1000
    found = {}
    for shift in range(-reach, reach + 1):
        late, early = max(0, shift), max(0, -shift)
        pairs = [(g[late : len(g) - early], w[early : len(w) - late]) for g, w in zip(got, want, strict=True)]
        found[shift] = correlation(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
    return max(found, key=lambda shift: found[shift]) * 1000 / FINE_FPS
