"""The engine sonic's video network at any width and without weights, in our arrangement and in the published one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from .comfyui_here import import_comfyui

import_comfyui()

import comfy.model_patcher  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.modules.attention import FeedForward, SpatialVideoTransformer, optimized_attention  # noqa: E402
from comfy.ldm.modules.diffusionmodules import openaimodel  # noqa: E402,F401
from comfyui_sonic.sonic.memory import VAE_CHANNELS  # noqa: E402
from comfyui_sonic.sonic.native import stoppable  # noqa: E402,F401
from comfyui_sonic.sonic.native.autoencoder import DECODE_CHUNK, Autoencoder, network_of  # noqa: E402,F401
from comfyui_sonic.sonic.native.clip import SonicClip  # noqa: E402
from comfyui_sonic.sonic.native.decoder import decode_frames  # noqa: E402
from comfyui_sonic.sonic.native.guider import BRANCHES, Conditioning, denoise  # noqa: E402
from comfyui_sonic.sonic.native.model import SonicConfig, unet_config  # noqa: E402
from comfyui_sonic.sonic.native.network import FaceMask, SonicUNet, SpeechContext, SpeechCrossAttention  # noqa: E402
from comfyui_sonic.sonic.native.shapes import TorchOperations  # noqa: E402
from comfyui_sonic.sonic.options import DOWNSCALE  # noqa: E402
from comfyui_sonic.sonic.schedule import MODEL_FPS  # noqa: E402
from comfyui_sonic.sonic.windows import CONTEXT_LENGTH  # noqa: E402
from torch import Tensor, nn  # noqa: E402

Arrangement = Literal["ours", "published"]
ALL_BRANCHES = len(BRANCHES)
TOKENS = 32


@dataclass(frozen=True)
class Layout:
    """channels: of the first level; factors: how many times as many each level has; context: D of tokens and embeds."""

    channels: int = 320
    context: int = 1024
    head_channels: int = 64
    factors: tuple[int, int, int, int] = (1, 2, 4, 4)

    def config(self) -> SonicConfig:
        """The network's configuration, by the same way as for a file of weights."""
        first, widths = self.channels, [self.channels * factor for factor in self.factors]
        with torch.device("meta"):
            weights = {
                "conv_in.weight": torch.empty(first, 8, 3, 3),
                "conv_out.weight": torch.empty(4, first, 3, 3),
                "add_embedding.linear_1.weight": torch.empty(4 * first, 768),
                "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": torch.empty(first, self.context),
            }
            for level, width in enumerate(widths):
                key = f"down_blocks.{level}.resnets.0.spatial_res_block.conv1.weight"
                weights[key] = torch.empty(width, width, 3, 3)
        return unet_config(weights, "the bench's layout", self.head_channels)


REAL = Layout()


class PublishedCrossAttention(SpeechCrossAttention):
    """The same attention done as the published code does it.

    The picture's one embedding goes through a whole attention, and over time every pixel makes keys and values of the
    picture and of the speech anew from tokens that are repeated for it.
    """

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
    ) -> Tensor:
        """x: (B * T, pixels, C), or over time (B * pixels, T, C), to the same shape."""
        options = transformer_options or {}
        speech: SpeechContext = options["sonic"]
        query = self.to_q(x)
        picture, tokens = context, speech.tokens
        if self.over_time:
            pixels = x.shape[0] // speech.window_tokens.shape[0]
            picture = speech.picture.repeat_interleave(pixels, dim=0)
            tokens = speech.window_tokens.repeat_interleave(pixels, dim=0)
        seen = optimized_attention(query, self.to_k(picture), self.to_v(picture), self.heads)
        heard = self._heard(query, tokens, options)
        if speech.mask is not None and not self.over_time:
            height, width = options["activations_shape"][-2:]
            heard = heard * speech.mask.at(height, width, heard)
        return self.to_out(seen + speech.scale * heard)


def make_network(
    layout: Layout, arrangement: Arrangement, device: str = "meta", dtype: torch.dtype = torch.float32
) -> SonicUNet:
    """On "cpu" its weights are torch's random initial ones, the same for both arrangements after the same seed."""
    config = layout.config().unet_config
    network = SonicUNet(**config, dtype=dtype, device=device, operations=TorchOperations)
    if arrangement == "published":
        made = {"dtype": dtype, "device": device, "operations": TorchOperations}
        weights = network.state_dict()
        for module in network.modules():
            if isinstance(module, SpatialVideoTransformer):
                for block in [*module.transformer_blocks, *module.time_stack]:
                    block.attn2 = PublishedCrossAttention(block.attn2, block.attn2.over_time, **made)
                    block.ff = FeedForward(block.ff.width, glu=True, **made)
                for block in module.time_stack:
                    block.ff_in = FeedForward(block.ff_in.width, glu=True, **made)
        if device != "meta":
            network.load_state_dict(weights)
    return network.eval()


def call(
    network: SonicUNet, layout: Layout, height: int, width: int, frames: int, branches: int, scale: float = 1.0
) -> Tensor:
    """One call for pictures of ``height`` x ``width`` pixels, multiples of 64 -> (branches * frames, 4, h, w).

    scale: of the speech. What goes in is random and the same every time. On the device of the network's weights.
    """
    weight = next(network.parameters())
    source = None if weight.is_meta else torch.Generator().manual_seed(0)

    def random(*shape: int, dtype: torch.dtype = weight.dtype) -> Tensor:
        if weight.is_meta:
            return torch.empty(shape, dtype=dtype, device="meta")
        return torch.randn(shape, generator=source).to(weight.device, dtype)

    rows = branches * frames
    with torch.inference_mode():
        result: Tensor = network(
            random(rows, 8, height // DOWNSCALE, width // DOWNSCALE),
            random(rows, dtype=torch.float32),
            context=random(branches, 1, layout.context).repeat_interleave(frames, dim=0),
            y=random(branches, 768).repeat_interleave(frames, dim=0),
            num_video_frames=frames,
            sonic_tokens=random(rows, TOKENS, layout.context),
            sonic_mask=FaceMask(random(height, width, dtype=torch.float32)),
            sonic_scale=scale,
        )
    return result


def decoding_network(dtype: torch.dtype) -> Any:
    """ComfyUI's autoencoder of SVD's size on "meta"."""
    with torch.device("meta"):
        return network_of(VAE_CHANNELS, [1, 2, 4, 4]).to(dtype).requires_grad_(False)


def decode_in_parts(autoencoder: Any, latents: Tensor) -> Tensor:
    """As the engine decodes."""
    return decode_frames(autoencoder.decoder, latents)


class EnlargedLatents:
    """Stands where the autoencoder would: three latent channels, enlarged, are the frames."""

    def decode_chunk(self, latents: Tensor, check: Any) -> Tensor:
        return nn.functional.interpolate(latents[:, :3].sigmoid(), scale_factor=DOWNSCALE, mode="bilinear")


def clip_of_random_latents(seconds: float, size: int) -> SonicClip:
    """A clip at the model's own rate, so that nothing is interpolated."""
    frames = round(seconds * MODEL_FPS)
    latents = torch.randn(frames, 4, size // DOWNSCALE, size // DOWNSCALE, generator=torch.Generator().manual_seed(0))
    decoder: Any = EnlargedLatents()
    unused: Any = None
    return SonicClip(latents, decoder, unused, frames, MODEL_FPS, lambda: None)


class CountedCalls(nn.Module):
    """Stands where the network would and notes how many frames each call brings."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.rows = dtype, Counter[int]()

    def forward(self, x: Tensor, timesteps: Tensor, **_: Any) -> Tensor:
        self.rows[len(x)] += 1
        return torch.zeros_like(x[:, :4])


def calls_of_a_step(size: int, frames: int) -> dict[int, int]:
    """Calls by how many branches ComfyUI takes together, in one step of the real sampling, run without the network."""
    config = REAL.config()
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="meta")
    counted = CountedCalls(torch.float32)
    model.diffusion_model = counted
    cpu = torch.device("cpu")
    side = size // DOWNSCALE
    conditioning = Conditioning(
        picture_latents=torch.zeros(1, 4, side, side),
        picture_embeds=torch.zeros(1, REAL.context),
        tokens=torch.zeros(frames, TOKENS, REAL.context),
        silent_tokens=torch.zeros(TOKENS, REAL.context),
        buckets=torch.zeros(frames, 2),
        mask=FaceMask(torch.ones(size, size)),
    )
    noise = torch.zeros(frames, 4, side, side)
    denoise(comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu), conditioning, noise, steps=1)
    return {rows // CONTEXT_LENGTH: times for rows, times in sorted(counted.rows.items())}
