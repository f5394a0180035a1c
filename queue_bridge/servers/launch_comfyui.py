"""Runs ComfyUI's main.py in this process, with what a CPU-only machine and a supervisor need around it.

    python launch_comfyui.py [--exit-with-parent] /path/to/ComfyUI/main.py [ComfyUI's own arguments]

A plain script (no relative imports), so that any Python with ComfyUI's packages can run it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORKER_DIED = 70  # exit status when the prompt worker thread ended but the HTTP server lived on
GRACE_S = 5.0  # for the queue bridge, which gives its job back and then ends the server itself
WORKER_THREAD = "prompt_worker"


def make_torchvision_importable() -> None:
    """A CUDA build of torchvision beside a CPU torch cannot register its operators; ComfyUI needs only their names."""
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return  # not installed: ComfyUI says so itself
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _forget("torchvision")
        import torch

        signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", signature)
        importlib.import_module("torchvision")


def make_torchaudio_importable() -> None:
    """A CUDA build of torchaudio cannot load its native libraries; when it finds none, it runs in plain torch."""
    try:
        importlib.import_module("torchaudio")
    except ModuleNotFoundError:
        return
    except (ImportError, OSError, RuntimeError):
        _forget("torchaudio")
        glob = Path.glob

        def glob_without_libraries(self: Path, pattern: str, **options: Any) -> Iterator[Path]:
            return iter(()) if self.parts[-2:] == ("torchaudio", "lib") else iter(glob(self, pattern, **options))

        Path.glob = glob_without_libraries  # type: ignore[method-assign, assignment]
        try:
            importlib.import_module("torchaudio")
        finally:
            Path.glob = glob  # type: ignore[method-assign]


def _forget(package: str) -> None:
    """Drop the half-imported modules of a package, so that the next import starts anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def exit_with_parent() -> None:
    """End this process when standard input closes, which happens however the parent ends."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(128 + signal.SIGTERM)  # not by the signal, after which the bridge would finish its job first

    threading.Thread(target=watch, name="exit_with_parent", daemon=True).start()


def follow_prompt_worker() -> None:
    """Collect no garbage before the prompt worker is there, and end the process when it is there no more.

    What is imported stays. Python would look through it many times, once more at its end, for seconds in all, and
    ComfyUI has it look between two prompts, for half a second every ten seconds.
    ComfyUI's HTTP side outlives a dead prompt worker and would queue for ever.
    """
    gc.disable()
    atexit.register(gc.freeze)

    def alive() -> bool:
        return any(WORKER_THREAD in thread.name for thread in threading.enumerate())

    def watch() -> None:
        while not alive():
            time.sleep(1)
        gc.freeze()
        gc.enable()
        while alive():
            time.sleep(1)
        time.sleep(GRACE_S)
        sys.stderr.write("The prompt worker of this ComfyUI has ended; ending the server with it.\n")
        sys.stderr.flush()
        os._exit(WORKER_DIED)

    threading.Thread(target=watch, name="follow_worker", daemon=True).start()


def main() -> None:
    arguments = sys.argv[1:]
    # A server started in the background of a shell inherits an ignored SIGINT and could not be stopped gently.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if arguments and arguments[0] == "--exit-with-parent":
        exit_with_parent()
        del arguments[0]
    if not arguments:
        sys.exit("launch_comfyui.py: the path of ComfyUI's main.py is missing.")
    main_py = Path(arguments[0]).resolve()
    sys.argv = [str(main_py), *arguments[1:]]
    # runpy leaves this script's own folder in front, where its neighbours could hide ComfyUI's modules.
    sys.path[0] = str(main_py.parent)
    if "--cpu" in arguments:  # with a GPU the published builds fit, and ComfyUI wants to see torch unimported
        make_torchvision_importable()
        make_torchaudio_importable()
    follow_prompt_worker()
    runpy.run_path(str(main_py), run_name="__main__")


if __name__ == "__main__":
    main()
