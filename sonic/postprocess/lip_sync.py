"""Lip sync: how far the mouth runs ahead of or behind the speech, and a shift of the sound that puts it right.

The mouth's opening, read from the finished frames by the face mesh, is compared at every offset within a quarter of a
second with what the speech lets expect: how far the draft engine's mouth network would open for it, and how loud it is.
The peak is read between the steps by a parabola. How far it stands out above offsets that cannot be right (half a
second and more) says how sure the answer is; only a sure one moves the sound.

The sound is moved by samples and never cut: see `shift_sound`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ..audio import MODEL_RATE
from ..draft.mouth_shapes import mouth_shapes
from ..draft.performance import jaw_opening
from ..frames import Frame
from ..inference_mode import small_network
from ..interruption import Check, no_check
from ..landmarks import LEAST_SCORE, find_faces, fit_mesh_in_each, square_around
from ..prepared import Face, Sound

RATE = 200  # Hz of the two curves that are compared: steps of 5 ms
SMOOTHING_S = 0.08  # mouths do not follow loudness more finely
FOLLOWED_TOGETHER = 4  # frames; a head moves little in so short a time, and the network is quicker
FOLLOWED_BESIDE = 2  # such groups, on a core each
LONGEST_PAUSE = 8  # frames between two searches in vain, which take seconds each
SEARCHED_S = 0.25
CORRECTED_S = 0.2  # more is not drift but the wrong sound
WRONG_S = 0.5  # offsets from here on cannot be right: they show what chance gives
SHORTEST_S = 2.0
LEAST_CORRECTION_S = 0.02  # nobody sees less, and half a frame is what the mesh can be wrong by
EXPECTED_HZ = 100  # of the mouth network's answer
LOUDNESS_SHARE = 0.3  # beside the network's: it knows nothing of words, and so makes none of the network's mistakes
LEAST_CHANGE = 0.05  # of the network's opening: below, it hears no speech
QUIET_BELOW_LOUD, QUIET_DBFS = -40.0, -60.0  # dB; what is quieter than either may be dropped at an end
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

    The face is searched for once and followed, eight frames at a time. One that comes back is noticed within
    LONGEST_PAUSE frames. check: what it raises ends a search.
    """
    openings: list[float] = []
    face: Face | None = None
    next_search, pause = 0, 1
    waiting = iter(frames)
    with ThreadPoolExecutor(FOLLOWED_BESIDE, "sonic-mesh") as cores:
        while together := list(islice(waiting, FOLLOWED_BESIDE * FOLLOWED_TOGETHER)):
            seen = [] if face is None else _followed(together, face, cores)
            for number, frame in enumerate(together):
                face = seen[number] if seen else None
                if face is None or face.score < LEAST_SCORE:
                    face = None
                    if len(openings) >= next_search:
                        face = next(iter(find_faces(frame, check)), None)
                        pause = 1 if face else min(2 * pause, LONGEST_PAUSE)
                        next_search = len(openings) + pause
                    if face is not None and number + 1 < len(together):
                        seen = [face] * (number + 1) + _followed(together[number + 1 :], face, cores)
                openings.append(np.nan if face is None else _opening(face.landmarks))
    return np.array(openings, np.float32)


def _followed(frames: Sequence[Frame], face: Face, cores: Executor) -> list[Face]:
    """The same face in each of a few frames that come next."""
    square = square_around(face.landmarks)
    groups = [frames[at : at + FOLLOWED_TOGETHER] for at in range(0, len(frames), FOLLOWED_TOGETHER)]
    with small_network():  # here already, as it is what a new thread finds that holds for it, too
        return [one for seen in cores.map(lambda group: fit_mesh_in_each(group, square), groups) for one in seen]


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
    expected = _expected(speech[: int(seconds * MODEL_RATE)], times)  # of a long sound only what is compared
    if mouth.std() < 1e-4 or expected.std() < 1e-6:
        return UNKNOWN
    reach = int(SEARCHED_S * RATE)
    by_lag = np.array([_correlation(mouth, expected, lag) for lag in range(-reach, reach + 1)])
    best = int(np.argmax(by_lag))
    peak = float(by_lag[best])
    chance = [
        float(np.corrcoef(mouth, np.roll(expected, shift))[0, 1])
        for shift in range(int(WRONG_S * RATE), len(times) - int(WRONG_S * RATE), 10)
    ]
    return SyncEstimate(
        (best - reach + _between_steps(by_lag, best)) / RATE,
        peak,
        float(by_lag[reach]),
        peak - float(np.percentile(chance, 95)),
    )


def _between_steps(curve: NDArray[np.float64], at: int) -> float:
    """Where the parabola through a peak and its neighbours is highest, -0.5..0.5 steps from the peak."""
    if not 0 < at < len(curve) - 1:
        return 0.0
    before, peak, after = (float(value) for value in curve[at - 1 : at + 2])
    bend = before - 2 * peak + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0


def _expected(speech: NDArray[np.float32], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the mouth should be open at each time, but for a factor: from the sounds of the speech, and how loud."""
    loudness = _standard(_smooth(_loudness(speech, len(times))))
    frames = max(1, int(len(times) * EXPECTED_HZ / RATE))
    opening = jaw_opening(mouth_shapes(speech, EXPECTED_HZ, frames))
    if opening.max() < LEAST_CHANGE:
        return loudness
    heard = np.interp(times, (np.arange(frames) + 0.5) / EXPECTED_HZ, opening)
    both: NDArray[np.float64] = (1 - LOUDNESS_SHARE) * _standard(_smooth(heard)) + LOUDNESS_SHARE * loudness
    return both


def _standard(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    standard: NDArray[np.float64] = (curve - curve.mean()) / max(float(curve.std()), 1e-6)
    return standard


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


def possible_shift(sound: Sound, seconds: float) -> float:
    """``seconds``, or less where the sound would start earlier than its first speech allows."""
    return max(seconds, -_quiet_samples(sound.waveform) / sound.sample_rate)


def shift_sound(sound: Sound, seconds: float) -> Sound:
    """The sound starting ``seconds`` later (negative: earlier), by whole samples, with all of its speech.

    Later: silence comes first, and the sound gets longer by as much as is not silent at its end. Earlier: silence at
    the start is dropped, as much as there is, and the same comes at the end.
    """
    seconds = possible_shift(sound, seconds)
    samples = round(seconds * sound.sample_rate)
    waveform = sound.waveform
    silence = np.zeros((len(waveform), abs(samples)), waveform.dtype)
    if samples >= 0:
        droppable = min(samples, _quiet_samples(waveform[:, ::-1]))
        kept = waveform[:, : waveform.shape[1] - droppable]
        return Sound(np.concatenate([silence, kept], axis=1), sound.sample_rate)
    return Sound(np.concatenate([waveform[:, -samples:], silence], axis=1), sound.sample_rate)


def _quiet_samples(waveform: NDArray[np.float32]) -> int:
    """Samples at the start that nobody hears beside the rest; all but one where everything is quiet."""
    level = np.abs(waveform).max(axis=0, initial=0.0)
    loud = float(np.percentile(level, 95)) if len(level) else 0.0
    heard = np.flatnonzero(level > max(loud * 10 ** (QUIET_BELOW_LOUD / 20), 10 ** (QUIET_DBFS / 20)))
    return int(heard[0]) if heard.size else max(0, len(level) - 1)
