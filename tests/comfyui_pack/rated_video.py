"""A node that makes a video without a face for the seeds before ``good_from``, and one with a face from there on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np

from .saved_file import new_video

PORTRAIT = Path(__file__).resolve().parents[2] / "examples" / "batch" / "close_up.png"
SIDE, FRAMES = 256, 12


class RatedVideo:
    """Says that ``engine`` has made it; the tally gets a line with each seed."""

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
                "seed": ("INT", {"default": 0, "max": 2**64 - 1}),
                "good_from": ("INT", {"default": 0}),
                "engine": ("STRING", {"default": "sonic"}),
            }
        }

    def run(self, filename_prefix: str, tally: str, seed: int, good_from: int, engine: str) -> dict[str, Any]:
        with Path(tally).open("a") as file:
            file.write(f"{seed}\n")
        picture = np.full((SIDE, SIDE, 3), 127, np.uint8)
        if seed >= good_from:
            with av.open(str(PORTRAIT)) as container:
                picture = next(container.decode(video=0)).to_ndarray(format="rgb24", width=SIDE, height=SIDE)
        path, told = new_video(filename_prefix)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width = stream.height = SIDE
            stream.pix_fmt = "yuv420p"
            for _ in range(FRAMES):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
        return {"ui": {**told, "sonic": [{"engine": engine}]}}


NODE_CLASS_MAPPINGS = {"TEST_Rated": RatedVideo}
