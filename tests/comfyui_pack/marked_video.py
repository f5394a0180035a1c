"""A node that makes a small video which says whose it is, after misbehaving as it is told."""

from __future__ import annotations

import ctypes
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

import av
import comfy.utils
import numpy as np
import torch

from .saved_file import new_video

SIZE = 64
FITS = 512  # a resolution above this runs out of memory


class BadInput(Exception):
    """By its name the bridge knows that the material is at fault."""


class MarkedVideo:
    """``behaviour`` on the first ``times`` starts, as a tally counts them: raise, exit, stall; memory, bad: always."""

    CATEGORY = "test"
    FUNCTION = "run"
    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "filename_prefix": ("STRING", {}),
                "tally": ("STRING", {}),
                "behaviour": ("STRING", {"default": "save"}),
                "times": ("INT", {"default": 0}),
                "seconds": ("FLOAT", {"default": 0.1}),
                "stall": ("INT", {"default": 5}),
                "marker": ("STRING", {}),
                "frames": ("INT", {"default": 3}),
                "resolution": ("INT", {"default": 512}),
            }
        }

    def run(
        self,
        filename_prefix: str,
        tally: str,
        behaviour: str,
        times: int,
        seconds: float,
        stall: int,
        marker: str,
        frames: int,
        resolution: int,
    ) -> dict[str, Any]:
        with Path(tally).open("a+") as file:
            file.write("start\n")
            file.seek(0)
            starts = len(file.readlines())
        bar = comfy.utils.ProgressBar(2)
        for _ in range(2):
            time.sleep(seconds / 2)
            bar.update(1)
        if behaviour == "bad":
            raise BadInput("planted: the material is at fault")
        if behaviour == "memory" and resolution > FITS:
            raise torch.cuda.OutOfMemoryError(f"planted: out of memory at {resolution}")
        if starts <= times:
            if behaviour == "raise":
                raise RuntimeError(f"planted {starts}")
            if behaviour == "exit":
                os._exit(1)
            if behaviour == "stall":
                ctypes.PyDLL(None).sleep(stall)  # holds Python's lock: no other thread of this server runs
        path, told = new_video(filename_prefix)
        write_video(path, marker, frames)
        return {"ui": told}


def write_video(path: Path, marker: str, frames: int) -> None:
    """So many frames; the marker and a word that no other start has are in the file's comment."""
    with av.open(str(path), "w", format="mp4") as container:
        container.metadata["comment"] = json.dumps({"marker": marker, "start": uuid.uuid4().hex})
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            picture = np.full((SIZE, SIZE, 3), 16 * number % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


NODE_CLASS_MAPPINGS = {"TEST_MarkedVideo": MarkedVideo}
