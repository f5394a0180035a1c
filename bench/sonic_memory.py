"""The memory that one call of the engine sonic's video network needs beside its weights, as JSON.

    python -m bench.sonic_memory

The bytes of all tensors that live at the same time are added up while the network runs; their greatest sum is the peak.
That needs shapes only, so the network of real size is counted on torch's "meta" device. A narrow one is counted there
and on the processor, where the allocator is read as well. The estimate that a clip is admitted by (sonic/memory.py) is
held against it, and against the decoder. Attention is taken to be fused, and what the kernels of a card take for
themselves is not in it.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import torch
from comfyui_sonic.sonic.memory import memory_need
from comfyui_sonic.sonic.windows import CONTEXT_LENGTH
from torch import Tensor

from .counters import allocated_peak_of, peak_of
from .sonic_network import (
    ALL_BRANCHES,
    DECODE_CHUNK,
    DOWNSCALE,
    REAL,
    Arrangement,
    Layout,
    SonicUNet,
    call,
    decode_in_parts,
    decoding_network,
    make_network,
)

NARROW = Layout(32, 64, 32)  # fits onto a processor
GB = 1e9
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Call:
    """One call: square pictures of ``size`` pixels."""

    layout: Layout
    size: int
    frames: int
    branches: int = 1
    dtype: str = "fp32"

    def run(self, arrangement: Arrangement = "ours", device: str = "meta") -> Tensor:
        network = _network(self.layout, arrangement, device, self.dtype)
        return call(network, self.layout, self.size, self.size, self.frames, self.branches)

    def peak(self, arrangement: Arrangement = "ours", device: str = "meta") -> int:
        _network(self.layout, arrangement, device, self.dtype)  # its weights are not what is counted
        return peak_of(lambda: self.run(arrangement, device))


@cache
def _network(layout: Layout, arrangement: Arrangement, device: str, dtype: str) -> SonicUNet:
    return make_network(layout, arrangement, device, DTYPES[dtype])


def counters_agree() -> list[dict[str, Any]]:
    """The count on "meta", the count on the processor, and the allocator's own."""
    results = []
    for size, frames, dtype in ((128, 4, "fp32"), (192, 6, "fp32"), (128, 4, "bf16")):
        one = Call(NARROW, size, frames, ALL_BRANCHES, dtype)
        one.run(device="cpu")  # libraries set themselves up
        seen = allocated_peak_of(lambda one=one: one.run(device="cpu"))
        found = {"meta_mb": one.peak() / 1e6, "cpu_mb": one.peak(device="cpu") / 1e6, "cpu_allocator_mb": seen / 1e6}
        results.append({"size": size, "frames": frames, "dtype": dtype, **found})
    return results


def table(dtype: str, sizes: list[int]) -> list[dict[str, Any]]:
    """The real network: counted in both arrangements, our estimate and its error, ComfyUI's estimate."""
    rows = []
    for size, (frames, branches) in product(sizes, ((1, 1), (CONTEXT_LENGTH, 1), (CONTEXT_LENGTH, ALL_BRANCHES))):
        one = Call(REAL, size, frames, branches, dtype)
        counted, published = one.peak(), one.peak("published")
        rows.append(
            {
                "size": size,
                "frames": frames,
                "branches": branches,
                "ours_gb": counted / GB,
                "published_gb": published / GB,
                "comfyui_estimate_gb": comfyui_estimate(one) / GB,
                **(estimated(one, counted) if frames == CONTEXT_LENGTH and branches == 1 else {}),
            }
        )
    return rows


def estimated(one: Call, counted: int) -> dict[str, float]:
    """What clips are admitted by, before its margin."""
    told = memory_need(one.size, one.size, 0, unet_bytes=DTYPES[one.dtype].itemsize).denoising
    return {"estimate_gb": told / GB, "estimate_error": told / counted - 1}


def decoder_table(dtype: str, sizes: list[int]) -> list[dict[str, Any]]:
    """A chunk through the decoder of real size, in parts as ours goes and at once as ComfyUI's does."""
    element = DTYPES[dtype]
    autoencoder = decoding_network(element)
    rows = []
    for size in sizes:
        side = size // DOWNSCALE
        latents = torch.empty(DECODE_CHUNK, 4, side, side, device="meta", dtype=element)
        parts = peak_of(lambda latents=latents: decode_in_parts(autoencoder, latents))
        whole = peak_of(lambda latents=latents: autoencoder.decode(latents))
        told = memory_need(size, size, 0, vae_bytes=element.itemsize).decoding
        rows.append(
            {
                "size": size,
                "in_parts_gb": parts / GB,
                "at_once_gb": whole / GB,
                "estimate_gb": told / GB,
                "estimate_error": told / parts - 1,
            }
        )
    return rows


def comfyui_estimate(one: Call) -> float:
    """What ComfyUI takes such a call to need on a card with fused attention, by its rule for this model."""
    pixels = one.branches * one.frames * (one.size // DOWNSCALE) ** 2
    element = 4 if one.dtype == "fp32" else 2
    return pixels * element * 0.01 * one.layout.config().memory_usage_factor * 1024 * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 768, 1024], help="sides of square pictures")
    arguments = parser.parse_args()
    parameters = sum(value.numel() for value in _network(REAL, "ours", "meta", "fp32").parameters())
    report: dict[str, Any] = {
        "weights_gb": {"fp32": 4 * parameters / GB, "bf16": 2 * parameters / GB},
        "counters": counters_agree(),
        "real_network": {},
        "decoder": {},
    }
    for dtype in DTYPES:
        report["real_network"][dtype] = table(dtype, arguments.sizes)
        report["decoder"][dtype] = decoder_table(dtype, arguments.sizes)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
