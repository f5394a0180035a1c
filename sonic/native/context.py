"""The published windows over time ("shifted fusion") as a context handler of ComfyUI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.conds
import comfy.model_management
import torch
from comfy.context_windows import ContextHandlerABC
from torch import Tensor

from ..errors import NotFinite
from ..windows import context_windows, rounds, window_count

OnWindow = Callable[[int, int, int], None]  # step, window, windows of the step; the first two from 0


def _nothing(step: int, window: int, windows: int) -> None:
    pass


class SonicContextHandler(ContextHandlerABC):
    """Every window goes through the network on its own; a frame's results are averaged.

    on_window is called before each window; what it raises ends the sampling.
    """

    def __init__(self, on_window: OnWindow = _nothing) -> None:
        super().__init__()
        self.on_window = on_window

    def should_use_context(self, *_: Any, **__: Any) -> bool:
        """Always: a clip shorter than a window comes up in it repeatedly."""
        return True

    def get_resized_cond(self, cond_in: Any, x_in: Tensor, window: Any, device: Any = None) -> list[Any]:
        """A branch's conditioning, what it has for each frame cut to ``window``, a (25,) tensor of frame numbers."""
        return [{**cond, "model_conds": _of_window(cond["model_conds"], x_in.shape[0], window)} for cond in cond_in]

    def execute(
        self,
        calc_cond_batch: Callable[..., list[Tensor]],
        model: Any,
        conds: list[Any],
        x_in: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
    ) -> list[Tensor]:
        """Denoised frames (F, 4, h, w), one tensor for each branch of ``conds``. Raises NotFinite."""
        frames = x_in.shape[0]
        step = step_of(timestep, model_options["transformer_options"]["sample_sigmas"])
        results = [torch.zeros_like(x_in, dtype=torch.float32) for _ in conds]
        counts = torch.zeros(frames, device=x_in.device)
        for number, window in enumerate(context_windows(frames, step)):
            comfy.model_management.throw_exception_if_processing_interrupted()
            self.on_window(step, number, window_count(frames))
            rows = torch.tensor(window, device=x_in.device)
            parts = [self.get_resized_cond(branch, x_in, rows) for branch in conds]
            for part in parts:
                _tell_motion(model, part, rows)
            outputs = [
                output
                for group in _together(parts, x_in.device)
                for output in calc_cond_batch(model, group, x_in[rows], timestep[rows], model_options)
            ]
            # A card adds to one place in any order, so that a seed would mean many videos.
            for places in rounds(window):
                counts[rows[places]] += 1
                for result, output in zip(results, outputs, strict=True):
                    result[rows[places]] += output[places].float()
        if not all(result.isfinite().all() for result in results):
            raise NotFinite.of(f"In step {step + 1} the video network", model.manual_cast_dtype or model.get_dtype())
        return [result.div_(counts[:, None, None, None]) for result in results]


def _together(parts: list[Any], device: torch.device) -> list[list[Any]]:
    """The branches that ComfyUI may take at once. A processor gains nothing by that, and would need more memory."""
    return [[part] for part in parts] if device.type == "cpu" else [parts]


def _of_window(model_conds: dict[str, Any], frames: int, rows: Tensor) -> dict[str, Any]:
    cut: dict[str, Any] = {}
    for name, value in model_conds.items():
        tensor = getattr(value, "cond", None)
        if isinstance(tensor, Tensor) and tensor.ndim and tensor.shape[0] == frames > 1:
            value = value._copy_with(tensor[rows.to(tensor.device)])
        cut[name] = value
    cut["num_video_frames"] = comfy.conds.CONDConstant(len(rows))
    return cut


def _tell_motion(model: Any, branch: list[Any], rows: Tensor) -> None:
    """The network is told the mean motion of the window's frames, each as often as it comes up."""
    for cond in branch:
        buckets = cond["sonic_buckets"]
        ids = model.time_ids(cond["sonic_fps"], buckets[rows.to(buckets.device)].mean(dim=0))
        cond["model_conds"]["y"] = comfy.conds.CONDRegular(ids)


def step_of(timestep: Tensor, sigmas: Tensor) -> int:
    """The number of the denoising step, from 0: how many noise levels lie above the present one.

    A sampler that looks ahead, below its own level, is taken to be in the next step.
    """
    above = sigmas > timestep.flatten()[0] * (1 + 1e-4)
    return int(above.sum())
