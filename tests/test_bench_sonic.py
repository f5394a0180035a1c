"""The counters behind the figures of the engine sonic, on layers that can be reckoned by hand, and the figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from comfyui_sonic.bench.counters import LiveBytes, allocated_peak_of, flops_of, peak_of
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

DEVICES = pytest.mark.parametrize("device", ["cpu", "meta"])


@DEVICES
def test_a_linear_layer_takes_two_flops_for_each_weight_and_row(device: str) -> None:
    layer = nn.Linear(5, 7, device=device)
    assert flops_of(lambda: layer(torch.zeros(3, 5, device=device))) == 2 * 3 * 5 * 7


@DEVICES
def test_a_convolution_takes_two_flops_for_each_weight_and_pixel(device: str) -> None:
    layer = nn.Conv2d(2, 4, 3, padding=1, device=device)
    assert flops_of(lambda: layer(torch.zeros(1, 2, 6, 5, device=device))) == 2 * (2 * 4 * 3 * 3) * (6 * 5)


@DEVICES
def test_an_attention_takes_its_two_products(device: str) -> None:
    heads, queries, keys, channels = 2, 6, 4, 8
    query = torch.zeros(3, heads, queries, channels, device=device)
    key = torch.zeros(3, heads, keys, channels, device=device)
    found = flops_of(lambda: scaled_dot_product_attention(query, key, key))
    assert found == 2 * (2 * 3 * heads * queries * keys * channels)


@DEVICES
def test_the_peak_is_the_most_that_lives_at_once(device: str) -> None:
    given = torch.zeros(100, device=device)

    def work() -> torch.Tensor:
        first = given + 1  # 400 bytes
        second = torch.cat([first, first])  # and 800
        del first
        return second + 1  # 800 and 800

    assert peak_of(work) == 1600


@DEVICES
def test_views_and_changes_in_place_need_no_memory(device: str) -> None:
    given = torch.zeros(10, 10, device=device)

    def work() -> None:
        made = given + 1
        made.T.reshape(5, 20)[1:].add_(1)  # the reshape of a transposed one is a copy
        made.flatten()[3:].mul_(2)

    assert peak_of(work) == 800


def test_what_is_dropped_no_longer_counts() -> None:
    with torch.inference_mode(), LiveBytes() as counted:
        kept = torch.zeros(8)
        for _ in range(3):
            torch.zeros(100)
        assert counted.live == kept.nbytes
        del kept
    assert counted.live == 0
    assert counted.peak == 32 + 400


def test_the_allocator_sees_what_is_counted() -> None:
    layers = nn.Sequential(nn.Linear(64, 512), nn.GELU(), nn.Linear(512, 64))
    given = torch.zeros(1000, 64)
    layers(given)
    assert allocated_peak_of(lambda: layers(given)) == peak_of(lambda: layers(given)) == 2 * 4 * 1000 * 512


@pytest.mark.slow
def test_the_network_takes_less_than_as_published_and_gives_the_same(comfyui_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "comfyui_sonic.bench.sonic_flops", "--sizes", "512", "--seconds", "2"],
        env={**os.environ, "COMFYUI_PATH": str(comfyui_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout)
    one = report["sizes"]["512"]
    assert one["call_tflop"]["ours"] < 0.96 * one["call_tflop"]["published"]
    assert one["clip_pflop"]["ours"] < 0.96 * one["clip_pflop"]["published"]
    assert abs(one["deviation_from_it"]) < 1e-3  # from what was counted in the published code
    difference = report["relative_difference_from_published"]
    assert difference["ours"] < 1e-5 < 1e-2 < difference["without_speech"]
