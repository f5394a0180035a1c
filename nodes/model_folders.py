"""Where ComfyUI keeps model files."""

from __future__ import annotations

from pathlib import Path

import folder_paths


def model_folders() -> dict[str, list[Path]]:
    """Folders of the kinds "sonic" and "checkpoints", in the order they are searched."""
    sonic = (
        folder_paths.get_folder_paths("sonic")  # there if extra_model_paths.yaml names it
        if "sonic" in folder_paths.folder_names_and_paths
        else [Path(folder_paths.models_dir) / "sonic"]
    )
    return {
        "sonic": [Path(folder) for folder in sonic],
        "checkpoints": [Path(folder) for folder in folder_paths.get_folder_paths("checkpoints")],
    }
