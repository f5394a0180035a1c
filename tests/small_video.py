"""A real MP4 that any player takes, made in a moment."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np


def small_video(seconds: float = 1.0, side: int = 64, fps: int = 25) -> bytes:
    """H.264 in an MP4, without sound."""
    written = io.BytesIO()
    with av.open(written, "w", format="mp4") as container:
        stream = container.add_stream("h264", rate=Fraction(fps))
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for number in range(round(seconds * fps)):
            frame = np.full((side, side, 3), (40, 90, 40 + 3 * number % 200), np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return written.getvalue()
