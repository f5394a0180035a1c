"""How long the engine sonic's networks of published width go on before they look at 'interrupt', on a processor.

    python -m bench.sonic_interrupt [--size 512] [--branches 1] [--decoder-frames 8] [--largest]

Prints JSON. Each network runs once with random weights while every look at the button is timed; the longest time
between two looks is what somebody waits at most. The processor is the worst case: a card is given its layers long
before it works on them. 'longest_layer_s' is what the wait would be if no layer were left before its end. At 512 it
needs 12 GB of free memory and some minutes; with all three branches of a step three times as many. At 1024 it takes
half an hour. --largest runs of the video network what has the largest tensors only, in a fifth of the time: at full
size one block of each width, and the last enlargement.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from comfyui_sonic.sonic.windows import CONTEXT_LENGTH
from torch import nn

from .sonic_network import (
    DECODE_CHUNK,
    DOWNSCALE,
    REAL,
    Autoencoder,
    call,
    decoding_network,
    make_network,
    openaimodel,
    stoppable,
)

LATENT_CHANNELS = 4


class Looks:
    """Stands where the button is looked at, and notes when."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.longest_layer_s = 0.0

    def __call__(self) -> None:
        self.times.append(time.perf_counter())

    def watch(self, network: nn.Module) -> None:
        """Time each of its layers, too."""
        for module in network.modules():
            if next(module.children(), None) is None and next(module.parameters(recurse=False), None) is not None:
                module.forward = self._timed(module.forward)  # type: ignore[method-assign]

    def _timed(self, forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def timed(*inputs: Any, **named: Any) -> torch.Tensor:
            began = time.perf_counter()
            try:
                return forward(*inputs, **named)
            finally:
                self.longest_layer_s = max(self.longest_layer_s, time.perf_counter() - began)

        return timed


def measured(run: Callable[[], object], looks: Looks) -> dict[str, Any]:
    """The looks of one run, and the time between two of them."""
    looks.times = [time.perf_counter()]
    run()
    looks()
    gaps = np.diff(looks.times)
    return {
        "run_s": round(float(gaps.sum()), 1),
        "looks": len(gaps) - 1,
        "longest_wait_s": round(float(gaps.max()), 3),
        "mean_wait_s": round(float((gaps**2).sum() / gaps.sum() / 2), 3),  # of somebody who presses at any moment
        "longest_layer_s": round(looks.longest_layer_s, 3),
    }


class LargestOnly:
    """In the place of ComfyUI's way through a block: others than the largest answer nothing but zeros."""

    def __init__(self, size: int) -> None:
        self._side = size // DOWNSCALE
        self._through = openaimodel.forward_timestep_embed
        self._widths = set[int]()  # of the blocks that were run

    def __call__(self, block: nn.Module, x: torch.Tensor, *others: Any, **named: Any) -> torch.Tensor:
        layers = list(block.children())
        kinds = {type(one) for one in layers}
        side, width = x.shape[-1], x.shape[1]
        is_conv = not kinds & {openaimodel.VideoResBlock, openaimodel.Downsample, openaimodel.Upsample}
        if is_conv or (side == self._side and openaimodel.Downsample not in kinds and width not in self._widths):
            self._widths |= set() if is_conv else {width}
            return self._through(block, x, *others, **named)  # type: ignore[no-any-return]
        channels = next((one.out_channels for one in layers if hasattr(one, "out_channels")), width)
        if openaimodel.Downsample in kinds:
            return x.new_zeros(len(x), channels, side // 2, side // 2)
        made = x.new_zeros(len(x), channels, side, side)
        if openaimodel.Upsample not in kinds:
            return made
        enlarge = next(one for one in layers if isinstance(one, openaimodel.Upsample))
        if 2 * side == self._side:
            return enlarge(made)  # type: ignore[no-any-return]
        return x.new_zeros(len(x), channels, 2 * side, 2 * side)


def video_network(size: int, branches: int, looks: Looks) -> dict[str, Any]:
    """One call of the window's frames."""
    network = stoppable.stoppable(make_network(REAL, "ours", "cpu").requires_grad_(False))
    looks.watch(network)
    return measured(lambda: call(network, REAL, size, size, CONTEXT_LENGTH, branches), looks)


def autoencoder(size: int, frames: int, looks: Looks) -> dict[str, Any]:
    """The picture encoded, and a chunk decoded."""
    weights = {
        name: torch.randn(weight.shape) / max(1, weight[0].numel()) ** 0.5
        if weight.ndim > 1
        else torch.ones(weight.shape)
        for name, weight in decoding_network(torch.float32).state_dict().items()
    }
    made = Autoencoder(weights, "random weights", torch.float32)
    looks.watch(made.loaded())
    picture = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    latents = torch.randn(frames, LATENT_CHANNELS, size // DOWNSCALE, size // DOWNSCALE)
    return {
        "encoding the picture": measured(lambda: made.encode(picture), looks),
        "decoding a chunk": measured(lambda: made.decode_chunk(latents, looks), looks),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="side of the square picture, in pixels")
    parser.add_argument("--branches", type=int, default=1, help="of guidance, in one call (1 to 3)")
    parser.add_argument("--decoder-frames", type=int, default=DECODE_CHUNK)
    parser.add_argument("--largest", action="store_true", help="of the video network what has the largest tensors only")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    looks = Looks()
    stoppable.look = looks  # the place at which ComfyUI's button is looked at
    found = autoencoder(arguments.size, arguments.decoder_frames, looks)
    sys.stderr.write(f"{json.dumps(found)}\n")
    looks.longest_layer_s = 0.0
    largest = mock.patch.object(openaimodel, "forward_timestep_embed", LargestOnly(arguments.size))
    with largest if arguments.largest else contextlib.nullcontext():
        found["a call of the video network"] = video_network(arguments.size, arguments.branches, looks)
    json.dump({"threads": torch.get_num_threads(), **vars(arguments), **found}, sys.stdout, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
