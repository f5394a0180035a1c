"""What ComfyUI can do to a model, done to Sonic's: LoRA, compilation, attention back ends, loading in part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

FRAMES, SIDE = 4, 8
RANK = 2
PATCHED = {  # our name of a weight, and the published one
    "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": "down_blocks.0.attentions.0.transformer_blocks.0.attn1."
    "to_q.weight",
    "input_blocks.1.1.time_stack.0.attn2.to_k_ip.weight": "down_blocks.0.attentions.0.temporal_transformer_blocks.0."
    "attn2.processor.to_k_ip.0.weight",
}

Denoise = Callable[[Any], torch.Tensor]


@pytest.fixture
def denoise(native: Any, recorded: Any) -> Denoise:
    """Latents of a clip of four frames after two steps, by the patcher that is given."""
    source = torch.Generator().manual_seed(5)
    silent = recorded["audio_uncond_token"]
    conditioning = native.guider.Conditioning(
        picture_latents=torch.randn(1, 4, SIDE, SIDE, generator=source),
        picture_embeds=recorded["image_embeds"],
        tokens=silent + torch.randn(FRAMES, *silent.shape, generator=source),
        silent_tokens=silent,
        buckets=torch.full((FRAMES, 2), 20.0),
        mask=native.network.FaceMask(torch.ones(8 * SIDE, 8 * SIDE)),
    )
    noise = torch.randn(FRAMES, 4, SIDE, SIDE, generator=source)
    return lambda patcher: native.guider.denoise(patcher, conditioning, noise, 2)


def test_a_lora_is_the_same_as_weights_that_hold_it(
    native: Any, unet: Any, recorded: Any, denoise: Denoise, relative_rms: Any
) -> None:
    import comfy.sd

    source = torch.Generator().manual_seed(6)
    weights, lora = recorded.weights("unet"), {}
    for ours, published in PATCHED.items():
        out, inner = weights[published].shape
        up, down = torch.randn(out, RANK, generator=source), torch.randn(RANK, inner, generator=source)
        stem = "diffusion_model." + ours.removesuffix(".weight")
        lora |= {f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down}
        weights[published] = weights[published] + 0.5 * (up @ down)
    patched, _ = comfy.sd.load_lora_for_models(unet, None, lora, 0.5, 0.0)
    assert len(patched.patches) == len(PATCHED)
    whole = native.model.load_unet(weights, "unet.pth", torch.float32, recorded.head_channels)
    plain, expected = denoise(unet), denoise(whole)
    assert relative_rms(plain, expected) > 1e-2
    assert relative_rms(denoise(patched), expected) <= 1e-4
    assert relative_rms(denoise(unet), plain) <= 1e-6  # it is gone with the patcher that had it


def test_it_can_be_compiled(
    unet: Any, denoise: Denoise, relative_rms: Any, native: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    monkeypatch.setattr(native.stoppable_operations, "PIECE", 2**14)  # as if it were large
    expected = denoise(unet)
    compiled = unet.clone()
    # The tracing is what can fail; it needs no compiler. These two blocks have every kind of layer that is ours.
    block = "diffusion_model.input_blocks.1.1"
    keys = [f"{block}.transformer_blocks.0", f"{block}.time_stack.0"]
    set_torch_compile_wrapper(model=compiled, backend="eager", keys=keys)
    torch._dynamo.utils.counters.clear()
    try:
        assert relative_rms(denoise(compiled), expected) <= 1e-4
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    finally:
        torch._dynamo.reset()


@pytest.mark.parametrize("name", ["attention_split", "attention_sub_quad", "attention_pytorch", "attention_basic"])
def test_every_attention_of_comfyui_fits(name: str, unet: Any, denoise: Denoise, relative_rms: Any) -> None:
    import comfy.ldm.modules.attention as attention

    expected, shapes = denoise(unet), set()

    def instead(default: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        shapes.add(tuple(query.shape))
        kwargs.pop("transformer_options", None)
        return getattr(attention, name)(query, *args, **kwargs)

    other = unet.clone()
    options = other.model_options["transformer_options"] = dict(other.model_options["transformer_options"])
    options["optimized_attention_override"] = instead
    assert relative_rms(denoise(other), expected) <= 1e-4
    assert len(shapes) > 1


@pytest.fixture
def half_loaded(native: Any, recorded: Any, comfy: Any) -> Iterator[Any]:
    """A patcher of which ComfyUI has loaded a part of the weights and moves the rest in layer by layer."""
    patcher = native.model.load_unet(recorded.weights("unet"), "unet.pth", torch.float32, recorded.head_channels)
    patcher.load(patcher.load_device, lowvram_model_memory=patcher.model_size() // 2)
    yield patcher
    patcher.detach()


def test_weights_that_are_moved_in_layer_by_layer_give_the_same(
    half_loaded: Any, unet: Any, denoise: Denoise, relative_rms: Any
) -> None:
    moved = [module for module in half_loaded.model.modules() if getattr(module, "comfy_cast_weights", False)]
    assert moved
    assert 0 < half_loaded.loaded_size() < half_loaded.model_size()
    assert relative_rms(denoise(half_loaded), denoise(unet)) <= 1e-6
