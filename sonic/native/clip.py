"""Latents -> frames of the video at its own rate, made when they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ..frames import Frame
from ..options import DOWNSCALE
from ..postprocess.interpolation import FINEST, FrameInterpolation, between
from ..schedule import source_position
from .autoencoder import DECODE_CHUNK, Autoencoder
from .managed import Managed

_KEPT = 2  # decoded chunks: the frames between two chunks need both


class SonicClip:
    """A FrameSource over latents: chunks of eight are decoded as reading comes to them; two are kept until its end.

    latents: (F, 4, h, w) on the CPU, as the decoder takes them, 12.5 a second. count: frames at ``fps``.
    check: called before each piece of work; what it raises passes through.
    """

    def __init__(
        self,
        latents: Tensor,
        autoencoder: Autoencoder,
        interpolation: Managed[FrameInterpolation],
        count: int,
        fps: float,
        check: Callable[[], None],
    ) -> None:
        self.count, self.fps = count, fps
        self.height, self.width = (side * DOWNSCALE for side in latents.shape[-2:])
        self._latents, self._autoencoder, self._interpolation, self._check = latents, autoencoder, interpolation, check
        self._chunks: dict[int, Tensor] = {}
        self._gap, self._made = -1, dict[int, Tensor]()  # pictures between frame ``gap`` and the next

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        for index in range(start, self.count if stop is None else min(stop, self.count)):
            self._check()
            source, part = source_position(index, self.fps, len(self._latents), FINEST)
            yield _as_frame(self._between(source, part) if part else self._decoded(source))
        if stop is None or stop >= self.count:  # read to its end: the card's memory is no place to keep a clip
            self._chunks.clear()
            self._gap, self._made = -1, {}

    def _decoded(self, index: int) -> Tensor:
        """Frame ``index`` at the model's rate, (3, H, W) in 0..1 on the device."""
        number, row = divmod(index, DECODE_CHUNK)
        if number not in self._chunks:
            self._check()
            while len(self._chunks) >= _KEPT:
                del self._chunks[next(iter(self._chunks))]
            first = number * DECODE_CHUNK
            self._chunks[number] = self._autoencoder.decode_chunk(
                self._latents[first : first + DECODE_CHUNK], self._check
            )
        return self._chunks[number][row]

    def _between(self, source: int, part: int) -> Tensor:
        if source != self._gap:
            pair = self._decoded(source), self._decoded(source + 1)
            before, after = (picture[None].to(self._interpolation.device) for picture in pair)
            self._gap, self._made = source, {0: before, FINEST: after}
        network = self._interpolation.loaded()
        with torch.inference_mode():
            return between(network, self._made, part)[0]


def _as_frame(picture: Tensor) -> Frame:
    pixels = picture.permute(1, 2, 0).mul(255.0).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.cpu().numpy())
