"""An IMAGE as frames that are read one by one."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..sonic.errors import BadPortrait
from ..sonic.frames import Frame
from .sockets import frames_of


class ImageFrames:
    """An IMAGE [B, H, W, C] as a FrameSource; a FrameTensor makes its frames as they are read. Raises BadPortrait."""

    def __init__(self, images: torch.Tensor) -> None:
        if images.ndim != 4 or 0 in images.shape or images.shape[3] not in (1, 3, 4):
            raise BadPortrait(
                f"The images have the shape {tuple(images.shape)} where (frames, height, width, 3) is needed."
            )
        self._images = images
        self.count, self.height, self.width = images.shape[:3]

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        return frames_of(self._images[start:stop])
