"""Prepared data -> the frames of the person speaking, by the published model."""

from __future__ import annotations

import logging
from typing import Any

import comfy.model_management
import numpy as np
import torch
from torch import Tensor

from ..audio_encoder import encode_speech
from ..conditioning import STATES_PER_FRAME, SpeechConditioning, condition_on_speech
from ..denoising import Denoising, OnDenoising, OnPreview, not_told
from ..frames import Frame, frame_count
from ..interruption import Check, no_check
from ..memory import MemoryNeed, check_memory
from ..options import DOWNSCALE, InferenceOptions
from ..portrait import face_mask, resize
from ..prepared import PreparedData
from ..schedule import UNITS_PER_FRAME, audio_units, latent_frames
from ..windows import window_count
from .clip import SonicClip
from .guider import Conditioning, denoise
from .managed import obtainable_memory
from .network import FaceMask
from .networks import SonicNetworks

log = logging.getLogger("sonic.native")


def render_sonic(
    prepared: PreparedData,
    options: InferenceOptions,
    networks: SonicNetworks,
    check: Check = no_check,
    on_denoising: OnDenoising = not_told,
    on_preview: OnPreview = not_told,
) -> SonicClip:
    """A clip of round(seconds * fps) frames. Only its latents are made now; frames are decoded when they are read.

    check: called before each piece of work to let a user interrupt; on_denoising: before each window, and after all;
    on_preview: after each step, with a small picture of a frame as it is by then. All end the work by what they raise.
    Raises NotEnoughMemory before anything is begun, or NotFinite.
    """
    conditioning = condition(prepared, networks, options.dynamic_scale, options.motion_scale, check)
    frames, steps = len(conditioning.tokens), options.inference_steps
    windows = window_count(frames)
    log.info("%d frames in %d windows, %d steps", frames, windows, steps)

    def on_window(step: int, window: int, windows: int) -> None:
        check()
        on_denoising(Denoising(step, steps, window, windows))

    def on_step(step: int, denoised: Tensor) -> None:
        shown = step * frames // steps  # another moment of the clip each time
        on_preview(preview_of(denoised[shown], networks.unet.model.latent_format))

    height, width = prepared.picture.shape[:2]
    noise = initial_noise(options.seed, frames, height, width)
    latents = denoise(networks.unet, conditioning, noise, steps, on_window, on_step)
    on_denoising(Denoising(steps, steps, 0, windows))
    return clip_of(latents, prepared, options.fps, networks, check)


def condition(
    prepared: PreparedData,
    networks: SonicNetworks,
    dynamic_scale: float = 1.0,
    motion_scale: float = 1.0,
    check: Check = no_check,
) -> Conditioning:
    """What the denoising is told of picture and speech. Raises NotEnoughMemory when a clip of this size has no room."""
    make_sure_of_memory(prepared, networks)
    check()
    embeds = networks.image_encoder.encode(prepared.picture)
    check()
    picture_latents = networks.autoencoder.encode(prepared.picture)
    spoken = listen(prepared, networks, embeds, check)
    return Conditioning(
        picture_latents=picture_latents,
        picture_embeds=embeds,
        tokens=spoken.tokens,
        silent_tokens=spoken.silent_tokens,
        buckets=scaled_buckets(spoken.buckets, dynamic_scale, motion_scale),
        mask=mask_of(prepared),
        audio_scale=networks.audio_scale,
    )


def make_sure_of_memory(prepared: PreparedData, networks: SonicNetworks) -> MemoryNeed:
    """Raises NotEnoughMemory, with a size that fits, when a clip of this size has no room on the device."""
    height, width = prepared.picture.shape[:2]
    device = networks.unet.load_device
    free = obtainable_memory(device)
    if device.type != "cpu":
        free -= networks.autoencoder.weight_bytes  # decoding takes most, and all of them are there then
    need = check_memory(
        width,
        height,
        latent_frames(len(prepared.speech)),
        free,
        comfy.model_management.get_torch_device_name(device),
        computing_dtype(networks.unet).itemsize,
        networks.autoencoder.dtype.itemsize,
    )
    log.info("%.1f GB of memory needed beside the weights, %.1f GB can be had", need.peak / 1e9, free / 1e9)
    return need


def clip_of(
    latents: Tensor,
    prepared: PreparedData,
    fps: float,
    networks: SonicNetworks,
    check: Check = no_check,
) -> SonicClip:
    """The video of denoised latents, (F, 4, h, w) as the decoder takes them: round(seconds * fps) frames."""
    count = frame_count(prepared.seconds, fps)
    return SonicClip(latents.float().cpu(), networks.autoencoder, networks.interpolation, count, fps, check)


def latents_fit(latents: Tensor, prepared: PreparedData) -> bool:
    """Whether latents have the size of the picture and the frames of the speech."""
    height, width = (side // DOWNSCALE for side in prepared.picture.shape[:2])
    return tuple(latents.shape) == (latent_frames(len(prepared.speech)), 4, height, width)


def computing_dtype(unet: Any) -> torch.dtype:
    """In which the video network computes; its weights may be stored in another one."""
    dtype: torch.dtype = unet.model.manual_cast_dtype or unet.model.get_dtype()
    return dtype


def preview_of(latent: Tensor, latent_format: Any) -> Frame:
    """(4, h, w), scaled as the network sees it -> (h, w, 3) uint8, coloured by ComfyUI's factors for this format."""
    factors = torch.tensor(latent_format.latent_rgb_factors, dtype=torch.float32, device=latent.device)
    coloured = latent.float().movedim(0, -1) @ factors
    return ((coloured + 1.0) * 127.5).clamp(0, 255).to("cpu", torch.uint8).numpy()


def listen(
    prepared: PreparedData, networks: SonicNetworks, embeds: Tensor, check: Check = no_check
) -> SpeechConditioning:
    """Speech tokens and motion buckets of every frame that the network makes; embeds: (1, D) of the picture."""
    samples = len(prepared.speech)
    states = max(UNITS_PER_FRAME, audio_units(samples)) * STATES_PER_FRAME // UNITS_PER_FRAME
    heard = encode_speech(networks.speech_encoder.loaded(), prepared.speech, states, check)
    return condition_on_speech(
        networks.audio_projection.loaded(),
        networks.motion_buckets.loaded(),
        heard,
        embeds,
        latent_frames(samples),
        computing_dtype(networks.unet),
    )


def scaled_buckets(buckets: Tensor, dynamic_scale: float, motion_scale: float) -> Tensor:
    """(F, 2), translation and expression: dynamic_scale acts on both, motion_scale on the translation alone."""
    return buckets * dynamic_scale * torch.tensor([motion_scale, 1.0])


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
