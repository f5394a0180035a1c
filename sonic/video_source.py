"""A video file as frames and sound to be written anew, or copied where that does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from .audio import read_sound
from .errors import BadVideo
from .frames import Frame
from .media_file import open_media
from .prepared import Sound

# What the container says of itself; another file says its own.
OF_THE_CONTAINER = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder"})


@dataclass(frozen=True)
class VideoFile:
    """What is known of a video before its frames are read. count: 0 when the file does not say it.

    is_plain: pictures and container are those that the nodes write, so that a copy is as good. is_turned: players turn
    it by the file's word, which frames() does not.
    """

    path: Path
    width: int
    height: int
    fps: float
    count: int
    is_plain: bool
    is_turned: bool
    has_sound: bool
    metadata: Mapping[str, str]

    def frames(self) -> Iterator[Frame]:
        """All frames at ``fps``, each made when it is asked for. Raises BadVideo.

        Where the file's own vary in length, some come more than once and some not at all, so that the sound still fits.
        Frames of another size than the first, which some files have, are brought to it.
        """
        try:
            with open_media(self.path) as container:
                made, began = 0, None
                shown: Frame | None = None
                for frame in container.decode(video=0):
                    if began is None:
                        began = frame.time or 0.0
                    due = (frame.time or 0.0) - began
                    while shown is not None and made / self.fps < due - 0.5 / self.fps:
                        yield shown
                        made += 1
                    width, height = (frame.width, frame.height) if shown is None else shown.shape[1::-1]
                    shown = np.asarray(frame.to_ndarray(format="rgb24", width=width, height=height), np.uint8)
                if shown is not None:
                    yield shown
        except av.FFmpegError as error:
            raise BadVideo(f"The video '{self.path.name}' cannot be read to its end; make or copy it again.") from error

    def sound(self) -> Sound | None:
        """Its first sound track, whole. Raises BadSound."""
        return read_sound(self.path) if self.has_sound else None


def without_container(metadata: Mapping[str, str]) -> dict[str, str]:
    """What somebody has written into a video's metadata."""
    return {key: value for key, value in metadata.items() if key not in OF_THE_CONTAINER}


def open_video(path: Path) -> VideoFile:
    """Raises BadVideo."""
    if not path.is_file():
        raise BadVideo(f"The video '{path}' is no longer there; make it again.")
    try:
        with open_media(path) as container:
            if not container.streams.video:
                raise BadVideo(f"'{path.name}' holds no pictures; choose a video.")
            stream = container.streams.video[0]
            context = stream.codec_context
            first = next(container.decode(stream), None)
            return VideoFile(
                path=path,
                width=stream.width,
                height=stream.height,
                fps=float(stream.average_rate or 25),
                count=stream.frames,
                is_plain="mp4" in container.format.name and (context.name, context.pix_fmt) == ("h264", "yuv420p"),
                is_turned=bool(first and first.rotation),
                has_sound=bool(container.streams.audio),
                metadata=without_container(container.metadata),
            )
    except av.FFmpegError as error:
        raise BadVideo(f"'{path.name}' is no video that can be read; make or copy it again.") from error
