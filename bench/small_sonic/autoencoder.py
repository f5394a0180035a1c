"""The small autoencoder: learns to give back what it is shown, the places that move before all others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from comfy.ldm.modules.diffusionmodules.model import ResnetBlock
from comfyui_sonic.sonic.native.autoencoder import LATENT_SCALE, network_of
from torch import Tensor, nn

from .learning import LogOfLosses, learn, random_start
from .lessons import Lesson

log = logging.getLogger("bench.small_sonic")

WIDTHS = (64, 64, 64, 64)  # a norm of one channel a group would leave no brightness
CROP, CROPS, WHOLE_SHARE = 128, 2, 0.25  # pixels; crops a step; the last part of the steps sees whole frames
MOVING_WEIGHT, EDGE_WEIGHT = 8.0, 1.0
LATENT_NOISE = 0.05  # of what the video network will be wrong by, scaled
SPREAD_WEIGHT = 0.01


def taught_autoencoder(lessons: Sequence[Lesson], steps: int, seed: int) -> Any:
    """ComfyUI's network of SVD's layout; its layers over time pass everything on as it is."""
    network: Any = network_of(WIDTHS[0], [width // WIDTHS[0] for width in WIDTHS])
    random_start(network, seed)
    network.encoder.conv_out.weight.data /= LATENT_SCALE
    network.decoder.conv_in.weight.data *= LATENT_SCALE
    _let_time_pass(network)
    source = np.random.default_rng(seed)
    noise = torch.Generator().manual_seed(seed)
    losses = LogOfLosses("autoencoder", steps)

    def loss_of(step: int) -> Tensor:
        whole = step >= steps * (1 - WHOLE_SHARE)
        shown, moved = _shown(lessons, source, whole)
        with torch.autocast("cpu", torch.bfloat16):
            latents = network.encoder(shown)[:, :4]
        latents = latents.float()
        scaled = latents * LATENT_SCALE
        noisy = latents + LATENT_NOISE / LATENT_SCALE * torch.randn(latents.shape, generator=noise)
        with torch.autocast("cpu", torch.bfloat16):
            given = decoded(network.decoder, noisy)
        error = (given.float() - shown) * (1 + MOVING_WEIGHT * moved)
        edges = [torch.diff(error, dim=dim).abs().mean() for dim in (-1, -2)]
        spread = (scaled.square().mean() - 1).square()
        losses.add(step, float((given.detach().float() - shown).abs().mean()) * 127.5)
        return error.abs().mean() + EDGE_WEIGHT * (edges[0] + edges[1]) + SPREAD_WEIGHT * spread

    learn([parameter for parameter in network.parameters() if parameter.requires_grad], loss_of, steps, rate=2e-3)
    return network.eval().requires_grad_(False)


def decoded(decoder: nn.Module, latents: Tensor) -> Tensor:
    """(N, 4, h, w) -> (N, 3, 8h, 8w): frame by frame, without the layers over time; can be learned through."""
    parts: dict[str, nn.Module] = dict(decoder.named_modules())
    x = parts["conv_in"](latents)
    x = ResnetBlock.forward(parts["mid.block_1"], x, None)
    x = ResnetBlock.forward(parts["mid.block_2"], parts["mid.attn_1"](x), None)
    for level in reversed(range(len(WIDTHS))):
        for block in parts[f"up.{level}.block"].children():
            x = ResnetBlock.forward(block, x, None)
        if f"up.{level}.upsample" in parts:
            x = parts[f"up.{level}.upsample"](x)
    coloured: Tensor = parts["conv_out"](nn.functional.silu(parts["norm_out"](x)), skip_video=True)
    return coloured


def _let_time_pass(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        over_time = ".time_stack." in name or ".time_mix_conv." in name
        parameter.requires_grad_(not over_time and not name.endswith("mix_factor"))
        if ".time_stack.out_layers.3." in name or ".time_mix_conv." in name:
            nn.init.zeros_(parameter)
        if name.endswith(".time_mix_conv.weight"):
            for channel in range(3):
                parameter.data[channel, channel, 1] = 1.0


def _shown(lessons: Sequence[Lesson], source: np.random.Generator, whole: bool) -> tuple[Tensor, Tensor]:
    """Frames (N, 3, H, W) in -1..1 and where they move (N, 1, H, W): crops around the mouth, mostly; or one whole."""
    frames, moved = [], []
    for _ in range(1 if whole else CROPS):
        lesson = lessons[source.integers(len(lessons))]
        at = lesson.frames[source.integers(len(lesson.frames))]
        window = np.s_[:, :]
        if not whole:
            height, width = at.shape[:2]
            rows, columns = np.nonzero(lesson.moved)
            middle = source.integers(len(rows))
            spread = CROP // 2 if source.random() < 0.6 else max(height, width)
            top = int(np.clip(rows[middle] - CROP // 2 + source.integers(-spread, spread + 1), 0, height - CROP))
            left = int(np.clip(columns[middle] - CROP // 2 + source.integers(-spread, spread + 1), 0, width - CROP))
            window = np.s_[top : top + CROP, left : left + CROP]
        frames.append(torch.from_numpy(at[window].copy()).movedim(-1, 0).float() / 127.5 - 1)
        moved.append(torch.from_numpy(lesson.moved[window].copy())[None])
    return torch.stack(frames), torch.stack(moved)
