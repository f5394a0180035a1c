"""Speech -> what Whisper's encoder hears in it: log-mel front end and encoder, in plain torch."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .checkpoints import Weights, check_weights
from .errors import BadWeights
from .interruption import Check, no_check

SAMPLE_RATE = 16_000
CHUNK = 30 * SAMPLE_RATE  # samples that the encoder hears at once; it knows nothing of the chunks before and after
FFT, HOP, MELS = 400, 160, 80
FLOOR, RANGE = 1e-10, 8.0  # least power; what lies more than 80 dB below a chunk's loudest moment is cut off
STATES_PER_SECOND = 50
WHISPER_HEADS = 6  # of whisper-tiny


@functools.cache
def mel_filters() -> Tensor:
    """(80, 201) triangles of equal area over 0 to 8 kHz, on Slaney's scale: linear up to 1 kHz, logarithmic above."""
    step_hz, corner_hz, octave = 200.0 / 3, 1000.0, math.log(6.4) / 27.0
    corner = corner_hz / step_hz

    def mel_of(hz: float) -> float:
        return hz / step_hz if hz < corner_hz else corner + math.log(hz / corner_hz) / octave

    def hz_of(mel: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(mel < corner, mel * step_hz, corner_hz * np.exp(octave * (mel - corner)))

    edges = hz_of(np.linspace(mel_of(0.0), mel_of(SAMPLE_RATE / 2), MELS + 2))[:, None]
    bins = np.linspace(0.0, SAMPLE_RATE / 2, FFT // 2 + 1)[None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (edges[2:] - edges[:-2])
    return torch.from_numpy(triangles.astype(np.float32))


def log_mel(chunk: Tensor) -> Tensor:
    """(samples,) of at most 30 s at 16 kHz -> (80, 3000): silence after its end, relative to its loudest moment."""
    padded = nn.functional.pad(chunk, (0, CHUNK - chunk.shape[0]))
    window = torch.hann_window(FFT, device=chunk.device)
    spectrum = torch.stft(padded, FFT, HOP, window=window, return_complex=True)[:, :-1]
    power = mel_filters().to(chunk.device) @ spectrum.abs().square()
    levels = power.clamp(min=FLOOR).log10()
    return (torch.maximum(levels, levels.max() - RANGE) + 4.0) / 4.0


def chunks_of(speech: NDArray[np.float32]) -> Iterator[Tensor]:
    """The speech, (samples,), in pieces of 30 s, at least one."""
    for start in range(0, max(1, len(speech)), CHUNK):
        yield torch.from_numpy(np.ascontiguousarray(speech[start : start + CHUNK]))


class WhisperEncoder(nn.Module):
    """The encoder of Whisper; weights by the names of transformers' ``model.encoder``."""

    def __init__(self, channels: int, layers: int, inner: int, positions: int, heads: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(MELS, channels, 3, padding=1)
        self.conv2 = nn.Conv1d(channels, channels, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(positions, channels)
        self.layers = nn.ModuleList(_EncoderLayer(channels, inner, heads) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(channels)

    @classmethod
    def of_weights(cls, weights: Weights, what: str, heads: int = WHISPER_HEADS) -> WhisperEncoder:
        """From a Whisper model's file, whose decoder is left out. Raises BadWeights."""
        own = {name: value for key, value in weights.items() if (name := _encoder_key(key)) is not None}
        needed = ("conv1.weight", "layers.0.fc1.weight", "embed_positions.weight")
        missing = [name for name in needed if name not in own]
        if missing:
            raise BadWeights(f"The weights '{what}' hold no Whisper encoder: {', '.join(missing)} missing.", missing)
        layers = 1 + max(int(name.split(".")[1]) for name in own if name.startswith("layers."))
        channels, inner = own["conv1.weight"].shape[0], own["layers.0.fc1.weight"].shape[0]
        encoder = cls(channels, layers, inner, own["embed_positions.weight"].shape[0], heads)
        check_weights(what, {key: value.shape for key, value in encoder.state_dict().items()}, own)
        encoder.load_state_dict(own)
        return encoder.eval().requires_grad_(False)

    def forward(self, mel: Tensor) -> Tensor:
        """(80, 3000) -> (1500, layers + 1, channels): the input, what each layer but the last gives, the end result."""
        x = nn.functional.gelu(self.conv1(mel[None]))
        x = nn.functional.gelu(self.conv2(x))[0].T + self.embed_positions.weight
        states = [x]
        for layer in self.layers:
            x = layer(x)
            states.append(x)
        states[-1] = self.layer_norm(x)
        return torch.stack(states, dim=1)


class _EncoderLayer(nn.Module):
    def __init__(self, channels: int, inner: int, heads: int) -> None:
        super().__init__()
        self.self_attn = _SelfAttention(channels, heads)
        self.self_attn_layer_norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, inner)
        self.fc2 = nn.Linear(inner, channels)
        self.final_layer_norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        inner: Tensor = self.fc2(nn.functional.gelu(self.fc1(self.final_layer_norm(x))))
        return x + inner


class _SelfAttention(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels, bias=False)
        self.v_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        def by_head(values: Tensor) -> Tensor:
            return values.reshape(len(values), self.heads, -1).transpose(0, 1)

        query, key, value = by_head(self.q_proj(x)), by_head(self.k_proj(x)), by_head(self.v_proj(x))
        out = nn.functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.out_proj(out.transpose(0, 1).reshape(x.shape))
        return projected


def _encoder_key(key: str) -> str | None:
    for prefix in ("model.encoder.", "encoder."):
        if key.startswith(prefix):
            return key.removeprefix(prefix)
    return None


def encode_speech(encoder: WhisperEncoder, speech: NDArray[np.float32], states: int, check: Check = no_check) -> Tensor:
    """The first ``states`` of the encoder's states, (states, layers + 1, channels) float32 on the CPU, 50 a second.

    speech: (samples,) float32 mono at 16 kHz. Only as many chunks of 30 s are encoded as are asked for.
    check: called before each chunk; what it raises ends the work.
    """
    device = encoder.conv1.weight.device
    found: list[Tensor] = []
    length = 0
    with torch.inference_mode():
        for chunk in chunks_of(speech):
            check()
            found.append(encoder(log_mel(chunk.to(device))).cpu())
            length += len(found[-1])
            if length >= states:
                break
    return torch.cat(found)[:states]
