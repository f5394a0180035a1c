"""A video file of any kind -> its frames at one constant rate, as they come, and its sound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from .audio import read_sound
from .errors import BadSound, BadVideo
from .frames import Frame
from .prepared import Sound

FASTEST = 120.0  # frames a second; what claims more has broken time stamps


class VideoFile:
    """fps: frames a second, on the average where they vary. sound: None where there is none. Raises BadVideo."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise BadVideo(f"The video '{path.name}' is not there (looked in {path.parent}).")
        try:
            with av.open(str(path), metadata_errors="replace") as container:
                if not container.streams.video:
                    raise BadVideo(f"'{path.name}' holds no pictures; choose a video.")
                rate = container.streams.video[0].average_rate
                self.metadata = dict(container.metadata)
        except av.FFmpegError as error:
            raise BadVideo(f"'{path.name}' is not a video that can be read; use an MP4, MOV, MKV or WebM.") from error
        self.fps = min(float(rate or 25), FASTEST)
        try:
            self.sound: Sound | None = read_sound(path)
        except BadSound:
            self.sound = None

    def frames(self) -> Iterator[Frame]:
        """(H, W, 3) uint8 RGB at ``fps``: where the file's own frames vary in length, some twice and some not at all.

        Frames of another size than the first, which some files have, are brought to it.
        """
        try:
            with av.open(str(self.path), metadata_errors="replace") as container:
                made, began = 0, None
                shown: Frame | None = None
                for frame in container.decode(container.streams.video[0]):
                    if began is None:
                        began = frame.time or 0.0
                    due = (frame.time or 0.0) - began
                    while shown is not None and made / self.fps < due - 0.5 / self.fps:
                        yield shown
                        made += 1
                    width, height = (frame.width, frame.height) if shown is None else shown.shape[1::-1]
                    shown = _as_rgb(frame, width, height)
                if shown is not None:
                    yield shown
        except av.FFmpegError as error:
            raise BadVideo(f"The video '{self.path.name}' is damaged: {error.strerror}; make it again.") from error


def _as_rgb(frame: av.VideoFrame, width: int, height: int) -> Frame:
    picture: Frame = np.ascontiguousarray(frame.to_ndarray(format="rgb24", width=width, height=height), np.uint8)
    return picture
