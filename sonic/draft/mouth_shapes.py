"""Speech -> mouth shapes: a small dilated convolutional network over log-mel features.

Trained from nothing by `training/`; the weights lie beside this file.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from ..errors import BadSetting, BadSound, MissingWeights
from ..inference_mode import small_network
from .log_mel import MELS, RANGE, SAMPLE_RATE, log_mel, normalise

MOUTH_SHAPES = ("open", "wide", "round", "closed", "teeth", "silence")
WEIGHTS = Path(__file__).with_name("mouth.safetensors")
RATE = 50  # rows per second inside the network
_STEM = 6  # mel rows seen by one row of the first layer, which takes every second one
_DILATIONS = (1, 2, 4, 8, 1, 2, 4)
_CHANNELS = 96
_CONTEXT = 2 * sum(_DILATIONS) + (_STEM - 2) // 2  # mel rows needed before and after: 460 ms
_BLOCK = 3_000  # network rows at a time: one minute
_FAST = [MOUTH_SHAPES.index(name) for name in ("closed", "teeth")]
_SLOW = [index for index in range(len(MOUTH_SHAPES)) if index not in _FAST]


class _Residual(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.context = nn.Conv1d(channels, channels, 3, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm1d(channels)
        self.mix = nn.Conv1d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        middle: torch.Tensor = x[..., self.dilation : -self.dilation]
        mixed: torch.Tensor = self.mix(torch.relu(self.norm(self.context(x))))
        return middle + mixed


class MouthNetwork(nn.Module):
    """(batch, 40, 2 * rows + 2 * CONTEXT) features -> (batch, channels, rows) hidden; `shapes` reads the six logits.

    No layer pads, so a clip gives the same numbers whole or in overlapping blocks.
    """

    CONTEXT = _CONTEXT
    CHANNELS = _CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(MELS, _CHANNELS, _STEM, stride=2)
        self.blocks = nn.Sequential(*(_Residual(_CHANNELS, dilation) for dilation in _DILATIONS))
        self.shapes = nn.Conv1d(_CHANNELS, len(MOUTH_SHAPES), 1)

    def hidden(self, features: torch.Tensor) -> torch.Tensor:
        """Features scaled to about -1..1 -> the last layer's input."""
        result: torch.Tensor = torch.relu(self.blocks(torch.relu(self.stem((features + 1.5) / 1.5))))
        return result

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """-> (batch, 6, rows) in 0..1, ordered as MOUTH_SHAPES."""
        return torch.sigmoid(self.shapes(self.hidden(features)))


@functools.cache
def load_network(weights: Path = WEIGHTS) -> MouthNetwork:
    """The trained network, ready to run; raises MissingWeights."""
    if not weights.is_file():
        raise MissingWeights("draft", [weights])
    network = MouthNetwork()
    network.load_state_dict({name: value.float() for name, value in load_file(weights).items()}, strict=False)
    return network.eval()


def mouth_shapes(
    speech: NDArray[np.float32], fps: float, frames: int, network: MouthNetwork | None = None
) -> NDArray[np.float32]:
    """How the mouth stands in every frame of a video.

    speech: (samples,) float32, mono, 16 kHz; its loudness does not matter.
    Returns (frames, 6) float32 in 0..1, columns as in MOUTH_SHAPES. Row i is the mouth at (i + 0.5) / fps seconds; it
    looks at the whole time i / fps to (i + 1) / fps: mean of the slow shapes, peak of lip closure and lip-to-teeth, so
    that a closure shorter than a frame is seen. Frames after the end of the sound are silent.
    Raises BadSound, BadSetting, MissingWeights.
    """
    if speech.ndim != 1 or not len(speech):
        raise BadSound("The speech for the mouth has no samples; give a mono recording at 16 kHz.")
    if not np.isfinite(speech).all():
        raise BadSound("The speech for the mouth holds values that are not numbers; export the recording again.")
    if not fps > 0 or frames < 1:
        raise BadSetting("fps", f"{frames} frames at {fps} a second is not a video; both must be above 0.")
    with small_network():
        features = normalise(torch.from_numpy(log_mel(speech.astype(np.float32, copy=False)))).numpy()
    curves = _curves(features, network or load_network())
    return _at_frames(_smooth(curves), fps, frames)


def _curves(features: NDArray[np.float32], network: MouthNetwork, block: int = _BLOCK) -> NDArray[np.float32]:
    """(mel rows, 40) -> (rows, 6) at 50 per second; row k is centred at (k + 0.5) / 50 s."""
    rows = math.ceil(len(features) / 2)
    out = np.empty((rows, len(MOUTH_SHAPES)), np.float32)
    for first in range(0, rows, block):
        count = min(block, rows - first)
        start, stop = 2 * first - _CONTEXT, 2 * (first + count) + _CONTEXT
        piece = np.full((stop - start, MELS), -RANGE, np.float32)
        inside = features[max(0, start) : stop]
        piece[max(0, -start) : max(0, -start) + len(inside)] = inside
        with small_network():
            out[first : first + count] = network(torch.from_numpy(piece.T[None]))[0].numpy().T
    return out


def _smooth(curves: NDArray[np.float32]) -> NDArray[np.float32]:
    """Jaw and lips have mass: a 1-2-1 filter (20 ms rows) on the slow shapes; closures stay as sharp as they are."""
    padded = np.pad(curves, ((1, 1), (0, 0)), mode="edge")
    smooth: NDArray[np.float32] = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    smooth[:, _FAST] = curves[:, _FAST]
    return smooth


def _at_frames(curves: NDArray[np.float32], fps: float, frames: int) -> NDArray[np.float32]:
    rows = len(curves)
    silent = np.zeros(len(MOUTH_SHAPES), np.float32)
    silent[MOUTH_SHAPES.index("silence")] = 1.0
    curves = np.vstack([curves, silent, silent])
    moments = max(4, math.ceil(4 * RATE / fps))  # looks per frame
    times = (np.arange(frames * moments) + 0.5) / (moments * fps)
    # The last known row reaches to the end of the sound; silence follows at once.
    centres = np.append((np.arange(rows) + 0.5) / RATE, [(rows + 0.5) / RATE, (rows + 1.5) / RATE])
    looks = np.stack([np.interp(times, centres, curve) for curve in curves.T], axis=1)
    looks = looks.reshape(frames, moments, len(MOUTH_SHAPES))
    shapes = np.empty((frames, len(MOUTH_SHAPES)), np.float32)
    shapes[:, _SLOW] = looks[..., _SLOW].mean(axis=1)
    shapes[:, _FAST] = looks[..., _FAST].max(axis=1)
    return np.clip(shapes, 0.0, 1.0)


__all__ = ["MOUTH_SHAPES", "RATE", "SAMPLE_RATE", "WEIGHTS", "MouthNetwork", "load_network", "mouth_shapes"]
