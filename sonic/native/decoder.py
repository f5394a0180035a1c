"""SVD's video decoder with a third of the memory: frame by frame in space, strip by strip over time.

In space a frame knows nothing of the others, and over time a pixel knows nothing of its neighbours but through the mean
and the spread of its group of channels. So ComfyUI's layers are called on parts, to the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.model import ResnetBlock
from torch import Tensor
from torch.nn.functional import silu

from ..interruption import Check, no_check

_STRIP = 2**23  # numbers that are worked on over time at once


def decode_frames(decoder: Any, latents: Tensor, check: Check = no_check) -> Tensor:
    """(T, 4, h, w), not scaled, consecutive -> (T, 3, 8h, 8w) in -1..1, as ``decoder(latents)`` would.

    decoder: ComfyUI's VideoDecoder. check: called before each piece of work; what it raises passes through.
    """
    frames = [decoder.conv_in(one[None]) for one in latents]
    _video_block(decoder.mid.block_1, frames, check)
    for at, frame in enumerate(frames):
        check()
        frames[at] = decoder.mid.attn_1(frame)
    _video_block(decoder.mid.block_2, frames, check)
    enlarge: Callable[[Tensor], Tensor] | None = None
    for up in reversed(decoder.up):
        for block in up.block:
            _video_block(block, frames, check, enlarge)
            enlarge = None
        enlarge = getattr(up, "upsample", None)  # the last level has none
    coloured = []
    while frames:
        check()
        mixed = silu(decoder.norm_out(frames.pop(0)))
        coloured.append(decoder.conv_out(mixed, skip_video=True))
    video: Tensor = decoder.conv_out.time_mix_conv(torch.cat(coloured).transpose(0, 1)[None])
    return video[0].transpose(0, 1)


def _video_block(
    block: Any, frames: list[Tensor], check: Check, before: Callable[[Tensor], Tensor] | None = None
) -> None:
    """A VideoResBlock on each of ``frames``, (1, C, H, W), in place of it. before: done to each frame first."""
    for at, frame in enumerate(frames):
        check()
        frames[at] = ResnetBlock.forward(block, before(frame) if before else frame, None)
    _over_time(block, frames, check)


def _over_time(block: Any, frames: list[Tensor], check: Check) -> None:
    """The part of a VideoResBlock that mixes each pixel's frames; changes ``frames``."""
    stack, share = block.time_stack, block.get_alpha(1).to(frames[0].device)
    norm, convolution = stack.in_layers[0], stack.in_layers[-1]
    scale, shift = _normalisation(norm, frames, check)
    made = [torch.empty_like(frame) for frame in frames]
    for rows in _strips(frames):
        check()
        strip = torch.cat([frame[:, :, rows] for frame in frames])
        for frame, part in zip(made, _convolved(convolution, strip, scale, shift), strict=True):
            frame[0, :, rows] = part
    norm, convolution = stack.out_layers[0], stack.out_layers[-1]
    scale, shift = _normalisation(norm, made, check)
    for rows in _strips(frames):
        check()
        strip = torch.cat([frame[:, :, rows] for frame in made])
        for frame, part in zip(frames, _convolved(convolution, strip, scale, shift), strict=True):
            frame[0, :, rows] += (share * part).to(frame)


def _convolved(convolution: Any, strip: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Over time, after normalisation: (T, C, rows, W) to the same shape."""
    ready = silu((strip.float() * scale + shift).to(strip))
    mixed: Tensor = convolution(ready.transpose(0, 1)[None])
    return mixed[0].transpose(0, 1)


def _normalisation(norm: Any, frames: list[Tensor], check: Check) -> tuple[Tensor, Tensor]:
    """What a GroupNorm over all frames multiplies each channel by and adds to it, (1, C, 1, 1) float32 both."""
    means, variances = [], []
    for frame in frames:
        check()
        variance, mean = torch.var_mean(frame.float().reshape(norm.num_groups, -1), dim=1, correction=0)
        means.append(mean)
        variances.append(variance)
    spread, centre = torch.var_mean(torch.stack(means), dim=0, correction=0)
    deviation = (torch.stack(variances).mean(dim=0) + spread + norm.eps).sqrt()
    of_channels = norm.num_channels // norm.num_groups
    scale = norm.weight.float() / deviation.repeat_interleave(of_channels)
    shift = norm.bias.float() - centre.repeat_interleave(of_channels) * scale
    return scale[None, :, None, None], shift[None, :, None, None]


def _strips(frames: list[Tensor]) -> Iterator[slice]:
    _, channels, height, width = frames[0].shape
    rows = max(1, _STRIP // (len(frames) * channels * width))
    for start in range(0, height, rows):
        yield slice(start, start + rows)
