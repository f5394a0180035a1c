"""A .safetensors file: its header without its weights, and writing one tensor after the other.

The library reads the weights; it is not used to write, since it would hold a copy of all of them in memory.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BadWeights

if TYPE_CHECKING:
    import torch

_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000  # bytes, the format's own limit


@dataclass(frozen=True)
class Header:
    """shapes: by the names of the tensors; file_bytes: how long the file has to be."""

    shapes: dict[str, tuple[int, ...]]
    file_bytes: int


def read_header(path: Path) -> Header:
    """Raises ValueError, whose text says what the file is instead, and OSError."""
    with path.open("rb") as file:
        first = file.read(_LENGTH_BYTES)
        length = struct.unpack("<Q", first)[0] if len(first) == _LENGTH_BYTES else 0
        if not 2 <= length <= _LONGEST_HEADER:
            raise ValueError("is no safetensors file; download it again.")
        text = file.read(length)
    if len(text) < length:
        raise ValueError("is cut off within its header; download it again.")
    try:
        entries = {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}
        shapes = {name: tuple(int(size) for size in entry["shape"]) for name, entry in entries.items()}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise ValueError("is no safetensors file, or a damaged one; download it again.") from error
    return Header(shapes, _LENGTH_BYTES + length + end)


class TensorFile:
    """A file to be written, with known tensors in known types.

    weights: by name; dtypes: the type in the file of each. Raises ValueError when the format does not know a type.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], dtypes: Mapping[str, torch.dtype]) -> None:
        self._weights = weights
        # Widest types first, so that every tensor begins at a multiple of its type's size.
        self._order = sorted(weights, key=lambda name: (-dtypes[name].itemsize, name))
        self._dtypes = dtypes
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in self._order:
            start, end = end, end + weights[name].numel() * dtypes[name].itemsize
            shape = list(weights[name].shape)
            entries[name] = {"dtype": _type_name(dtypes[name]), "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(entries, separators=(",", ":")).encode()
        self._header = text + b" " * (-len(text) % _LENGTH_BYTES)
        self._data_bytes = end

    @property
    def total_bytes(self) -> int:
        return _LENGTH_BYTES + len(self._header) + self._data_bytes

    def write(self, path: Path, on_written: Callable[[int, int], None]) -> None:
        """Creates ``path``; ``on_written`` is told bytes written and bytes in all after each tensor.

        Raises BadWeights when a finite weight is too large for its type in the file, FileExistsError and OSError.
        """
        with path.open("xb") as file:
            file.write(struct.pack("<Q", len(self._header)) + self._header)
            for name in self._order:
                file.write(memoryview(_bytes_of(name, self._weights[name], self._dtypes[name])))
                on_written(file.tell(), self.total_bytes)
            file.flush()
            os.fsync(file.fileno())


def _bytes_of(name: str, weight: torch.Tensor, dtype: torch.dtype) -> bytes:
    import torch

    stored = weight.detach().to(dtype).contiguous()
    if stored.is_floating_point() and bool(stored.isinf().any()) and not bool(weight.isinf().any()):
        raise BadWeights(
            f"The weight '{name}' has values that are too large for {_type_name(dtype)}; keep the file as it is."
        )
    return stored.reshape(-1).view(torch.uint8).numpy().tobytes()


def _type_name(dtype: torch.dtype) -> str:
    import torch

    names = {
        torch.float32: "F32",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.int64: "I64",
        torch.int32: "I32",
        torch.uint8: "U8",
        torch.bool: "BOOL",
    }
    if dtype not in names:
        raise ValueError(f"weights of the type {dtype} cannot be stored")
    return names[dtype]
