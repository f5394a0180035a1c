"""What both networks learn by: a random start, Adam over a falling rate, and averaged weights."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

log = logging.getLogger("bench.small_sonic")

WARM_UP, LEAST_RATE, CLIP = 100, 0.02, 1.0  # steps; of the rate, at the end; of the gradient's norm
KEPT = 0.995  # of the averaged weights, a step
TOLD_EVERY = 50  # steps
QUIET_START = 0.3  # of the usual size: the last layer of each residual branch


def random_start(network: nn.Module, seed: int) -> None:
    """ComfyUI's layers come with whatever was in memory; these are of a size that keeps what goes through them."""
    source = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            parameter.data = torch.randn(parameter.shape, generator=source) / math.sqrt(parameter[0].numel())
            if name.rsplit(".", 1)[0].endswith(("conv2", "out_layers.3", "proj_out", "to_out.0", "ff.net.2")):
                parameter.data *= QUIET_START
        else:
            one = name.endswith("weight")  # norms' are the only ones of one dimension
            parameter.data = torch.ones(parameter.shape) if one else torch.zeros(parameter.shape)


def learn(parameters: Sequence[nn.Parameter], loss_of: Callable[[int], Tensor], steps: int, rate: float) -> None:
    """loss_of: the loss of a step, from 0. The parameters end as their averages over the last steps."""
    optimiser = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=1e-4)

    def share(step: int) -> float:
        falling = LEAST_RATE + (1 - LEAST_RATE) * (1 + math.cos(math.pi * step / steps)) / 2
        return min(1.0, (step + 1) / WARM_UP) * falling

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, share)
    averaged = [copy.deepcopy(parameter.data) for parameter in parameters]
    for step in range(steps):
        optimiser.zero_grad()
        loss_of(step).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimiser.step()
        schedule.step()
        kept = min(KEPT, step / (step + 10))
        for mean, parameter in zip(averaged, parameters, strict=True):
            mean.lerp_(parameter.data, 1 - kept)
    for mean, parameter in zip(averaged, parameters, strict=True):
        parameter.data = mean


class LogOfLosses:
    """Says from time to time how far learning is."""

    def __init__(self, what: str, steps: int) -> None:
        self.what, self.steps, self._began = what, steps, time.monotonic()
        self._seen: list[tuple[float, ...]] = []

    def add(self, step: int, *values: float) -> None:
        self._seen.append(values)
        if len(self._seen) == TOLD_EVERY or step == self.steps - 1:
            means = ", ".join(f"{sum(one) / len(one):.4f}" for one in zip(*self._seen, strict=True))
            log.info("%s, step %d of %d: error %s, %.0f s", self.what, step + 1, self.steps, means,
                     time.monotonic() - self._began)  # fmt: skip
            self._seen = []
