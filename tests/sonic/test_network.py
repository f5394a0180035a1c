"""What the network does not do twice, where the speech acts, and what precision and batches do to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

Measure = Callable[[torch.Tensor, torch.Tensor], float]

FRAMES, SIDE = 4, 8


def call(
    native: Any, unet: Any, recorded: Any, mask: torch.Tensor | None = None, scale: float = 1.0, side: int = SIDE
) -> torch.Tensor:
    """One call in three branches, (3, 4, 4, side, side)."""
    source = torch.Generator().manual_seed(3)
    tokens = recorded["audio_uncond_token"]
    embeds = recorded["image_embeds"]
    with torch.inference_mode():
        out: torch.Tensor = unet.model.diffusion_model(
            torch.randn(3 * FRAMES, 8, side, side, generator=source),
            torch.full((3 * FRAMES,), 0.5),
            context=embeds[None].expand(3 * FRAMES, -1, -1),
            y=unet.model.time_ids(12.5, torch.tensor([20.0, 20.0])).expand(3 * FRAMES, -1),
            num_video_frames=FRAMES,
            sonic_tokens=tokens + torch.randn(3 * FRAMES, *tokens.shape, generator=source),
            sonic_mask=None if mask is None else native.network.FaceMask(mask),
            sonic_scale=scale,
        )
    return out.unflatten(0, (3, FRAMES))


def cross_attentions(native: Any, unet: Any) -> list[Any]:
    kind = native.network.SpeechCrossAttention
    return [module for module in unet.model.diffusion_model.modules() if isinstance(module, kind)]


def test_keys_over_time_are_made_once_a_branch_and_the_picture_needs_no_softmax(
    native: Any, unet: Any, recorded: Any
) -> None:
    attentions = cross_attentions(native, unet)
    assert len(attentions) == 32
    spoken: list[tuple[bool, torch.Size]] = []
    seen: list[tuple[bool, torch.Size]] = []
    asked: list[int] = []
    handles = []
    for module in attentions:
        over_time = module.over_time
        spoken_of = lambda _, inputs, over=over_time: spoken.append((over, inputs[0].shape))  # noqa: E731
        seen_of = lambda _, inputs, over=over_time: seen.append((over, inputs[0].shape))  # noqa: E731
        handles += [
            module.to_k_ip.register_forward_pre_hook(spoken_of),
            module.to_v.register_forward_pre_hook(seen_of),
            module.to_k.register_forward_pre_hook(lambda *_: asked.append(1)),
        ]
    try:
        call(native, unet, recorded)
    finally:
        for handle in handles:
            handle.remove()
    assert {shape[:2] for over, shape in spoken if over} == {(3, 32)}
    assert {shape[:2] for over, shape in spoken if not over} == {(3 * FRAMES, 32)}
    assert {shape[:2] for over, shape in seen if over} == {(3, 1)}
    assert len(spoken) == len(seen) == 32
    assert asked == []


def test_speech_of_scale_zero_is_not_heard(native: Any, unet: Any, recorded: Any) -> None:
    whole = torch.ones(8 * SIDE, 8 * SIDE)
    deaf = call(native, unet, recorded, whole, scale=0.0)
    assert not torch.equal(deaf, call(native, unet, recorded, whole))
    torch.testing.assert_close(deaf, call(native, unet, recorded, 0 * whole, scale=0.0))


def test_the_face_mask_holds_the_speech_back_in_space_but_not_over_time(native: Any, unet: Any, recorded: Any) -> None:
    nowhere = torch.zeros(8 * SIDE, 8 * SIDE)
    masked = call(native, unet, recorded, nowhere)
    assert not torch.allclose(masked, call(native, unet, recorded, nowhere + 1))
    assert not torch.allclose(masked, call(native, unet, recorded, nowhere, scale=0.0))  # over time it still acts
    torch.testing.assert_close(call(native, unet, recorded, nowhere + 1), call(native, unet, recorded, None))


def test_norms_are_as_sharp_as_published(unet: Any) -> None:
    network = unet.model.diffusion_model
    fine = [network.input_blocks[i][0] for i in (1, 2, 4, 5, 7, 8)] + [block[0] for block in network.output_blocks]
    coarse = [network.input_blocks[i][0] for i in (10, 11)] + [network.middle_block[0], network.middle_block[2]]
    for blocks, eps in ((fine, 1e-6), (coarse, 1e-5)):
        found = {norm.eps for block in blocks for norm in block.modules() if isinstance(norm, torch.nn.GroupNorm)}
        assert found == {eps}
    assert network.out[0].eps == pytest.approx(1e-5)


def test_float32_stays_near_float64_where_a_norm_sees_two_pixels(
    native: Any, recorded: Any, relative_rms: Measure
) -> None:
    """With a variance taken from the mean of the squares it is 2e-5 here, and 1e-3 for other pictures."""
    frames, height, width = 5, 16, 8
    tokens, embeds = recorded["audio_uncond_token"], recorded["image_embeds"]
    found = {}
    for dtype in (torch.float32, torch.float64):
        model = native.model.load_unet(
            recorded.weights("unet"), "unet.pth", torch.float32, recorded.head_channels
        ).model
        network = model.diffusion_model.to(dtype)
        network.dtype = dtype
        source = torch.Generator().manual_seed(3)
        with torch.inference_mode():
            found[dtype] = network(
                torch.randn(frames, 8, height, width, generator=source).to(dtype),
                torch.full((frames,), 0.5),
                context=embeds[None].expand(frames, -1, -1).to(dtype),
                y=model.time_ids(12.5, torch.tensor([20.0, 20.0])).expand(frames, -1).to(dtype),
                num_video_frames=frames,
                sonic_tokens=(tokens + torch.randn(frames, *tokens.shape, generator=source)).to(dtype),
            )
    assert relative_rms(found[torch.float32], found[torch.float64]) <= 8e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(
    dtype: torch.dtype, recorded: Any, native: Any, relative_rms: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and arithmetic in half precision, as on a graphics card."""
    monkeypatch.setattr(native.model.comfy.model_management, "unet_manual_cast", lambda *_: None)
    unet = native.model.load_unet(recorded.weights("unet"), "unet.pth", dtype, recorded.head_channels)
    frames = min(recorded.config["frames"])
    tokens = recorded["audio_tokens"][torch.arange(frames) % len(recorded["audio_tokens"])]
    conditioning = native.guider.Conditioning(
        recorded["ref_mean"],
        recorded["image_embeds"],
        tokens,
        recorded["audio_uncond_token"],
        recorded["audio_buckets"].flatten(1)[:frames],
        native.network.FaceMask(recorded["face_mask"][0]),
    )
    noise = recorded[f"loop{frames}_noise"][0]
    found = native.guider.denoise(unet, conditioning, noise, 1)
    whole = native.model.load_unet(recorded.weights("unet"), "unet.pth", torch.float32, recorded.head_channels)
    assert relative_rms(found, native.guider.denoise(whole, conditioning, noise, 1)) <= 0.1
    assert found.dtype == torch.float32


def test_branches_one_by_one_give_the_same_as_together(
    recorded: Any, native: Any, unet: Any, relative_rms: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = 3
    conditioning = native.guider.Conditioning(
        recorded["ref_mean"],
        recorded["image_embeds"],
        recorded["audio_tokens"][:frames],
        recorded["audio_uncond_token"],
        recorded["audio_buckets"].flatten(1)[:frames],
        native.network.FaceMask(recorded["face_mask"][0]),
    )
    noise = next(recorded[f"loop{count}_noise"][0, :frames] for count in recorded.config["frames"] if count >= frames)
    together = native.guider.denoise(unet, conditioning, noise, 1)
    monkeypatch.setattr(unet.model, "memory_required", lambda *_, **__: 2.0**60)  # so that no two fit together
    assert relative_rms(native.guider.denoise(unet, conditioning, noise, 1), together) <= 1e-4
