"""Frames between frames: RIFE's network for the frame halfway, repeated for any other moment."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..checkpoints import Weights, check_weights
from ..errors import BadWeights

FINEST = 8  # the shortest way between two frames is parted into so many, 10 ms of the model's 80
_SCALES = (4.0, 2.0, 1.0)
_TEACHER = "block_tea."  # used in training only


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.PReLU(outputs))


def _upscaling(inputs: int, outputs: int) -> nn.Sequential:
    middle = inputs // 2
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, middle, 4, 2, 1), nn.PReLU(middle), nn.ConvTranspose2d(middle, outputs, 4, 2, 1)
    )


def _resized(x: Tensor, scale: float) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


class _FlowBlock(nn.Module):
    """Two pictures and what is known of the motion -> a correction of the flow (4 channels) and of the mask (1)."""

    def __init__(self, channels: int, inputs: int) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(_conv(inputs, channels // 2, 2), _conv(channels // 2, channels, 2))
        self.convblock0 = nn.Sequential(_conv(channels, channels), _conv(channels, channels))
        self.convblock1 = nn.Sequential(_conv(channels, channels), _conv(channels, channels))
        self.convblock2 = nn.Sequential(_conv(channels, channels), _conv(channels, channels))
        self.convblock3 = nn.Sequential(_conv(channels, channels), _conv(channels, channels))
        self.conv1 = _upscaling(channels, 4)
        self.conv2 = _upscaling(channels, 1)

    def forward(self, pictures: Tensor, flow: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        x = self.conv0(torch.cat([_resized(pictures, 1 / scale), _resized(flow, 1 / scale) / scale], dim=1))
        for block in (self.convblock0, self.convblock1, self.convblock2, self.convblock3):
            x = block(x) + x
        return _resized(self.conv1(x), scale) * scale, _resized(self.conv2(x), scale)


class FrameInterpolation(nn.Module):
    """RIFE's IFNet (HDv3); weights by the names of flownet.pkl."""

    def __init__(self, channels: int, inputs: int) -> None:
        super().__init__()
        self.block0 = _FlowBlock(channels, inputs)
        self.block1 = _FlowBlock(channels, inputs)
        self.block2 = _FlowBlock(channels, inputs)

    @classmethod
    def of_weights(cls, weights: Weights, what: str) -> FrameInterpolation:
        """Raises BadWeights."""
        named = {key.removeprefix("module."): value for key, value in weights.items()}
        own = {key: value for key, value in named.items() if not key.startswith(_TEACHER)}
        first = "block0.conv0.0.0.weight"
        if first not in own:
            raise BadWeights(f"The weights '{what}' are not RIFE's: {first} missing.", [first])
        network = cls(2 * own[first].shape[0], own[first].shape[1])
        check_weights(what, {key: value.shape for key, value in network.state_dict().items()}, own)
        network.load_state_dict(own)
        return network.eval().requires_grad_(False)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1, sides multiples of 32 -> the pictures halfway, in 0..1.

        Each level looks at the pair in both orders and takes the mean, so that neither direction of time is preferred.
        """
        flow = before.new_zeros(len(before), 4, *before.shape[2:])  # pixels: two for ``before``, two for ``after``
        mask = before.new_zeros(len(before), 1, *before.shape[2:])
        warped = before, after
        for block, scale in zip((self.block0, self.block1, self.block2), _SCALES, strict=True):
            forth, forth_mask = block(torch.cat([*warped, mask], dim=1), flow, scale)
            back, back_mask = block(torch.cat([*warped[::-1], -mask], dim=1), _swapped(flow), scale)
            flow = flow + (forth + _swapped(back)) / 2
            mask = mask + (forth_mask - back_mask) / 2
            warped = _warp(before, flow[:, :2]), _warp(after, flow[:, 2:])
        share = mask.sigmoid()
        return (warped[0] * share + warped[1] * (1 - share)).clamp(0, 1)


def _swapped(flow: Tensor) -> Tensor:
    return torch.cat([flow[:, 2:], flow[:, :2]], dim=1)


def _warp(picture: Tensor, flow: Tensor) -> Tensor:
    """Each pixel is read from where the flow (B, 2, H, W), in pixels right and down, says that it comes from."""
    height, width = picture.shape[2:]
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, device=picture.device, dtype=picture.dtype),
        torch.linspace(-1, 1, width, device=picture.device, dtype=picture.dtype),
        indexing="ij",
    )
    moved = torch.stack([x + flow[:, 0] * (2 / (width - 1)), y + flow[:, 1] * (2 / (height - 1))], dim=-1)
    return nn.functional.grid_sample(picture, moved, mode="bilinear", padding_mode="border", align_corners=True)


def between(middle: Callable[[Tensor, Tensor], Tensor], made: dict[int, Tensor], part: int) -> Tensor:
    """The picture ``part`` / 8 of the way from one to the next: halves, and halves of halves.

    made: pictures by their part, at least 0 and 8, the two themselves; what is made on the way is added.
    """
    if part not in made:
        step = part & -part  # the finest halving it needs
        made[part] = middle(between(middle, made, part - step), between(middle, made, part + step))
    return made[part]
