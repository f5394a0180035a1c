"""Picture -> latents -> frames: SVD's temporal autoencoder, by ComfyUI's network."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from comfy.ldm.models.autoencoder import AutoencodingEngine
from torch import Tensor

from ..checkpoints import Weights, check_weights
from ..errors import BadWeights, NotFinite
from ..frames import Frame
from ..interruption import Check, no_check
from ..memory import memory_need
from ..options import DOWNSCALE
from .decoder import decode_frames
from .keys import published_autoencoder_key, with_quant_conv_folded
from .managed import Managed

PREFIX = "first_stage_model."  # in svd_xt.safetensors
LATENT_SCALE = 0.18215
DECODE_CHUNK = 8  # frames that the decoder sees together; it mixes them, so that another number is another picture
_LEVELS = 4
_VIDEO_KERNEL = [3, 1, 1]


class Autoencoder:
    """Encodes one picture, decodes frames in chunks of eight, however much memory is free."""

    def __init__(self, weights: Weights, what: str, dtype: torch.dtype | None = None) -> None:
        """weights: as in SVD's checkpoint, with or without prefix, or as published with Sonic. Raises BadWeights."""
        named = {key.removeprefix(PREFIX): value for key, value in weights.items()}
        published = any(key.startswith("decoder.up_blocks.") for key in named)
        widths = [f"encoder.down.{level}.block.0.conv1.weight" for level in range(_LEVELS)]
        needed = [published_autoencoder_key(key) if published else key for key in ("encoder.conv_in.weight", *widths)]
        missing = [key for key in needed if key not in named]
        if missing:
            raise BadWeights(f"'{what}' holds no video autoencoder of SVD: {', '.join(missing)} missing.", missing)
        management = comfy.model_management
        first, *others = (named[key].shape[0] for key in needed)
        network = network_of(first, [width // first for width in others])
        own = network.state_dict()
        names = {key: published_autoencoder_key(key) if published else key for key in own}
        found = with_quant_conv_folded(named)
        used = {name: found[name] for name in names.values() if name in found}  # other parts of a checkpoint do no harm
        check_weights(what, {name: _stored_shape(name, own[key].shape) for key, name in names.items()}, used)
        network.load_state_dict({key: used[name].reshape(own[key].shape) for key, name in names.items()})
        self.device = management.vae_device()
        half_first = [torch.float16, torch.bfloat16, torch.float32]  # published in half precision
        self.dtype = dtype or management.vae_dtype(self.device, half_first)
        self._network = Managed(network.eval().requires_grad_(False).to(self.dtype), self.device)

    @property
    def weight_bytes(self) -> int:
        """What its weights take of a device, on which it works only as a whole."""
        return self._network.weight_bytes

    def loaded(self, working_memory: float = 0) -> Any:
        """ComfyUI's network, on its device."""
        return self._network.loaded(working_memory)

    def encode(self, picture: Frame) -> Tensor:
        """(H, W, 3) uint8, sides multiples of 8 -> (1, 4, H/8, W/8) float32 on the CPU: the mean, not scaled."""
        need = memory_need(picture.shape[1], picture.shape[0], 0, vae_bytes=self.dtype.itemsize)
        network = self.loaded(need.encoding)
        with torch.inference_mode():
            latents: Tensor = network.encode(signed(picture).to(self.device, self.dtype))
        return latents.float().cpu()

    def decode_chunk(self, latents: Tensor, check: Check = no_check) -> Tensor:
        """Up to 8 consecutive frames (n, 4, h, w), not scaled -> (n, 3, 8h, 8w) float32 in 0..1 on the device.

        check: called before each piece of the work; what it raises passes through. Raises NotFinite.
        """
        height, width = (DOWNSCALE * side for side in latents.shape[-2:])
        network = self.loaded(memory_need(width, height, 0, vae_bytes=self.dtype.itemsize).decoding)
        with torch.inference_mode():
            frames = decode_frames(network.decoder, latents.to(self.device, self.dtype), check)
            if not frames.isfinite().all():
                raise NotFinite.of("The decoder", self.dtype)
            return (frames.float() * 0.5 + 0.5).clamp_(0, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """All frames of a clip (F, 4, h, w), not scaled -> (F, 3, 8h, 8w) float32 in 0..1 on the CPU."""
        frames, _, height, width = latents.shape
        decoded = torch.empty(frames, 3, height * DOWNSCALE, width * DOWNSCALE)
        for start in range(0, frames, DECODE_CHUNK):
            decoded[start : start + DECODE_CHUNK] = self.decode_chunk(latents[start : start + DECODE_CHUNK])
        return decoded


def signed(picture: Frame) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32 in -1..1."""
    return ((torch.from_numpy(picture).permute(2, 0, 1).float() / 255.0 - 0.5) / 0.5)[None]


def _stored_shape(name: str, shape: torch.Size) -> torch.Size:
    """ComfyUI's 1x1 convolutions of the attention are linear layers in the published file."""
    return shape[:2] if ".attentions." in name else shape


def network_of(channels: int, multipliers: list[int]) -> Any:
    """ComfyUI's network with ``channels`` in its first level and that many times more in each of the others."""
    encoder: dict[str, Any] = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": channels,
        "ch_mult": multipliers,
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    decoder = {**encoder, "video_kernel_size": _VIDEO_KERNEL, "alpha": 0.0}
    return AutoencodingEngine(
        regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
        encoder_config={"target": "comfy.ldm.modules.diffusionmodules.model.Encoder", "params": encoder},
        decoder_config={"target": "comfy.ldm.modules.temporal_ae.VideoDecoder", "params": decoder},
    )


def try_decoder() -> None:
    """Raises whatever it may unless ComfyUI's decoder still is the one that is taken apart here. Costs no memory."""
    with torch.device("meta"):
        decoder = network_of(32, [1, 2, 4, 4]).decoder
        decoder.mid.attn_1 = torch.nn.Identity()  # ComfyUI's asks how much memory a device has, and this one has none
        decode_frames(decoder, torch.empty(2, 4, 8, 8))
