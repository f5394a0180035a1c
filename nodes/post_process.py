"""SONIC_PostProcess: calms a finished clip, checks that mouth and sound agree, closes the mouth in silence."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, get_args

import numpy as np
import torch
from comfy_api.latest import io
from numpy.typing import NDArray

from ..sonic.audio import MODEL_RATE, speech_for_models
from ..sonic.engine import engine_of
from ..sonic.frames import Frame, FrameSource
from ..sonic.landmarks import find_faces
from ..sonic.loudness import at_usual_loudness
from ..sonic.postprocess.lip_sync import (
    SyncEstimate,
    measure_sync,
    mouth_openings,
    possible_shift,
    shift_sound,
)
from ..sonic.postprocess.silence_gate import ClosedMouthFrames, opening_at_rest, silence_curve
from ..sonic.postprocess.smoothing import SmoothingMethod, smooth
from ..sonic.prepared import Face, Sound
from .frame_tensor import FrameTensor, about
from .image_frames import ImageFrames
from .progress import FrameProgress, raise_if_interrupted, told
from .sockets import audio_of, sound_of

MEASURED_S = 15.0  # of a clip, for lip sync: more changes the answer little


class PostProcess(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SONIC_PostProcess",
            display_name="Sonic PostProcess",
            category="Sonic",
            description="Takes flicker out of the frames, moves the sound where the mouth runs ahead or behind, and "
            "closes the mouth where nobody speaks.",
            inputs=[
                io.Image.Input("images"),
                io.Audio.Input("audio"),
                io.Float.Input(
                    "fps", default=25.0, min=1.0, max=120.0, step=0.01, tooltip="Frames a second of the images."
                ),
                io.Boolean.Input(
                    "temporal_smoothing",
                    default=True,
                    tooltip="Takes flicker and noise out of the frames; motion and the mouth are left alone.",
                ),
                io.Boolean.Input(
                    "lip_sync_correction",
                    default=True,
                    tooltip="Measures how mouth and sound agree; shifts the sound by up to 0.2 s when that is sure.",
                ),
                io.Combo.Input(
                    "smoothing_method",
                    options=list(get_args(SmoothingMethod)),
                    default="light",
                    optional=True,
                    tooltip="light: evens out brightness and calms what should be still. flow: averages along the "
                    "motion. both: one after the other.",
                ),
                io.Float.Input(
                    "manual_offset_ms",
                    default=0.0,
                    min=-500.0,
                    max=500.0,
                    step=1.0,
                    optional=True,
                    tooltip="Moves the sound by hand, later if above 0, in addition to what the correction finds.",
                ),
                io.Boolean.Input(
                    "close_mouth_in_silence",
                    default=False,
                    optional=True,
                    tooltip="Closes a mouth that stands open where nobody speaks. The draft engine's is closed anyway.",
                ),
                io.Boolean.Input(
                    "skip_draft",
                    default=False,
                    optional=True,
                    tooltip="Lets through as it is what the draft engine made: its frames neither flicker nor run "
                    "late, and each stage takes as long as making them. A manual offset still counts.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images"), io.Audio.Output(display_name="audio")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        images: torch.Tensor,
        audio: dict[str, Any],
        fps: float,
        temporal_smoothing: bool,
        lip_sync_correction: bool,
        smoothing_method: SmoothingMethod = "light",
        manual_offset_ms: float = 0.0,
        close_mouth_in_silence: bool = False,
        skip_draft: bool = False,
    ) -> io.NodeOutput:
        source: FrameSource = ImageFrames(images)
        lines: list[str] = []
        if skip_draft and engine_of(about(images)) == "draft":
            temporal_smoothing = lip_sync_correction = close_mouth_in_silence = False
            lines.append("The draft engine's frames neither flicker nor run late, so they go on as they are.")
        openings: NDArray[np.float32] | None = None
        wanted = manual_offset_ms / 1000
        sound = sound_of(audio) if lip_sync_correction or wanted or close_mouth_in_silence else None
        if sound is not None and (lip_sync_correction or close_mouth_in_silence):
            openings = _openings(source, fps)
        if sound is not None and openings is not None and lip_sync_correction:
            estimate = measure_sync(openings, fps, speech_for_models(sound))
            wanted += estimate.correction_s
            lines.append(_sentence(estimate))
        if sound is not None and wanted:
            possible = possible_shift(sound, wanted)
            lines.append(_shift_sentence(possible, wanted))
            sound = shift_sound(sound, possible)
            audio = audio_of(sound)
        face = None
        if close_mouth_in_silence or temporal_smoothing:
            face = _first_face(source)
        if sound is not None and openings is not None and close_mouth_in_silence:
            source, line = _closed(source, fps, sound, openings, face)
            lines.append(line)
        if temporal_smoothing:
            source = smooth(source, smoothing_method, fps, face)
            lines.append(
                f"The frames are smoothed in time ({smoothing_method})"
                + (", the mouth is spared." if face else "; no face was found to spare.")
            )
        if temporal_smoothing or close_mouth_in_silence:
            images = FrameTensor(source, raise_if_interrupted, about(images))
        lines = lines or ["Nothing was asked for; images and sound are unchanged."]
        return io.NodeOutput(images, audio, ui=told(cls.hidden.unique_id, lines))


def _openings(source: FrameSource, fps: float) -> NDArray[np.float32]:
    count = min(source.count, max(1, int(MEASURED_S * fps)))
    progress = FrameProgress(count)

    def watched() -> Iterator[Frame]:
        for index, frame in enumerate(islice(source.frames(0, count), count)):
            progress(index, frame)
            yield frame

    return mouth_openings(watched(), raise_if_interrupted)


def _first_face(source: FrameSource) -> Face | None:
    return next(iter(find_faces(next(source.frames(0, 1)), raise_if_interrupted)), None)


def _closed(
    source: FrameSource, fps: float, sound: Sound, openings: NDArray[np.float32], face: Face | None
) -> tuple[FrameSource, str]:
    if face is None:
        return source, "No face was found in the first frame whose mouth could be closed."
    speech = at_usual_loudness(speech_for_models(sound), MODEL_RATE)
    shut = silence_curve(speech, fps, source.count)
    closed = ClosedMouthFrames(source, face, shut, opening_at_rest(openings), raise_if_interrupted)
    seconds = float(shut.sum()) / fps
    return closed, f"The mouth is closed in {seconds:.1f} s without speech."


def _shift_sentence(possible: float, wanted: float) -> str:
    moved = f"The sound was moved by {possible * 1000:+.0f} ms"
    if abs(possible - wanted) < 0.0005:
        return f"{moved}; all of its speech is kept."
    return f"{moved} and not by {wanted * 1000:+.0f}, since its speech would have been cut off at the start."


def _sentence(estimate: SyncEstimate) -> str:
    """What was measured: before, after and confidence."""
    figures = (
        f"agreement {estimate.as_it_is:.2f}, at best {estimate.correlation:.2f} at {estimate.offset_s * 1000:+.0f} ms, "
        f"confidence {estimate.confidence:.2f}"
    )
    if estimate.correction_s:
        return f"The mouth ran {estimate.offset_s * 1000:+.0f} ms behind the sound ({figures})."
    if estimate.is_sure:
        return f"Mouth and sound agree ({figures})."
    return f"How well mouth and sound agree cannot be told for sure ({figures}); nothing is corrected."
