"""How far the denoising of a clip is."""

from __future__ import annotations

from dataclasses import dataclass


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
