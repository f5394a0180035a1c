"""A network whose place, on the card or off it, is ComfyUI's business."""

from __future__ import annotations

from typing import Generic, TypeVar

import comfy.model_management
import comfy.model_patcher
import torch
from torch import nn

from .stoppable import stoppable

Network = TypeVar("Network", bound=nn.Module)


class Managed(Generic[Network]):
    """Stays loaded until ComfyUI needs the room; ``loaded()`` brings it back."""

    def __init__(self, network: Network, device: torch.device | None = None, *, in_parts: bool = False) -> None:
        """device: where it works; None is where ComfyUI's networks work.

        in_parts: where memory is short, or by --novram, ComfyUI leaves layers in main memory and brings each for its
        use. That takes layers of ComfyUI's own, none of which has weights and a layer within, as SVD's decoder has.
        """
        management = comfy.model_management
        self._network, self._whole = stoppable(network), not in_parts
        self.device: torch.device = device or management.get_torch_device()
        self.patcher = comfy.model_patcher.ModelPatcher(
            network, load_device=self.device, offload_device=management.unet_offload_device()
        )

    @property
    def weight_bytes(self) -> int:
        return int(self.patcher.model_size())

    def loaded(self, working_memory: float = 0) -> Network:
        """The network on its device; others make room for it and for ``working_memory`` bytes."""
        comfy.model_management.load_models_gpu([self.patcher], memory_required=working_memory)
        if self._whole:
            self.patcher.partially_load(self.device, self.weight_bytes + 1)  # what was left out; mostly nothing
        return self._network


def obtainable_memory(device: torch.device) -> int:
    """Bytes of the device that are free or that ComfyUI would free for a network that needs them."""
    management = comfy.model_management
    free = int(management.get_free_memory(device))
    if device.type == "cpu":  # networks that leave the processor for the main memory free nothing
        return free
    loaded = (patcher for patcher in management.loaded_models() if patcher and patcher.load_device == device)
    return free + sum(int(patcher.loaded_size()) for patcher in loaded)
