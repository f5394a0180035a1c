"""The files of a small Sonic: published names and layouts, in a folder of models as ComfyUI has one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from comfyui_sonic.sonic.audio_encoder import CHUNK, HOP, WHISPER_HEADS, WhisperEncoder
from comfyui_sonic.sonic.conditioning import BUCKET_STATES, MotionBucketPredictor
from comfyui_sonic.sonic.native import autoencoder, image_encoder
from comfyui_sonic.sonic.postprocess.interpolation import FrameInterpolation
from safetensors.torch import save_file
from torch import Tensor, nn

from ..sonic_models import as_open_clip, random_weights
from .learning import random_start
from .network import CONTEXT

LISTENED, LISTENED_INNER, LISTENING_LAYERS = 16 * WHISPER_HEADS, 192, 4
PLACES = CHUNK // HOP // 2
QUIET_PLACES = 0.02  # what is said when matters little
CLIP = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": image_encoder.HEADS,
    "intermediate_size": 96,
    "hidden_act": "gelu",
    "model_type": "clip_vision_model",
    "num_channels": 3,
    "patch_size": 32,
    "image_size": 224,
    "projection_dim": CONTEXT,
}


def random_whisper(seed: int) -> WhisperEncoder:
    """Random in its convolutions; its layers pass on what they are given, as random attention would only blur it."""
    encoder = WhisperEncoder(LISTENED, LISTENING_LAYERS, LISTENED_INNER, PLACES, WHISPER_HEADS)
    random_start(encoder, seed)
    encoder.embed_positions.weight.data *= QUIET_PLACES * LISTENED**0.5
    for name, parameter in encoder.named_parameters():
        if ".out_proj." in name or ".fc2." in name:
            nn.init.zeros_(parameter)
    return encoder.eval().requires_grad_(False)


def random_image_encoder(seed: int) -> dict[str, Tensor]:
    """By the names of transformers."""
    return random_weights(image_encoder.shapes_of(CLIP), torch.Generator().manual_seed(seed), torch.float32)


def write_files(
    models: Path,
    unet: Mapping[str, Tensor],
    projection: Mapping[str, Tensor],
    whisper: nn.Module,
    clip: Mapping[str, Tensor],
    taught_autoencoder: Any,
    rife: Path | None,
) -> None:
    """rife: the published file; without it, the frames between are the mean of their neighbours."""
    sonic, checkpoints = models / "sonic", models / "checkpoints"
    for folder in (sonic / "whisper-tiny", sonic / "RIFE", checkpoints):
        folder.mkdir(parents=True, exist_ok=True)
    torch.save(dict(unet), sonic / "unet.pth")
    torch.save(dict(projection), sonic / "audio2token.pth")
    torch.save(_buckets_of_stillness(), sonic / "audio2bucket.pth")
    heard = {f"model.encoder.{name}": value for name, value in whisper.state_dict().items()}
    save_file(heard, sonic / "whisper-tiny" / "model.safetensors")
    if rife is not None:
        shutil.copyfile(rife, sonic / "RIFE" / "flownet.pkl")
    else:
        torch.save({f"module.{key}": value for key, value in _blending().items()}, sonic / "RIFE" / "flownet.pkl")
    svd = as_open_clip(clip, image_encoder.PREFIX)
    svd |= {autoencoder.PREFIX + key: value.contiguous() for key, value in taught_autoencoder.state_dict().items()}
    svd["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(4)
    save_file(svd, checkpoints / "svd_xt.safetensors")


def _buckets_of_stillness() -> dict[str, Tensor]:
    """Always the same motion."""
    network = MotionBucketPredictor(BUCKET_STATES * LISTENED + CONTEXT, 64, 2)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    return dict(network.state_dict())


def _blending() -> dict[str, Tensor]:
    """RIFE's network that sees no motion and takes both neighbours alike."""
    network = FrameInterpolation(channels=16, inputs=11)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    return dict(network.state_dict())
