"""Progress, previews and interrupt while frames are made."""

from __future__ import annotations

import time

import comfy.model_management
import comfy.utils
from PIL import Image

from ..sonic.frames import Frame

PREVIEW_EVERY_S = 0.5  # a JPEG each half second is smooth enough and costs under one per cent of the time
PREVIEW_SIDE = 512
WINDOW_UNITS = 50  # a window through the network takes about as long as so many frames through the decoder


def raise_if_interrupted() -> None:
    """Ends the node when the user has pressed 'interrupt'."""
    comfy.model_management.throw_exception_if_processing_interrupted()


class FrameProgress:
    """Call it with each frame, in order: it moves the progress bar, shows a frame now and then, ends on interrupt.

    An engine that works before the first frame tells of it through ``denoised``; that part of the bar comes first.
    """

    def __init__(self, frames: int) -> None:
        self._bar = comfy.utils.ProgressBar(frames)
        self._frames = frames
        self._before = 0  # units of the bar that lie before the first frame
        self._next_preview = time.monotonic()

    def denoised(self, done: int, total: int) -> None:
        """``done`` of ``total`` context windows are through the network."""
        raise_if_interrupted()
        self._before = total * WINDOW_UNITS
        self._bar.update_absolute(done * WINDOW_UNITS, self._before + self._frames)

    def __call__(self, index: int, frame: Frame) -> None:
        raise_if_interrupted()
        preview = None
        if time.monotonic() >= self._next_preview:
            self._next_preview = time.monotonic() + PREVIEW_EVERY_S
            preview = ("JPEG", Image.fromarray(frame), PREVIEW_SIDE)
        self._bar.update_absolute(self._before + index + 1, self._before + self._frames, preview)
