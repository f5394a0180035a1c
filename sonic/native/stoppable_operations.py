"""Sums, products and copies of large tensors in pieces: what a network does between its layers on a processor.

stoppable.py sees to the layers. What stands between them waits for memory, and at 1024 pixels one sum over 25 frames
takes a second. Here it is made row by row, in memory that is laid out as torch would have laid it out.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
Cut = Callable[[Any], Any]  # a piece of a tensor, whatever else as it is
Way = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]  # of an operation, with what it is given

PIECE = 2**24  # numbers at once: some hundredths of a second on two slow cores
_INTO = {  # what makes every number on its own, and the same into memory that is there
    aten.add.Tensor: aten.add.out,
    aten.sub.Tensor: aten.sub.out,
    aten.mul.Tensor: aten.mul.out,
    aten.div.Tensor: aten.div.out,
}
_IN_PLACE = (aten.add_.Tensor, aten.sub_.Tensor, aten.mul_.Tensor, aten.div_.Tensor, aten.copy_.default)
_COPIES = (aten.clone.default, aten._to_copy.default)
_OF_COPIES = (aten.contiguous.default, aten.reshape.default, aten.to.dtype)  # or of nothing, by the layout
_ROW_BY_ROW = (aten.upsample_nearest2d.default, aten.upsample_nearest2d.vec)


def stoppable_operations(
    network: nn.Module, largest: int, check: Callable[[], None]
) -> contextlib.AbstractContextManager[object]:
    """For a call of a network whose largest tensor has so many numbers. check: raises what ends it.

    A network of which parts are compiled is left alone: torch compiles nothing in such a block.
    """
    if largest <= PIECE or torch.compiler.is_compiling():
        return contextlib.nullcontext()
    compiler = sys.modules.get("torch._dynamo")
    compiled = compiler and any(isinstance(one, compiler.OptimizedModule) for one in network.modules())
    return contextlib.nullcontext() if compiled else StoppableOperations(check)


class StoppableOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """In a block with this, large operations on a processor look before each piece. check: raises what ends them."""

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._check = check
        self._ways: dict[Any, Way] = {
            **dict.fromkeys(_INTO, self._number_by_number),
            **dict.fromkeys(_IN_PLACE, self._in_place),
            **dict.fromkeys(_COPIES, self._copied),
            **dict.fromkeys(_OF_COPIES, self._taken_apart),
            **dict.fromkeys(_ROW_BY_ROW, self._row_by_row),
            aten.cat.default: self._joined,
        }

    def __torch_dispatch__(
        self, operation: Any, _: Any, given: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        """What torch calls for every operation, with what it is given."""
        way = self._ways.get(operation)
        if way and _is_large(given):
            return way(operation, given, named or {})
        return operation(*given, **(named or {}))

    def _number_by_number(self, operation: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        out = _room(operation, given, named)
        for cut in self._pieces(out):
            _INTO[operation](*map(cut, given), **named, out=cut(out))
        return out

    def _in_place(self, operation: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        for cut in self._pieces(given[0]):
            operation(*map(cut, given), **named)
        return given[0]

    def _copied(self, operation: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if named.get("device", given[0].device) != given[0].device:
            return operation(*given, **named)
        out = _room(operation, given, {name: value for name, value in named.items() if name != "device"})
        for cut in self._pieces(out):
            cut(out).copy_(cut(given[0]))
        return out

    def _taken_apart(self, operation: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        with self:
            return operation.decompose(*given, **named)

    def _row_by_row(self, operation: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        out = _room(operation, given, named)
        for cut in self._pieces(out, 1):
            cut(out).copy_(operation(cut(given[0]), *given[1:], **named))
        return out

    def _joined(self, operation: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        tensors, dim = given[0], given[1] if len(given) > 1 else 0
        dim %= tensors[0].ndim
        if dim == 0 or len({one.ndim for one in tensors}) > 1:
            return operation(*given, **named)
        out = _room(operation, given, named)
        for cut in self._pieces(out, dim):
            aten.cat.out([cut(one) for one in tensors], dim, out=cut(out))
        return out

    def _pieces(self, out: Tensor, dims: int | None = None) -> Iterator[Cut]:
        """What cuts pieces of ``out``, and of all that is broadcast to it, along the first long one of its ``dims``."""
        dim = next((at for at, length in enumerate(out.shape[:dims]) if length > 1), 0)
        length, from_end = out.shape[dim], out.ndim - dim
        rows = max(1, PIECE * length // out.numel())
        for start in range(0, length, rows):
            self._check()

            def cut(value: Any, start: int = start) -> Any:
                if not isinstance(value, Tensor) or value.ndim < from_end or value.shape[-from_end] != length:
                    return value
                return value.narrow(-from_end, start, min(rows, length - start))

            yield cut


def _is_large(given: tuple[Any, ...]) -> bool:
    """Whether a tensor of it is, and all are the processor's."""
    tensors = [one for value in given for one in (value if isinstance(value, list) else [value])]
    tensors = [one for one in tensors if isinstance(one, Tensor)]
    return any(one.numel() > PIECE for one in tensors) and all(one.is_cpu for one in tensors)


def _room(operation: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """Memory for what an operation makes, laid out as it would."""

    def shape_of(value: Any) -> Any:
        if isinstance(value, list):
            return [shape_of(one) for one in value]
        if isinstance(value, Tensor):
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        return value

    made = operation(*map(shape_of, given), **named)
    return torch.empty_strided(made.shape, made.stride(), dtype=made.dtype)
