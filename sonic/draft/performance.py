"""Sound -> what the face does in every frame: mouth, blinks and head, as plain curves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..frames import frame_count
from ..options import InferenceOptions
from .mouth_shapes import MOUTH_SHAPES, mouth_shapes

Curve = NDArray[np.float32]  # (frames,)

BLINK_S = (0.08, 0.04, 0.14)  # lid goes down, stays, goes up
BLINK_GAP_S = (2.2, 5.5)  # from one blink to the next
SWAY_HZ = (0.07, 0.13, 0.23, 0.37)  # slow and unrelated, so that no rhythm is seen
TEETH_CLOSE = 0.8  # how far f and v close the jaw
ROUND_CLOSE = 0.2  # rounded lips leave a smaller opening for the same jaw
NOD_SMOOTHING_S = 0.22


@dataclass(frozen=True)
class Performance:
    """One value per frame of each.

    jaw, wide, round, pressed, teeth: 0 at rest with closed lips, 1 a full vowel, smile, pucker, m, f.
    closing: how far the lips of an open mouth in the picture are brought together first, 0..1.
    blink: 0 open, 1 shut. shift_u, shift_v, roll, yaw, pitch: head, 1 = the natural extent (see displacement.py).
    """

    jaw: Curve
    wide: Curve
    round: Curve
    pressed: Curve
    teeth: Curve
    closing: float
    blink: Curve
    shift_u: Curve
    shift_v: Curve
    roll: Curve
    yaw: Curve
    pitch: Curve

    @property
    def frames(self) -> int:
        return len(self.jaw)


def perform(speech: NDArray[np.float32], seconds: float, options: InferenceOptions) -> Performance:
    """16 kHz mono speech and settings -> the performance; the same seed gives the same one."""
    frames = frame_count(seconds, options.fps)
    shapes = mouth_shapes(speech, options.fps, frames)
    _, wide, rounded, closed, teeth, silence = (shapes[:, MOUTH_SHAPES.index(name)] for name in MOUTH_SHAPES)
    mouth, motion = options.dynamic_scale, options.motion_scale
    voiced = 1 - silence
    jaw = jaw_opening(shapes)
    rng = np.random.default_rng(options.seed)
    time_s = (np.arange(frames, dtype=np.float64) + 0.5) / options.fps
    nod = _smooth(jaw, NOD_SMOOTHING_S * options.fps)
    head = {name: _sway(rng, time_s) for name in ("shift_u", "shift_v", "roll", "yaw", "pitch")}
    head["pitch"] = 0.6 * head["pitch"] + 1.2 * nod
    return Performance(
        jaw=_curve(jaw * mouth),
        wide=_curve(wide * voiced * mouth),
        round=_curve(rounded * voiced * mouth),
        pressed=_curve(closed * min(mouth, 1.0)),
        teeth=_curve(teeth * min(mouth, 1.0)),
        closing=min(mouth, 1.0),
        blink=_curve(_blinks(rng, time_s) * min(motion, 1.0)),
        **{name: _curve(curve * motion) for name, curve in head.items()},
    )


def jaw_opening(shapes: NDArray[np.float32]) -> Curve:
    """(frames, 6) as `mouth_shapes` gives them -> (frames,) how far the jaw is open, 0..1."""
    opened, rounded, closed, teeth = (shapes[:, MOUTH_SHAPES.index(n)] for n in ("open", "round", "closed", "teeth"))
    return _curve(opened * (1 - closed) * (1 - TEETH_CLOSE * teeth) * (1 - ROUND_CLOSE * rounded))


def _curve(values: NDArray[np.floating]) -> Curve:
    return np.ascontiguousarray(values, dtype=np.float32)


def _smooth(values: NDArray[np.floating], sigma: float) -> NDArray[np.floating]:
    """Gaussian along time, sigma in frames, ends held."""
    reach = max(1, int(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-3)) ** 2)
    smooth: NDArray[np.floating] = np.convolve(np.pad(values, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
    return smooth


def _sway(rng: np.random.Generator, time_s: NDArray[np.floating]) -> NDArray[np.float64]:
    """Slow wandering within about -1..1, nothing at the start so that the first frame is the picture's pose."""
    phases = rng.uniform(0, 2 * np.pi, len(SWAY_HZ))
    waves = sum(
        np.sin(2 * np.pi * hz * time_s + phase) - np.sin(phase) for hz, phase in zip(SWAY_HZ, phases, strict=True)
    )
    sway: NDArray[np.float64] = waves / len(SWAY_HZ) * np.minimum(time_s / 0.6, 1.0)
    return sway


def _blinks(rng: np.random.Generator, time_s: NDArray[np.floating]) -> NDArray[np.float64]:
    """Lid position of every frame; the gaps are drawn one after another, so a longer clip begins like a shorter one."""
    lid = np.zeros_like(time_s)
    down, hold, up = BLINK_S
    at = rng.uniform(0.8, 2.2)
    while at < time_s[-1]:
        since = time_s - at
        shut = np.clip(np.minimum(since / down, (down + hold + up - since) / up), 0, 1)
        lid = np.maximum(lid, shut * shut * (3 - 2 * shut))
        at += rng.uniform(*BLINK_GAP_S)
    return lid
