"""Context windows: which frames the network sees together at each denoising step. Integers only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

CONTEXT_LENGTH = 25  # frames that the video network was trained on
CONTEXT_SHIFT = 7  # frames by which the windows move from step to step, so that their borders never stay


def context_windows(
    frames: int, step: int, length: int = CONTEXT_LENGTH, shift: int = CONTEXT_SHIFT
) -> Iterator[tuple[int, ...]]:
    """The windows of a denoising step (from 0), each ``length`` frame numbers of a clip that is taken as a ring.

    The last window reaches over the end into the beginning. In a clip shorter than a window frames come up repeatedly;
    a result for a frame is the mean over all its places.
    """
    for start in range(0, frames, length):
        yield tuple((slot - shift * step) % frames for slot in range(start, start + length))


def rounds(window: Sequence[int]) -> Iterator[slice]:
    """The places of a window in pieces within which no frame comes up twice."""
    frames = len(set(window))
    for start in range(0, len(window), frames):
        yield slice(start, min(start + frames, len(window)))


def window_count(frames: int, length: int = CONTEXT_LENGTH) -> int:
    """How many windows one step has."""
    return -(-frames // length)
