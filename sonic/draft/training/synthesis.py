"""Makes the spoken material: a seeded plan, spoken in fresh processes, kept as features and ideal curves."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import random
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..log_mel import HOP, SAMPLE_RATE, log_mel
from . import flite
from .phonemes import Phoneme, curves
from .texts import ENGLISH, ENGLISH_UNSEEN, OTHERS, UNSEEN, something_to_say
from .utterance import Recording, Utterance

log = logging.getLogger("sonic.training")

ENGLISH_ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029")
VOICES = (
    "Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Henrique", "Hugo", "Jacky", "Lee",
    "Marco", "Mario", "Michael", "Mike", "Nguyen", "Reed", "Storm", "adam", "anika", "antonio", "aunty",
    "benjamin", "boris", "caleb", "david", "ed", "edward", "f1", "f2", "f3", "f4", "gustave", "ian", "iven",
    "john", "klatt", "klatt2", "klatt4", "linda", "m1", "m2", "m3", "m4", "m5", "m6", "m8", "marcelo", "max",
    "michel", "miguel", "norbert", "pablo", "pedro", "quincy", "robert", "sandro", "shelby", "steph", "travis",
    "victor", "zac",
)  # fmt: skip
UNSEEN_VOICES = ("belinda", "f5", "grandma", "grandpa", "iven3", "klatt3", "m7", "mike2", "paul", "rob", "steph3")
CHUNK = 50  # utterances per process: libespeak-ng has crashed in longer ones
ATTEMPTS = 3
_PAUSE_S = 0.35  # silence before and after every utterance


@dataclass(frozen=True)
class Example:
    """What is kept of one recording.

    mel: (2 * rows, 40) float16 from log_mel; shapes: (rows, 6) float16; classes: (rows,) int16, see phonemes.py.
    """

    mel: NDArray[np.float16]
    shapes: NDArray[np.float16]
    classes: NDArray[np.int16]

    @property
    def seconds(self) -> float:
        return len(self.mel) * HOP / SAMPLE_RATE


def espeak_plan(count: int, seed: int, words: list[str] | None = None) -> list[Utterance]:
    """A third of it English, the rest spread over the other languages, with the voices kept for training."""
    chance = random.Random(seed)
    plan = []
    for _ in range(count):
        if chance.random() < 0.35:
            language, text, extra = chance.choice(ENGLISH_ACCENTS), ENGLISH, words
        else:
            language = chance.choice(sorted(OTHERS))
            text, extra = OTHERS[language], None
        plan.append(_utterance(chance, language, text, VOICES, extra))
    return plan


def unseen_voices_plan(count: int, seed: int) -> list[Utterance]:
    """Voices, and for English also texts, that training never hears."""
    chance = random.Random(seed)
    texts = [("en-us", ENGLISH_UNSEEN), ("en", ENGLISH_UNSEEN), *sorted(OTHERS.items())]
    return [_utterance(chance, *chance.choice(texts), UNSEEN_VOICES) for _ in range(count)]


def unseen_languages_plan(count: int, seed: int) -> list[Utterance]:
    """Languages that training never hears."""
    chance = random.Random(seed)
    return [_utterance(chance, *chance.choice(sorted(UNSEEN.items())), VOICES) for _ in range(count)]


def flite_plan(count: int, seed: int, words: list[str] | None = None) -> list[Utterance]:
    """English by the voices derived from people, as speakers of many sizes."""
    chance = random.Random(seed)
    plan = []
    for _ in range(count):
        text = something_to_say(ENGLISH, "en", chance, words if chance.random() < 0.7 else None)
        size = chance.choice((1.0, chance.uniform(0.84, 1.25)))
        rate = chance.uniform(0.8, 1.3)
        plan.append(Utterance("flite", chance.choice(sorted(flite.VOICES)), text, rate, chance.randint(20, 80), size))
    return plan


def _utterance(
    chance: random.Random, language: str, text: str, voices: Sequence[str], words: list[str] | None = None
) -> Utterance:
    said = something_to_say(text, language, chance, words if chance.random() < 0.5 else None)
    voice = f"{language}+{chance.choice(voices)}"
    size = chance.choice((1.0, chance.uniform(0.88, 1.15)))
    return Utterance("espeak", voice, said, chance.uniform(0.7, 1.35), chance.randint(15, 85), size)


def record(utterance: Utterance) -> Recording:
    """Speak it, in this process."""
    if utterance.engine == "flite":
        return flite.speak(utterance)
    from .espeak import espeak  # the library is loaded only in the processes that speak

    return espeak().speak(utterance)


def example(recording: Recording, pause_s: float = _PAUSE_S) -> Example:
    """Features and ideal curves, with a pause before and after."""
    pause = np.zeros(round(pause_s * SAMPLE_RATE), np.float32)
    speech = np.concatenate([pause, recording.speech, pause])
    mel = log_mel(speech[: len(speech) // (2 * HOP) * (2 * HOP)])
    moved = [Phoneme(p.symbol, p.start + pause_s, p.stop + pause_s) for p in recording.phonemes]
    shapes, classes = curves(moved, len(mel) // 2)
    return Example(mel.astype(np.float16), shapes.astype(np.float16), classes.astype(np.int16))


def synthesise(plan: Sequence[Utterance], workers: int = 2) -> list[Example]:
    """All of the plan in order; a process that crashes is started again; raises RuntimeError after three attempts."""
    with tempfile.TemporaryDirectory(prefix="speech-") as folder, ThreadPoolExecutor(workers) as pool:
        starts = range(0, len(plan), CHUNK)
        chunks = [(list(plan[s : s + CHUNK]), Path(folder) / f"{s}.npz") for s in starts]
        return [example for made in pool.map(lambda chunk: _chunk(*chunk), chunks) for example in made]


def _chunk(plan: list[Utterance], path: Path) -> list[Example]:
    # The fork server has imported this module once, so that a fresh process costs milliseconds.
    context: SpawnContext | ForkServerContext = multiprocessing.get_context("spawn")
    if os.name == "posix":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
    for attempt in range(1, ATTEMPTS + 1):
        process = context.Process(target=_write_chunk, args=(plan, path))
        process.start()
        process.join()
        if process.exitcode == 0:
            return _read_chunk(path)
        log.warning("Speech process ended with %s (attempt %d of %d).", process.exitcode, attempt, ATTEMPTS)
    raise RuntimeError(f"Speech synthesis failed {ATTEMPTS} times for the chunk that begins with {plan[0]}.")


def _write_chunk(plan: list[Utterance], path: Path) -> None:
    made = [example(record(utterance)) for utterance in plan]
    lengths = np.array([len(one.shapes) for one in made])
    temporary = path.with_suffix(".part.npz")
    np.savez(
        temporary,
        lengths=lengths,
        mel=np.concatenate([one.mel for one in made]),
        shapes=np.concatenate([one.shapes for one in made]),
        classes=np.concatenate([one.classes for one in made]),
    )
    temporary.replace(path)


def _read_chunk(path: Path) -> list[Example]:
    with np.load(path) as stored:
        mel, shapes, classes = stored["mel"], stored["shapes"], stored["classes"]
        ends = np.cumsum(stored["lengths"])
    starts = [0, *ends[:-1]]
    path.unlink()
    return [Example(mel[2 * s : 2 * e], shapes[s:e], classes[s:e]) for s, e in zip(starts, ends.tolist(), strict=True)]


def hours(examples: Sequence[Example]) -> float:
    return math.fsum(one.seconds for one in examples) / 3600
