"""SONIC_Inference: prepared data become frames and a finished video."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

from comfy_api.latest import io

from ..sonic.checkpoints import missing_sonic_files, sonic_files
from ..sonic.engine import choose_engine, misfit, render
from ..sonic.frames import frame_count
from ..sonic.options import PUBLISHED_SEED, EngineName, InferenceOptions
from ..sonic.prepared import PreparedData
from .finished_clip import HIDDEN, clip_outputs, engine_lines, finished
from .kept_networks import sonic_networks
from .model_folders import model_folders
from .progress import FrameProgress, raise_if_interrupted, text_on_node, told
from .sockets import ModelSocket, PreparedSocket


class Inference(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SONIC_Inference",
            display_name="Sonic Inference",
            category="Sonic",
            description="Makes the person speak. The video is written while its frames are made: memory stays flat.",
            inputs=[
                PreparedSocket.Input("preprocessed_data", tooltip="From Sonic PreData."),
                io.Int.Input(
                    "inference_steps",
                    default=25,
                    min=1,
                    max=100,
                    tooltip="Denoising steps of Sonic; the draft engine has none.",
                ),
                io.Float.Input(
                    "dynamic_scale",
                    default=1.1,
                    min=0.0,
                    max=3.0,
                    step=0.05,
                    tooltip="How far the mouth moves: 0 is still, 1 natural. With Sonic both motion buckets.",
                ),
                io.Float.Input(
                    "motion_scale",
                    default=1.05,
                    min=0.0,
                    max=3.0,
                    step=0.05,
                    tooltip="How much the head moves and the eyes blink: 0 is still, 1 natural. "
                    "With Sonic the translation bucket.",
                ),
                ModelSocket.Input(
                    "model",
                    optional=True,
                    tooltip="From Sonic Loader; without it Sonic is loaded from its usual files.",
                ),
                io.Combo.Input(
                    "engine",
                    options=list(get_args(EngineName)),
                    default="auto",
                    optional=True,
                    tooltip="auto: Sonic when its files are there, else draft, which needs none and runs on any CPU.",
                ),
                io.Int.Input(
                    "seed",
                    default=PUBLISHED_SEED,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    optional=True,
                    tooltip="The same seed gives the same video.",
                ),
                io.Float.Input(
                    "fps",
                    default=25.0,
                    min=1.0,
                    max=120.0,
                    step=0.01,
                    optional=True,
                    tooltip="Frames a second of the video.",
                ),
            ],
            outputs=clip_outputs(),
            hidden=HIDDEN,
        )

    @classmethod
    def execute(
        cls,
        preprocessed_data: PreparedData,
        inference_steps: int,
        dynamic_scale: float,
        motion_scale: float,
        model: Any = None,
        engine: EngineName = "auto",
        seed: int = PUBLISHED_SEED,
        fps: float = 25.0,
    ) -> io.NodeOutput:
        options = InferenceOptions(inference_steps, dynamic_scale, motion_scale, engine, seed, fps)
        folders = model_folders()
        missing = missing_sonic_files(folders)
        unfit = "" if missing or options.engine == "draft" else misfit()
        choice = choose_engine(options.engine, missing, connected=model is not None, unfit=unfit)
        told(cls.hidden.unique_id, engine_lines(choice, preprocessed_data))
        if choice.name == "sonic" and model is None:
            model = sonic_networks(sonic_files(folders))
        count = frame_count(preprocessed_data.seconds, options.fps)
        progress = FrameProgress(count, text_on_node(cls.hidden.unique_id, choice.name))
        source = render(
            preprocessed_data,
            options,
            choice,
            model,
            raise_if_interrupted,
            progress.denoising,
            progress.preview,
        )
        return finished(source, preprocessed_data, options.fps, choice, asdict(options), progress, cls.hidden)


class InferenceAlias(Inference):
    """The name that older workflows use."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = super().define_schema()
        schema.node_id, schema.is_deprecated = "Sonic_Inference", True
        return schema
