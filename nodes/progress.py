"""Progress, previews and interrupt while frames are made."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import comfy.model_management
import comfy.utils
from PIL import Image

from ..sonic.denoising import Denoising
from ..sonic.frames import Frame
from ..sonic.options import DOWNSCALE

PREVIEW_EVERY_S = 0.5  # a JPEG each half second is smooth enough and costs under one per cent of the time
PREVIEW_SIDE = 512
TEXT_EVERY_S = 1.0
WINDOW_UNITS = 50  # a window through the network takes about as long as so many frames through the decoder


def raise_if_interrupted() -> None:
    """Ends the node when the user has pressed 'interrupt'."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def text_on_node(node_id: str | None, about: str = "") -> Callable[[str], None]:
    """Shows a line of text on the node of a running prompt to whoever has queued it; about: goes before each."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)  # there is none where ComfyUI is used as a library

    def show(text: str) -> None:
        if server is not None and node_id is not None:
            server.send_progress_text(f"{about}: {text}" if about else text, node_id, server.client_id)

    return show


def somebody_watches() -> bool:
    """Whether the one who has queued the running prompt is connected, as a browser is and a job of the queue is not."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    return server is not None and server.client_id in server.sockets


def told(node_id: str | None, lines: Sequence[str]) -> dict[str, list[str]]:
    """Lines on what a node has done: shown on it now; returns the ``ui`` output that keeps them in the history."""
    # newer browsers run the lines together
    text_on_node(node_id)("\n".join(line if line.endswith(".") else f"{line}." for line in lines))
    return {"text": list(lines)}


class FrameProgress:
    """Call it with each frame, in order: it moves the progress bar, shows a frame now and then, ends on interrupt.

    An engine that works before the first frame tells of it through ``denoising`` and ``preview``; that part of the bar
    comes first. show: takes a line on what is being done and how long it will take.
    """

    def __init__(self, frames: int, show: Callable[[str], None] = lambda text: None) -> None:
        self._bar = comfy.utils.ProgressBar(frames)
        self._frames = frames
        self._show = show
        self._before = 0  # units of the bar that lie before the first frame
        self._next_preview = self._next_text = time.monotonic()
        self._pending: Image.Image | None = None
        self._began: float | None = None  # the present stage

    def denoising(self, at: Denoising) -> None:
        raise_if_interrupted()
        now = time.monotonic()
        if self._began is None:
            self._began = now
        self._before = at.total * WINDOW_UNITS
        self._say_denoising(at, now)
        self._update(at.done * WINDOW_UNITS)
        if at.done == at.total:
            self._began = None

    def preview(self, picture: Frame) -> None:
        """A frame as it is by now, small; it goes out with the next step of the bar."""
        self._pending = Image.fromarray(picture).resize(
            tuple(DOWNSCALE * side for side in picture.shape[1::-1]), Image.Resampling.BILINEAR
        )

    def __call__(self, index: int, frame: Frame) -> None:
        raise_if_interrupted()
        now = time.monotonic()
        if self._began is None:
            self._began = now
        if now >= self._next_preview:
            self._next_preview = now + PREVIEW_EVERY_S
            self._pending = Image.fromarray(frame)
        done = index + 1
        left_s = (now - self._began) / done * (self._frames - done)
        self._say(f"frame {done} of {self._frames}", left_s, now, last=done == self._frames)
        self._update(self._before + done)

    def _update(self, units: int) -> None:
        picture, self._pending = self._pending, None
        preview = ("JPEG", picture, PREVIEW_SIDE) if picture is not None else None
        self._bar.update_absolute(units, self._before + self._frames, preview)

    def _say_denoising(self, at: Denoising, now: float) -> None:
        if at.done == at.total:
            self._say("decoding", None, now, last=True)
            return
        left_s = None
        if at.done and self._began is not None:
            units_left = (at.total - at.done) * WINDOW_UNITS + self._frames
            left_s = (now - self._began) / (at.done * WINDOW_UNITS) * units_left
        self._say(f"step {at.step + 1} of {at.steps}, window {at.window + 1} of {at.windows}", left_s, now)

    def _say(self, what: str, left_s: float | None, now: float, last: bool = False) -> None:
        if now < self._next_text and not last:
            return
        self._next_text = now + TEXT_EVERY_S
        self._show(what if left_s is None else f"{what}, about {_duration(left_s)} left")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
