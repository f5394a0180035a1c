"""Guidance over three branches: without anything, with the picture, with picture and speech."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.patcher_extension
import comfy.samplers
import torch
from torch import Tensor

from ..schedule import MODEL_FPS, karras_sigmas
from ..windows import CONTEXT_LENGTH
from .context import OnWindow, SonicContextHandler
from .network import FaceMask

APPEARANCE_GUIDANCE = 2.0
AUDIO_GUIDANCE = 7.5
BRANCHES = ("unconditional", "without_speech", "positive")


@dataclass(frozen=True)
class Conditioning:
    """What the denoising of a clip of F frames is told.

    picture_latents: (1, 4, h, w), the picture's latents as the encoder gives them, not scaled.
    picture_embeds: (1, D) of the image encoder.
    tokens: (F, 32, D) speech tokens; silent_tokens: (32, D) of no sound at all.
    buckets: (F, 2), motion and expression, already multiplied by the user's scales.
    mask: where the face is. audio_scale: 1 as published.
    """

    picture_latents: Tensor
    picture_embeds: Tensor
    tokens: Tensor
    silent_tokens: Tensor
    buckets: Tensor
    mask: FaceMask
    audio_scale: float = 1.0

    def branches(self) -> dict[str, list[list[Any]]]:
        """ComfyUI's conditioning of each branch."""
        embeds, latents = self.picture_embeds[None], self.picture_latents
        silent = self.silent_tokens[None]
        return {
            "unconditional": self._branch(torch.zeros_like(embeds), torch.zeros_like(latents), silent),
            "without_speech": self._branch(embeds, latents, silent),
            "positive": self._branch(embeds, latents, self.tokens),
        }

    def _branch(self, embeds: Tensor, latents: Tensor, tokens: Tensor) -> list[list[Any]]:
        return [
            [
                embeds,
                {
                    "concat_latent_image": latents,
                    "sonic_tokens": tokens,
                    "sonic_buckets": self.buckets,
                    "sonic_fps": MODEL_FPS,
                    "sonic_mask": self.mask,
                    "sonic_scale": self.audio_scale,
                },
            ]
        ]


class SonicGuider(comfy.samplers.CFGGuider):
    """A guider of ComfyUI with one guidance for the appearance and one for the speech."""

    def __init__(self, model_patcher: Any, conditioning: Conditioning, on_window: OnWindow | None = None) -> None:
        patcher = model_patcher.clone()
        handler = SonicContextHandler(on_window) if on_window is not None else SonicContextHandler()
        patcher.model_options["context_handler"] = handler
        patcher.add_wrapper_with_key(
            comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, "sonic", _estimate_memory_of_a_window
        )
        super().__init__(patcher)
        self.appearance, self.audio = APPEARANCE_GUIDANCE, AUDIO_GUIDANCE
        self.inner_set_conds(conditioning.branches())

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        """The guided denoised frames, (F, 4, h, w)."""
        conds = [self.conds[name] for name in BRANCHES]
        nothing, picture, speech = comfy.samplers.calc_cond_batch(
            self.inner_model, conds, x, timestep, model_options or {}
        )
        guided: Tensor = nothing + self.appearance * (picture - nothing) + self.audio * (speech - picture)
        return guided


def _estimate_memory_of_a_window(executor: Any, model: Any, noise_shape: Any, *args: Any, **kwargs: Any) -> Any:
    """ComfyUI frees memory for all frames in two branches; at any time there is one window in three branches."""
    in_pairs = -(-CONTEXT_LENGTH * len(BRANCHES) // 2)
    return executor(model, [in_pairs, *noise_shape[1:]], *args, **kwargs)


def denoise(
    model_patcher: Any,
    conditioning: Conditioning,
    noise: Tensor,
    steps: int,
    on_window: OnWindow | None = None,
) -> Tensor:
    """noise: (F, 4, h, w) of unit variance -> the clip's latents, same shape, as the decoder takes them (unscaled).

    Euler steps over the published noise levels, beginning at the picture plus noise.
    """
    guider = SonicGuider(model_patcher, conditioning, on_window)
    start = conditioning.picture_latents.expand_as(noise).contiguous()
    sigmas = torch.tensor(karras_sigmas(steps), dtype=torch.float64).float()
    sampler = comfy.samplers.sampler_object("euler")
    result: Tensor = guider.sample(noise, start, sampler, sigmas, disable_pbar=True)
    return result
