"""What the network does not do twice, and where the speech acts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

FRAMES, SIDE = 4, 8


def call(native: Any, unet: Any, recorded: Any, mask: torch.Tensor | None = None, scale: float = 1.0) -> torch.Tensor:
    """One call in three branches, (3, 4, 4, 8, 8)."""
    source = torch.Generator().manual_seed(3)
    tokens = recorded["audio_uncond_token"]
    embeds = recorded["image_embeds"]
    with torch.inference_mode():
        out: torch.Tensor = unet.model.diffusion_model(
            torch.randn(3 * FRAMES, 8, SIDE, SIDE, generator=source),
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
