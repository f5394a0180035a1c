"""What Whisper hears -> what the video network is told: speech tokens and two motion buckets for every frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from .checkpoints import Weights, check_weights
from .errors import BadWeights

STATES_PER_FRAME = 4  # 50 states and 12.5 frames a second
TOKEN_STATES, TOKEN_LEAD = 10, 4  # states that a frame's tokens are made of, and how many of them lie before it
BUCKET_STATES, BUCKET_LEAD = 50, 24
BUCKET_SCALE = 16.0  # buckets are this times the network's output, plus as much
_BLOCK = 128  # frames at once: the long windows of a clip of minutes would not fit

Network = TypeVar("Network", bound=nn.Module)


class AudioProjection(nn.Module):
    """Published as audio2token: ten states of every layer of the encoder -> 32 tokens for the cross-attentions."""

    def __init__(self, inputs: int, hidden: int, tokens: int, channels: int) -> None:
        super().__init__()
        self.tokens, self.channels = tokens, channels
        self.proj1 = nn.Linear(inputs, hidden)
        self.proj2 = nn.Linear(hidden, hidden)
        self.proj3 = nn.Linear(hidden, tokens * channels)
        self.norm = nn.LayerNorm(channels)

    @classmethod
    def of_weights(cls, weights: Weights, what: str) -> AudioProjection:
        """Raises BadWeights."""
        _need(weights, ("proj1.weight", "proj3.weight", "norm.weight"), what)
        hidden, inputs = weights["proj1.weight"].shape
        channels = weights["norm.weight"].shape[0]
        network = cls(inputs, hidden, weights["proj3.weight"].shape[0] // channels, channels)
        return _filled(network, weights, what)

    def forward(self, states: Tensor) -> Tensor:
        """(frames, 10, layers, channels) -> (frames, 32, D)."""
        x = self.proj2(self.proj1(states.flatten(1)).relu()).relu()
        normed: Tensor = self.norm(self.proj3(x).reshape(-1, self.tokens, self.channels))
        return normed


class MotionBucketPredictor(nn.Module):
    """Published as audio2bucket: a second of speech around a frame and the picture -> how much moves."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.proj1 = nn.Linear(inputs, hidden)
        self.proj2 = nn.Linear(hidden, hidden)
        self.proj3 = nn.Linear(hidden, outputs)

    @classmethod
    def of_weights(cls, weights: Weights, what: str) -> MotionBucketPredictor:
        """Raises BadWeights."""
        _need(weights, ("proj1.weight", "proj3.weight"), what)
        hidden, inputs = weights["proj1.weight"].shape
        return _filled(cls(inputs, hidden, weights["proj3.weight"].shape[0]), weights, what)

    def forward(self, states: Tensor, embeds: Tensor) -> Tensor:
        """(frames, 50, channels) and the picture's (1, D) -> (frames, 2): translation and expression, unbounded."""
        x = torch.cat([states.flatten(1), embeds.expand(len(states), -1)], dim=1)
        x = nn.functional.silu(self.proj2(nn.functional.silu(self.proj1(x))))
        raw: Tensor = self.proj3(x)
        return raw * BUCKET_SCALE + BUCKET_SCALE


def _need(weights: Weights, keys: tuple[str, ...], what: str) -> None:
    missing = [key for key in keys if key not in weights]
    if missing:
        raise BadWeights(f"The weights '{what}' are not the published ones: {', '.join(missing)} missing.", missing)


def _filled(network: Network, weights: Weights, what: str) -> Network:
    check_weights(what, {key: value.shape for key, value in network.state_dict().items()}, weights)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class SpeechConditioning:
    """tokens: (F, 32, D) of each frame; silent_tokens: (32, D) of nothing heard; buckets: (F, 2). On the CPU."""

    tokens: Tensor
    silent_tokens: Tensor
    buckets: Tensor


def condition_on_speech(
    projection: AudioProjection,
    predictor: MotionBucketPredictor,
    states: Tensor,
    embeds: Tensor,
    frames: int,
    dtype: torch.dtype = torch.float32,
) -> SpeechConditioning:
    """states: (4 F or more, layers, channels) of the encoder; embeds: (1, D) of the picture. Tokens come as ``dtype``.

    Before the first state and after the last one there are zeros, as in training.
    """
    with torch.inference_mode():
        around = states_around(states, TOKEN_STATES, TOKEN_LEAD, frames)
        tokens = torch.cat([projection(_to(block, projection.proj1)).to("cpu", dtype) for block in _blocks(around)])
        silent = projection(_to(torch.zeros_like(around[:1]), projection.proj1))[0].to("cpu", dtype)
        around = states_around(states[:, -1], BUCKET_STATES, BUCKET_LEAD, frames)
        seen = _to(embeds.float(), predictor.proj1)
        buckets = torch.cat([predictor(_to(block, predictor.proj1), seen).cpu() for block in _blocks(around)])
    return SpeechConditioning(tokens, silent, buckets)


def _to(values: Tensor, layer: nn.Linear) -> Tensor:
    """On the layer's device: where memory is scarce, one of the two networks may have had to go for the other."""
    return values.to(layer.weight.device)


def _blocks(windows: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(windows), _BLOCK):
        yield windows[start : start + _BLOCK]


def states_around(states: Tensor, length: int, lead: int, frames: int) -> Tensor:
    """(frames, length, ...): for each frame the states from ``lead`` before it, zeros beyond both ends. A view."""
    padding = states.new_zeros(lead, *states.shape[1:]), states.new_zeros(length, *states.shape[1:])
    padded = torch.cat([padding[0], states, padding[1]])
    return padded.unfold(0, length, STATES_PER_FRAME)[:frames].movedim(-1, 1)
