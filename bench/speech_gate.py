"""How well the mouth follows speech, as JSON: python -m comfyui_sonic.bench.speech_gate

Real recordings need Debian's pocketsphinx-testdata and the package pocketsphinx, synthetic ones espeakng-loader.
The real exam is one reader of five LibriVox sentences; nothing may be chosen by it.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence

import numpy as np
from comfyui_sonic.sonic.draft.mouth_shapes import MOUTH_SHAPES, mouth_shapes
from comfyui_sonic.sonic.draft.training import real_speech
from comfyui_sonic.sonic.draft.training.phonemes import Phoneme, split
from comfyui_sonic.sonic.draft.training.scores import Model, score
from comfyui_sonic.sonic.draft.training.synthesis import (
    UNSEEN_VOICES,
    record,
    unseen_languages_plan,
    unseen_voices_plan,
)
from comfyui_sonic.sonic.draft.training.texts import ENGLISH_UNSEEN, OTHERS, sentences
from comfyui_sonic.sonic.draft.training.utterance import Recording, Utterance
from numpy.typing import NDArray

UTTERANCES = 40
SEED = 20_001
BOUNDS = {
    ("real_exam", "r_open"): 0.78,
    ("real_exam", "gain_over_envelope"): 0.15,
    ("real_exam", "bilabial_auc"): 0.80,
    ("unseen_voices", "r_open"): 0.86,
    ("unseen_languages", "r_open"): 0.84,
}


def measure(model: Model = mouth_shapes, utterances: int = UTTERANCES) -> dict[str, dict[str, float]]:
    """Scores of the real exam, the recordings that chose the checkpoint, unseen voices and languages, and silence."""
    return {
        "real_exam": score(real_speech.aligned(real_speech.EXAM), model),
        "real_choice": score(real_speech.aligned(real_speech.CHOICE), model),
        "unseen_voices": score(_spoken(unseen_voices_plan(utterances, SEED)), model),
        "unseen_languages": score(_spoken(unseen_languages_plan(utterances, SEED + 1)), model),
        "silence": silence(model),
    }


def unseen_recordings(count: int = 3) -> dict[str, list[Recording]]:
    """English and Mandarin by voices that training never hears; every phoneme is one IPA symbol without marks."""
    chance = random.Random(SEED)
    texts = {"en-us": ENGLISH_UNSEEN, "cmn": OTHERS["cmn"]}
    made = {}
    for language, text in texts.items():
        voices = chance.sample(UNSEEN_VOICES, count)
        said = [" ".join(chance.sample(sentences(text), 2)) for _ in voices]
        plan = [Utterance("espeak", f"{language}+{v}", s, 1.0, 50, 1.0) for v, s in zip(voices, said, strict=True)]
        made[language] = [
            Recording(one.speech, [part for whole in one.phonemes for part in split(whole)]) for one in _spoken(plan)
        ]
    return made


def silence(model: Model = mouth_shapes) -> dict[str, float]:
    """The widest opening, 0..1, over four seconds of nothing and of noise of three colours at two strengths."""
    chance = np.random.default_rng(0)
    white = chance.standard_normal(64_000).astype(np.float32)
    brown = np.cumsum(white).astype(np.float32)
    brown -= np.convolve(brown, np.ones(2_000, np.float32) / 2_000, "same")
    hum: NDArray[np.float32] = (np.sin(np.arange(64_000) * (2 * np.pi * 50 / 16_000)) + 0.01 * white).astype(np.float32)
    nothing: NDArray[np.float32] = np.zeros(64_000, np.float32)
    sounds = {"nothing": nothing, "white": white, "brown": brown, "hum": hum}
    opening = MOUTH_SHAPES.index("open")
    return {
        f"open_in_{name}_{gain}": float(
            model((gain * sound / max(1e-9, np.abs(sound).max())).astype(np.float32), 25, 100)[:, opening].max()
        )
        for name, sound in sounds.items()
        for gain in (0.003, 0.3)
    }


def failures(scores: dict[str, dict[str, float]]) -> list[str]:
    """One line for every bound that is missed."""
    return [
        f"{group} {name} is {scores[group][name]:.3f}, below {bound}"
        for (group, name), bound in BOUNDS.items()
        if scores[group][name] < bound
    ]


def _spoken(plan: Sequence[Utterance], pause_s: float = 0.35) -> list[Recording]:
    pause: NDArray[np.float32] = np.zeros(round(16_000 * pause_s), np.float32)
    made = []
    for utterance in plan:
        one = record(utterance)
        moved = [Phoneme(p.symbol, p.start + pause_s, p.stop + pause_s) for p in one.phonemes]
        made.append(Recording(np.concatenate([pause, one.speech, pause]), moved))
    return made


if __name__ == "__main__":
    result = measure()
    missed = failures(result)
    rounded = {group: {name: round(value, 4) for name, value in values.items()} for group, values in result.items()}
    sys.stdout.write(json.dumps({**rounded, "missed": missed}, indent=2) + "\n")
    sys.exit(bool(missed))
