"""SONIC_Composite: a clip of a crop goes back into the whole picture."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..sonic.frames import FrameSource, StillFrames
from ..sonic.postprocess.composite import CompositeFrames, place_of
from ..sonic.prepared import PreparedData
from .frame_tensor import FrameTensor, about
from .image_frames import ImageFrames
from .progress import raise_if_interrupted, told
from .sockets import PreparedSocket


class Composite(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SONIC_Composite",
            display_name="Sonic Composite",
            category="Sonic",
            description="Lays the frames of a crop back into the whole picture, at the picture's own resolution, "
            "with soft edges and the picture's colours.",
            inputs=[
                io.Image.Input("images", tooltip="The clip; it may have been upscaled, but not cropped."),
                PreparedSocket.Input("preprocessed_data", tooltip="From Sonic PreData: it knows where the crop was."),
                io.Image.Input(
                    "background",
                    optional=True,
                    tooltip="A picture or a clip to lay the frames into; without it, the picture that PreData got.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="All frames; they are made when they are read.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, images: torch.Tensor, preprocessed_data: PreparedData, background: torch.Tensor | None = None
    ) -> io.NodeOutput:
        source: FrameSource = ImageFrames(images)
        behind: FrameSource = StillFrames(preprocessed_data.original) if background is None else ImageFrames(background)
        box = place_of(preprocessed_data, source, behind)
        frames = CompositeFrames(source, behind, box)
        x1, y1, x2, y2 = box
        size = f"{frames.width} x {frames.height} pixels"
        whole = (x1, y1, x2, y2) == (0, 0, frames.width, frames.height)
        where = "fill all of it" if whole else f"lie at {x1}, {y1} in it, {x2 - x1} x {y2 - y1} of them"
        return io.NodeOutput(
            FrameTensor(frames, raise_if_interrupted, about(images)),
            ui=told(cls.hidden.unique_id, [f"The picture has {size}; the images {where}."]),
        )
