"""The small video network and the projection of the speech before it, taught together, frame by frame."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from comfy.ldm.modules.attention import SpatialVideoTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, Timestep, VideoResBlock
from comfyui_sonic.sonic.audio_encoder import WhisperEncoder, encode_speech
from comfyui_sonic.sonic.conditioning import STATES_PER_FRAME, TOKEN_LEAD, TOKEN_STATES, AudioProjection, states_around
from comfyui_sonic.sonic.native.autoencoder import LATENT_SCALE, signed
from comfyui_sonic.sonic.native.guider import APPEARANCE_GUIDANCE, AUDIO_GUIDANCE, BRANCHES
from comfyui_sonic.sonic.native.keys import published_unet_key
from comfyui_sonic.sonic.native.network import FaceMask, SonicUNet, SpeechCrossAttention
from comfyui_sonic.sonic.native.pipeline import mask_of
from comfyui_sonic.sonic.options import DOWNSCALE
from comfyui_sonic.sonic.schedule import MODEL_FPS, SIGMA_MAX, UNITS_PER_FRAME, audio_units
from torch import Tensor, nn

from ..sonic_network import TOKENS, Layout, make_network
from .learning import LogOfLosses, learn, random_start
from .lessons import Lesson

CONTEXT, HIDDEN = 64, 256
LAYOUT = Layout(64, CONTEXT, factors=(1, 1, 2, 2))
# A square of the latents first, then the mouth in many frames, then whole frames.
LESSON_PLAN = ((0.6, 24, 2), (0.85, 16, 6), (1.0, 0, 2))  # until, side or 0 for all, frames a step
LEAST_SIGMA, MOST_MOTION = 0.3, 60.0
LIVELY_WEIGHT = 3.0
MOVES, READING_STEPS = 3, 200  # principal components; nearly all of the motion is in three
AROUND = 4  # latent pixels that a square may lie beside the liveliest places
ONLY_IN_SPACE = 20.0  # a mix factor whose sigmoid is 1: nothing of the layers over time


@dataclass(frozen=True)
class Heard:
    """A lesson as the network meets it.

    target: (F, 4, h, w), scaled; picture: (4, h, w), not scaled; states: (F, 10, layers, D) of Whisper; lively: (h, w),
    how much each place changes over time, 1 on average; mask: (H, W), where the speech acts; embeds: (1, D) of the
    image encoder.
    """

    target: Tensor
    picture: Tensor
    states: Tensor
    lively: Tensor
    mask: Tensor
    embeds: Tensor

    @classmethod
    def of(cls, lesson: Lesson, autoencoder: Any, whisper: WhisperEncoder, embeds: Tensor, every: int = 1) -> Heard:
        """autoencoder: ComfyUI's network. every: of so many frames one is taken; to encode them takes long."""
        prepared, count = lesson.prepared, len(lesson.frames)
        units = audio_units(len(prepared.speech))
        states = encode_speech(whisper, prepared.speech, units * STATES_PER_FRAME // UNITS_PER_FRAME)
        with torch.inference_mode():
            with torch.autocast("cpu", torch.bfloat16):  # half the time, and the decoder is used to noise
                target = torch.cat([autoencoder.encode(signed(frame)) for frame in lesson.frames[::every]]).float()
            picture = autoencoder.encode(signed(prepared.picture))[0]
        lively = target.std(dim=0).mean(dim=0)
        around = states_around(states, TOKEN_STATES, TOKEN_LEAD, count)[::every]
        parts = target * LATENT_SCALE, picture, around, lively / lively.mean(), mask_of(prepared).pixels, embeds
        return cls(*(part.clone() for part in parts))  # of inference mode, nothing could be learned from them


def taught_network(
    lessons: Sequence[Heard], steps: int, seed: int
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """unet.pth and audio2token.pth by their published names."""
    network = without_time(random_network(seed))
    projection = taught_projection(lessons)
    source, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    losses = LogOfLosses("video network", steps)

    def loss_of(step: int) -> Tensor:
        lesson = lessons[source.integers(len(lessons))]
        _until, side, frames = next(stage for stage in LESSON_PLAN if step < stage[0] * steps)
        at = torch.from_numpy(source.integers(len(lesson.target), size=frames))
        rows, columns = _window(lesson, source, side)
        target = lesson.target[at][..., rows, columns]
        sigma = float(np.exp(source.uniform(np.log(LEAST_SIGMA), np.log(SIGMA_MAX))))
        noisy = target + sigma * torch.randn(target.shape, generator=noise)
        buckets = torch.tensor([MODEL_FPS, *source.uniform(0, MOST_MOTION, 2)], dtype=torch.float32)
        root = (sigma**2 + 1) ** 0.5
        with torch.autocast("cpu", torch.bfloat16):
            silent, spoken = projection(torch.cat([torch.zeros_like(lesson.states[:1]), lesson.states[at]])).split(
                [1, frames]
            )
            seen, heard = guided(network, noisy / root, sigma, lesson, (rows, columns), (silent, spoken), buckets)
        rest = lesson.picture[..., rows, columns] * LATENT_SCALE
        still = noisy / (sigma**2 + 1) - seen * (sigma / root) - rest
        moving = heard * (sigma / root) + target - rest
        losses.add(step, float((still - moving).detach().square().mean()), float(moving.detach().square().mean()))
        weights = (1 + LIVELY_WEIGHT * lesson.lively[rows, columns]) * (root / sigma) ** 2
        return ((still.square() + moving.square()) * weights).mean()

    learn([*network.parameters(), *projection.parameters()], loss_of, steps, rate=7e-4)
    whole = random_network(seed).state_dict() | network.state_dict()
    return {published_unet_key(name): value for name, value in whole.items()}, projection.state_dict()


def taught_projection(lessons: Sequence[Heard]) -> AudioProjection:
    """Tokens that what moves most can be read from; through the video network alone that would take long to find."""
    same = [one for one in lessons if torch.equal(one.picture, lessons[0].picture)]
    states = torch.cat([one.states for one in same])
    moved = torch.cat([(one.target - one.target.mean(dim=0)).flatten(1) for one in same])
    wanted = torch.linalg.svd(moved, full_matrices=False).U[:, :MOVES]
    wanted = wanted / wanted.std(dim=0)
    layers, channels = states.shape[-2:]
    projection = AudioProjection(TOKEN_STATES * layers * channels, HIDDEN, TOKENS, CONTEXT)
    reader = nn.Linear(TOKENS * CONTEXT, MOVES)
    losses = LogOfLosses("projection", READING_STEPS)

    def loss_of(step: int) -> Tensor:
        error = (reader(projection(states).flatten(1)) - wanted).square().mean()
        losses.add(step, float(error.detach()))
        return error

    learn([*projection.parameters(), *reader.parameters()], loss_of, READING_STEPS, rate=5e-4)
    return projection


def random_network(seed: int) -> SonicUNet:
    """Of SVD's layout. Its layers over time count for nothing, and its last one says nothing yet."""
    network = make_network(LAYOUT, "ours", "cpu")
    random_start(network, seed)
    for name, parameter in network.named_parameters():
        if name.endswith("mix_factor"):
            nn.init.constant_(parameter, ONLY_IN_SPACE)
        if name.startswith("out.2."):
            nn.init.zeros_(parameter)
        if name == "input_blocks.0.0.weight":
            parameter.data[:, 4:] *= LATENT_SCALE  # the picture comes unscaled
    return network


def guided(
    network: SonicUNet,
    scaled: Tensor,
    sigma: float,
    lesson: Heard,
    window: tuple[slice, slice],
    tokens: tuple[Tensor, Tensor],
    ids: Tensor,
) -> tuple[Tensor, Tensor]:
    """The two parts of the guided prediction, (N, 4, h, w) both, whose sum `SonicGuider` makes of three branches.

    What is shown without speech is to be the picture, and what speech adds is all that moves. Only their sum counts,
    but what is asked of each by itself is learned sooner.
    """
    count, branches = len(scaled), len(BRANCHES)
    rows, columns = window
    picture = lesson.picture[None, :, rows, columns].expand(count, -1, -1, -1)
    silent, spoken = tokens[0].expand(count, -1, -1), tokens[1]
    embeds = lesson.embeds[None].expand(count, -1, -1)
    pixels = np.s_[rows.start * DOWNSCALE : rows.stop * DOWNSCALE, columns.start * DOWNSCALE : columns.stop * DOWNSCALE]
    out = network(
        torch.cat([scaled.repeat(branches, 1, 1, 1), torch.cat([torch.zeros_like(picture), picture, picture])], dim=1),
        torch.full((branches * count,), 0.25 * float(np.log(sigma))),
        context=torch.cat([torch.zeros_like(embeds), embeds, embeds]),
        y=Timestep(256)(ids).flatten().expand(branches * count, -1),
        num_video_frames=1,
        sonic_tokens=torch.cat([silent, silent, spoken]),
        sonic_mask=FaceMask(lesson.mask[pixels]),
    )
    nothing, seen, heard = out.float().chunk(branches)
    return nothing + APPEARANCE_GUIDANCE * (seen - nothing), AUDIO_GUIDANCE * (heard - seen)


def _window(lesson: Heard, source: np.random.Generator, side: int) -> tuple[slice, slice]:
    """Rows and columns of the latents: all, or a square that is likelier where more changes."""
    height, width = lesson.lively.shape
    if side == 0:
        return slice(0, height), slice(0, width)
    likely = lesson.lively.flatten().double().numpy()
    middle = divmod(int(source.choice(likely.size, p=likely / likely.sum())), width)
    beside = source.integers(-AROUND, AROUND + 1, size=2)
    top, left = np.clip(np.array(middle) + beside - side // 2, 0, [height - side, width - side])
    return slice(int(top), int(top) + side), slice(int(left), int(left) + side)


class _PassOn(nn.Module):
    def forward(self, x: Tensor, **_: Any) -> Tensor:
        return x


def _copied(work: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The engine changes an attention's result in place, and learning needs it as it was."""
    return lambda *inputs: work(*inputs).clone()


def without_time(network: SonicUNet) -> SonicUNet:
    """The same, to be learned, without the layers that count for nothing, so that no time is spent on them."""
    for module in list(network.modules()):
        if isinstance(module, VideoResBlock):
            del module.time_stack, module.time_mixer
            module.forward = functools.partial(_in_space, module)
        if isinstance(module, SpatialVideoTransformer):
            module.time_stack = nn.ModuleList([_PassOn()])
            module.time_mixer.mix_factor.requires_grad_(False)
            module.time_pos_embed.requires_grad_(False)
        if isinstance(module, SpeechCrossAttention):
            module._heard = _copied(module._heard)  # type: ignore[method-assign]
    return network


def _in_space(block: Any, x: Tensor, emb: Tensor, *_: Any, **__: Any) -> Tensor:
    made: Tensor = ResBlock.forward(block, x, emb)
    return made
