"""SONIC_SaveVideo: frames and sound, or a video, into ComfyUI's output folder, fit to be published."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy.cli_args import args
from comfy_api.latest import InputImpl, io, ui

from ..sonic.content_credentials import check_signing, sign_mp4
from ..sonic.engine import engine_of
from ..sonic.errors import BadInput, BadSetting, BadVideo, CannotWrite
from ..sonic.frames import Frame
from ..sonic.labels import KEY as MARK
from ..sonic.labels import aigc_mark, check_producer
from ..sonic.prepared import Sound
from ..sonic.video import Seal, copy_mp4, no_seal, write_mp4
from ..sonic.video_codecs import CODEC_NAMES, OWN_CRF, Output, output_of
from ..sonic.video_source import VideoFile, open_video, without_container
from ..sonic.visible_label import CORNERS, LEAST_SIZE, VisibleLabel, labelled
from .frame_tensor import about
from .marks import label_font, producer_or_set, signing
from .progress import FrameProgress, text_on_node, told
from .sockets import frames_of, sound_of


class SaveVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SONIC_SaveVideo",
            display_name="Sonic Save Video",
            category="Sonic",
            description="Saves frames or a video as an MP4 with the marks of AI-made content that publishing asks for. "
            "The frames go through one by one: memory stays flat.",
            inputs=[
                io.String.Input(
                    "filename_prefix",
                    default="video/Sonic",
                    tooltip="Name in ComfyUI's output folder, with folders before it; %year%, %month%, %day%, %width% "
                    "and %height% are filled in.",
                ),
                io.Combo.Input(
                    "codec",
                    options=list(CODEC_NAMES),
                    default="h264",
                    tooltip="h264 plays everywhere. hevc and av1 are smaller and take longer. lossless gives every "
                    "pixel back for further work; players seldom show it.",
                ),
                io.Int.Input(
                    "crf",
                    default=OWN_CRF,
                    min=OWN_CRF,
                    max=63,
                    tooltip="Quality: 0 is the best; 6 more halve the file, about. -1 is the codec's own: h264 18, "
                    "hevc 20, av1 24.",
                ),
                io.Image.Input("images", optional=True, tooltip="The frames; not together with a video."),
                io.Audio.Input(
                    "audio", optional=True, tooltip="The sound; with a video it takes the place of the video's own."
                ),
                io.Float.Input(
                    "fps",
                    default=25.0,
                    min=1.0,
                    max=120.0,
                    step=0.01,
                    optional=True,
                    tooltip="Frames a second of the images; a video keeps its own.",
                ),
                io.Video.Input(
                    "video",
                    optional=True,
                    tooltip="Instead of images. As h264, with nothing to change in its pictures, it is copied.",
                ),
                io.Boolean.Input(
                    "aigc_mark",
                    default=True,
                    optional=True,
                    tooltip="The implicit mark in the metadata (AIGC, GB 45438-2025). Off: none is added; one that is "
                    "there stays.",
                ),
                io.String.Input(
                    "producer",
                    default="",
                    optional=True,
                    tooltip="Who answers for the video, in the implicit mark: name or code. Empty: "
                    "SONIC_AIGC_PRODUCER of the server.",
                ),
                io.Boolean.Input(
                    "visible_mark",
                    default=False,
                    optional=True,
                    tooltip="The explicit mark: a text in a corner of the picture.",
                ),
                io.String.Input(
                    "mark_text",
                    default="AI生成",
                    optional=True,
                    tooltip="Its text, such as AI生成, 人工智能生成 or AI generated; the server may name a font "
                    "with further letters.",
                ),
                io.Float.Input(
                    "mark_seconds",
                    default=3.0,
                    min=0.0,
                    max=86400.0,
                    step=0.1,
                    optional=True,
                    tooltip="How long from the start; 2 at least, 0 for the whole clip.",
                ),
                io.Combo.Input(
                    "mark_corner", options=list(CORNERS), default="bottom right", optional=True, tooltip="Where it is."
                ),
                io.Float.Input(
                    "mark_size",
                    default=6.0,
                    min=LEAST_SIZE,
                    max=25.0,
                    step=0.5,
                    optional=True,
                    tooltip="Height of its letters in per cent of the picture's shorter side.",
                ),
                io.Boolean.Input(
                    "content_credentials",
                    default=False,
                    optional=True,
                    tooltip="Sign with C2PA: needs the package c2pa-python and the server's SONIC_C2PA_CERTIFICATE and "
                    "SONIC_C2PA_KEY.",
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls,
        filename_prefix: str | None = None,
        codec: str | None = None,
        crf: int | None = None,
        producer: str | None = None,
        visible_mark: bool | None = None,
        mark_text: str | None = None,
        mark_seconds: float | None = None,
        mark_corner: str | None = None,
        mark_size: float | None = None,
        content_credentials: bool | None = None,
    ) -> bool | str:
        """True, or the sentence that ComfyUI shows; what comes from another node is None here and is seen later."""
        label = {"text": mark_text, "seconds": mark_seconds, "corner": mark_corner, "size": mark_size}
        try:
            if filename_prefix is not None:
                _check_prefix(filename_prefix)
            if codec is not None:
                output_of(codec, OWN_CRF if crf is None else crf)
            check_producer(producer or "")
            if visible_mark:
                VisibleLabel(font=label_font(), **{k: v for k, v in label.items() if v is not None})  # type: ignore[arg-type]
            if content_credentials:
                check_signing(signing())
        except (BadInput, CannotWrite) as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        filename_prefix: str,
        codec: str,
        crf: int,
        images: torch.Tensor | None = None,
        audio: dict[str, Any] | None = None,
        fps: float = 25.0,
        video: Any = None,
        aigc_mark: bool = True,
        producer: str = "",
        visible_mark: bool = False,
        mark_text: str = "AI生成",
        mark_seconds: float = 3.0,
        mark_corner: str = "bottom right",
        mark_size: float = 6.0,
        content_credentials: bool = False,
    ) -> io.NodeOutput:
        output = output_of(codec, crf)
        label = None
        if visible_mark:
            label = VisibleLabel(mark_text, mark_seconds, mark_corner, mark_size, label_font())
        if content_credentials:
            check_signing(signing())
        clip = _clip(images, audio, fps, video)
        place = _place(filename_prefix, clip.width, clip.height)
        metadata = {**clip.metadata, **_asked_for(cls.hidden.prompt, cls.hidden.extra_pnginfo)}
        if aigc_mark:
            metadata |= _mark(producer, clip.metadata)
        seal: Seal = partial(sign_mp4, signing=signing(), title=place.path.name) if content_credentials else no_seal
        if clip.can_be_copied and output.is_plain and label is None:
            assert clip.file is not None
            copy_mp4(clip.file.path, place.path, metadata, seal)
        else:
            progress = FrameProgress(clip.count or 1, text_on_node(cls.hidden.unique_id))
            _write(clip, place.path, metadata, label, output, seal, progress)
        saved = ui.SavedResult(place.path.name, place.subfolder, io.FolderType.output)
        engine = engine_of(clip.metadata)
        lines = [f"{clip.width} x {clip.height} pixels, {place.path.name}", *([f"Engine: {engine}"] if engine else [])]
        return io.NodeOutput(ui={**ui.PreviewVideo([saved]).as_dict(), **told(cls.hidden.unique_id, lines)})


def _mark(producer: str, metadata: Mapping[str, str]) -> dict[str, str]:
    return aigc_mark(producer_or_set(producer), metadata)


@dataclass(frozen=True)
class _Clip:
    """What is to be saved. file: the video behind it, where it is one on disk."""

    width: int
    height: int
    fps: float
    count: int
    frames: Iterable[Frame]
    sound: Sound | None
    metadata: Mapping[str, str] = field(default_factory=dict)
    file: VideoFile | None = None
    has_other_sound: bool = False

    @property
    def can_be_copied(self) -> bool:
        return self.file is not None and self.file.is_plain and not self.has_other_sound


def _clip(images: torch.Tensor | None, audio: dict[str, Any] | None, fps: float, video: Any) -> _Clip:
    if (images is None) == (video is None):
        what = "both are connected" if video is not None else "none is connected"
        raise BadSetting("images", f"either images or a video can be saved, and {what}.")
    sound = sound_of(audio) if audio is not None else None
    if video is None:
        return _of_images(images, sound, fps, about(images) if images is not None else None)
    file = _file_of(video)
    if file is None:
        parts = video.get_components()
        own = sound_of(parts.audio) if parts.audio is not None else None
        return _of_images(parts.images, sound or own, float(parts.frame_rate), getattr(parts, "metadata", None))
    return _Clip(
        width=file.width,
        height=file.height,
        fps=file.fps,
        count=file.count,
        frames=file.frames(),
        sound=sound,  # the file's own is read only when the file is not copied
        metadata=file.metadata,
        file=file,
        has_other_sound=sound is not None,
    )


def _of_images(images: Any, sound: Sound | None, fps: float, metadata: Mapping[str, Any] | None = None) -> _Clip:
    if images is None or images.ndim != 4 or 0 in images.shape:
        raise BadVideo(
            f"The images have the shape {tuple(getattr(images, 'shape', ()))} where (frames, height, width, 3) is "
            "needed; there is no frame to save."
        )
    count, height, width = images.shape[:3]
    texts = {key: _text(value) for key, value in (metadata or {}).items()}
    return _Clip(width, height, fps, count, frames_of(images), sound, without_container(texts))


def _file_of(video: Any) -> VideoFile | None:
    """The file of a VIDEO that is all of it, as it is; None for one that is trimmed, turned or not on disk."""
    if not isinstance(video, InputImpl.VideoFromFile):
        return None
    window = getattr(video, "get_active_trim_window", None)  # newer servers trim
    if window is not None and any(window()):
        return None
    source = video.get_stream_source()
    file = open_video(Path(source)) if isinstance(source, str) else None
    return None if file is None or file.is_turned else file


def _write(
    clip: _Clip,
    path: Path,
    metadata: Mapping[str, str],
    label: VisibleLabel | None,
    output: Output,
    seal: Seal,
    progress: FrameProgress,
) -> None:
    frames = clip.frames if label is None else labelled(clip.frames, label, clip.fps)
    sound = clip.sound
    if sound is None and clip.file is not None:
        sound = clip.file.sound()
    write_mp4(path, frames, clip.fps, sound, metadata, progress, output, seal)


def _asked_for(prompt: Any, workflow: Mapping[str, Any] | None) -> dict[str, str]:
    """What ComfyUI's own node keeps in a video, unless the server was started with --disable-metadata."""
    if args.disable_metadata:
        return {}
    found = {**(workflow or {}), **({"prompt": prompt} if prompt is not None else {})}
    return {key: _text(value) for key, value in found.items() if key != MARK}  # a prompt does not rewrite it


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class _Place:
    path: Path
    subfolder: str


def _check_prefix(prefix: str) -> None:
    """Raises BadSetting for a name outside the output folder, which ComfyUI would refuse with a page of paths."""
    root = Path(os.path.normpath(folder_paths.get_output_directory()))
    target = Path(os.path.normpath(root / prefix))  # links inside the folder may lead elsewhere
    if not prefix.strip() or "\0" in prefix or not target.is_relative_to(root) or target == root:
        raise BadSetting("filename_prefix", f"'{prefix}' is no name inside ComfyUI's output folder; choose another.")


def _place(prefix: str, width: int, height: int) -> _Place:
    """The next free name. Raises BadSetting or CannotWrite."""
    _check_prefix(prefix)
    root = folder_paths.get_output_directory()
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root, width, height)
    except OSError as error:
        raise CannotWrite(
            f"The folder of '{prefix}' in {root} cannot be made: {error.strerror or error}; choose another name."
        ) from error
    return _Place(Path(folder) / f"{name}_{counter:05}_.mp4", subfolder)
