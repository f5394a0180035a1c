"""Interrupting inside a network: one call of a large one takes seconds."""

from __future__ import annotations

from typing import Any, TypeVar

import comfy.model_management
import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def stoppable(network: Network) -> Network:
    """The same network; each of its layers first looks whether the user has pressed 'interrupt'."""
    for module in network.modules():
        if next(module.children(), None) is None and next(module.parameters(recurse=False), None) is not None:
            module.register_forward_pre_hook(_stop_if_interrupted)
    return network


def _stop_if_interrupted(module: nn.Module, inputs: Any) -> None:
    if not torch.compiler.is_compiling():  # a compiled network runs as one piece
        comfy.model_management.throw_exception_if_processing_interrupted()
