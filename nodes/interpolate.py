"""SONIC_Interpolate: a clip at another frame rate."""

from __future__ import annotations

from typing import Any, Literal

import torch
from comfy_api.latest import io

from ..sonic.checkpoints import sonic_files
from ..sonic.errors import MissingWeights
from ..sonic.frames import FrameSource
from ..sonic.postprocess.retiming import Between, FlowBetween, RetimedFrames, RifeBetween
from .frame_tensor import FrameTensor, about
from .image_frames import ImageFrames
from .kept_networks import interpolation_network
from .model_folders import model_folders
from .progress import raise_if_interrupted, told
from .sockets import ModelSocket

Method = Literal["auto", "RIFE", "flow"]


class Interpolate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SONIC_Interpolate",
            display_name="Sonic Interpolate",
            category="Sonic",
            description="Brings a clip to another frame rate; the frames between follow the motion. The sound stays.",
            inputs=[
                io.Image.Input("images"),
                io.Float.Input(
                    "fps", default=25.0, min=1.0, max=240.0, step=0.01, tooltip="Frames a second of the images."
                ),
                io.Float.Input(
                    "target_fps",
                    default=50.0,
                    min=1.0,
                    max=240.0,
                    step=0.01,
                    tooltip="Frames a second that are wanted; fewer than the images have will do as well.",
                ),
                ModelSocket.Input("model", optional=True, tooltip="From Sonic Loader; RIFE is taken from it."),
                io.Combo.Input(
                    "method",
                    options=["auto", "RIFE", "flow"],
                    default="auto",
                    optional=True,
                    tooltip="auto: RIFE where a model is connected or its file is in models/sonic/RIFE, else optical "
                    "flow, which needs no file.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="All frames; they are made when they are read."),
                io.Float.Output(display_name="fps"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, images: torch.Tensor, fps: float, target_fps: float, model: Any = None, method: Method = "auto"
    ) -> io.NodeOutput:
        source: FrameSource = ImageFrames(images)
        way = _way(source, model, method)
        frames = RetimedFrames(source, fps, target_fps, way)
        text = f"{source.count} frames at {fps:g} a second became {frames.count} at {target_fps:g}, by {way.name}."
        return io.NodeOutput(
            FrameTensor(frames, raise_if_interrupted, about(images)), target_fps, ui=told(cls.hidden.unique_id, [text])
        )


def _way(source: FrameSource, model: Any, method: Method) -> Between:
    if method != "flow":
        network = model.interpolation if model is not None else _network_of_file(required=method == "RIFE")
        if network is not None:
            return RifeBetween(source.height, source.width, network.loaded, network.device)
    return FlowBetween(source.height, source.width)


def _network_of_file(required: bool) -> Any:
    folders = model_folders()
    file = sonic_files(folders).get("interpolation")
    if file is not None:
        return interpolation_network(file)
    if required:
        raise MissingWeights("RIFE", [folders["sonic"][0] / "RIFE" / "flownet.pkl"], "method", without="flow")
    return None
