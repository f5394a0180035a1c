"""The picture as CLIP sees it: the image encoder of SVD, by ComfyUI's network."""

from __future__ import annotations

import math
from typing import Any

import comfy.clip_model
import comfy.clip_vision
import comfy.model_management
import comfy.ops
import torch
from torch import Tensor

from ..checkpoints import Weights, check_weights
from ..errors import BadWeights
from ..frames import Frame
from ..portrait import resize
from .managed import Managed
from .shapes import TorchOperations, weight_shapes

PREFIX = "conditioner.embedders.0.open_clip.model.visual."  # in svd_xt.safetensors
HEADS = 16  # of CLIP ViT-H/14
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_LAYER = "vision_model.encoder.layers."
_POSITIONS = "vision_model.embeddings.position_embedding.weight"
_PATCHES = "vision_model.embeddings.patch_embedding.weight"


class ImageEncoder:
    """CLIP's vision network with its projection."""

    def __init__(self, weights: Weights, what: str, dtype: torch.dtype | None = None, heads: int = HEADS) -> None:
        """weights: as in SVD's checkpoint, or by the names of transformers. Raises BadWeights."""
        if any(key.startswith(PREFIX) for key in weights):
            weights = comfy.clip_vision.convert_to_transformers(dict(weights), PREFIX)
        needed = (_PATCHES, _POSITIONS, f"{_LAYER}0.mlp.fc1.weight", "visual_projection.weight")
        missing = [key for key in needed if key not in weights]
        if missing:
            raise BadWeights(f"'{what}' holds no CLIP image encoder of SVD: {', '.join(missing)} missing.", missing)
        config = network_config(weights, heads)
        shapes = shapes_of(config)
        used = {key: weights[key] for key in shapes if key in weights}  # other parts of a checkpoint do no harm
        check_weights(what, shapes, used)
        management = comfy.model_management
        dtype = dtype or management.text_encoder_dtype(management.get_torch_device())
        offload = management.unet_offload_device()
        network = comfy.clip_model.CLIPVisionModelProjection(config, dtype, offload, comfy.ops.manual_cast)
        network.load_state_dict(used)
        self.side: int = config["image_size"]  # pixels
        self._network = Managed(network.eval(), in_parts=True)

    def loaded(self) -> Any:
        """ComfyUI's network, on its device."""
        return self._network.loaded()

    def encode(self, picture: Frame) -> Tensor:
        """(H, W, 3) uint8 -> (1, D) float32 on the CPU. The picture is squashed to a square, as published."""
        network = self.loaded()
        pixels = normalised(resize(picture, (self.side, self.side))).to(self._network.device)
        with torch.inference_mode():
            embeds: Tensor = network(pixel_values=pixels)[2]
        return embeds.float().cpu()


def network_config(weights: Weights, heads: int = HEADS) -> dict[str, Any]:
    """What ComfyUI's network is told; widths and depth are those of the weights."""
    hidden, channels, patch = weights[_PATCHES].shape[:3]
    return {
        "num_hidden_layers": 1 + max(int(key.split(".")[3]) for key in weights if key.startswith(_LAYER)),
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": weights[f"{_LAYER}0.mlp.fc1.weight"].shape[0],
        "hidden_act": "gelu",
        "model_type": "clip_vision_model",
        "num_channels": channels,
        "patch_size": patch,
        "image_size": math.isqrt(weights[_POSITIONS].shape[0] - 1) * patch,
        "projection_dim": weights["visual_projection.weight"].shape[0],
    }


def shapes_of(config: dict[str, Any]) -> dict[str, torch.Size]:
    """Shapes by name of the network's weights."""
    model = comfy.clip_model.CLIPVisionModelProjection
    return weight_shapes(lambda: model(config, torch.float32, "meta", TorchOperations))


def normalised(picture: Frame) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32 with the mean and spread of CLIP's training pictures taken out."""
    pixels = torch.from_numpy(picture).permute(2, 0, 1).float() / 255.0
    return ((pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])[None]
