"""SONIC_PreData: picture and sound are checked, aligned and made ready for an engine."""

from __future__ import annotations

from typing import Any, get_args

import torch
from comfy_api.latest import io

from ..sonic.frames import Frame
from ..sonic.landmarks import find_faces
from ..sonic.memory import sonic_memory
from ..sonic.options import MIN_RESOLUTION, SIZE_STEP, CropMode, OnNoFace, PrepareOptions
from ..sonic.prepare import prepare
from ..sonic.prepared import Face
from ..sonic.schedule import latent_frames
from .face_picture import face_picture
from .progress import raise_if_interrupted, somebody_watches, told
from .sockets import PreparedSocket, picture_of, sound_of


class PreData(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        low, high = MIN_RESOLUTION
        return io.Schema(
            node_id="SONIC_PreData",
            display_name="Sonic PreData",
            category="Sonic",
            description="Finds the face, cuts picture and sound to size, and says what was corrected.",
            inputs=[
                io.Image.Input("image", tooltip="A portrait; of several pictures the first is used."),
                io.Audio.Input("audio", tooltip="The speech; of several sounds the first is used."),
                io.Float.Input(
                    "duration",
                    default=0.0,
                    min=0.0,
                    max=24 * 3600.0,
                    step=0.01,
                    tooltip="Seconds of the sound to use; 0 is all of it. More than there is gets corrected.",
                ),
                io.Int.Input(
                    "min_resolution",
                    default=512,
                    min=low,
                    max=high,
                    step=SIZE_STEP,
                    tooltip="Short side of the video in pixels. Twice the side takes about four times as long.",
                ),
                io.Float.Input(
                    "expand_ratio",
                    default=0.18,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Margin around the face when the picture is cropped to it, as a part of the face's size.",
                ),
                io.Combo.Input(
                    "crop",
                    options=list(get_args(CropMode)),
                    default="whole picture",
                    optional=True,
                    tooltip="Keep the whole picture, or cut a square around the face.",
                ),
                io.Combo.Input(
                    "on_no_face",
                    options=list(get_args(OnNoFace)),
                    default="error",
                    optional=True,
                    tooltip="What to do when no face is found: stop with an error, or use the whole picture as it is.",
                ),
                io.Int.Input(
                    "face_index",
                    default=0,
                    min=0,
                    max=99,
                    optional=True,
                    tooltip="Which face speaks when there are several; 0 is the largest.",
                ),
            ],
            outputs=[PreparedSocket.Output(display_name="preprocessed_data")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        audio: dict[str, Any],
        duration: float,
        min_resolution: int,
        expand_ratio: float,
        crop: CropMode = "whole picture",
        on_no_face: OnNoFace = "error",
        face_index: int = 0,
    ) -> io.NodeOutput:
        options = PrepareOptions(duration, min_resolution, expand_ratio, crop, on_no_face, face_index)
        faces: list[Face] = []

        def search(picture: Frame) -> list[Face]:
            faces.extend(find_faces(picture, raise_if_interrupted))
            return faces

        prepared = prepare(picture_of(image), sound_of(audio), options, search)
        height, width = prepared.picture.shape[:2]
        memory = sonic_memory(width, height, latent_frames(len(prepared.speech)))
        lines = [
            f"{width} x {height} pixels, {prepared.seconds:.2f} s of sound",
            *prepared.notes,
            f"Card: Sonic {memory} + weights, draft none.",
        ]
        shown = face_picture(prepared, faces, options) if somebody_watches() else {}
        return io.NodeOutput(prepared, ui={**told(cls.hidden.unique_id, lines), **shown})


class PreDataAlias(PreData):
    """The name that older workflows use."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = super().define_schema()
        schema.node_id, schema.is_deprecated = "Sonic_PreData", True
        return schema
