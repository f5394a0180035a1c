"""ComfyUI's SVD network with Sonic's cross-attention: the picture's embedding as before, and beside it the speech."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy.ldm.modules.attention import CrossAttention, FeedForward, SpatialVideoTransformer, optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel, VideoResBlock
from torch import Tensor

from . import stoppable
from .stoppable_operations import stoppable_operations

PUBLISHED_EPS = 1e-6  # of the residual blocks' norms at the levels with attention and on the whole way up
_OPTION = "sonic"  # in transformer_options
_WIDEST = 3  # times as many channels as the first level: where the way down is joined to the way up
# Numbers that a feed-forward makes at once: a card is busy with far fewer, and a processor takes a tenth of a second.
_MOST_WIDENED, _MOST_ON_A_PROCESSOR = 2**26, 2**23


@dataclass(eq=False)  # compared by identity, as ComfyUI asks whether two branches share it
class FaceMask:
    """Where the speech acts: (height, width) float32, 1 on the face and 0 elsewhere, in pixels of the picture."""

    pixels: Tensor
    _levels: dict[tuple[int, int, torch.device, torch.dtype], Tensor] = field(default_factory=dict)

    def at(self, height: int, width: int, like: Tensor) -> Tensor:
        """(1, height * width, 1): reduced by bicubic interpolation, whose overshoot is part of the published model."""
        key = (height, width, like.device, like.dtype)
        if key not in self._levels:
            reduced = torch.nn.functional.interpolate(
                self.pixels[None, None], (height, width), mode="bicubic", align_corners=False
            )
            self._levels[key] = reduced.reshape(1, height * width, 1).to(like)
        return self._levels[key]


@dataclass(frozen=True)
class SpeechContext:
    """What the cross-attentions of one call share. B branches of T frames; D channels.

    tokens: (B * T, 32, D), those of each frame; window_tokens: (B, 32, D) and picture: (B, 1, D), means over frames.
    """

    tokens: Tensor
    window_tokens: Tensor
    picture: Tensor
    mask: FaceMask | None
    scale: float

    @classmethod
    def of(cls, tokens: Tensor, embeds: Tensor, frames: int, mask: FaceMask | None, scale: float) -> SpeechContext:
        def mean(values: Tensor) -> Tensor:
            return values.reshape(-1, frames, *values.shape[1:]).mean(dim=1)

        return cls(tokens, mean(tokens), mean(embeds), mask, scale)


class SpeechCrossAttention(CrossAttention):
    """Cross-attention to the picture's one embedding plus, with keys and values of its own, to 32 speech tokens.

    over_time: whether the queries are the frames of one pixel; then keys and values are the same for every pixel and
    made once for a branch, the mean of the window's tokens is heard, and the face mask does not apply.
    """

    def __init__(self, replaced: CrossAttention, over_time: bool, dtype: Any, device: Any, operations: Any) -> None:
        context_dim, inner_dim = replaced.to_k.in_features, replaced.to_k.out_features
        super().__init__(
            replaced.to_q.in_features,
            context_dim,
            replaced.heads,
            replaced.dim_head,
            attn_precision=replaced.attn_precision,
            dtype=dtype,
            device=device,
            operations=operations,
        )
        self.over_time = over_time
        self.to_k_ip = operations.Linear(context_dim, inner_dim, bias=False, dtype=dtype, device=device)
        self.to_v_ip = operations.Linear(context_dim, inner_dim, bias=False, dtype=dtype, device=device)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
    ) -> Tensor:
        """x: (B * T, pixels, C), or over time (B * pixels, T, C), to the same shape.

        With one embedding of the picture the softmax is 1: its term is the value itself, for every query.
        """
        options = transformer_options or {}
        speech: SpeechContext = options[_OPTION]
        query = self.to_q(x)
        if self.over_time:
            branches = speech.window_tokens.shape[0]
            folded = query.reshape(branches, -1, query.shape[-1])  # all pixels' frames ask the same few keys
            heard = self._heard(folded, speech.window_tokens, options)
            seen = self.to_v(speech.picture)
            out = heard.mul_(speech.scale).add_(seen).reshape(query.shape)
        else:
            heard = self._heard(query, speech.tokens, options)
            if speech.mask is not None:
                height, width = options["activations_shape"][-2:]
                heard.mul_(speech.mask.at(height, width, heard))
            out = heard.mul_(speech.scale).add_(self.to_v(context if value is None else value))
        return self.to_out(out)

    def _heard(self, query: Tensor, tokens: Tensor, options: dict[str, Any]) -> Tensor:
        keys, values = self.to_k_ip(tokens), self.to_v_ip(tokens)
        return optimized_attention(
            query, keys, values, self.heads, attn_precision=self.attn_precision, transformer_options=options
        )


class SlicedFeedForward(FeedForward):
    """ComfyUI's, slice by slice: every token goes through it on its own, and all at once would be the call's peak."""

    def __init__(self, replaced: FeedForward, dtype: Any, device: Any, operations: Any) -> None:
        widened, width = replaced.net[0].proj, replaced.net[2].out_features
        super().__init__(width, glu=True, dtype=dtype, device=device, operations=operations)
        self.width: int = width
        self.widened: int = widened.out_features

    def forward(self, x: Tensor) -> Tensor:
        """(rows, tokens, C) to the same shape."""
        most = _MOST_ON_A_PROCESSOR if x.device.type == "cpu" else _MOST_WIDENED
        rows = max(1, most // (x.shape[1] * self.widened))
        if rows >= len(x):
            whole: Tensor = self.net(x)
            return whole
        out = torch.empty_like(x)
        for start in range(0, len(x), rows):
            out[start : start + rows] = self.net(x[start : start + rows])
        return out


def _plane_by_plane(_: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """What a norm is given, laid out channel by channel: ComfyUI's transformers leave the channels innermost, and there
    torch's norm on a processor takes the variance as a difference of two large numbers, which costs three digits."""
    (x,) = inputs
    return (x.contiguous() if x.device.type == "cpu" else x,)


class SonicUNet(UNetModel):
    """The SVD network of the published Sonic; weights by ComfyUI's names, plus ``attn2.to_{k,v}_ip``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As UNetModel, with ``operations`` given."""
        super().__init__(*args, **kwargs)
        made = {"dtype": self.dtype, "device": kwargs.get("device"), "operations": kwargs["operations"]}
        for module in self.modules():
            if isinstance(module, SpatialVideoTransformer):
                for block in module.transformer_blocks:
                    block.attn2 = SpeechCrossAttention(block.attn2, over_time=False, **made)
                    block.ff = SlicedFeedForward(block.ff, **made)
                for block in module.time_stack:
                    block.attn2 = SpeechCrossAttention(block.attn2, over_time=True, **made)
                    block.ff, block.ff_in = (SlicedFeedForward(part, **made) for part in (block.ff, block.ff_in))
        self._set_published_eps()
        for module in self.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.register_forward_pre_hook(_plane_by_plane)

    def _set_published_eps(self) -> None:
        """ComfyUI has 1e-5 in every residual block; the published model was trained with 1e-6 in most of them."""
        levels = len(self.channel_mult)
        last_level = 1 + (levels - 1) * (self.num_res_blocks[0] + 1)  # the first block of the level without attention
        for block in [*self.input_blocks[1:last_level], *self.output_blocks]:
            for layer in block:
                if isinstance(layer, VideoResBlock):
                    for norm in layer.modules():
                        if isinstance(norm, torch.nn.GroupNorm):
                            norm.eps = PUBLISHED_EPS

    def _forward(
        self,
        x: Tensor,
        timesteps: Tensor | None = None,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        sonic_tokens: Tensor | None = None,
        sonic_mask: FaceMask | None = None,
        sonic_scale: float = 1.0,
        **kwargs: Any,
    ) -> Tensor:
        """x: (B * T, 8, h, w); context: (B * T, 1, D); sonic_tokens: (B * T, 32, D) -> (B * T, 4, h, w)."""
        assert sonic_tokens is not None and context is not None  # SonicModel always gives both
        frames = kwargs["num_video_frames"]
        speech = SpeechContext.of(sonic_tokens, context, frames, sonic_mask, sonic_scale)
        options = {**(transformer_options or {}), _OPTION: speech}
        if x.device.type == "cpu":
            options = stoppable.stoppable_attention(options)
        widest = _WIDEST * self.model_channels * x.shape[0] * x.shape[-2] * x.shape[-1]
        with stoppable_operations(self, widest, stoppable.look) if x.device.type == "cpu" else nullcontext():
            return super()._forward(x, timesteps, context, y, control, options, **kwargs)
