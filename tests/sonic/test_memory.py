"""Memory: what a clip needs is reckoned before it is begun, and the networks need no more at once than they must."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfyui_sonic.sonic.errors import NotEnoughMemory
from comfyui_sonic.sonic.memory import check_memory, memory_need

GB = 1e9


def test_memory_grows_with_the_pixels_and_hardly_with_the_length() -> None:
    small, large = memory_need(512, 512, 125), memory_need(1024, 1024, 125)
    assert 3.5 < large.denoising / small.denoising < 4.0
    assert 3.5 < large.decoding / small.decoding < 4.0
    short, long = memory_need(512, 512, 25), memory_need(512, 512, 7500)  # 2 s, 10 minutes
    assert (short.denoising, short.decoding) == (long.denoising, long.decoding)
    assert long.clip == 300 * short.clip
    assert memory_need(512, 512, 25, unet_bytes=4).denoising == 2 * short.denoising


def test_a_card_of_12_gb_has_room_for_1024_pixels_in_half_precision() -> None:
    assert check_memory(1024, 1024, 125, int(11.0 * GB), "a card").peak < 7 * GB
    with pytest.raises(NotEnoughMemory):
        check_memory(1536, 1536, 125, int(11.0 * GB), "a card", unet_bytes=4, vae_bytes=4)


@pytest.mark.parametrize(("width", "height"), [(1536, 1536), (1536, 1024), (640, 1536)])
def test_what_does_not_fit_is_refused_with_a_size_that_does(width: int, height: int) -> None:
    with pytest.raises(NotEnoughMemory) as caught:
        check_memory(width, height, 125, int(4 * GB), "NVIDIA Example 6 GB")
    said = str(caught.value)
    assert f"10 s of {width} x {height} pixels need" in said and "4.0 GB can be had on NVIDIA Example 6 GB" in said
    side = int(said.split("set min_resolution to ")[1].split(",")[0])
    scale = side / min(width, height)
    fitting = [round(edge * scale / 64) * 64 for edge in (width, height)]
    assert check_memory(fitting[0], fitting[1], 125, int(4 * GB), "the same")
    assert "\n" not in said and said.count(". ") == 0


def test_a_clip_that_is_too_long_at_any_size_is_told_so() -> None:
    with pytest.raises(NotEnoughMemory, match="use a shorter duration"):
        check_memory(512, 512, 300_000, int(8 * GB), "a card")
    with pytest.raises(NotEnoughMemory, match="take the engine 'draft'"):
        check_memory(256, 256, 25, int(0.1 * GB), "a card")


def test_a_clip_without_room_is_refused_before_any_work(
    networks: Any, comfy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfyui_sonic.sonic.native.pipeline import render_sonic
    from comfyui_sonic.sonic.options import InferenceOptions

    from .test_pipeline import prepared_for

    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_: 1_000_000)
    monkeypatch.setattr(networks.image_encoder, "encode", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(NotEnoughMemory, match="64 x 64"):
        render_sonic(prepared_for(0.2), InferenceOptions(), networks)


def test_what_comfyui_would_free_counts_as_free(comfy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfyui_sonic.sonic.native.managed import obtainable_memory

    class Loaded:
        load_device = torch.device("meta")

        def loaded_size(self) -> int:
            return 300

    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_: 1000)
    monkeypatch.setattr(comfy.model_management, "loaded_models", lambda: [Loaded(), Loaded()])
    assert obtainable_memory(torch.device("meta")) == 1600
    assert obtainable_memory(torch.device("cpu")) == 1000


def test_comfyuis_own_estimate_is_near_what_is_counted(unet: Any, comfy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfy.model_management, "pytorch_attention_flash_attention", lambda: True)
    estimate = unet.model.memory_required([25, 4, 64, 64])
    counted = memory_need(512, 512, 25, unet_bytes=4).denoising
    assert 1.0 < estimate / counted < 1.4


@pytest.mark.parametrize("frames", [1, 25, 7500])
def test_weights_leave_the_card_for_one_branch_of_a_window_and_the_clip_and_for_no_more(
    frames: int, native: Any, unet: Any, comfy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_patcher
    import comfy.sampler_helpers

    asked: dict[str, float] = {}
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda _, **needed: asked.update(needed))
    patcher = native.guider.in_windows(unet)
    options = comfy.model_patcher.create_model_options_clone(patcher.model_options)
    comfy.sampler_helpers.prepare_model_patcher(patcher, {}, options)  # as a guider does before it samples
    comfy.sampler_helpers.prepare_sampling(patcher, [frames, 4, 64, 64], {}, options)
    window = unet.model.memory_required([25, 4, 64, 64])
    clip = memory_need(512, 512, frames).clip
    one_row = window / 25
    assert 0 <= asked["minimum_memory_required"] - (window + clip) <= one_row
    assert asked["memory_required"] == pytest.approx(2 * asked["minimum_memory_required"])


def test_a_feed_forward_in_slices_gives_the_same(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy.ldm.modules.attention import FeedForward

    torch.manual_seed(0)
    made = {"dtype": torch.float32, "device": "cpu", "operations": native.shapes.TorchOperations}
    whole = FeedForward(16, glu=True, **made)
    sliced = native.network.SlicedFeedForward(whole, **made)
    sliced.load_state_dict(whole.state_dict())
    tokens = torch.randn(7, 5, 16)
    expected = whole(tokens)
    rows: list[int] = []
    sliced.net.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    with torch.inference_mode():
        torch.testing.assert_close(sliced(tokens), expected)
        monkeypatch.setattr(
            native.network, "_MOST_ON_A_PROCESSOR", 2 * 5 * 128
        )  # two rows of five tokens, 128 numbers each
        torch.testing.assert_close(sliced(tokens), expected)
    assert rows == [7, 2, 2, 2, 1]


@pytest.mark.parametrize("frames", [1, 3, 8])
def test_the_decoder_in_parts_gives_what_comfyuis_gives_at_once(
    frames: int, autoencoder: Any, comfy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfyui_sonic.sonic.native import decoder

    monkeypatch.setattr(decoder, "_STRIP", 2**12)  # several strips even here
    latents = torch.randn(frames, 4, 6, 10, generator=torch.Generator().manual_seed(1)).to(autoencoder.device)
    network = autoencoder.loaded()
    with torch.inference_mode():
        expected = network.decode(latents)
        found = decoder.decode_frames(network.decoder, latents)
    assert found.shape == expected.shape
    assert float((found - expected).square().mean().sqrt() / expected.std()) < 1e-5
