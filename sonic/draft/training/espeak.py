"""espeak-ng with the time of every phoneme, through the library of the package espeakng-loader."""

from __future__ import annotations

import ctypes
import functools

import espeakng_loader
import numpy as np

from .phonemes import Phoneme
from .utterance import Recording, Utterance, resized

_SYNCHRONOUS, _PHONEME_EVENTS, _IPA = 2, 1, 2
_PHONEME, _END_OF_LIST = 7, 0
_RATE, _PITCH, _UTF8 = 1, 3, 1
_STOPS_WITH_SILENT_CLOSURE = "ptkcqʈ"
_CLOSURE_S = 0.045  # espeak-ng counts the silence before a voiceless burst to the sound before it


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """The library can be started once in a process, and may crash after many utterances: use fresh processes."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(espeakng_loader.get_data_path()).encode()
        self.sample_rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, _PHONEME_EVENTS | _IPA)
        self._pieces: list[bytes] = []
        self._starts: list[tuple[int, str]] = []
        self._callback = _Callback(self._receive)  # kept: C holds no reference
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]) -> int:
        if samples and count > 0:
            self._pieces.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while (event := events[index]).type != _END_OF_LIST:
            if event.type == _PHONEME:
                self._starts.append((event.sample, event.id.string.decode("utf-8", "ignore")))
            index += 1
        return 0

    def speak(self, utterance: Utterance) -> Recording:
        """Raises ValueError for a voice that espeak-ng does not have."""
        self._pieces.clear()
        self._starts.clear()
        if self._library.espeak_SetVoiceByName(utterance.voice.encode()):
            raise ValueError(f"espeak-ng has no voice '{utterance.voice}'.")
        self._library.espeak_SetParameter(_RATE, round(175 * utterance.rate), 0)
        self._library.espeak_SetParameter(_PITCH, utterance.pitch, 0)
        text = utterance.text.encode()
        self._library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8, None, None)
        speech = np.frombuffer(b"".join(self._pieces), np.int16).astype(np.float32) / 32768.0
        return resized(speech, self.sample_rate, self._phonemes(len(speech)), utterance.size)

    def _phonemes(self, samples: int) -> list[Phoneme]:
        starts = [(sample / self.sample_rate, symbol) for sample, symbol in self._starts]
        for i, (start, symbol) in enumerate(starts):
            if i and symbol[:1] and symbol[0] in _STOPS_WITH_SILENT_CLOSURE:
                starts[i] = (start - min(_CLOSURE_S, 0.5 * (start - starts[i - 1][0])), symbol)
        stops = [start for start, _ in starts[1:]] + [samples / self.sample_rate]
        spans = zip(starts, stops, strict=True)
        return [Phoneme(symbol, start, stop) for (start, symbol), stop in spans if stop > start]


@functools.cache
def espeak() -> Espeak:
    """The one library of this process."""
    return Espeak()
