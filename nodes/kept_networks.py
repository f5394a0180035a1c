"""Sonic's networks stay in memory between prompts, as ComfyUI keeps what its own loaders have loaded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..sonic.engine import load_sonic
from ..sonic.options import Precision
from .progress import raise_if_interrupted


def sonic_networks(files: Mapping[str, Path], precision: Precision = "auto") -> Any:
    """The networks of these files, loaded unless the last call was for the same ones and none has changed since.

    What they hold of the card is ComfyUI's to take back at any time.
    """
    return _loaded(tuple((part, path, path.stat().st_mtime_ns) for part, path in sorted(files.items())), precision)


@lru_cache(maxsize=1)
def _loaded(files: tuple[tuple[str, Path, int], ...], precision: Precision) -> Any:
    return load_sonic({part: path for part, path, _ in files}, precision, raise_if_interrupted)


def interpolation_network(file: Path) -> Any:
    """RIFE's network alone, kept likewise. Raises BadWeights."""
    return _loaded_interpolation(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _loaded_interpolation(file: Path, changed_ns: int) -> Any:
    from ..sonic.native.networks import load_interpolation  # ComfyUI's memory management comes with it

    return load_interpolation(file, raise_if_interrupted)
