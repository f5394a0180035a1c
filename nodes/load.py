"""Nodes that read a portrait and a voice from ComfyUI's input folder, and say what is wrong with a file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..sonic.audio import read_sound
from ..sonic.portrait import read_picture
from .sockets import audio_of, image_of


def _names(kinds: list[str]) -> list[str]:
    folder = Path(folder_paths.get_input_directory())
    names = [entry.name for entry in folder.iterdir() if entry.is_file()] if folder.is_dir() else []
    return sorted(folder_paths.filter_files_content_types(names, kinds))


def _check_name(name: str) -> bool | str:
    """True, or the sentence that ComfyUI shows beside the input. Any type is let through: the content decides."""
    plain, folder = folder_paths.annotated_filepath(name)
    root = Path(os.path.normpath(folder or folder_paths.get_input_directory()))
    path = Path(os.path.normpath(root / plain))  # links inside the folder may lead elsewhere
    if not path.is_relative_to(root):
        return f"'{name}' lies outside ComfyUI's input folder; put the file into {root}."
    if not path.is_file():
        return f"The file '{name}' is not in {root}; put it there or upload it."
    return True


def _content_hash(name: str) -> str:
    with Path(folder_paths.get_annotated_filepath(name)).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class LoadPortrait(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SONIC_LoadPortrait",
            display_name="Sonic Load Portrait",
            category="Sonic",
            description="Reads a picture: upright, transparency laid over white, 16-bit grey kept, huge ones reduced.",
            inputs=[
                io.Combo.Input(
                    "image",
                    options=_names(["image"]),
                    upload=io.UploadType.image,
                    image_folder=io.FolderType.input,
                    tooltip="A picture in ComfyUI's input folder that shows a face from the front.",
                )
            ],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def validate_inputs(cls, image: str) -> bool | str:
        return _check_name(image)

    @classmethod
    def fingerprint_inputs(cls, image: str) -> str:
        return _content_hash(image)

    @classmethod
    def execute(cls, image: str) -> io.NodeOutput:
        return io.NodeOutput(image_of(read_picture(Path(folder_paths.get_annotated_filepath(image)))))


class LoadVoice(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SONIC_LoadVoice",
            display_name="Sonic Load Voice",
            category="Sonic",
            description="Reads the sound of any sound or video file, told by its content and not its name.",
            inputs=[
                io.Combo.Input(
                    "audio",
                    options=_names(["audio", "video"]),
                    upload=io.UploadType.audio,
                    tooltip="A recording in ComfyUI's input folder.",
                )
            ],
            outputs=[io.Audio.Output(display_name="audio")],
        )

    @classmethod
    def validate_inputs(cls, audio: str) -> bool | str:
        return _check_name(audio)

    @classmethod
    def fingerprint_inputs(cls, audio: str) -> str:
        return _content_hash(audio)

    @classmethod
    def execute(cls, audio: str) -> io.NodeOutput:
        return io.NodeOutput(audio_of(read_sound(Path(folder_paths.get_annotated_filepath(audio)))))
