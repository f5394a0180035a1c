"""Nodes for tests of the bridge, loaded by a real ComfyUI beside the pack: they fail, wait, and keep a tally."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths

from . import misbehave


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
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        path = Path(folder) / f"{name}_{counter:05}_.mp4"
        path.write_bytes(b"not really a video")
        return {"ui": {"images": [{"filename": path.name, "subfolder": subfolder, "type": "output"}]}}


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


NODE_CLASS_MAPPINGS = {"TEST_SaveAfterFailures": SaveAfterFailures, "TEST_Tally": Tally}
NODE_CLASS_MAPPINGS |= misbehave.NODE_CLASS_MAPPINGS
