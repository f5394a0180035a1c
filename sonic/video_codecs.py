"""The kinds of video that can be written, and which encoder of this PyAV makes each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import av
from av.codec import Codec as AvCodec

from .errors import BadSetting

CodecName = Literal["h264", "hevc", "av1", "lossless"]
CODEC_NAMES: tuple[CodecName, ...] = get_args(CodecName)
OWN_CRF = -1  # stands for the codec's own

ITU709 = 1  # primaries, transfer and matrix have the same number in the tables of all these codecs
RGB = 0  # the matrix of pictures that are stored as they are


@dataclass(frozen=True)
class Encoder:
    """An encoder by FFmpeg's name, with its options."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoCodec:
    """encoders: the first that is there is taken. crf: of itself; worst: the highest; None where it takes none.

    smallest: side in pixels. tag: the name in the MP4, where FFmpeg's own choice is not played everywhere.
    """

    name: CodecName
    encoders: tuple[Encoder, ...]
    crf: int
    worst: int | None
    pix_fmt: str = "yuv420p"
    tag: str = ""
    smallest: int = 2

    @property
    def is_subsampled(self) -> bool:
        """True when one colour is kept for four pixels, so that both sides have to be even."""
        return self.pix_fmt == "yuv420p"

    @property
    def matrix(self) -> int:
        return ITU709 if self.is_subsampled else RGB


# 18 is the published quality; the other two look the same beside it. Preset veryfast would save a third of H.264's
# time, but blurs the lips of a small face.
H264 = VideoCodec("h264", (Encoder("libx264", {"preset": "fast"}),), crf=18, worst=51)
# Apple's players know HEVC in an MP4 by the tag hvc1 only.
HEVC = VideoCodec(
    "hevc",
    (Encoder("libx265", {"preset": "fast", "x265-params": "log-level=error"}),),
    crf=20,
    worst=51,
    tag="hvc1",
    smallest=32,
)
AV1 = VideoCodec(
    "av1",
    (Encoder("libsvtav1", {"preset": "8"}), Encoder("libaom-av1", {"cpu-used": "6", "row-mt": "1"})),
    crf=24,
    worst=63,
    smallest=64,
)
# For further work on the pictures: H.264 in RGB at CRF 0 gives every pixel back as it was made. It stays in an MP4, so
# that marks, signature, sound and queue are those of every other choice; FFV1 would need another container.
LOSSLESS = VideoCodec(
    "lossless", (Encoder("libx264rgb", {"preset": "veryfast"}),), crf=0, worst=None, pix_fmt="rgb24", smallest=2
)
_ALL: tuple[VideoCodec, ...] = (H264, HEVC, AV1, LOSSLESS)


@dataclass(frozen=True)
class Output:
    """A codec with its quality. crf: 0 is the best."""

    codec: VideoCodec = H264
    crf: int = H264.crf

    @property
    def is_plain(self) -> bool:
        """True for what the nodes write of themselves."""
        return self == Output()


def output_of(name: str, crf: int = OWN_CRF) -> Output:
    """The output that a user chose; crf: OWN_CRF for the codec's own. Raises BadSetting, also for a missing encoder."""
    codec = next((one for one in _ALL if one.name == name), None)
    if codec is None:
        raise BadSetting("codec", f"'{name}' is none of {', '.join(CODEC_NAMES)}.")
    encoder_of(codec)
    if crf == OWN_CRF:
        return Output(codec, codec.crf)
    if codec.worst is None:
        if crf != codec.crf:
            raise BadSetting("crf", f"{name} has no quality to choose; set it to {OWN_CRF}.")
    elif not 0 <= crf <= codec.worst:
        raise BadSetting("crf", f"{crf} is outside 0 to {codec.worst}, which {name} takes ({OWN_CRF}: {codec.crf}).")
    return Output(codec, crf)


def encoder_of(codec: VideoCodec) -> Encoder:
    """The encoder of this PyAV that makes it. Raises BadSetting when there is none."""
    for encoder in codec.encoders:
        try:
            AvCodec(encoder.name, "w")
        except ValueError:  # av's UnknownCodecError is one
            continue
        return encoder
    names = " or ".join(encoder.name for encoder in codec.encoders)
    raise BadSetting(
        "codec",
        f"{codec.name} needs the encoder {names}, which PyAV {av.__version__} here does not have; "
        "choose h264, or install the package 'av' from PyPI.",
    )
