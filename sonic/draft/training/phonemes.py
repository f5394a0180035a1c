"""Timed IPA phonemes -> how the mouth stands, 50 times a second: the ideal curves for learning and judging.

Each sound pulls jaw and lips towards its own posture with its own strength (dominance); time smooths between them.
Postures follow the phonetics textbooks' vowel quadrilateral and place of articulation, in 0..1.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..mouth_shapes import RATE

SMOOTHING_S = {"jaw": 0.040, "lips": 0.040, "closure": 0.014, "silence": 0.020}
_FINE = 200  # rows per second before averaging down
_CLASSES = (
    "silence", "pbm", "fv", "tdn", "sz", "ʃʒ", "θð", "kɡ", "l", "ɹ", "w", "j", "h", "a", "ɛ", "i", "o", "u", "ə",
)  # fmt: skip
SOUND_CLASSES = len(_CLASSES)


@dataclass(frozen=True)
class Phoneme:
    """symbol: IPA, '' is silence; start and stop in seconds."""

    symbol: str
    start: float
    stop: float


@dataclass(frozen=True)
class _Posture:
    open: float
    wide: float
    round: float
    jaw_strength: float
    lip_strength: float
    sound_class: int


def _postures() -> dict[str, _Posture]:
    table: dict[str, _Posture] = {}

    def add(symbols: str, jaw: float, wide: float, rounding: float, strength: tuple[float, float], kind: str) -> None:
        for symbol in symbols:
            table[symbol] = _Posture(jaw, wide, rounding, *strength, _CLASSES.index(kind))

    vowel = (1.0, 1.0)
    add("aɐäɶ", 0.95, 0.35, 0.0, vowel, "a")
    add("ɑ", 0.95, 0.2, 0.05, vowel, "a")
    add("æ", 0.85, 0.55, 0.0, vowel, "a")
    add("ʌ", 0.65, 0.25, 0.0, vowel, "a")
    add("ɒ", 0.8, 0.1, 0.5, vowel, "a")
    add("ɛœɜɝɞ", 0.6, 0.55, 0.0, vowel, "ɛ")
    add("eø", 0.45, 0.7, 0.0, vowel, "ɛ")
    add("iyɪʏɨ", 0.25, 0.95, 0.0, vowel, "i")
    add("ɪɨ", 0.32, 0.7, 0.0, vowel, "i")
    add("ɔ", 0.7, 0.0, 0.65, vowel, "o")
    add("oɤ", 0.5, 0.0, 0.8, vowel, "o")
    add("uʊʉɯ", 0.25, 0.0, 0.95, vowel, "u")
    add("ʊ", 0.33, 0.0, 0.7, vowel, "u")
    add("əɘɵɚ", 0.4, 0.3, 0.1, (0.7, 0.5), "ə")
    for symbol, rounding in (("y", 0.9), ("ʏ", 0.75), ("ø", 0.75), ("œ", 0.65), ("ɞ", 0.4), ("ɵ", 0.7)):
        front = table[symbol]
        table[symbol] = _Posture(front.open, 0.1, rounding, 1.0, 1.0, front.sound_class)
    for symbol in ("ɯ", "ɤ"):  # back and unrounded
        back = table[symbol]
        table[symbol] = _Posture(back.open, 0.35, 0.0, 1.0, 1.0, back.sound_class)
    table["ɝ"] = _Posture(0.42, 0.2, 0.35, 1.0, 1.0, table["ɝ"].sound_class)
    table["ɜ"] = _Posture(0.45, 0.25, 0.3, 1.0, 1.0, table["ɜ"].sound_class)
    table["ɚ"] = _Posture(0.4, 0.2, 0.3, 0.8, 0.8, table["ɚ"].sound_class)

    weak = (0.8, 0.25)
    add("pbmɓʙɱ", 0.02, 0.2, 0.05, (1.3, 0.6), "pbm")
    add("fvʋɸβⱱ", 0.1, 0.3, 0.0, (1.2, 0.6), "fv")
    add("tdnɾɗʈɖɳɲȶȡ", 0.18, 0.35, 0.0, weak, "tdn")
    add("szɬɮɕʑ", 0.1, 0.5, 0.0, (1.1, 0.5), "sz")
    add("ʃʒʂʐ", 0.14, 0.05, 0.6, (1.1, 0.7), "ʃʒ")
    add("θð", 0.2, 0.35, 0.0, weak, "θð")
    add("kɡgŋxɣcɟçʝqɢχʁɴ", 0.28, 0.3, 0.0, (0.5, 0.2), "kɡ")
    add("lɫɭʎɺ", 0.3, 0.3, 0.0, (0.6, 0.25), "l")
    add("ɹɻ", 0.25, 0.05, 0.5, (0.8, 0.6), "ɹ")
    add("rʀɽ", 0.25, 0.3, 0.0, (0.7, 0.3), "ɹ")
    add("wʍɥ", 0.18, 0.0, 0.95, (1.0, 1.2), "w")
    add("jɰ", 0.22, 0.8, 0.0, (0.8, 0.6), "j")
    add("hɦħʕʔʜ", 0.4, 0.3, 0.0, (0.08, 0.05), "h")
    return table


_POSTURES = _postures()
_SILENCE = _Posture(0.0, 0.0, 0.0, 0.8, 0.5, 0)
BILABIALS = frozenset("pbmɓʙ")
LIP_TEETH = frozenset("fvʋɱ")
# Long or short, stressed or not, and tied or not, a sound has the same posture.
_IGNORED = frozenset("ˈˌːˑ͡.-'’ʲʰʱʷˠˤ|‖˥˦˧˨˩ᵊ ̩") | frozenset("0123456789")


def split(phoneme: Phoneme) -> list[Phoneme]:
    """One symbol per sound: diphthongs and affricates share their time between their parts; marks are left out."""
    plain = unicodedata.normalize("NFD", phoneme.symbol)
    symbols = [c for c in plain if c not in _IGNORED and not unicodedata.combining(c) and c in _POSTURES]
    symbols = [c for i, c in enumerate(symbols) if not (c == "h" and i > 0)]  # written-out aspiration
    if not symbols:
        return [Phoneme("" if not plain.strip("ˈˌː") else "ə", phoneme.start, phoneme.stop)] if plain != "ˈ" else []
    edges = np.linspace(phoneme.start, phoneme.stop, len(symbols) + 1)
    return [Phoneme(s, float(edges[i]), float(edges[i + 1])) for i, s in enumerate(symbols)]


def curves(phonemes: Sequence[Phoneme], rows: int, rate: int = RATE) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Ideal mouth shapes and the class of the sound: (rows, 6) in 0..1 ordered as MOUTH_SHAPES, and (rows,).

    Row k is centred at (k + 0.5) / rate. What no phoneme covers is silence.
    """
    per_row = _FINE // rate
    fine = rows * per_row
    posture = np.zeros((fine, 3))
    strength = np.tile([_SILENCE.jaw_strength, _SILENCE.lip_strength], (fine, 1))
    closed, teeth, silence = np.zeros(fine), np.zeros(fine), np.ones(fine)
    classes = np.zeros(fine, np.int64)
    for phoneme in (part for whole in phonemes for part in split(whole)):
        here = slice(round(phoneme.start * _FINE), round(phoneme.stop * _FINE))
        target = _POSTURES.get(phoneme.symbol, _SILENCE)
        posture[here] = target.open, target.wide, target.round
        strength[here] = target.jaw_strength, target.lip_strength
        classes[here] = target.sound_class
        silence[here] = float(target is _SILENCE)
        # The burst of a stop is already open.
        stop = phoneme.stop - (0.2 * (phoneme.stop - phoneme.start) if phoneme.symbol in "pb" else 0.0)
        shut = slice(here.start, round(stop * _FINE))
        closed[shut] = float(phoneme.symbol in BILABIALS)
        teeth[shut] = float(phoneme.symbol in LIP_TEETH)
    jaw, lips = (_gaussian(strength[:, i], SMOOTHING_S[name]) for i, name in enumerate(("jaw", "lips")))
    out = np.stack(
        [
            _gaussian(posture[:, 0] * strength[:, 0], SMOOTHING_S["jaw"]) / jaw,
            _gaussian(posture[:, 1] * strength[:, 1], SMOOTHING_S["lips"]) / lips,
            _gaussian(posture[:, 2] * strength[:, 1], SMOOTHING_S["lips"]) / lips,
            np.minimum(1.0, 1.15 * _gaussian(closed, SMOOTHING_S["closure"])),
            np.minimum(1.0, 1.15 * _gaussian(teeth, SMOOTHING_S["closure"])),
            _gaussian(silence, SMOOTHING_S["silence"]),
        ],
        axis=1,
    )
    out[:, 0] *= 1.0 - out[:, 3]  # shut lips leave no opening
    rows_out = out.reshape(rows, per_row, -1).mean(axis=1)
    return np.clip(rows_out, 0.0, 1.0).astype(np.float32), classes[per_row // 2 :: per_row]


def _gaussian(signal: NDArray[np.float64], sigma_s: float) -> NDArray[np.float64]:
    reach = int(4 * sigma_s * _FINE) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (sigma_s * _FINE)) ** 2)
    return np.convolve(np.pad(signal, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
