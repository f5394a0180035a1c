"""The arithmetic of the engine sonic's video network, beside the published arrangement of the same network, as JSON.

    python -m bench.sonic_flops [--sizes 512 768 1024] [--seconds 10] [--steps 25]

Nothing is computed: the networks of real size run on torch's "meta" device while FlopCounterMode adds up what their
matrix products, convolutions and attentions would take. A multiplication with its addition is 2 FLOPs. That both
arrangements give the same is computed, in a narrow network of the same layout.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import cache
from typing import Any

import torch
from comfyui_sonic.sonic.schedule import MODEL_FPS
from comfyui_sonic.sonic.windows import CONTEXT_LENGTH
from torch import Tensor, nn

from .counters import flops_of
from .sonic_network import ALL_BRANCHES, REAL, Arrangement, Layout, call, calls_of_a_step, make_network

NARROW = Layout(channels=64, context=48)
PUBLISHED_TFLOP = {512: 100.0, 768: 250.7, 1024: 509.9}  # counted in the published code, three branches of 25 frames


@cache
def _network(arrangement: Arrangement) -> nn.Module:
    return make_network(REAL, arrangement)


@cache
def call_flops(arrangement: Arrangement, size: int, branches: int) -> int:
    """One call of the network of real size for a square picture."""
    network = _network(arrangement)
    return flops_of(lambda: call(network, REAL, size, size, CONTEXT_LENGTH, branches))


def difference_of_results() -> dict[str, float]:
    """RMS over the deviation of the result, same weights, narrow, float32; what the speech does shows the scale."""

    def result(arrangement: Arrangement, scale: float = 1.0) -> Tensor:
        torch.manual_seed(1)
        return call(make_network(NARROW, arrangement, "cpu"), NARROW, 128, 192, 3, ALL_BRANCHES, scale).double()

    published = result("published")

    def relative(other: Tensor) -> float:
        return float((other - published).square().mean().sqrt() / published.std())

    return {"ours": relative(result("ours")), "without_speech": relative(result("published", scale=0.0))}


def compare(size: int, frames: int, steps: int) -> dict[str, Any]:
    """One size, square: a call and a clip in both arrangements."""
    branches = ALL_BRANCHES
    calls = {together: steps * times for together, times in calls_of_a_step(size, frames).items()}
    ours, published = (call_flops(arrangement, size, branches) for arrangement in ("ours", "published"))
    clips = [
        sum(times * call_flops(arrangement, size, together) for together, times in calls.items())
        for arrangement in ("ours", "published")
    ]
    report: dict[str, Any] = {
        "call_tflop": {"ours": ours / 1e12, "published": published / 1e12, "ratio": ours / published},
        "clip_pflop": {"ours": clips[0] / 1e15, "published": clips[1] / 1e15, "ratio": clips[0] / clips[1]},
        "clip_calls_by_branches_together": calls,
    }
    if size in PUBLISHED_TFLOP:
        known = PUBLISHED_TFLOP[size]
        report["published_call_counted_earlier_tflop"] = known
        report["deviation_from_it"] = published / 1e12 / known - 1
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 768, 1024], help="sides of square pictures")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=25)
    arguments = parser.parse_args()
    frames = int(arguments.seconds * MODEL_FPS)
    report = {
        "flops_of_a_multiply_add": flops_of(lambda: torch.zeros(1, 1) @ torch.zeros(1, 1)),
        "parameters": sum(value.numel() for value in _network("ours").parameters()),
        "relative_difference_from_published": difference_of_results(),
        "clip": {"seconds": arguments.seconds, "frames": frames, "steps": arguments.steps},
        "sizes": {size: compare(size, frames, arguments.steps) for size in arguments.sizes},
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
