"""What an uploaded picture or recording really is, whatever its name says. Decodes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from PIL import Image

from ..errors import BadJob
from ..places.media_file import open_media

PICTURES: Mapping[str, str] = MappingProxyType(
    {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif"}
    | {"AVIF": ".avif"}
)
MOST_PIXELS = 100_000_000
SOUNDS: Mapping[str, str] = MappingProxyType(
    {"wav": ".wav", "mp3": ".mp3", "flac": ".flac", "ogg": ".ogg", "aac": ".aac", "asf": ".wma", "aiff": ".aiff"}
    | {"mov": ".m4a", "matroska": ".webm"}
)


def picture_suffix(path: Path) -> str:
    """The suffix that fits a picture's content. Raises BadJob for what is none that is taken."""
    known = ", ".join(sorted({suffix[1:] for suffix in PICTURES.values()}))
    try:
        with Image.open(path, formats=list(PICTURES)) as picture:
            kind, (width, height) = picture.format or "", picture.size
    except Exception as error:
        raise BadJob("image", f"is no picture that is taken here; the kinds are {known}.") from error
    if width * height > MOST_PIXELS:
        raise BadJob("image", f"has {width} x {height} pixels, and {MOST_PIXELS // 1_000_000} million are the limit.")
    return PICTURES[kind]


def sound(path: Path) -> tuple[str, float]:
    """The suffix that fits a recording's content, and how many seconds of sound are in it, by its packets.

    Raises BadJob for what holds no sound.
    """
    known = ", ".join(sorted({suffix[1:] for suffix in SOUNDS.values()}))
    unknown = BadJob("audio", f"is no recording that is taken here; the kinds are {known}.")
    try:
        with open_media(path) as container:
            suffix = next((SOUNDS[name] for name in container.format.name.split(",") if name in SOUNDS), "")
            if not suffix or not container.streams.audio:
                raise unknown
            stream = container.streams.audio[0]
            seconds = 0.0
            for packet in container.demux(stream):
                if packet.pts is not None and packet.time_base:
                    begins = packet.pts - (stream.start_time or 0)
                    seconds = max(seconds, float((begins + (packet.duration or 0)) * packet.time_base))
    except BadJob:
        raise
    except Exception as error:
        raise unknown from error
    if not seconds > 0:
        raise BadJob("audio", "holds no sound.")
    return suffix, seconds
