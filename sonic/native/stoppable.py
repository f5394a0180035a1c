"""Interrupting inside a network: one call of a large one takes seconds, and on a processor one layer of it does.

Every layer first looks whether the user has pressed 'interrupt'. A card is given its layers before it works on them,
but only so many ahead that it soon has nothing left to do. On a processor a layer is worked on piece by piece, by rows
that know nothing of each other, and looks before each piece; the numbers are the same but for the order of a sum.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import comfy.model_management
import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
Layer = Callable[..., Tensor]
Piece = tuple[Any, Tensor]  # where it is in the whole, as an index, and what it is

PIECE = 2**32  # multiplications and additions at once: some hundredths of a second on two slow cores
_NORM = 256  # of them for a number of a norm or an activation, which wait for memory instead
FEW_KEYS = 256  # attention to fewer takes as long as to so many: it waits for memory, too
AHEAD = 32  # layers that a card is given before it works on them; with fewer it waits for the processor at times
_CARD_LOOK_S = 0.001  # shorter than half of them take any card
_OVERRIDE = "optimized_attention_override"  # what ComfyUI calls in place of its attention, in transformer_options


def stoppable(network: Network) -> Network:
    """The same network; interrupting it takes a fraction of a second, wherever it is."""
    pace = Pace()
    for module in network.modules():
        works = next(module.parameters(recurse=False), None) is not None or isinstance(module, nn.SiLU)
        if works and next(module.children(), None) is None:
            module.forward = partial(_stoppable_layer, module, module.forward, pace)
        if callable(attention := getattr(module, "optimized_attention", None)):  # of ComfyUI's autoencoders
            module.optimized_attention = partial(_attention_of_pixels, attention)  # type: ignore[assignment]
    return network


class Pace:
    """Keeps the processor from running ahead of the card by more than some layers of a network."""

    def __init__(self) -> None:
        self._layers = 0
        self._marks: deque[Any] = deque()

    def keep(self, device: torch.device) -> None:
        """Called before each layer; waits until the card has come to the layers of a while ago."""
        self._layers += 1
        if self._layers % (AHEAD // 2):
            return
        self._marks.append(self.mark(device))
        if len(self._marks) > 1:
            passed = self._marks.popleft()
            while not passed.query():  # a large layer may take a card a second
                look()
                time.sleep(_CARD_LOOK_S)

    def mark(self, device: torch.device) -> Any:
        """What the card passes when it has done all that it was given before."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        return event


def stoppable_attention(options: dict[str, Any]) -> dict[str, Any]:
    """transformer_options with which ComfyUI's attention on a processor is worked on in pieces; another's stays."""
    return {**options, _OVERRIDE: partial(_attention_of_tokens, options.get(_OVERRIDE))}


def look() -> None:
    """Raises what ends everything when the user has pressed 'interrupt'."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def _stoppable_layer(module: nn.Module, whole: Layer, pace: Pace, *inputs: Any, **named: Any) -> Tensor:
    if torch.compiler.is_compiling():  # a compiled network runs as one piece
        return whole(*inputs, **named)
    look()
    if inputs and isinstance(inputs[0], Tensor) and inputs[0].is_cuda:
        pace.keep(inputs[0].device)
        return whole(*inputs, **named)
    if len(inputs) != 1 or named or not isinstance(inputs[0], Tensor) or inputs[0].device.type != "cpu":
        return whole(*inputs, **named)
    return _by_rows(module, whole, inputs[0])


def _by_rows(module: nn.Module, whole: Layer, x: Tensor) -> Tensor:
    """Along the first dimension with more than one row, of which no layer here mixes anything, or else by height."""
    cost = _cost(module, x)
    dim = next((dim for dim in range(x.ndim - 1) if x.shape[dim] > 1), 0) if isinstance(module, nn.Linear) else 0
    rows = math.ceil(PIECE / max(cost, 1) * x.shape[dim])
    if rows >= x.shape[dim]:
        return whole(x) if cost <= PIECE else _by_height(module, whole, x, cost)

    def pieces() -> Iterator[Piece]:
        for start in range(0, x.shape[dim], rows):
            look()
            part = x.narrow(dim, start, min(rows, x.shape[dim] - start))
            made = whole(part) if isinstance(module, nn.Linear) else _by_rows(module, whole, part)
            yield (slice(None),) * dim + (slice(start, start + rows),), made

    return _joined(pieces(), lambda made: (*made[:dim], x.shape[dim], *made[dim + 1 :]))


def _by_height(module: nn.Module, whole: Layer, x: Tensor, cost: float) -> Tensor:
    """One row, (1, C, H, W) or (1, C, T, H, W), through a convolution in strips; each has what its edges look at."""
    if not isinstance(module, nn.Conv2d | nn.Conv3d) or not isinstance(module.padding, tuple):
        return whole(x)
    height, edge = x.shape[-2], module.padding[-2]
    if module.stride[-2] != 1 or module.kernel_size[-2] != 2 * edge + 1:  # those that enlarge or reduce are cheap
        return whole(x)
    rows = math.ceil(PIECE / cost * height)

    def pieces() -> Iterator[Piece]:
        for start in range(0, height, rows):
            look()
            stop, above = min(start + rows, height), max(0, start - edge)
            strip = whole(x[..., above : min(height, stop + edge), :])
            yield (..., slice(start, stop), slice(None)), strip[..., start - above : stop - above, :]

    return _joined(pieces(), lambda made: (*made[:-2], height, made[-1]))


def _cost(module: nn.Module, x: Tensor) -> float:
    """Multiplications and additions; 0 for a layer that is not known here."""
    if isinstance(module, nn.Linear):
        return 2.0 * x.numel() * module.out_features
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        of_number = 2.0 * module.out_channels * math.prod(module.kernel_size) / module.groups
        return of_number * x.numel() / math.prod(module.stride)
    if isinstance(module, nn.GroupNorm | nn.LayerNorm | nn.SiLU):
        return float(_NORM * x.numel())
    return 0.0


def _attention_of_tokens(other: Layer | None, attention: Layer, *inputs: Any, **named: Any) -> Tensor:
    """In place of ComfyUI's, whose first inputs are q, k, v, (B, tokens, C). other: what it was replaced by before."""
    whole = partial(other, attention) if other else attention
    if torch.compiler.is_compiling():
        return whole(*inputs, **named)
    look()
    q, k, v, heads, *others = inputs
    shaped = others or named.get("mask") is not None or named.get("skip_reshape") or named.get("skip_output_reshape")
    cost = 4.0 * q.numel() * (k.shape[1] + FEW_KEYS)
    if shaped or q.device.type != "cpu" or cost <= PIECE:
        return whole(*inputs, **named)
    rows = math.ceil(PIECE / cost * len(q))
    tokens = q.shape[1] if rows > 1 else math.ceil(min(1.0, PIECE / cost * len(q)) * q.shape[1])

    def pieces() -> Iterator[Piece]:
        for row in range(0, len(q), rows):
            for token in range(0, q.shape[1], tokens):
                look()
                some = slice(row, row + rows)
                at = some, slice(token, token + tokens)
                yield at, whole(q[at], k[some], v[some], heads, **named)

    return _joined(pieces(), lambda made: (*q.shape[:2], made[-1]))


def _attention_of_pixels(attention: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, C, H, W) each: of every pixel to all of its picture."""
    height, pixels = q.shape[-2], q.shape[-2] * q.shape[-1]
    cost = 4.0 * q.numel() * pixels
    if torch.compiler.is_compiling() or q.device.type != "cpu" or cost <= PIECE:
        return attention(q, k, v)
    rows = math.ceil(PIECE / cost * height)
    keys, values = (one.flatten(2).transpose(1, 2)[:, None] for one in (k, v))

    def pieces() -> Iterator[Piece]:
        for start in range(0, height, rows):
            look()
            strip = q[:, :, start : start + rows]
            asked = strip.flatten(2).transpose(1, 2)[:, None]
            found = nn.functional.scaled_dot_product_attention(asked, keys, values)
            yield (..., slice(start, start + rows), slice(None)), found[:, 0].transpose(1, 2).reshape(strip.shape)

    return _joined(pieces(), lambda _: q.shape)


def _joined(pieces: Iterator[Piece], shape: Callable[[torch.Size], Sequence[int]]) -> Tensor:
    """shape: of the whole, from that of the first piece."""
    out: Tensor | None = None
    for at, made in pieces:
        if out is None:
            out = made.new_empty(tuple(shape(made.shape)))
        out[at] = made
    assert out is not None
    return out
