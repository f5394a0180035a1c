"""What shapes a network's weights have, without any memory for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class TorchOperations:
    """torch's own layers where ComfyUI's networks ask for "operations".

    ComfyUI's may have no weights until they are loaded (0.28 on Windows), so that they cannot be asked what fits.
    """

    Linear, Embedding = nn.Linear, nn.Embedding
    Conv1d, Conv2d, Conv3d = nn.Conv1d, nn.Conv2d, nn.Conv3d
    GroupNorm, LayerNorm = nn.GroupNorm, nn.LayerNorm

    @staticmethod
    def conv_nd(dims: int, *args: Any, **kwargs: Any) -> nn.Module:
        return (nn.Conv2d if dims == 2 else nn.Conv3d)(*args, **kwargs)


def weight_shapes(make: Callable[[], nn.Module]) -> dict[str, torch.Size]:
    """Shapes by name of the network that ``make`` makes."""
    with torch.device("meta"):
        return {key: value.shape for key, value in make().state_dict().items()}
