"""A finished clip and its sound -> numbers that say how good it is, and sentences on what falls short.

Everything is read back from the pictures and the sound alone, so any video can be measured, whoever made it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .audio import MODEL_RATE, speech_for_models
from .engine import engine_of
from .errors import BadSound
from .frames import Frame
from .interruption import Check, no_check
from .postprocess.lip_sync import SyncEstimate, measure_sync, mouth_openings
from .prepared import Sound
from .video_source import open_video

RIM = 0.125  # of each side: there is seldom a face so far out, so what changes there is flicker
RIM_STEP = 4  # pixels; brightness needs no more
LUMA = np.array([0.299, 0.587, 0.114])
QUIET_DB = -38.0  # below the loud part of the speech
QUIET_S = 0.2  # a shorter pause is part of a word
LOUD_PERCENTILE, WIDE_PERCENTILE, SHUT_PERCENTILE = 95, 95, 5

MOST_OFFSET_S = 0.12  # from where on most people notice a mouth that is late
LEAST_SYNC = 0.2
MOST_OPEN_IN_SILENCE = 0.6
MOST_FLICKER = 1.5  # per cent
LEAST_AMPLITUDE = 0.008  # of the face's height
MOST_FACE_LOST = 0.1


@dataclass(frozen=True)
class Quality:
    """What was measured of a clip; None where nothing can be said.

    sync_offset_ms: how much later the mouth is than the speech. sync_correlation: how well they go together then.
    sync_is_sure: whether the offset can be relied on. open_in_silence: how far the mouth is open where nobody speaks,
    0 shut and 1 at its widest. flicker_percent: standard deviation of the brightness of the picture's rim from frame to
    frame, of its mean. mouth_amplitude: from shut to wide, as a part of the face's height. face_lost_frames: without a
    face. falls_short: a sentence each.
    """

    frames: int
    seconds: float
    sync_offset_ms: float | None
    sync_correlation: float | None
    sync_is_sure: bool
    open_in_silence: float | None
    flicker_percent: float
    mouth_amplitude: float | None
    face_lost_frames: int
    falls_short: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are kept."""
        return {**asdict(self), "falls_short": list(self.falls_short)}


def report_of(path: Path) -> dict[str, Any]:
    """The engine and the quality of a finished video, as plain values. Raises BadVideo."""
    video = open_video(path)
    try:
        sound = video.sound()
    except BadSound:  # there is a track, but nothing in it
        sound = None
    return {"engine": engine_of(video.metadata), **measure_quality(video.frames(), video.fps, sound).to_dict()}


def measure_quality(frames: Iterable[Frame], fps: float, sound: Sound | None, check: Check = no_check) -> Quality:
    """frames: (H, W, 3) uint8 RGB, one at a time, at ``fps``. check: called again and again; what it raises ends it."""
    rim: list[float] = []

    def watched() -> Iterator[Frame]:
        for frame in frames:
            check()
            rim.append(_rim_brightness(frame))
            yield frame

    openings = mouth_openings(watched(), check)
    speech = None if sound is None or not sound.waveform.size else speech_for_models(sound)
    sync = None if speech is None else measure_sync(openings, fps, speech)
    known = sync if sync and sync.correlation else None
    seen = openings[np.isfinite(openings)]
    shut, wide = np.percentile(seen, (SHUT_PERCENTILE, WIDE_PERCENTILE)) if seen.size else (0.0, 0.0)
    measured = Quality(
        frames=len(openings),
        seconds=round(len(openings) / fps, 3),
        sync_offset_ms=None if known is None else round(1000 * known.offset_s, 1),
        sync_correlation=None if known is None else round(known.correlation, 3),
        sync_is_sure=known is not None and known.is_sure,
        open_in_silence=None if speech is None else _open_in_silence(openings, fps, speech, shut, wide),
        flicker_percent=_flicker(rim),
        mouth_amplitude=round(float(wide - shut), 4) if seen.size else None,
        face_lost_frames=int(len(openings) - seen.size),
        falls_short=(),
    )
    return Quality(**{**asdict(measured), "falls_short": tuple(_shortcomings(measured, known))})


def _rim_brightness(frame: Frame) -> float:
    height, width = frame.shape[:2]
    top, left = max(1, int(height * RIM)), max(1, int(width * RIM))
    parts = (frame[:top], frame[:, :left], frame[:, -left:])
    means = [part[::RIM_STEP, ::RIM_STEP].reshape(-1, 3).mean(axis=0) @ LUMA for part in parts]
    return float(np.mean(means))


def _flicker(rim: list[float]) -> float:
    if len(rim) < 2:
        return 0.0
    return round(100.0 * float(np.diff(rim).std()) / max(float(np.mean(rim)), 1.0), 3)


def _open_in_silence(
    openings: NDArray[np.float32], fps: float, speech: NDArray[np.float32], shut: float, wide: float
) -> float | None:
    """Median opening in the pauses, 0 shut, 1 wide; None without a pause, a face in one, or a mouth that moves."""
    quiet = openings[_quiet_frames(speech, fps, len(openings)) & np.isfinite(openings)]
    if not quiet.size or wide - shut < LEAST_AMPLITUDE:
        return None
    return round(float((np.median(quiet) - shut) / (wide - shut)), 3)


def _quiet_frames(speech: NDArray[np.float32], fps: float, count: int) -> NDArray[np.bool_]:
    """(count,) True inside pauses, a frame's time away from the speech on either side."""
    edges = (np.arange(count + 1) * MODEL_RATE / fps).astype(int).clip(0, len(speech))
    energy = np.concatenate([[0.0], np.cumsum(speech.astype(np.float64) ** 2)])
    power = (energy[edges[1:]] - energy[edges[:-1]]) / np.maximum(np.diff(edges), 1)
    level = 10 * np.log10(power + 1e-12)
    quiet = level < np.percentile(level, LOUD_PERCENTILE) + QUIET_DB
    shortest = max(1, round(QUIET_S * fps))
    found = np.zeros(count, bool)
    start = 0
    for index in range(count + 1):
        if index == count or not quiet[index]:
            if index - start >= shortest:
                found[start + 1 : max(start + 1, index - 1)] = True
            start = index + 1
    return found


def _shortcomings(found: Quality, sync: SyncEstimate | None) -> Iterator[str]:
    if found.frames and found.face_lost_frames > MOST_FACE_LOST * found.frames:
        yield f"No face is seen in {found.face_lost_frames} of {found.frames} frames."
    if sync and sync.is_sure and abs(sync.offset_s) > MOST_OFFSET_S:
        where = "behind" if sync.offset_s > 0 else "ahead of"
        yield f"The mouth runs {abs(1000 * sync.offset_s):.0f} ms {where} the sound."
    elif sync and sync.correlation < LEAST_SYNC:
        yield f"The mouth hardly follows the speech (agreement {sync.correlation:.2f})."
    if found.mouth_amplitude is not None and found.mouth_amplitude < LEAST_AMPLITUDE and sync:
        yield "The mouth hardly moves."
    if found.open_in_silence is not None and found.open_in_silence > MOST_OPEN_IN_SILENCE:
        yield f"The mouth stays open where nobody speaks ({100 * found.open_in_silence:.0f} % of its widest)."
    if found.flicker_percent > MOST_FLICKER:
        yield f"The picture flickers ({found.flicker_percent:.1f} % from frame to frame)."
