"""Nodes for tests of the bridge, loaded by a real ComfyUI beside the pack: they fail, wait, and keep a tally."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
from server import PromptServer

from . import marked_video, rated_video
from .saved_file import new_video


class SaveAfterFailures:
    """Raises as long as the tally's file has fewer than ``failures`` lines, adding one each time; then saves a file."""

    CATEGORY = "test"
    FUNCTION = "save"
    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "filename_prefix": ("STRING", {}),
                "tally": ("STRING", {}),
                "failures": ("INT", {"default": 0}),
                "seconds": ("FLOAT", {"default": 0.0}),
                "message": ("STRING", {"default": "planted"}),
            }
        }

    def save(self, filename_prefix: str, tally: str, failures: int, seconds: float, message: str) -> dict[str, Any]:
        with Path(tally).open("a+") as file:
            file.write("start\n")
            file.seek(0)
            starts = len(file.readlines())
        steps = max(1, round(seconds / 0.05))
        bar = comfy.utils.ProgressBar(steps)
        for _ in range(steps):
            time.sleep(seconds / steps)
            bar.update(1)
        if starts <= failures:
            raise RuntimeError(f"{message} {starts}")
        path, told = new_video(filename_prefix)
        path.write_bytes(b"not really a video")
        return {"ui": told}


class Misbehave:
    """Does its worst in its first ``times`` starts, which the tally counts, and saves a file in the next."""

    CATEGORY = "test"
    FUNCTION = "save"
    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "filename_prefix": ("STRING", {}),
                "tally": ("STRING", {}),
                "how": ("STRING", {}),
                "times": ("INT", {"default": 1}),
                "seconds": ("FLOAT", {"default": 0.0}),
            }
        }

    def save(self, filename_prefix: str, tally: str, how: str, times: int, seconds: float) -> dict[str, Any]:
        with Path(tally).open("a+") as file:
            file.write("start\n")
            file.seek(0)
            starts = file.readlines().count("start\n")
        if starts <= times:
            MISBEHAVIOUR[how](seconds, Path(tally))
        return SaveAfterFailures().save(filename_prefix, f"{tally}.saved", 0, 0.0, "")


def keep_pythons_lock(seconds: float, _tally: Path) -> None:
    ctypes.PyDLL(None).sleep(round(seconds))  # PyDLL, unlike CDLL, keeps it


def block_the_event_loop(seconds: float, _tally: Path) -> None:
    PromptServer.instance.loop.call_soon_threadsafe(time.sleep, seconds)
    time.sleep(seconds + 0.5)


def hang(seconds: float, _tally: Path) -> None:
    """Without a word, but heeding interrupts."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        comfy.model_management.throw_exception_if_processing_interrupted()
        time.sleep(0.05)


def hang_deaf(seconds: float, _tally: Path) -> None:
    time.sleep(seconds)


def go_on_and_on(seconds: float, _tally: Path) -> None:
    """With progress, as a video that never ends."""
    bar = comfy.utils.ProgressBar(round(seconds * 10))
    for _ in range(round(seconds * 10)):
        time.sleep(0.1)
        bar.update(1)


def wait_for_word(seconds: float, tally: Path) -> None:
    """Until a file beside the tally says so, or ``seconds`` are over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not tally.with_suffix(".go").exists():
        time.sleep(0.05)


def run_out_of_memory(_seconds: float, tally: Path) -> None:
    """As a library below torch does; and from here on the tally says when models are unloaded."""
    unload = comfy.model_management.unload_all_models

    def unload_and_tell() -> None:
        with tally.open("a") as file:
            file.write("unloaded\n")
        unload()

    comfy.model_management.unload_all_models = unload_and_tell
    raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")


def break_the_card(_seconds: float, _tally: Path) -> None:
    raise RuntimeError(
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"
    )


def end_the_prompt_worker(_seconds: float, _tally: Path) -> None:
    raise SystemExit  # which ComfyUI does not catch


MISBEHAVIOUR = {
    "keep lock": keep_pythons_lock,
    "block loop": block_the_event_loop,
    "hang": hang,
    "hang deaf": hang_deaf,
    "go on": go_on_and_on,
    "wait": wait_for_word,
    "memory": run_out_of_memory,
    "card": break_the_card,
    "worker": end_the_prompt_worker,
}


class Tally:
    """Writes down when it ran; for a prompt that somebody queues in the browser."""

    CATEGORY = "test"
    FUNCTION = "run"
    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"tally": ("STRING", {})}}

    def run(self, tally: str) -> dict[str, Any]:
        Path(tally).write_text(str(time.time()))
        return {"ui": {"text": [tally]}}


class Marks:
    """Takes ``seconds``, writes down when it began and ended, and saves a file."""

    CATEGORY = "test"
    FUNCTION = "run"
    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "filename_prefix": ("STRING", {}),
                "marks": ("STRING", {}),
                "name": ("STRING", {}),
                "seconds": ("FLOAT", {}),
            }
        }

    def run(self, filename_prefix: str, marks: str, name: str, seconds: float) -> dict[str, Any]:
        began = time.time()
        path, told = new_video(filename_prefix)
        path.write_bytes(b"not really a video")
        time.sleep(seconds)
        with Path(marks).open("a") as file:
            file.write(f"{name} {began:.6f} {time.time():.6f}\n")
        return {"ui": told}


NODE_CLASS_MAPPINGS = {
    "TEST_SaveAfterFailures": SaveAfterFailures,
    "TEST_Tally": Tally,
    "TEST_Misbehave": Misbehave,
    "TEST_Marks": Marks,
}
NODE_CLASS_MAPPINGS |= marked_video.NODE_CLASS_MAPPINGS | rated_video.NODE_CLASS_MAPPINGS
