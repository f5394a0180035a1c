"""Names and shapes of the weights in Sonic's published video network, told without building it.

The layout is SVD's with 32 cross-attentions that also hear; the widths are those of the file that is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from .errors import BadWeights

Shape = tuple[int, ...]
Shapes = dict[str, Shape]

LEVELS = 4
_RESNETS_DOWN, _RESNETS_UP = 2, 3  # of each level, on the way down and on the way up
_HEARING_LEVELS = 3  # of the finest resolutions; the coarsest level has no attention
_GATED = 8  # rows of a GEGLU layer for each channel: four, twice

_WIDTHS = [f"down_blocks.{level}.resnets.0.spatial_res_block.conv1.weight" for level in range(LEVELS)]
_CONTEXT = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
_TOKENS = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_ip.0.weight"
_IDS = "add_embedding.linear_1.weight"
_TELLING = ("conv_in.weight", "conv_out.weight", _IDS, _CONTEXT, _TOKENS, *_WIDTHS)


def unet_shapes(found: Mapping[str, Sequence[int]], what: str) -> Shapes:
    """Every weight that a file with the widths of ``found`` has to hold, by its published name.

    found: shapes by name; what: the file, for errors. Raises BadWeights when the weights that tell the widths are not
    there, which is so for every other network.
    """
    missing = [key for key in _TELLING if key not in found]
    if missing:
        raise BadWeights(f"The weights '{what}' are not Sonic's UNet: {', '.join(missing)} missing.", missing)
    first, inputs = found["conv_in.weight"][:2]
    widths = [found[key][0] for key in _WIDTHS]
    parts = _Parts(4 * first, found[_CONTEXT][1], found[_TOKENS][1])
    shapes = {
        **_convolution("conv_in", first, inputs),
        **_linear("time_embedding.linear_1", parts.embedding, first),
        **_linear("time_embedding.linear_2", parts.embedding, parts.embedding),
        **_linear("add_embedding.linear_1", parts.embedding, found[_IDS][1]),
        **_linear("add_embedding.linear_2", parts.embedding, parts.embedding),
        **_norm("conv_norm_out", first),
        **_convolution("conv_out", found["conv_out.weight"][0], first),
    }
    skips = [first]  # channels that each level hands across, in the order they are made
    for level, (before, width) in enumerate(pairwise([first, *widths])):
        block, last = f"down_blocks.{level}", level == LEVELS - 1
        for index in range(_RESNETS_DOWN):
            shapes |= parts.resnet(f"{block}.resnets.{index}", before if index == 0 else width, width)
            if level < _HEARING_LEVELS:
                shapes |= parts.transformer(f"{block}.attentions.{index}", width)
        if not last:
            shapes |= _convolution(f"{block}.downsamplers.0.conv", width, width)
        skips += [width] * (_RESNETS_DOWN if last else _RESNETS_DOWN + 1)
    for index in range(2):
        shapes |= parts.resnet(f"mid_block.resnets.{index}", widths[-1], widths[-1])
    shapes |= parts.transformer("mid_block.attentions.0", widths[-1])
    channels = widths[-1]
    for level, width in enumerate(reversed(widths)):
        block = f"up_blocks.{level}"
        for index in range(_RESNETS_UP):
            shapes |= parts.resnet(f"{block}.resnets.{index}", channels + skips.pop(), width)
            channels = width
            if level >= LEVELS - _HEARING_LEVELS:
                shapes |= parts.transformer(f"{block}.attentions.{index}", width)
        if level < LEVELS - 1:
            shapes |= _convolution(f"{block}.upsamplers.0.conv", width, width)
    return shapes


def _norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def _linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _convolution(name: str, outputs: int, inputs: int, kernel: Shape = (3, 3)) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, *kernel), f"{name}.bias": (outputs,)}


class _Parts:
    """The repeated parts. Channels of: embedding, what a block is told; context, the picture; tokens, the speech."""

    def __init__(self, embedding: int, context: int, tokens: int) -> None:
        self.embedding, self.context, self.tokens = embedding, context, tokens

    def resnet(self, name: str, inputs: int, outputs: int) -> Shapes:
        spatial = f"{name}.spatial_res_block"
        shapes = {
            **self._resnet(spatial, inputs, outputs, (3, 3)),
            **self._resnet(f"{name}.temporal_res_block", outputs, outputs, (3, 1, 1)),
            f"{name}.time_mixer.mix_factor": (1,),
        }
        if inputs != outputs:
            shapes |= _convolution(f"{spatial}.conv_shortcut", outputs, inputs, (1, 1))
        return shapes

    def _resnet(self, name: str, inputs: int, outputs: int, kernel: Shape) -> Shapes:
        return {
            **_norm(f"{name}.norm1", inputs),
            **_convolution(f"{name}.conv1", outputs, inputs, kernel),
            **_linear(f"{name}.time_emb_proj", outputs, self.embedding),
            **_norm(f"{name}.norm2", outputs),
            **_convolution(f"{name}.conv2", outputs, outputs, kernel),
        }

    def transformer(self, name: str, channels: int) -> Shapes:
        temporal = f"{name}.temporal_transformer_blocks.0"
        return {
            **_norm(f"{name}.norm", channels),
            **_linear(f"{name}.proj_in", channels, channels),
            **self._transformer(f"{name}.transformer_blocks.0", channels),
            **_norm(f"{temporal}.norm_in", channels),
            **_feed_forward(f"{temporal}.ff_in", channels),
            **self._transformer(temporal, channels),
            **_linear(f"{name}.time_pos_embed.linear_1", 4 * channels, channels),
            **_linear(f"{name}.time_pos_embed.linear_2", channels, 4 * channels),
            f"{name}.time_mixer.mix_factor": (1,),
            **_linear(f"{name}.proj_out", channels, channels),
        }

    def _transformer(self, name: str, channels: int) -> Shapes:
        shapes = _feed_forward(f"{name}.ff", channels)
        for number in (1, 2, 3):
            shapes |= _norm(f"{name}.norm{number}", channels)
        for attention, inputs in (("attn1", channels), ("attn2", self.context)):
            shapes[f"{name}.{attention}.to_q.weight"] = (channels, channels)
            shapes[f"{name}.{attention}.to_k.weight"] = (channels, inputs)
            shapes[f"{name}.{attention}.to_v.weight"] = (channels, inputs)
            shapes |= _linear(f"{name}.{attention}.to_out.0", channels, channels)
        for what in ("k", "v"):
            shapes[f"{name}.attn2.processor.to_{what}_ip.0.weight"] = (channels, self.tokens)
        return shapes


def _feed_forward(name: str, channels: int) -> Shapes:
    return {
        **_linear(f"{name}.net.0.proj", _GATED * channels, channels),
        **_linear(f"{name}.net.2", channels, 4 * channels),
    }
