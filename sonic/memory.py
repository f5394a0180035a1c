"""What the engine sonic needs of the device's memory, from the size of picture and clip alone. Numbers only.

The laws are those that ``python -m bench.sonic_memory`` holds against the networks of real size; docs/sonic.md has the
figures. Weights are not in them: where memory is short, ComfyUI keeps those elsewhere and brings them for use.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import NotEnoughMemory
from .options import DOWNSCALE, MIN_RESOLUTION, SIZE_STEP
from .schedule import MODEL_FPS
from .windows import CONTEXT_LENGTH

UNET_CHANNELS, VAE_CHANNELS = 320, 128  # widths of the published networks at full size
MARGIN = 1.15  # for what the kernels of a card take for themselves
_GB = 1e9

# One branch of one window through the video network: tensors of its first level that live at once.
_CALL_TENSORS = 15.05
_CALL_FIXED = 40e6  # numbers: a feed-forward's slice, as far as it is not hidden by what lives elsewhere
# A chunk of eight frames through the decoder, and one picture through the encoder. Norms are reckoned in float32.
_DECODE_TENSORS, _DECODE_TENSORS_IN_HALF, _DECODE_FIXED = 17.1, 19.2, 120e6
_ENCODE_TENSORS = 3.0
_CLIP_TENSORS = 8  # float32 tensors of the whole clip's latents that the sampler holds


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes at the peak of each stage; of all branches and windows at least one goes through at a time.

    denoising, decoding, encoding: as named; clip: what grows with the clip's length, held while denoising.
    """

    denoising: int
    decoding: int
    encoding: int
    clip: int

    @property
    def peak(self) -> int:
        return int(MARGIN * max(self.denoising + self.clip, self.decoding, self.encoding))


def memory_need(width: int, height: int, frames: int, unet_bytes: int = 2, vae_bytes: int = 2) -> MemoryNeed:
    """For a picture in pixels and ``frames`` at the model's rate; unet_bytes, vae_bytes: of a number, 2 in half
    precision."""
    pixels = width * height
    latent_pixels = pixels // DOWNSCALE**2
    decoded = _DECODE_TENSORS if vae_bytes == 4 else _DECODE_TENSORS_IN_HALF
    call = unet_bytes * (_CALL_TENSORS * UNET_CHANNELS * CONTEXT_LENGTH * latent_pixels + _CALL_FIXED)
    return MemoryNeed(
        denoising=int(call),
        decoding=int(vae_bytes * decoded * VAE_CHANNELS * pixels + _DECODE_FIXED),
        encoding=int(vae_bytes * _ENCODE_TENSORS * VAE_CHANNELS * pixels),
        clip=_CLIP_TENSORS * 4 * 4 * frames * latent_pixels,
    )


def sonic_memory(width: int, height: int, frames: int) -> str:
    """What Sonic needs beside its weights in half precision, for people; ``frames`` at the model's rate."""
    return f"{memory_need(width, height, frames).peak / _GB:.1f} GB"


def check_memory(
    width: int, height: int, frames: int, free: int, device: str, unet_bytes: int = 2, vae_bytes: int = 2
) -> MemoryNeed:
    """What a clip needs. Raises NotEnoughMemory, with a size that fits, when it is more than ``free`` bytes.

    free: what is free on the device, or can be freed; device: its name.
    """
    need = memory_need(width, height, frames, unet_bytes, vae_bytes)
    if need.peak <= free:
        return need
    fitting = _fitting(width, height, frames, free, unet_bytes, vae_bytes)
    if fitting:
        side, least = fitting
        advice = f"set min_resolution to {side}, which needs {least / _GB:.1f} GB"
    elif need.clip > need.denoising:
        advice = "use a shorter duration"
    else:
        advice = "end other programs that use it, or take the engine 'draft'"
    raise NotEnoughMemory(
        f"{frames / MODEL_FPS:.0f} s of {width} x {height} pixels need {need.peak / _GB:.1f} GB of memory beside the "
        f"weights, and {free / _GB:.1f} GB can be had on {device}; {advice}."
    )


def _fitting(
    width: int, height: int, frames: int, free: int, unet_bytes: int, vae_bytes: int
) -> tuple[int, int] | None:
    """The largest short side below the present one that fits, and the bytes it needs."""
    short = min(width, height)
    for side in range(short - SIZE_STEP, MIN_RESOLUTION[0] - 1, -SIZE_STEP):
        new_width, new_height = (round(edge * side / short / SIZE_STEP) * SIZE_STEP for edge in (width, height))
        peak = memory_need(new_width, new_height, frames, unet_bytes, vae_bytes).peak
        if peak <= free:
            return side, peak
    return None
