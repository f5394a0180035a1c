"""Prepared data -> the frames of the person speaking, by the published model."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..audio_encoder import encode_speech
from ..conditioning import STATES_PER_FRAME, SpeechConditioning, condition_on_speech
from ..frames import frame_count
from ..options import InferenceOptions
from ..portrait import face_mask, resize
from ..prepared import PreparedData
from ..schedule import UNITS_PER_FRAME, audio_units, latent_frames
from ..windows import window_count
from .autoencoder import DOWNSCALE
from .clip import SonicClip
from .guider import Conditioning, denoise
from .network import FaceMask
from .networks import SonicNetworks

log = logging.getLogger("sonic.native")

OnDenoised = Callable[[int, int], None]  # windows done, windows in all


def _no_check() -> None:
    pass


def _no_progress(done: int, total: int) -> None:
    pass


def render_sonic(
    prepared: PreparedData,
    options: InferenceOptions,
    networks: SonicNetworks,
    check: Callable[[], None] = _no_check,
    on_denoised: OnDenoised = _no_progress,
) -> SonicClip:
    """A clip of round(seconds * fps) frames. Only its latents are made now; frames are decoded when they are read.

    check: called before each piece of work to let a user interrupt; on_denoised: before each window, and after all.
    Both end the work by what they raise.
    """
    check()
    embeds = networks.image_encoder.encode(prepared.picture)
    check()
    picture_latents = networks.autoencoder.encode(prepared.picture)
    spoken = listen(prepared, networks, embeds, check)
    frames = len(spoken.tokens)
    conditioning = Conditioning(
        picture_latents=picture_latents,
        picture_embeds=embeds,
        tokens=spoken.tokens,
        silent_tokens=spoken.silent_tokens,
        buckets=scaled_buckets(spoken.buckets, options),
        mask=mask_of(prepared),
        audio_scale=networks.audio_scale,
    )
    windows = window_count(frames)
    log.info("%d frames in %d windows, %d steps", frames, windows, options.inference_steps)

    def on_window(step: int, window: int, _: int) -> None:
        check()
        on_denoised(step * windows + window, options.inference_steps * windows)

    height, width = prepared.picture.shape[:2]
    noise = initial_noise(options.seed, frames, height, width)
    latents = denoise(networks.unet, conditioning, noise, options.inference_steps, on_window)
    on_denoised(options.inference_steps * windows, options.inference_steps * windows)
    count = frame_count(prepared.seconds, options.fps)
    return SonicClip(latents.cpu(), networks.autoencoder, networks.interpolation, count, options.fps, check)


def listen(
    prepared: PreparedData, networks: SonicNetworks, embeds: Tensor, check: Callable[[], None] = _no_check
) -> SpeechConditioning:
    """Speech tokens and motion buckets of every frame that the network makes; embeds: (1, D) of the picture."""
    samples = len(prepared.speech)
    states = max(UNITS_PER_FRAME, audio_units(samples)) * STATES_PER_FRAME // UNITS_PER_FRAME
    heard = encode_speech(networks.speech_encoder.loaded(), prepared.speech, states, check)
    model = networks.unet.model
    return condition_on_speech(
        networks.audio_projection.loaded(),
        networks.motion_buckets.loaded(),
        heard,
        embeds,
        latent_frames(samples),
        model.manual_cast_dtype or model.get_dtype(),
    )


def scaled_buckets(buckets: Tensor, options: InferenceOptions) -> Tensor:
    """(F, 2), translation and expression: dynamic_scale acts on both, motion_scale on the translation alone."""
    return buckets * options.dynamic_scale * torch.tensor([options.motion_scale, 1.0])


def mask_of(prepared: PreparedData) -> FaceMask:
    """Where the face is, drawn in pixels of the cut original and resized with it; everywhere if there is no face."""
    height, width = prepared.picture.shape[:2]
    if prepared.face is None:
        return FaceMask(torch.ones(height, width))
    left, top, right, bottom = prepared.crop_box
    scale_x, scale_y = (right - left) / width, (bottom - top) / height
    x1, y1, x2, y2 = prepared.face.box
    mask = face_mask((x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y), right - left, bottom - top)
    resized = resize(np.repeat(mask[..., None], 3, axis=2), (width, height))
    return FaceMask(torch.from_numpy(resized[..., 0].copy()).float() / 255.0)


def initial_noise(seed: int, frames: int, height: int, width: int) -> Tensor:
    """(frames, 4, height / 8, width / 8) float32, the same on every device.

    The published code first draws noise for the picture, which it then multiplies by zero; it is drawn here too, so
    that a seed means the same.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.randn(1, 3, height, width, generator=generator)
    return torch.randn(1, frames, 4, height // DOWNSCALE, width // DOWNSCALE, generator=generator)[0]
