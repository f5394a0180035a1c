"""flite, whose voices are derived from recorded people, with the time of every phoneme (its command-line program)."""

from __future__ import annotations

import subprocess
import tempfile
import wave
from pathlib import Path

import numpy as np

from .arpabet import IPA
from .phonemes import Phoneme
from .utterance import Recording, Utterance, resized

VOICES = {"kal16": 105, "awb": 130, "rms": 95, "slt": 170}  # with each voice's usual pitch in Hz


def speak(utterance: Utterance) -> Recording:
    """Raises subprocess.CalledProcessError or FileNotFoundError when flite is not usable."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        pitch = VOICES[utterance.voice] * 2 ** ((utterance.pitch - 50) / 100)
        command = ["flite", "-voice", utterance.voice, "-psdur", "-o", str(path)]
        command += ["--setf", f"duration_stretch={1 / utterance.rate:.3f}", "--setf", f"int_f0_target_mean={pitch:.1f}"]
        done = subprocess.run([*command, "-t", utterance.text + " "], check=True, capture_output=True, text=True)
        with wave.open(str(path)) as sound:
            rate = sound.getframerate()
            speech = np.frombuffer(sound.readframes(sound.getnframes()), np.int16).astype(np.float32) / 32768.0
    phonemes, start = [], 0.0
    for word in done.stdout.split():
        name, _, stop = word.partition(":")
        phonemes.append(Phoneme(IPA[name.upper()], start, float(stop)))
        start = float(stop)
    return resized(speech, rate, phonemes, utterance.size)
