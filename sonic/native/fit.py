"""Whether this version of ComfyUI still has what Sonic is built on. Importing this imports all of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import comfy.samplers
from comfy.ldm.modules.attention import CrossAttention
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher

from . import networks, pipeline
from .autoencoder import try_decoder
from .context import SonicContextHandler

# What is called or replaced by us, with the parameters that we rely on.
_RELIED_ON: tuple[tuple[Callable[..., Any], tuple[str, ...]], ...] = (
    (CrossAttention.forward, ("x", "context", "value", "mask", "transformer_options")),
    (UNetModel._forward, ("x", "timesteps", "context", "y", "control", "transformer_options")),
    (ModelPatcher.partially_load, ("device_to", "extra_memory")),
    (comfy.samplers.calc_cond_batch, ("model", "conds", "x_in", "timestep", "model_options")),
)


def misfit() -> str:
    """What is no longer as Sonic needs it, in a few words, or ''."""
    assert networks and pipeline  # imported for what they import
    for function, names in _RELIED_ON:
        parameters = inspect.signature(function).parameters
        if missing := [name for name in names if name not in parameters]:
            return f"{function.__qualname__} takes no '{missing[0]}' any more"
    try:
        try_decoder()
    except Exception as error:  # noqa: BLE001  # whatever has moved, it is named
        return f"its video decoder is another one: {error}"
    if unmet := sorted(SonicContextHandler.__abstractmethods__):
        return f"context handlers need a method '{unmet[0]}' now"
    return ""
