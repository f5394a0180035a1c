"""Sonic in parts, for graphs of one's own around ComfyUI's SamplerCustomAdvanced.

SONIC_Conditioning -> SONIC_Guider ┐
SONIC_Noise, SONIC_Scheduler, KSamplerSelect ┴> SamplerCustomAdvanced -> SONIC_Decode

With the values of SONIC_Inference and the sampler "euler" the frames are the same as SONIC_Inference makes.
"""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..sonic.engine import EngineChoice
from ..sonic.errors import BadSetting
from ..sonic.frames import frame_count
from ..sonic.options import DOWNSCALE, PUBLISHED_SEED
from ..sonic.prepared import PreparedData
from .finished_clip import HIDDEN, clip_outputs, finished
from .progress import FrameProgress, raise_if_interrupted, text_on_node
from .sockets import ModelSocket, PreparedSocket

CATEGORY = "Sonic/sampling"


class Conditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SONIC_Conditioning",
            display_name="Sonic Conditioning",
            category=CATEGORY,
            description="Picture and speech as the sampler is told of them, in three branches: without anything, with "
            "the picture alone, with picture and speech.",
            inputs=[
                ModelSocket.Input("model", tooltip="From Sonic Loader."),
                PreparedSocket.Input("preprocessed_data", tooltip="From Sonic PreData."),
                io.Float.Input(
                    "dynamic_scale", default=1.0, min=0.0, max=3.0, step=0.05, tooltip="Times both motion buckets."
                ),
                io.Float.Input(
                    "motion_scale", default=1.0, min=0.0, max=3.0, step=0.05, tooltip="Times the translation bucket."
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="The video network, which goes through the clip in windows; takes LoRA and compilation.",
                ),
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="without_speech"),
                io.Conditioning.Output(display_name="negative"),
                io.Latent.Output(display_name="latent", tooltip="The picture in every frame, to begin from."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, preprocessed_data: PreparedData, dynamic_scale: float, motion_scale: float
    ) -> io.NodeOutput:
        from ..sonic.native.guider import in_windows
        from ..sonic.native.pipeline import condition

        told = condition(preprocessed_data, model, dynamic_scale, motion_scale, raise_if_interrupted)
        branches = told.branches()
        return io.NodeOutput(
            in_windows(model.unet),
            branches["positive"],
            branches["without_speech"],
            branches["unconditional"],
            {"samples": told.start()},
        )


class Guider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SONIC_Guider",
            display_name="Sonic Guider",
            category=CATEGORY,
            description="Guidance over the three branches, one for the appearance and one for the speech.",
            inputs=[
                io.Model.Input("model", tooltip="From Sonic Conditioning."),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("without_speech"),
                io.Conditioning.Input("negative"),
                io.Float.Input(
                    "appearance_guidance", default=2.0, min=0.0, max=100.0, step=0.1, tooltip="2 as published."
                ),
                io.Float.Input(
                    "audio_guidance", default=7.5, min=0.0, max=100.0, step=0.1, tooltip="7.5 as published."
                ),
            ],
            outputs=[io.Guider.Output()],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        without_speech: Any,
        negative: Any,
        appearance_guidance: float,
        audio_guidance: float,
    ) -> io.NodeOutput:
        from ..sonic.native.guider import SonicGuider

        branches = {"positive": positive, "without_speech": without_speech, "unconditional": negative}
        return io.NodeOutput(SonicGuider(model, branches, appearance_guidance, audio_guidance))


class _Noise:
    """What ComfyUI's samplers take as NOISE."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generate_noise(self, input_latent: dict[str, Any]) -> torch.Tensor:
        from ..sonic.native.pipeline import initial_noise

        frames, _, height, width = input_latent["samples"].shape
        return initial_noise(self.seed, frames, height * DOWNSCALE, width * DOWNSCALE)


class Noise(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SONIC_Noise",
            display_name="Sonic Noise",
            category=CATEGORY,
            description="Noise in the order of the published code: a seed means the same as in Sonic Inference.",
            inputs=[io.Int.Input("seed", default=PUBLISHED_SEED, min=0, max=2**64 - 1, control_after_generate=True)],
            outputs=[io.Noise.Output()],
        )

    @classmethod
    def execute(cls, seed: int) -> io.NodeOutput:
        return io.NodeOutput(_Noise(seed))


class Scheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SONIC_Scheduler",
            display_name="Sonic Scheduler",
            category=CATEGORY,
            description="The published noise levels: Karras from 700 to 0.002.",
            inputs=[io.Int.Input("steps", default=25, min=1, max=100)],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, steps: int) -> io.NodeOutput:
        from ..sonic.native.guider import published_sigmas

        return io.NodeOutput(published_sigmas(steps))


class Decode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SONIC_Decode",
            display_name="Sonic Decode",
            category=CATEGORY,
            description="Latents become frames at any rate and a finished video; memory stays flat.",
            inputs=[
                ModelSocket.Input("model", tooltip="From Sonic Loader."),
                io.Latent.Input("samples"),
                PreparedSocket.Input("preprocessed_data", tooltip="That of Sonic Conditioning: it has the sound."),
                io.Float.Input(
                    "fps", default=25.0, min=1.0, max=120.0, step=0.01, tooltip="Frames a second of the video."
                ),
            ],
            outputs=clip_outputs(),
            hidden=HIDDEN,
        )

    @classmethod
    def execute(cls, model: Any, samples: dict[str, Any], preprocessed_data: PreparedData, fps: float) -> io.NodeOutput:
        from ..sonic.native.pipeline import clip_of, latents_fit

        latents = samples["samples"]
        if not latents_fit(latents, preprocessed_data):
            raise BadSetting(
                "samples",
                f"these latents of shape {tuple(latents.shape)} were not made from this preprocessed_data; connect the "
                "one that Sonic Conditioning has.",
            )
        source = clip_of(latents, preprocessed_data, fps, model, raise_if_interrupted)
        progress = FrameProgress(
            frame_count(preprocessed_data.seconds, fps), text_on_node(cls.hidden.unique_id, "sonic")
        )
        choice = EngineChoice("sonic", "The connected latents are decoded.")
        return finished(source, preprocessed_data, fps, choice, {"fps": fps}, progress, cls.hidden)


SAMPLING_PARTS: tuple[type[io.ComfyNode], ...] = (Conditioning, Guider, Noise, Scheduler, Decode)
