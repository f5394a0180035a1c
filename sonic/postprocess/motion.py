"""How pictures move from one frame to the next: dense optical flow (DIS, Kroeger et al. 2016) on reduced pictures."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ..frames import Frame

Grey = NDArray[np.uint8]  # (h, w)
Flow = NDArray[np.float32]  # (h, w, 2), pixels right and down

LEAST_SIDE = 64  # OpenCV's search crashes on pictures that have fewer scales than it begins at
SIDE = 288  # the longer side of the reduced picture: motion is smooth, and cost goes with the pixels
CUT_RESIDUAL = 5.0  # of 255: what is left after motion was taken out; a talking face leaves 1, another scene 12 to 70
CUT_ASTRAY = 0.007  # of the longer side; a talking face and a pan 0.0003, another scene 0.03 and more
CUT_BRIGHTNESS = 40.0  # of 255


class MotionFinder:
    """Flow between frames of one size. quick: an eighth of the time, for motion that is seen only where it fits."""

    def __init__(self, height: int, width: int, quick: bool = False) -> None:
        shrink = min(1.0, SIDE / max(height, width))
        self.size = max(LEAST_SIDE, round(width * shrink)), max(LEAST_SIDE, round(height * shrink))
        self.scale = np.array([width / self.size[0], height / self.size[1]], np.float32)
        preset = cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST if quick else cv2.DISOPTICAL_FLOW_PRESET_FAST
        self._dis = cv2.DISOpticalFlow.create(preset)
        if not quick:
            self._dis.setFinestScale(1)

    def reduced(self, frame: Frame) -> Grey:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        smaller: Grey = cv2.resize(grey, self.size, interpolation=cv2.INTER_AREA)
        return smaller

    def flow(self, here: Grey, there: Grey) -> Flow:
        """For each pixel of ``here`` where it is in ``there``, in pixels of the reduced pictures."""
        flow: Flow = self._dis.calc(here, there, None)
        return flow

    def enlarged(self, flow: Flow, width: int, height: int) -> Flow:
        """The flow in pixels of whole frames, (height, width, 2)."""
        whole: Flow = cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR)
        whole *= self.scale
        return whole


def pixel_grid(height: int, width: int) -> Flow:
    """(height, width, 2): every pixel's own x and y."""
    grid = np.empty((height, width, 2), np.float32)
    grid[..., 0] = np.arange(width, dtype=np.float32)
    grid[..., 1] = np.arange(height, dtype=np.float32)[:, None]
    return grid


def moved_along(picture: NDArray[np.uint8], where: Flow) -> NDArray[np.uint8]:
    """Each pixel read from where ``where`` (absolute x, y) says; beyond the edge the edge is held."""
    moved: NDArray[np.uint8] = cv2.remap(picture, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return moved


def is_cut(here: Grey, there: Grey, forth: Flow, back: Flow, grid: Flow) -> bool:
    """Whether two reduced pictures are of different scenes.

    Between scenes nothing corresponds, so the way there and back ends elsewhere than it began, and the pictures differ
    although motion was taken out. A change of brightness alone is a cut only when it is great.
    """
    difference = moved_along(there, grid + forth).astype(np.float32) - here
    brighter = float(np.median(difference))
    if abs(brighter) > CUT_BRIGHTNESS:
        return True
    returned = forth + cv2.remap(back, grid + forth, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    astray = float(np.median(np.hypot(returned[..., 0], returned[..., 1])))
    return astray > CUT_ASTRAY * max(here.shape) and float(np.abs(difference - brighter).mean()) > CUT_RESIDUAL
