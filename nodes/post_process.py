"""SONIC_PostProcess: calms a finished clip and checks that mouth and sound agree."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from comfy_api.latest import io

from ..sonic.audio import speech_for_models
from ..sonic.frames import Frame, FrameSource
from ..sonic.landmarks import find_faces
from ..sonic.postprocess.lip_sync import SyncEstimate, measure_sync, mouth_openings, shift_sound
from ..sonic.postprocess.smoothing import SmoothedFrames
from ..sonic.prepared import Sound
from .frame_tensor import FrameTensor
from .image_frames import ImageFrames
from .progress import FrameProgress, raise_if_interrupted
from .sockets import audio_of, sound_of

MEASURED_S = 15.0  # of a clip, for lip sync: more changes the answer little


class PostProcess(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SONIC_PostProcess",
            display_name="Sonic PostProcess",
            category="Sonic",
            description="Takes flicker out of the frames and moves the sound where the mouth runs ahead or behind.",
            inputs=[
                io.Image.Input("images"),
                io.Audio.Input("audio"),
                io.Float.Input(
                    "fps", default=25.0, min=1.0, max=120.0, step=0.01, tooltip="Frames a second of the images."
                ),
                io.Boolean.Input(
                    "temporal_smoothing",
                    default=True,
                    tooltip="Evens out brightness and calms what should be still; the face and motion are left alone.",
                ),
                io.Boolean.Input(
                    "lip_sync_correction",
                    default=True,
                    tooltip="Measures how mouth and sound agree; shifts the sound by up to 0.2 s when that is sure.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images"), io.Audio.Output(display_name="audio")],
        )

    @classmethod
    def execute(
        cls,
        images: torch.Tensor,
        audio: dict[str, Any],
        fps: float,
        temporal_smoothing: bool,
        lip_sync_correction: bool,
    ) -> io.NodeOutput:
        source: FrameSource = ImageFrames(images)
        lines = []
        if lip_sync_correction:
            sound = sound_of(audio)
            estimate = _measure(source, fps, sound)
            if estimate.correction_s:
                audio = audio_of(shift_sound(sound, estimate.correction_s))
            lines.append(_sentence(estimate))
        if temporal_smoothing:
            face = next(iter(find_faces(next(source.frames(0, 1)), raise_if_interrupted)), None)
            images = FrameTensor(SmoothedFrames(source, face.box if face else None), raise_if_interrupted)
            lines.append(
                "The frames are smoothed in time"
                + (", the face is spared." if face else "; no face was found to spare.")
            )
        return io.NodeOutput(
            images, audio, ui={"text": lines or ["Nothing was asked for; images and sound are unchanged."]}
        )


def _measure(source: FrameSource, fps: float, sound: Sound) -> SyncEstimate:
    count = min(source.count, int(MEASURED_S * fps))
    progress = FrameProgress(count)

    def watched() -> Iterator[Frame]:
        for index, frame in enumerate(islice(source.frames(0, count), count)):
            progress(index, frame)
            yield frame

    return measure_sync(mouth_openings(watched(), raise_if_interrupted), fps, speech_for_models(sound))


def _sentence(estimate: SyncEstimate) -> str:
    fit = f"agreement {estimate.as_it_is:.2f}, at best {estimate.correlation:.2f} at {estimate.offset_s * 1000:+.0f} ms"
    if estimate.correction_s:
        return (
            f"The mouth ran {estimate.offset_s * 1000:+.0f} ms behind the sound, which was shifted by as much ({fit})."
        )
    if estimate.is_sure:
        return f"Mouth and sound agree ({fit}); the sound is unchanged."
    return f"How well mouth and sound agree cannot be told for sure ({fit}); the sound is unchanged."
