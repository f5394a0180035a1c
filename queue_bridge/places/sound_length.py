"""How long a recording is, roughly and without decoding it: for a time limit, not for a video."""

from __future__ import annotations

import contextlib
import importlib
import wave
from pathlib import Path

FEWEST_BYTES_A_SECOND = 4000.0  # 32 kbit/s: where nothing can read it, it is taken to be long rather than short


def sound_length_s(path: Path) -> float:
    """Seconds, at least about as many as there are; 0 for a file that is not there."""
    with contextlib.suppress(OSError, EOFError, wave.Error), wave.open(str(path)) as sound:
        return float(sound.getnframes() / sound.getframerate())
    with contextlib.suppress(Exception):  # whatever a library makes of a file that is none
        open_media = importlib.import_module(".media_file", __package__).open_media  # every ComfyUI has PyAV
        with open_media(path) as container:
            if container.duration:
                return float(container.duration) / 1e6
    try:
        return path.stat().st_size / FEWEST_BYTES_A_SECOND
    except OSError:
        return 0.0
