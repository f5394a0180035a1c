"""Lip sync: how far the mouth runs ahead of or behind the speech, and a shift of the sound that puts it right.

The mouth's opening, read from the finished frames by the face mesh, is compared with the loudness of the speech at
every offset within a quarter of a second. People open their mouths for what is loud, so the right offset stands out;
how far it stands out above offsets that cannot be right (half a second and more) says how sure the answer is. A limit
of the method: loudness and opening agree only on the whole, so offsets of less than a frame are not corrected.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..audio import MODEL_RATE
from ..frames import Frame
from ..interruption import Check, no_check
from ..landmarks import find_faces, fit_mesh, square_around
from ..prepared import Sound

RATE = 200  # Hz of the two curves that are compared: steps of 5 ms
SMOOTHING_S = 0.08  # mouths do not follow loudness more finely
SEARCHED_S = 0.25
CORRECTED_S = 0.2  # more is not drift but the wrong sound
WRONG_S = 0.5  # offsets from here on cannot be right: they show what chance gives
SHORTEST_S = 2.0
LEAST_CORRECTION_S = 0.04
LEAST_CORRELATION = 0.35
LEAST_CONFIDENCE = 0.15
UPPER_LIP, LOWER_LIP, FOREHEAD, CHIN = 13, 14, 10, 152  # in the face mesh


@dataclass(frozen=True)
class SyncEstimate:
    """offset_s: how much later the mouth is than the speech (negative: earlier).

    correlation: of opening and loudness at that offset; as_it_is: at no offset; confidence: what it is above chance.
    """

    offset_s: float
    correlation: float
    as_it_is: float
    confidence: float

    @property
    def is_sure(self) -> bool:
        return (
            self.correlation >= LEAST_CORRELATION
            and self.confidence >= LEAST_CONFIDENCE
            and abs(self.offset_s) <= CORRECTED_S
        )

    @property
    def correction_s(self) -> float:
        """By how much the sound should start later; 0 when it fits already or the estimate is not sure."""
        return self.offset_s if self.is_sure and abs(self.offset_s) >= LEAST_CORRECTION_S else 0.0


UNKNOWN = SyncEstimate(0.0, 0.0, 0.0, 0.0)


def mouth_openings(frames: Iterable[Frame], check: Check = no_check) -> NDArray[np.float32]:
    """(frames,) distance of the inner lips over the height of the face; NaN where no face is seen.

    The face is searched for once and followed from frame to frame. check: what it raises ends a search.
    """
    openings = []
    face = None
    for frame in frames:
        if face is None:
            face = next(iter(find_faces(frame, check)), None)
        else:
            face = fit_mesh(frame, square_around(face.landmarks))
            if face.score < 0.5:
                face = next(iter(find_faces(frame, check)), None)
        openings.append(np.nan if face is None else _opening(face.landmarks))
    return np.array(openings, np.float32)


def _opening(landmarks: NDArray[np.float32]) -> float:
    height = float(np.linalg.norm(landmarks[FOREHEAD, :2] - landmarks[CHIN, :2]))
    return float(np.linalg.norm(landmarks[UPPER_LIP, :2] - landmarks[LOWER_LIP, :2])) / max(height, 1e-6)


def measure_sync(openings: NDArray[np.float32], fps: float, speech: NDArray[np.float32]) -> SyncEstimate:
    """Compares (frames,) mouth openings at ``fps`` with (samples,) 16 kHz mono speech.

    Less than two seconds, a face that is mostly not seen, or a mouth or a sound that does not change give UNKNOWN.
    """
    seen = np.isfinite(openings)
    seconds = min(len(openings) / fps, len(speech) / MODEL_RATE)
    if seconds < SHORTEST_S or seen.mean() < 0.5:
        return UNKNOWN
    times = np.arange(int(seconds * RATE)) / RATE
    frame_times = (np.arange(len(openings)) + 0.5) / fps  # a frame shows the middle of its time
    mouth = _smooth(np.interp(times, frame_times[seen], openings[seen]))
    loudness = _smooth(_loudness(speech, len(times)))
    if mouth.std() < 1e-4 or loudness.std() < 1e-6:
        return UNKNOWN
    by_lag = {
        lag: _correlation(mouth, loudness, lag) for lag in range(-int(SEARCHED_S * RATE), int(SEARCHED_S * RATE) + 1)
    }
    best = max(by_lag, key=by_lag.__getitem__)
    chance = [
        float(np.corrcoef(mouth, np.roll(loudness, shift))[0, 1])
        for shift in range(int(WRONG_S * RATE), len(times) - int(WRONG_S * RATE), 10)
    ]
    return SyncEstimate(best / RATE, by_lag[best], by_lag[0], by_lag[best] - float(np.percentile(chance, 95)))


def _loudness(speech: NDArray[np.float32], points: int) -> NDArray[np.float64]:
    """Square root of the RMS level around each point: louder speech opens the mouth more, but ever less so."""
    power = np.concatenate([[0.0], np.cumsum(speech.astype(np.float64) ** 2)])
    centres = np.arange(points) * MODEL_RATE / RATE
    half = MODEL_RATE // 100
    low = np.clip(centres - half, 0, len(speech)).astype(int)
    high = np.clip(centres + half, 0, len(speech)).astype(int)
    level: NDArray[np.float64] = (np.maximum(power[high] - power[low], 0) / np.maximum(high - low, 1)) ** 0.25
    return level


def _smooth(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    size = int(SMOOTHING_S * RATE) | 1
    padded = np.pad(curve, size // 2, mode="edge")
    return np.convolve(padded, np.hanning(size + 2)[1:-1] / np.hanning(size + 2).sum(), mode="valid")


def _correlation(mouth: NDArray[np.float64], loudness: NDArray[np.float64], lag: int) -> float:
    """Pearson's r with the mouth taken ``lag`` points later than the loudness."""
    if lag >= 0:
        mouth, loudness = mouth[lag:], loudness[: len(loudness) - lag]
    else:
        mouth, loudness = mouth[:lag], loudness[-lag:]
    return float(np.corrcoef(mouth, loudness)[0, 1])


def shift_sound(sound: Sound, seconds: float) -> Sound:
    """The sound starting ``seconds`` later (negative: earlier), as long as before, silence where nothing is left."""
    samples = round(seconds * sound.sample_rate)
    shifted = np.zeros_like(sound.waveform)
    if samples >= 0:
        shifted[:, samples:] = sound.waveform[:, : sound.waveform.shape[1] - samples]
    else:
        shifted[:, :samples] = sound.waveform[:, -samples:]
    return Sound(shifted, sound.sample_rate)
