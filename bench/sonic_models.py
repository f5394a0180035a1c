"""Files of the engine sonic as published, in names, shapes and layout, with random numbers in them.

    python -m bench.sonic_models FOLDER

FOLDER is a folder of models as ComfyUI has one; it takes 5.5 GB. Videos made with it show nothing, but take the time
and the memory that the published files take.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

KEYS = Path(__file__).parents[1] / "tests" / "data" / "golden" / "checkpoint_keys.json.gz"  # shapes, by file and name
CLIP_VIT_H = {
    "num_hidden_layers": 32,
    "hidden_size": 1280,
    "num_attention_heads": 16,
    "intermediate_size": 5120,
    "hidden_act": "gelu",
    "model_type": "clip_vision_model",
    "num_channels": 3,
    "patch_size": 14,
    "image_size": 224,
    "projection_dim": 1024,
}


def write_models(folder: Path, device: str = "cpu") -> None:
    """All files, in half precision where the published ones are. device: where the random numbers are made."""
    shapes: dict[str, dict[str, list[int]]] = json.loads(gzip.decompress(KEYS.read_bytes()))
    source = torch.Generator(device).manual_seed(0)
    for name, keys in shapes.items():
        dtype = torch.float16 if name == "unet.pth" else torch.float32
        weights = random_weights(keys, source, dtype)
        path = folder / "sonic" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            save_file(weights, path)
        else:
            torch.save(weights, path)
    path = folder / "checkpoints" / "svd_xt.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(_svd(source), path)


def _svd(source: torch.Generator) -> dict[str, Tensor]:
    """Image encoder and autoencoder by the names of SVD's checkpoint, whose video network is not read."""
    from .comfyui_here import import_comfyui

    import_comfyui()
    from comfyui_sonic.sonic.native import autoencoder, image_encoder

    clip = random_weights(image_encoder.shapes_of(CLIP_VIT_H), source, torch.float16)
    with torch.device("meta"):
        network = autoencoder.network_of(128, [1, 2, 4, 4])
    shapes = {autoencoder.PREFIX + key: value.shape for key, value in network.state_dict().items()}
    return as_open_clip(clip, image_encoder.PREFIX) | random_weights(shapes, source, torch.float16)


def random_weights(
    shapes: Mapping[str, Iterable[int]], source: torch.Generator, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Of a size that keeps what goes through a network within half precision."""
    made = {}
    for key, sizes in shapes.items():
        shape = list(sizes)
        values = torch.randn(shape, generator=source, device=source.device)
        if len(shape) == 1:
            values = 1 + 0.1 * values if "norm" in key and key.endswith("weight") else 0.05 * values
        elif len(shape) > 1:
            values /= math.sqrt(math.prod(shape[1:]))
        made[key] = values.to("cpu", dtype)
    return made


def as_open_clip(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """CLIP's weights by the names of SVD's checkpoint."""
    names = {
        "visual_projection.weight": "proj",
        "vision_model.embeddings.class_embedding": "class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "positional_embedding",
    }
    parts = {
        "vision_model.pre_layrnorm": "ln_pre",
        "vision_model.post_layernorm": "ln_post",
        "vision_model.encoder.layers": "transformer.resblocks",
        "layer_norm": "ln_",
        "self_attn.out_proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    made: dict[str, Tensor] = {}
    for key, value in weights.items():
        if ".k_proj." in key or ".v_proj." in key:
            continue
        name = names.get(key, key)
        for old, new in parts.items():
            name = name.replace(old, new)
        if ".q_proj." in key:
            value = torch.cat([weights[key.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")])
            name = name.replace("self_attn.q_proj.", "attn.in_proj_")
        made[prefix + name] = value.T.contiguous() if name == "proj" else value
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    write_models(folder, "cuda" if torch.cuda.is_available() else "cpu")
    sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    main()
