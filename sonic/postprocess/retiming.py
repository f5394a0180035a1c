"""A clip at another frame rate: the frames between frames come from RIFE's network or from optical flow.

Frame k of the new clip shows the moment k / target_fps, so that frames whose moments agree are kept as they are. Two
frames are in memory at a time. Across a cut nothing is blended: the nearer frame is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import cv2
import numpy as np
import torch

from ..errors import BadSetting
from ..frames import Frame, FrameSource, frame_count
from .interpolation import FINEST, FrameInterpolation, between
from .motion import Flow, MotionFinder, is_cut, moved_along, pixel_grid

KEPT = 0.02  # so near to a frame of the old clip that frame is taken
SIDE_STEP = 32  # the network halves pictures five times
TRUSTED = 12.0  # of 255: where the two frames, brought to one moment, differ by more, one of them hides something
OCCLUSION_BLUR = 5  # pixels of the reduced picture


class Between(Protocol):
    """Makes the frame that lies ``part`` (0..1) of the way between two frames, which it is told once for all parts."""

    name: str

    def pair(self, before: Frame, after: Frame) -> Callable[[float], Frame]: ...


class RetimedFrames:
    """A FrameSource at ``target_fps`` over one at ``fps``: round(seconds * target_fps) frames. Raises BadSetting."""

    def __init__(self, source: FrameSource, fps: float, target_fps: float, method: Between) -> None:
        if not (fps > 0 and target_fps > 0):
            raise BadSetting("target_fps", f"{fps:g} and {target_fps:g} frames a second: both must be above 0.")
        self.count = frame_count(source.count / fps, target_fps)
        self.height, self.width = source.height, source.width
        self._source, self._step, self._method = source, fps / target_fps, method

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames start..stop-1, each a fresh (H, W, 3) uint8 RGB array."""
        stop = self.count if stop is None else min(stop, self.count)
        if start >= stop:
            return
        first, _ = self._position(start)
        last, part = self._position(stop - 1)
        incoming = enumerate(self._source.frames(first, last + (2 if part else 1)), first)
        number, before = next(incoming)
        after: Frame | None = None
        made: Callable[[float], Frame] | None = None
        for index in range(start, stop):
            wanted, part = self._position(index)
            while number < wanted:
                if after is None:
                    number, before = next(incoming)
                else:
                    number, before, after = number + 1, after, None
                made = None
            if not part:
                yield before.copy()
                continue
            if after is None:
                _, after = next(incoming)
            if made is None:
                made = self._method.pair(before, after)
            yield made(part)

    def _position(self, index: int) -> tuple[int, float]:
        """(frame of the old clip, part of the way to the next one); at the end the last frame is held."""
        position = min(index * self._step, self._source.count - 1.0)
        number = int(position + KEPT)
        part = max(0.0, position - number)
        return number, part if part > KEPT else 0.0


class FlowBetween:
    """Optical flow in both directions; where the two frames disagree, the one that shows more of the place wins."""

    name = "optical flow (DIS)"

    def __init__(self, height: int, width: int) -> None:
        self._finder = MotionFinder(height, width)
        self._grid = pixel_grid(height, width)
        small_width, small_height = self._finder.size
        self._small_grid = pixel_grid(small_height, small_width)

    def pair(self, before: Frame, after: Frame) -> Callable[[float], Frame]:
        finder = self._finder
        small = finder.reduced(before), finder.reduced(after)
        forth, back = finder.flow(*small), finder.flow(*small[::-1])
        if is_cut(*small, forth, back, self._small_grid):
            return lambda part: (before if part < 0.5 else after).copy()
        return lambda part: self._made(before, after, small, forth, back, part)

    def _made(
        self, before: Frame, after: Frame, small: tuple[Frame, Frame], forth: Flow, back: Flow, part: float
    ) -> Frame:
        height, width = before.shape[:2]
        # Flows from the moment between to its two ends, as if motion were straight (Jiang et al. 2018).
        rest = 1 - part
        to_before = -rest * part * forth + part * part * back
        to_after = rest * rest * forth - rest * part * back
        share = self._share_of_before(small, to_before, to_after, part)
        share = cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR)
        there = [
            moved_along(picture, self._grid + self._finder.enlarged(flow, width, height))
            for picture, flow in ((before, to_before), (after, to_after))
        ]
        frame: Frame = cv2.blendLinear(there[0], there[1], share, 1 - share)
        return frame

    def _share_of_before(
        self, small: tuple[Frame, Frame], to_before: Flow, to_after: Flow, part: float
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """(h, w) float32: the nearer frame has the larger share, all of it where they disagree."""
        seen = [moved_along(g, self._small_grid + f) for g, f in zip(small, (to_before, to_after), strict=True)]
        difference = seen[1].astype(np.float32) - seen[0]
        difference -= np.median(difference)  # a change of brightness hides nothing
        differ = cv2.blur(np.abs(difference), (OCCLUSION_BLUR, OCCLUSION_BLUR))
        agree = np.exp(-((differ / TRUSTED) ** 2))
        nearer = 1.0 if part < 0.5 else 0.0
        return np.asarray(nearer + (1 - part - nearer) * agree, np.float32)


class RifeBetween:
    """RIFE's network, in eighths of the way. network: brings it to its device and returns it."""

    name = "RIFE"

    def __init__(
        self, height: int, width: int, network: Callable[[], FrameInterpolation], device: torch.device
    ) -> None:
        self._finder = MotionFinder(height, width)
        small_width, small_height = self._finder.size
        self._small_grid = pixel_grid(small_height, small_width)
        self._network, self._device = network, device
        self._padding = (0, -width % SIDE_STEP, 0, -height % SIDE_STEP)

    def pair(self, before: Frame, after: Frame) -> Callable[[float], Frame]:
        small = self._finder.reduced(before), self._finder.reduced(after)
        flows = self._finder.flow(*small), self._finder.flow(*small[::-1])
        cut = is_cut(*small, *flows, self._small_grid)
        made: dict[int, torch.Tensor] = {}

        def frame(part: float) -> Frame:
            eighths = round(part * FINEST)
            if cut or eighths in (0, FINEST):
                return (before if part < 0.5 else after).copy()
            if not made:
                made.update({0: self._tensor(before), FINEST: self._tensor(after)})
            with torch.inference_mode():
                picture = between(self._network(), made, eighths)[0]
            return self._frame(picture, before.shape)

        return frame

    def _tensor(self, frame: Frame) -> torch.Tensor:
        picture = torch.from_numpy(frame).to(self._device).permute(2, 0, 1)[None].float() / 255.0
        return torch.nn.functional.pad(picture, self._padding, mode="replicate")

    def _frame(self, picture: torch.Tensor, shape: tuple[int, ...]) -> Frame:
        cut = picture[:, : shape[0], : shape[1]].permute(1, 2, 0)
        return np.ascontiguousarray(cut.mul(255.0).round().to(torch.uint8).cpu().numpy())
