"""Real recordings with the time of every phoneme: Debian's pocketsphinx-testdata, aligned by the package pocketsphinx.

``CHOICE`` serves to choose a checkpoint; ``EXAM`` is for judging only and must never choose anything.
"""

from __future__ import annotations

import functools
import wave
from pathlib import Path

import numpy as np
import pocketsphinx

from .arpabet import IPA
from .phonemes import Phoneme
from .utterance import Recording

TEST_DATA = Path("/usr/share/pocketsphinx/test/data")
CHOICE = {
    "cards/001.wav": "ten of clubs",
    "cards/002.wav": "four queen of clubs",
    "cards/003.wav": "seven of clubs",
    "cards/004.wav": "five five",
    "cards/005.wav": "eight of spades four of clubs seven of hearts",
    "goforward.raw": "go forward ten meters",
    "something.raw": "go somewhere and do something",
    "numbers.raw": "thirty three four or six ninety two",
    "tidigits/dhd.2934z.raw": "two nine three four zero",
}
_READER = "librivox/sense_and_sensibility_01_austen_64kb-"
EXAM = {
    f"{_READER}0870.wav": "and mister john dashwood had then leisure to consider how much there might be prudently "
    "in his power to do for them",
    f"{_READER}0880.wav": "he was not an ill disposed young man",
    f"{_READER}0890.wav": "unless to be rather cold hearted and rather selfish is to be ill disposed",
    f"{_READER}0920.wav": "had he married a more a amiable woman he might have been made still more "
    "respectable than he was",
    f"{_READER}0930.wav": "he might even have been made amiable himself",
}
_FRAME_S = 0.01


def available() -> bool:
    return all((TEST_DATA / name).is_file() for name in (*CHOICE, *EXAM))


def aligned(material: dict[str, str]) -> list[Recording]:
    """Raises FileNotFoundError without the test data, ValueError where the words do not fit the sound."""
    return [_align(TEST_DATA / name, words) for name, words in material.items()]


def words() -> list[str]:
    """Plain words of the pronunciation dictionary that comes with pocketsphinx."""
    dictionary = Path(pocketsphinx.get_model_path()) / "en-us" / "cmudict-en-us.dict"
    entries = (line.split(maxsplit=1)[0] for line in dictionary.read_text(encoding="utf-8").splitlines() if line)
    return [word for word in entries if word.isalpha() and 3 <= len(word) <= 11]


@functools.cache
def _align(path: Path, text: str) -> Recording:
    if path.suffix == ".wav":
        with wave.open(str(path)) as sound:
            data = sound.readframes(sound.getnframes())
    else:
        data = path.read_bytes()
    decoder = pocketsphinx.Decoder(lm=None, loglevel="FATAL")
    decoder.set_align_text(text)
    _decode(decoder, data)
    if decoder.hyp() is None:
        raise ValueError(f"The words '{text}' do not fit the sound {path.name}.")
    decoder.set_alignment()
    _decode(decoder, data)
    phonemes = [
        Phoneme(IPA[phone.name], phone.start * _FRAME_S, (phone.start + phone.duration) * _FRAME_S)
        for word in decoder.get_alignment()
        for phone in word
    ]
    return Recording(np.frombuffer(data, "<i2").astype(np.float32) / 32768.0, phonemes)


def _decode(decoder: pocketsphinx.Decoder, data: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(data, full_utt=True)
    decoder.end_utt()
