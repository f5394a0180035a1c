"""The Sonic network as a model of ComfyUI: its configuration, its conditioning, its loading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.conds
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import Timestep
from comfy.model_base import BaseModel, ModelType, SVD_img2vid
from torch import Tensor

from ..checkpoints import check_weights
from ..errors import BadInput, BadWeights
from ..interruption import Check, no_check
from .keys import LAYERS_DOWN, LAYERS_UP, published_unet_key
from .network import SonicUNet
from .shapes import TorchOperations, weight_shapes
from .stoppable import stoppable

HEAD_CHANNELS = 64
_CONTEXT_KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"


class SonicConfig(comfy.supported_models.SVD_img2vid):
    """SVD's configuration with Sonic's network; not on ComfyUI's list of models, only our loader makes it."""

    # ComfyUI reckons 0.01 MB a frame, latent pixel and byte of a number, times this. Counted are 0.0046
    # (bench.sonic_memory); the rest is for what the kernels of a card take for themselves.
    memory_usage_factor = 0.6

    def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> SonicModel:
        return SonicModel(self, device=device)


class SonicModel(SVD_img2vid):
    """SVD whose three added ids are frames a second and two motion buckets, and which hears speech tokens."""

    def __init__(self, model_config: Any, model_type: Any = ModelType.V_PREDICTION_EDM, device: Any = None) -> None:
        BaseModel.__init__(self, model_config, model_type, device=device, unet_model=SonicUNet)
        self.embedder = Timestep(256)

    def time_ids(self, fps: float, buckets: Tensor) -> Tensor:
        """(1, 768) from frames a second and the two motion buckets, (2,)."""
        ids = torch.cat([torch.tensor([fps]), buckets.float().cpu()])
        return self.embedder(ids).flatten()[None]

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """From a branch's conditioning to the network's arguments.

        concat_latent_image (1, 4, h, w), cross_attn (1, 1, D), sonic_tokens (F or 1, 32, D), sonic_buckets (F, 2),
        sonic_fps, sonic_mask, sonic_scale; F is the number of frames of the noise. Raises BadInput.
        """
        noise: Tensor = kwargs["noise"]
        if "sonic_tokens" not in kwargs:
            raise BadInput("This conditioning is not Sonic's; connect the ones that Sonic Conditioning gives.")
        frames = kwargs["sonic_buckets"].shape[0]
        if frames != noise.shape[0]:
            raise BadInput(
                f"The conditioning is for {frames} frames and the latent has {noise.shape[0]}; connect the latent that "
                "Sonic Conditioning gives."
            )
        return {
            "c_concat": comfy.conds.CONDNoiseShape(kwargs["concat_latent_image"]),
            "c_crossattn": comfy.conds.CONDCrossAttn(kwargs["cross_attn"]),
            "y": comfy.conds.CONDRegular(self.time_ids(kwargs["sonic_fps"], kwargs["sonic_buckets"].mean(dim=0))),
            "num_video_frames": comfy.conds.CONDConstant(noise.shape[0]),
            "sonic_tokens": comfy.conds.CONDRegular(kwargs["sonic_tokens"]),
            "sonic_mask": comfy.conds.CONDConstant(kwargs["sonic_mask"]),
            "sonic_scale": comfy.conds.CONDConstant(kwargs["sonic_scale"]),
        }


def unet_config(published: Mapping[str, Tensor], what: str, head_channels: int = HEAD_CHANNELS) -> SonicConfig:
    """The configuration for weights by their published names; the layout is SVD's, the widths are the file's.

    Raises BadWeights when the weights that tell the widths are not there.
    """
    widths = [f"down_blocks.{level}.resnets.0.spatial_res_block.conv1.weight" for level in range(4)]
    needed = ["conv_in.weight", "conv_out.weight", "add_embedding.linear_1.weight", _CONTEXT_KEY, *widths]
    missing = [key for key in needed if key not in published]
    if missing:
        raise BadWeights(f"The weights '{what}' are not Sonic's UNet: {', '.join(missing)} missing.", missing)
    model_channels, in_channels = published["conv_in.weight"].shape[:2]
    config = SonicConfig(
        {
            "image_size": 32,
            "use_checkpoint": False,
            "use_spatial_transformer": True,
            "legacy": False,
            "num_classes": "sequential",
            "adm_in_channels": published["add_embedding.linear_1.weight"].shape[1],
            "in_channels": in_channels,
            "out_channels": published["conv_out.weight"].shape[0],
            "model_channels": model_channels,
            "channel_mult": [published[key].shape[0] // model_channels for key in widths],
            "num_res_blocks": [LAYERS_DOWN] * 4,
            "transformer_depth": [1] * (3 * LAYERS_DOWN) + [0] * LAYERS_DOWN,
            "transformer_depth_middle": 1,
            "transformer_depth_output": [1] * (3 * LAYERS_UP) + [0] * LAYERS_UP,
            "use_linear_in_transformer": True,
            "context_dim": published[_CONTEXT_KEY].shape[1],
            "extra_ff_mix_layer": True,
            "use_spatial_context": True,
            "merge_strategy": "learned_with_images",
            "merge_factor": 0.0,
            "video_kernel_size": [3, 1, 1],
            "use_temporal_resblock": True,
            "use_temporal_attention": True,
            "disable_temporal_crossattention": False,
        }
    )
    config.unet_config["num_head_channels"] = head_channels
    return config


def load_unet(
    published: Mapping[str, Tensor],
    what: str,
    dtype: torch.dtype | None = None,
    head_channels: int = HEAD_CHANNELS,
    check: Check = no_check,
) -> Any:
    """A ModelPatcher over a SonicModel with these weights.

    published: unet.pth's names; every one is used. what: the file, for errors. dtype: None is ComfyUI's choice.
    check: called before each weight is read; what it raises passes through. Raises BadWeights.
    """
    config = unet_config(published, what, head_channels)
    management = comfy.model_management
    device, offload = management.get_torch_device(), management.unet_offload_device()
    supported = list(config.supported_inference_dtypes)
    if dtype is None:
        parameters = sum(value.numel() for value in published.values())
        dtype = management.unet_dtype(model_params=parameters, supported_dtypes=supported)
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, supported))
    names = checked_names(config, published, what)
    model = config.get_model({}, "", device=offload)
    weights = {}
    for key, name in names.items():
        check()
        weights[key] = published[name].to(dtype)
    model.diffusion_model.load_state_dict(weights)
    stoppable(model.diffusion_model)
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)


def checked_names(config: SonicConfig, published: Mapping[str, Tensor], what: str) -> dict[str, str]:
    """The published name of every weight of the network; raises BadWeights unless the weights are just these."""
    shapes = weight_shapes(lambda: SonicUNet(**config.unet_config, device="meta", operations=TorchOperations))
    names = {key: published_unet_key(key) for key in shapes}
    check_weights(what, {names[key]: shape for key, shape in shapes.items()}, published)
    return names
