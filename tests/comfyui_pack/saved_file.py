"""A new file in ComfyUI's output folder, and what a node says of it so that the queue finds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths


def new_video(filename_prefix: str) -> tuple[Path, dict[str, Any]]:
    """The path of a video that is not there yet, and the node's answer once it is."""
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        filename_prefix, folder_paths.get_output_directory()
    )
    path = Path(folder) / f"{name}_{counter:05}_.mp4"
    return path, {"images": [{"filename": path.name, "subfolder": subfolder, "type": "output"}]}
