"""How the files that a node will load can be tried before its prompt runs, for the queue bridge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from ..sonic.audio import check_sound, read_sound
from ..sonic.portrait import read_picture


def check_voice(path: Path) -> None:
    """Raises BadSound."""
    check_sound(read_sound(path))


# By node id; each raises what the node, or the one behind it, would raise.
CHECKS: Mapping[str, Callable[[Path], object]] = MappingProxyType(
    {"SONIC_LoadPortrait": read_picture, "SONIC_LoadVoice": check_voice}
)
