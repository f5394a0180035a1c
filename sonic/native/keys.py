"""The names of weights: ComfyUI's networks on one side, the published files on the other."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_ENDS = {
    "input_blocks.0.0.": "conv_in.",
    "time_embed.0.": "time_embedding.linear_1.",
    "time_embed.2.": "time_embedding.linear_2.",
    "label_emb.0.0.": "add_embedding.linear_1.",
    "label_emb.0.2.": "add_embedding.linear_2.",
    "out.0.": "conv_norm_out.",
    "out.2.": "conv_out.",
}
_RESNET = {
    "in_layers.0.": "norm1.",
    "in_layers.2.": "conv1.",
    "emb_layers.1.": "time_emb_proj.",
    "out_layers.0.": "norm2.",
    "out_layers.3.": "conv2.",
    "skip_connection.": "conv_shortcut.",
}
_TRANSFORMER = {
    "time_stack.": "temporal_transformer_blocks.",
    "time_pos_embed.0.": "time_pos_embed.linear_1.",
    "time_pos_embed.2.": "time_pos_embed.linear_2.",
    ".to_k_ip.": ".processor.to_k_ip.0.",
    ".to_v_ip.": ".processor.to_v_ip.0.",
}
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
LAYERS_DOWN, LAYERS_UP = 2, 3  # residual blocks a level, on the way down and on the way up


def published_unet_key(key: str) -> str:
    """The name in unet.pth of a weight of ComfyUI's network."""
    for ours, theirs in _ENDS.items():
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    side, number, rest = key.split(".", 2)
    if side == "middle_block":
        return f"mid_block.{_inside(_MIDDLE[number], rest)}"
    layer, part = rest.split(".", 1)
    if side == "input_blocks":
        level, index = divmod(int(number) - 1, LAYERS_DOWN + 1)
        if part.startswith("op."):
            return f"down_blocks.{level}.downsamplers.0.conv.{part.removeprefix('op.')}"
        block = f"down_blocks.{level}"
    else:
        level, index = divmod(int(number), LAYERS_UP)
        block = f"up_blocks.{level}"
        if part.startswith("conv."):
            return f"{block}.upsamplers.0.{part}"
    return f"{block}.{_inside(f'resnets.{index}' if layer == '0' else f'attentions.{index}', part)}"


def _inside(block: str, part: str) -> str:
    """``block``, a dot, and the published name of ``part`` within it."""
    if block.startswith("attentions"):
        return f"{block}.{_renamed(part, _TRANSFORMER)}"
    if part.startswith("time_mixer."):
        return f"{block}.{part}"
    kind = "temporal_res_block" if part.startswith("time_stack.") else "spatial_res_block"
    return f"{block}.{kind}.{_renamed(part.removeprefix('time_stack.'), _RESNET)}"


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for ours, theirs in names.items():
        name = name.replace(ours, theirs, 1)
    return name


_AUTOENCODER = {
    ".mid.block_1.": ".mid_block.resnets.0.",
    ".mid.block_2.": ".mid_block.resnets.1.",
    ".mid.attn_1.norm.": ".mid_block.attentions.0.group_norm.",
    ".mid.attn_1.q.": ".mid_block.attentions.0.to_q.",
    ".mid.attn_1.k.": ".mid_block.attentions.0.to_k.",
    ".mid.attn_1.v.": ".mid_block.attentions.0.to_v.",
    ".mid.attn_1.proj_out.": ".mid_block.attentions.0.to_out.0.",
    ".norm_out.": ".conv_norm_out.",
    ".conv_out.time_mix_conv.": ".time_conv_out.",
    ".nin_shortcut.": ".conv_shortcut.",
    ".downsample.": ".downsamplers.0.",
    ".upsample.": ".upsamplers.0.",
    ".block.": ".resnets.",
}


def published_autoencoder_key(key: str, levels: int = 4) -> str:
    """The name in the published VAE (diffusers' layout) of a weight of ComfyUI's temporal autoencoder."""
    part, rest = key.split(".", 1)
    name = "." + rest
    if rest.startswith("down."):
        name = name.replace(".down.", ".down_blocks.", 1)
    if rest.startswith("up."):
        level = rest.split(".")[1]
        name = name.replace(f".up.{level}.", f".up_blocks.{levels - 1 - int(level)}.", 1)  # counted from the other end
    name = _renamed(name, _AUTOENCODER)
    if part == "decoder" and ".resnets." in name:
        name = _temporal_resnet(name)
    return part + name


def _temporal_resnet(name: str) -> str:
    before, inner = name.split(".resnets.")
    index, inner = inner.split(".", 1)
    if inner == "mix_factor":
        inner = "time_mixer.mix_factor"
    elif inner.startswith("time_stack."):
        inner = "temporal_res_block." + _renamed(inner.removeprefix("time_stack."), _RESNET)
    else:
        inner = "spatial_res_block." + inner
    return f"{before}.resnets.{index}.{inner}"


def with_quant_conv_folded(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published VAE whose 1x1 ``quant_conv`` is part of the encoder's last convolution, as in svd_xt.safetensors."""
    state = dict(published)
    if "quant_conv.weight" not in state:
        return state
    mixing = state.pop("quant_conv.weight").float()[:, :, 0, 0]
    bias = state.pop("quant_conv.bias").float()
    weight, last_bias = state["encoder.conv_out.weight"], state["encoder.conv_out.bias"]
    state["encoder.conv_out.weight"] = (mixing @ weight.float().flatten(1)).reshape(weight.shape).to(weight.dtype)
    state["encoder.conv_out.bias"] = (mixing @ last_bias.float() + bias).to(last_bias.dtype)
    return state
