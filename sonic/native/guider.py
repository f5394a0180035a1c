"""Guidance over three branches: without anything, with the picture, with picture and speech."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.patcher_extension
import comfy.samplers
import torch
from torch import Tensor

from ..memory import memory_need
from ..options import DOWNSCALE
from ..schedule import MODEL_FPS, karras_sigmas
from ..windows import CONTEXT_LENGTH
from .context import OnWindow, SonicContextHandler
from .network import FaceMask

APPEARANCE_GUIDANCE = 2.0
AUDIO_GUIDANCE = 7.5
BRANCHES = ("unconditional", "without_speech", "positive")

OnStep = Callable[[int, Tensor], None]


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

    def start(self) -> Tensor:
        """What the sampler adds the noise to: the picture in every frame, (F, 4, h, w), not scaled."""
        return self.picture_latents.expand(len(self.tokens), -1, -1, -1).contiguous()

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

    def __init__(
        self,
        windowed: Any,
        branches: Mapping[str, Any],
        appearance: float = APPEARANCE_GUIDANCE,
        audio: float = AUDIO_GUIDANCE,
    ) -> None:
        """windowed: from `in_windows`. branches: ComfyUI's conditioning by the names of BRANCHES."""
        super().__init__(windowed)
        self.appearance, self.audio = appearance, audio
        self.inner_set_conds(dict(branches))

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        """The guided denoised frames, (F, 4, h, w)."""
        conds = [self.conds[name] for name in BRANCHES]
        nothing, picture, speech = comfy.samplers.calc_cond_batch(
            self.inner_model, conds, x, timestep, model_options or {}
        )
        # nothing + appearance (picture - nothing) + audio (speech - picture), without another tensor of the clip's size
        guided: Tensor = nothing.mul_(1.0 - self.appearance)
        return guided.add_(picture, alpha=self.appearance - self.audio).add_(speech, alpha=self.audio)


def in_windows(model_patcher: Any, on_window: OnWindow | None = None) -> Any:
    """A clone of the patcher that goes through a clip in windows, whichever guider and sampler it is given to."""
    patcher = model_patcher.clone()
    handler = SonicContextHandler(on_window) if on_window is not None else SonicContextHandler()
    patcher.model_options["context_handler"] = handler
    patcher.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, "sonic", _estimate_memory_of_a_window
    )
    return patcher


def _estimate_memory_of_a_window(executor: Any, model: Any, noise_shape: Any, *args: Any, **kwargs: Any) -> Any:
    """ComfyUI makes room for twice the batch, which is all frames, and moves weights off the card for the batch itself.

    Never more than one window goes through at a time; where memory is short its branches go one by one, and weights on
    the card save more time than branches that go together. What grows with the clip is there beside it.
    """
    height, width = noise_shape[-2:]
    of_window = model.model.memory_required([CONTEXT_LENGTH, *noise_shape[1:]])
    of_clip = memory_need(DOWNSCALE * width, DOWNSCALE * height, noise_shape[0]).clip
    rows = math.ceil(CONTEXT_LENGTH * (1 + of_clip / of_window))
    return executor(model, [rows, *noise_shape[1:]], *args, **kwargs)


def published_sigmas(steps: int) -> Tensor:
    """(steps + 1,) float32."""
    return torch.tensor(karras_sigmas(steps), dtype=torch.float64).float()


def denoise(
    model_patcher: Any,
    conditioning: Conditioning,
    noise: Tensor,
    steps: int,
    on_window: OnWindow | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """noise: (F, 4, h, w) of unit variance -> the clip's latents, same shape, as the decoder takes them (unscaled).

    Euler steps over the published noise levels, beginning at the picture plus noise. on_step: called after each step,
    from 0, with what the clip's latents look like then, scaled as the network sees them. Raises NotFinite.
    """

    def after(step: int, denoised: Tensor, noisy: Tensor, steps: int) -> None:
        if on_step is not None:
            on_step(step, denoised)

    guider = SonicGuider(in_windows(model_patcher, on_window), conditioning.branches())
    sampler = comfy.samplers.sampler_object("euler")
    result: Tensor = guider.sample(
        noise, conditioning.start(), sampler, published_sigmas(steps), callback=after, disable_pbar=True
    )
    return result
