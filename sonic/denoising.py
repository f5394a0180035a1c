"""How far the denoising of a clip is, and how that is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .frames import Frame


@dataclass(frozen=True)
class Denoising:
    """Before window ``window`` of step ``step``, both from 0; at the end step is ``steps`` and window 0."""

    step: int
    steps: int
    window: int
    windows: int

    @property
    def done(self) -> int:
        """Windows that are through the network."""
        return self.step * self.windows + self.window

    @property
    def total(self) -> int:
        return self.steps * self.windows


OnDenoising = Callable[[Denoising], None]
OnPreview = Callable[[Frame], None]  # a frame as it is by then, small


def not_told(told: object) -> None:
    """Takes what is told, and does nothing with it."""
