"""ComfyUI's modules in this process, from COMFYUI_PATH or from where quickstart.py has put it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from comfyui_sonic.queue_bridge.servers.launch_comfyui import make_torchaudio_importable, make_torchvision_importable


def import_comfyui(*, card: bool = False) -> None:
    """card: on the graphics card, with ComfyUI's own choices; otherwise on the processor. The first call decides.

    On the processor attention is torch's own, which is what ComfyUI takes on cards.
    """
    if "comfy.cli_args" in sys.modules:
        return
    folder = Path(os.environ.get("COMFYUI_PATH") or Path(__file__).parents[1] / ".quickstart" / "ComfyUI")
    if not (folder / "main.py").is_file():
        sys.exit(f"There is no ComfyUI in '{folder}'; set COMFYUI_PATH or run `python3 quickstart.py` once.")
    sys.path.append(str(folder))  # at the end: its "tests" and "utils" must not hide anybody's
    import comfy.cli_args

    if card:
        import cuda_malloc  # noqa: F401  # chooses the allocator, as it does for the server, before torch is there
    make_torchvision_importable()
    make_torchaudio_importable()

    if not card:
        comfy.cli_args.args.cpu = True
        comfy.cli_args.args.use_pytorch_cross_attention = True
