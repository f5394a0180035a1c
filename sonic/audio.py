"""Sound file -> Sound, its checks, and the 16 kHz mono float32 that every model hears."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import soxr
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from .errors import BadSound
from .media_file import open_media
from .prepared import Sound

log = logging.getLogger("sonic.audio")

MODEL_RATE = 16000
SHORTEST_S = 0.02  # half a frame at 25 frames a second: less gives no frame
SILENCE_DBFS = -60.0  # the loudest moment of any usable recording lies well above
MOMENT_S = 0.05


def read_sound(path: Path) -> Sound:
    """The first sound track of a file of any format, told by its content and not its name. Raises BadSound."""
    if not path.is_file():
        raise BadSound(f"The sound '{path.name}' is not there (looked in {path.parent}).")
    if path.stat().st_size == 0:
        raise BadSound(f"The sound '{path.name}' is an empty file (0 bytes); save or copy it again.")
    try:
        with open_media(path) as container:
            if not container.streams.audio:
                raise BadSound(f"'{path.name}' holds no sound track; choose a file with sound.")
            rate = container.streams.audio[0].rate
            blocks = [frame.to_ndarray() for frame in _decoded(container, path.name)]
    except av.FFmpegError as error:
        raise BadSound(
            f"'{path.name}' is not a sound that can be read; use a WAV, MP3, FLAC, OGG, M4A or video file."
        ) from error
    if not blocks:
        raise BadSound(f"The sound '{path.name}' holds no samples that can be read; save or copy it again.")
    return Sound(np.concatenate(blocks, axis=1), rate)


def _decoded(container: av.container.InputContainer, name: str) -> Iterator[AudioFrame]:
    """Frames as planar float32 at the rate and layout of the first; damaged packets are left out and logged."""
    stream = container.streams.audio[0]
    resampler = av.AudioResampler(format="fltp")
    damaged = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:  # players skip such packets too, and a cut MP3 begins with one
            damaged += 1
            continue
        for frame in frames:
            frame.pts = None  # gaps in time stamps are no reason to stretch the sound
            yield from resampler.resample(frame)
    yield from resampler.resample(None)
    if damaged:
        log.warning("%d damaged packets of '%s' were left out", damaged, name)


def check_sound(sound: Sound) -> None:
    """Raises BadSound for a sound that is empty, too short, silent, or holds values that are no numbers."""
    waveform = sound.waveform
    if waveform.ndim != 2 or waveform.shape[0] < 1 or sound.sample_rate < 1:
        raise BadSound(f"The sound has the shape {waveform.shape} where (channels, samples) is needed.")
    if waveform.shape[1] == 0:
        raise BadSound("The sound is empty (0 samples); choose another recording.")
    if sound.seconds < SHORTEST_S:
        raise BadSound(
            f"The sound lasts only {sound.seconds * 1000:.1f} ms; at least {SHORTEST_S * 1000:.0f} ms are needed."
        )
    if not np.isfinite(waveform).all():
        raise BadSound("The sound holds values that are no numbers (NaN or infinite); check how it was made.")
    level = loudest_moment(sound)
    if level < SILENCE_DBFS:
        heard = "digital silence" if level == -np.inf else f"its loudest moment is at {level:.0f} dBFS"
        raise BadSound(f"The sound is silent ({heard}); nobody could be seen speaking, so choose another recording.")


def loudest_moment(sound: Sound) -> float:
    """Level of the loudest 50 ms of the loudest channel, in dB below full scale (RMS); -inf for digital silence."""
    size = max(1, min(sound.waveform.shape[1], round(MOMENT_S * sound.sample_rate)))
    whole = sound.waveform.shape[1] // size * size
    power = 0.0
    for channel in sound.waveform:
        # The constant part is inaudible; taken off per moment so that a slow drift does not count as sound either.
        moments = channel[:whole].reshape(-1, size)
        power = max(power, float(moments.var(axis=1).max()))
    return 10.0 * float(np.log10(power)) if power > 0 else -np.inf


def used_part(sound: Sound, duration_s: float) -> tuple[Sound, str | None]:
    """The first ``duration_s`` seconds (0 = all), and a sentence if more was asked for than there is."""
    if duration_s == 0:
        return sound, None
    samples = round(duration_s * sound.sample_rate)
    if samples > sound.waveform.shape[1]:
        return sound, (
            f"The duration of {duration_s:g} s is longer than the sound; all {sound.seconds:.2f} s of it are used."
        )
    return Sound(sound.waveform[:, :samples], sound.sample_rate), None


def speech_for_models(sound: Sound) -> NDArray[np.float32]:
    """(samples,) float32 mono at 16 kHz: mean of the channels, resampled by soxr at high quality."""
    mono = sound.waveform.mean(axis=0, dtype=np.float32)
    if sound.sample_rate == MODEL_RATE:
        return np.ascontiguousarray(mono)
    return np.asarray(soxr.resample(mono, sound.sample_rate, MODEL_RATE, quality="HQ"), np.float32)
