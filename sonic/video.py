"""Frames and sound stream into an MP4, side by side, so that memory does not grow with the clip."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import av
import numpy as np
import soxr
from av.container import OutputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from .errors import CannotWrite
from .frames import Frame
from .media_file import open_media
from .prepared import Sound
from .scheduling import usual_scheduling
from .video_codecs import ITU709, Output, encoder_of

AAC_BITRATE = 192_000
MOVFLAGS = (
    "use_metadata_tags+faststart"  # any metadata key is kept; the index comes first, so that players start at once
)
# So few pictures are stored in their order, so each is decoded when it is shown. libx265 says otherwise: it learns how
# far its B-frames delay the decoding from the third picture, and before that takes whatever lies in its memory.
IN_ORDER = 2
NO_METADATA: Mapping[str, str] = MappingProxyType({})
PLAIN = Output()
ADVICE: Mapping[int, str] = MappingProxyType(
    {
        errno.ENOSPC: "; free some space on that disk",
        errno.EDQUOT: "; free some space within your quota",
        errno.EACCES: "; let the user that ComfyUI runs as write there",
        errno.EPERM: "; let the user that ComfyUI runs as write there",
        errno.EROFS: "; choose a folder that can be written to",
    }
)
Seal = Callable[[Path], None]  # changes a whole file in its place, before it appears under its name


def no_seal(path: Path) -> None:
    """Leaves the file as it is."""


def write_mp4(
    path: Path,
    frames: Iterable[Frame],
    fps: float,
    sound: Sound | None = None,
    metadata: Mapping[str, str] = NO_METADATA,
    on_frame: Callable[[int, Frame], None] | None = None,
    output: Output = PLAIN,
    seal: Seal = no_seal,
) -> int:
    """Writes ``frames`` ((H, W, 3) uint8 RGB, all of one size) and the whole ``sound`` to ``path``; returns how many.

    The sound is never cut; where the frames last longer it is followed by silence. An odd side grows by one repeated
    row or column where the codec asks for even ones. ``on_frame(index, frame)`` is called after each frame; what it
    raises ends the writing. The file appears only when it is whole and sealed. Raises CannotWrite, or BadSetting when
    the codec's encoder is not there.
    """
    with (
        _whole_or_not_at_all(path, seal) as part,
        av.open(str(part), "w", format="mp4", options={"movflags": MOVFLAGS}) as container,
    ):
        container.metadata.update(metadata)
        return _encode(container, frames, fps, sound, on_frame, output)


@contextmanager
def _whole_or_not_at_all(target: Path, seal: Seal) -> Iterator[Path]:
    """A path to write to, which takes the target's name at the end; after an error or an interrupt nothing is left."""
    part = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}.part")
    try:
        try:
            yield part
        except av.FFmpegError as error:
            raise cannot_write(target, error) from error
        seal(part)
        try:
            part.replace(target)
        except OSError as error:
            raise cannot_write(target, error) from error
    finally:
        part.unlink(missing_ok=True)


def cannot_write(target: Path, error: OSError | av.FFmpegError) -> CannotWrite:
    """The sentence about a file that the system refuses."""
    return CannotWrite(
        f"The video '{target}' cannot be written: {error.strerror or error}{ADVICE.get(error.errno or 0, '')}."
    )


def _encode(
    container: OutputContainer,
    frames: Iterable[Frame],
    fps: float,
    sound: Sound | None,
    on_frame: Callable[[int, Frame], None] | None,
    output: Output,
) -> int:
    rate = Fraction(fps).limit_denominator(1001)
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        raise CannotWrite("There is no frame to write.")
    video = _add_pictures(container, rate, first, output)
    track = None if sound is None else _SoundTrack(container, sound)

    count = 0
    for frame in _with_first(first, remaining):
        picture = _picture(frame, output)
        picture.pts, picture.time_base = count, 1 / rate
        with nullcontext() if count else usual_scheduling():  # the first one opens the encoder
            packets = video.encode(picture)
        container.mux(packets)
        count += 1
        if track is not None:
            track.write_until(count / rate)
        if on_frame is not None:
            on_frame(count - 1, frame)
    last = video.encode(None)
    if count <= IN_ORDER:
        for packet in last:
            packet.dts = packet.pts
    container.mux(last)
    if track is not None:
        track.finish(count / rate)
    return count


def _add_pictures(container: OutputContainer, rate: Fraction, first: Frame, output: Output) -> VideoStream:
    codec, encoder = output.codec, encoder_of(output.codec)
    height, width = first.shape[:2]
    if codec.is_subsampled:
        height, width = height + height % 2, width + width % 2
    if min(height, width) < codec.smallest:
        raise CannotWrite(
            f"{codec.name} takes pictures from {codec.smallest} pixels a side, and these have {width} x {height}; "
            "choose h264."
        )
    video = container.add_stream(encoder.name, rate=rate, options={**encoder.options, "crf": str(output.crf)})
    assert isinstance(video, VideoStream)
    video.width, video.height, video.pix_fmt = width, height, codec.pix_fmt
    context = video.codec_context
    context.color_primaries = context.color_trc = ITU709
    context.colorspace = codec.matrix
    if codec.tag:
        context.codec_tag = codec.tag
    return video


def _picture(frame: Frame, output: Output) -> av.VideoFrame:
    if not output.codec.is_subsampled:
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    picture = av.VideoFrame.from_ndarray(_even(frame), format="rgb24")
    return picture.reformat(format=output.codec.pix_fmt, dst_colorspace="ITU709")


def _with_first(first: Frame, others: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    yield from others


def _even(frame: Frame) -> Frame:
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(frame)


def encoder_rate(sample_rate: int) -> int:
    """The rate the sound is stored at: 44.1 kHz for its own family (11.025, 22.05, 88.2 kHz), else 48 kHz."""
    return 44100 if sample_rate % 11025 == 0 else 48000


class _SoundTrack:
    """The sound on its way into the container, encoded as far as the pictures have come."""

    def __init__(self, container: OutputContainer, sound: Sound) -> None:
        waveform = sound.waveform
        if waveform.shape[0] > 2:  # a bare array does not say which channel is which speaker
            waveform = waveform.mean(axis=0, keepdims=True, dtype=np.float32)
        self._container = container
        self._waveform: NDArray[np.float32] = waveform
        self._source_rate = sound.sample_rate
        self._rate = encoder_rate(sound.sample_rate)
        self._layout = "mono" if waveform.shape[0] == 1 else "stereo"
        self._stream = container.add_stream("aac", rate=self._rate, layout=self._layout)
        self._stream.bit_rate = AAC_BITRATE
        self._resampler = soxr.ResampleStream(
            sound.sample_rate, self._rate, waveform.shape[0], dtype="float32", quality="HQ"
        )
        self._taken = 0  # samples of the source
        self._written = 0  # samples of the stream

    def write_until(self, seconds: Fraction) -> None:
        end = min(self._waveform.shape[1], int(seconds * self._source_rate))
        self._resample(end, last=False)

    def finish(self, seconds: Fraction) -> None:
        """Writes what is left of the sound, then silence until ``seconds``."""
        self._resample(self._waveform.shape[1], last=True)
        missing = int(seconds * self._rate) - self._written
        if missing > 0:
            self._encode(np.zeros((self._waveform.shape[0], missing), np.float32))
        self._container.mux(self._stream.encode(None))

    def _resample(self, end: int, last: bool) -> None:
        block = self._waveform[:, self._taken : end]
        self._taken = end
        if self._rate == self._source_rate:
            self._encode(block)
        else:
            # Interleaved in and out: soxr wants (samples, channels).
            self._encode(self._resampler.resample_chunk(np.ascontiguousarray(block.T), last=last).T)

    def _encode(self, samples: NDArray[np.float32]) -> None:
        if samples.shape[1] == 0:
            return
        clipped = np.ascontiguousarray(np.clip(samples, -1.0, 1.0))
        frame = av.AudioFrame.from_ndarray(clipped, format="fltp", layout=self._layout)
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._written, Fraction(1, self._rate)
        self._written += samples.shape[1]
        self._container.mux(self._stream.encode(frame))


def copy_mp4(source: Path, target: Path, metadata: Mapping[str, str] = NO_METADATA, seal: Seal = no_seal) -> None:
    """Copies an MP4 packet by packet, adding ``metadata`` to its own; the pictures and the sound stay bit for bit.

    The file appears only when it is whole and sealed. Raises CannotWrite.
    """
    if not source.is_file():
        raise CannotWrite(f"The video '{source}' is no longer there; make it again.")
    with (
        _whole_or_not_at_all(target, seal) as part,
        open_media(source) as old,
        av.open(str(part), "w", format="mp4", options={"movflags": MOVFLAGS}) as new,
    ):
        new.metadata.update({**old.metadata, **metadata})
        streams = {stream: new.add_stream_from_template(stream) for stream in (*old.streams.video, *old.streams.audio)}
        for packet in old.demux(*streams):
            if packet.dts is not None:  # the empty packet at the end of each stream
                packet.stream = streams[packet.stream]
                new.mux(packet)
