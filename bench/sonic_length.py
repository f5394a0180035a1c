"""Whether the memory of decoding and writing a clip grows with its length, as JSON.

    python -m bench.sonic_length

Clips of random latents and of different lengths become frames and an MP4 by the engine's own way, each in a process of
its own whose peak the system tells. Only the decoder, which sees eight frames whatever the length, is replaced by
enlarging. What is to remain of a clip's length is its latents and its sound.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

MB = 1e6
RATE = 48_000


def peak_of_a_clip(seconds: float, size: int) -> None:
    """Decodes and writes one clip; prints the process's peak before and after, and the bytes that the length accounts
    for."""
    import resource

    import numpy as np
    import torch
    from comfyui_sonic.sonic.prepared import Sound
    from comfyui_sonic.sonic.video import write_mp4

    from .sonic_network import DOWNSCALE, clip_of_random_latents

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        warm_up = clip_of_random_latents(4.0, size)
        quiet = Sound(np.zeros((1, 4 * RATE), np.float32), RATE)
        write_mp4(Path(folder) / "warm.mp4", warm_up.frames(), 12.5, quiet, {}, lambda index, frame: None)
        before = peak()
        clip = clip_of_random_latents(seconds, size)
        sound = Sound(np.zeros((1, round(seconds * RATE)), np.float32), RATE)
        write_mp4(Path(folder) / "clip.mp4", clip.frames(), 12.5, sound, {}, lambda index, frame: None)
        kept = clip.count * 4 * (size // DOWNSCALE) ** 2 * 4 + sound.waveform.nbytes
        report = {"seconds": seconds, "grown_mb": (peak() - before) / MB, "latents_and_sound_mb": kept / MB}
        report["whole_clip_as_floats_mb"] = clip.count * size * size * 3 * 4 / MB
    sys.stdout.write(json.dumps(report))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 60, 600], help="lengths of clips")
    parser.add_argument("--size", type=int, default=256, help="side of the square pictures")
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        peak_of_a_clip(arguments.one, arguments.size)
        return
    rows = []
    for seconds in arguments.seconds:
        command = [sys.executable, "-m", __spec__.name, "--one", str(seconds), "--size", str(arguments.size)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout))
    sys.stdout.write(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
