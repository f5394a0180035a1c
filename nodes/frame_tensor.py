"""An IMAGE batch whose frames are made when somebody reads them.

ComfyUI passes a clip along as one float32 tensor: 512 x 512 pixels at 25 frames a second are 4.7 GB a minute, even
where nobody reads them because the graph only saves the video. A FrameTensor has the shape, dtype and device of that
tensor, but holds no pixels:

- an index, a slice or an iteration over the frames makes just those frames (a slice stays lazy);
- a copy, a pickle, or any other operation makes the frames of that clip or slice, once, and goes on with an ordinary
  tensor;
- writing into it, or into a slice of it, works; what is written is kept.

One difference to an ordinary tensor remains: what was read out of a clip or slice (a single frame by its index, a view)
may be a copy, so that writing into that does not change the clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import psutil
import torch
from torch.utils._pytree import tree_map

from ..sonic.errors import NotEnoughMemory
from ..sonic.frames import FrameSource
from ..sonic.interruption import Check, no_check

_aten = torch.ops.aten
NOTHING_SAID: Mapping[str, str] = MappingProxyType({})

# These read or write memory directly, so that only an ordinary tensor can serve them.
_DIRECT = {
    torch.Tensor.numpy,
    torch.Tensor.tolist,
    torch.Tensor.item,
    torch.Tensor.__array__,
    torch.Tensor.__setitem__,
    torch.Tensor.__dlpack__,
    torch.Tensor.__dlpack_device__,
    torch.Tensor.data_ptr,
    torch.Tensor.storage,
    torch.Tensor.untyped_storage,
    torch.Tensor.share_memory_,
}


def about(images: torch.Tensor) -> Mapping[str, str]:
    """What a video of these images is to say of itself; nothing for ordinary ones."""
    return images.about if isinstance(images, FrameTensor) else NOTHING_SAID


class _Clip:
    """The frames behind one or more FrameTensors: a source, and all of its frames once they were needed."""

    def __init__(self, source: FrameSource, check: Check, about: Mapping[str, str]) -> None:
        self.source = source
        self.check = check
        self.about = about
        self.whole: torch.Tensor | None = None

    def read(self, rows: range) -> torch.Tensor:
        """The frames of these indices: a view of ``whole`` where that is there, else made now."""
        if self.whole is not None:
            return self.whole[_as_slice(rows)]
        return self._make(rows)

    def keep_whole(self) -> torch.Tensor:
        if self.whole is None:
            self.whole = self._make(range(self.source.count))
        return self.whole

    def _make(self, rows: range) -> torch.Tensor:
        shape = (len(rows), self.source.height, self.source.width, 3)
        _check_memory(shape)
        frames = torch.empty(shape, dtype=torch.float32)
        for target, pixels in zip(frames, self._pixels(rows), strict=True):
            self.check()
            torch.div(torch.from_numpy(pixels), 255.0, out=target)
        return frames

    def _pixels(self, rows: range) -> Iterator[Any]:
        if rows.step == 1:
            yield from self.source.frames(rows.start, rows.stop)
        else:
            for row in rows:
                yield from self.source.frames(row, row + 1)


def _as_slice(rows: range) -> slice:
    return slice(rows.start, rows.stop, rows.step)  # torch knows no negative steps, so stop is never below zero


def _check_memory(shape: tuple[int, ...]) -> None:
    needed = 4 * shape[0] * shape[1] * shape[2] * shape[3]
    free = psutil.virtual_memory().available
    if needed > free:
        raise NotEnoughMemory(
            f"All {shape[0]} frames of {shape[2]} x {shape[1]} pixels at once need {needed / 2**30:.1f} GB of memory "
            f"and {free / 2**30:.1f} GB are free; use the 'video' output, which needs none, or a shorter duration."
        )


class FrameTensor(torch.Tensor):
    """(frames, height, width, 3) float32 in 0..1 on the CPU, made from a FrameSource on demand.

    check: called before each frame that is made, to let a user interrupt; what it raises passes through.
    about: what a video of these frames is to say of itself, such as the engine that made them.
    Reading raises NotEnoughMemory when the frames that are asked for do not fit into the free memory.
    """

    _clip: _Clip
    _rows: range
    _part: torch.Tensor | None  # the frames of a slice, once they were needed

    @staticmethod
    def __new__(
        cls, source: FrameSource, check: Check = no_check, about: Mapping[str, str] = NOTHING_SAID
    ) -> FrameTensor:
        return cls._over(_Clip(source, check, about), range(source.count))

    def __init__(self, source: FrameSource, check: Check = no_check, about: Mapping[str, str] = NOTHING_SAID) -> None:
        super().__init__()

    @classmethod
    def _over(cls, clip: _Clip, rows: range) -> FrameTensor:
        shape = (len(rows), clip.source.height, clip.source.width, 3)
        tensor: FrameTensor = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32)
        tensor._clip, tensor._rows, tensor._part = clip, rows, None
        return tensor

    @property
    def about(self) -> Mapping[str, str]:
        """Metadata for a video of these frames."""
        return self._clip.about

    @property
    def is_made(self) -> bool:
        """Whether the whole clip lies in memory."""
        return self._clip.whole is not None

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Frame by frame, each (height, width, 3); torch's own iteration would make all of them first."""
        if self._clip.whole is not None:
            yield from self._clip.read(self._rows)
            return
        for pixels in self._clip._pixels(self._rows):
            self._clip.check()
            yield torch.from_numpy(pixels) / 255.0

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        state = "made" if self.is_made else "made on demand"
        return f"FrameTensor(shape={tuple(self.shape)}, {state})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A pickle or a copy is an ordinary tensor.
        return self._made().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        return self._made().clone()

    def _made(self, for_writing: bool = False) -> torch.Tensor:
        """An ordinary tensor of these frames; one to write into shares memory with the whole clip."""
        if self._clip.whole is not None or for_writing or len(self._rows) == self._clip.source.count:
            self._clip.keep_whole()
            return self._clip.read(self._rows)
        if self._part is None:
            self._part = self._clip.read(self._rows)
        return self._part

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DIRECT:
            args, kwargs = _ordinary((args, kwargs), for_writing=func is torch.Tensor.__setitem__)
        # Without this torch would turn the ordinary results below into FrameTensors.
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        lazy = _LAZY.get(func)
        if lazy is not None and isinstance(args[0], FrameTensor):
            result = lazy(*args, **kwargs)
            if result is not None:
                return result
        written = func._schema.is_mutable
        made_args, made_kwargs = _ordinary((args, kwargs), for_writing=written)
        result = func(*made_args, **made_kwargs)
        # An operation in place answers with the tensor it was given: the caller's, not the one inside.
        return args[0] if written and result is made_args[0] else result


def _ordinary(arguments: Any, for_writing: bool) -> Any:
    """The arguments of an operation with ordinary tensors in place of every FrameTensor, however deep."""
    return tree_map(lambda value: value._made(for_writing) if isinstance(value, FrameTensor) else value, arguments)


def _select(tensor: FrameTensor, dim: int, index: int) -> torch.Tensor | None:
    if dim not in (0, -4):
        return None
    row = tensor._rows[index]  # an IndexError here is the one that an ordinary tensor raises
    return tensor._clip.read(range(row, row + 1))[0]


def _slice(
    tensor: FrameTensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> torch.Tensor | None:
    length = tensor.shape[dim]
    if range(length)[start:end:step] == range(length):
        return FrameTensor._over(tensor._clip, tensor._rows)
    if dim not in (0, -4):
        return None
    return FrameTensor._over(tensor._clip, tensor._rows[start:end:step])


def _index(tensor: FrameTensor, indices: list[torch.Tensor | None]) -> torch.Tensor | None:
    """tensor[[2, 5, 7]] or tensor[mask]: one list of frames, nothing else."""
    if tensor.is_made or len(indices) != 1 or indices[0] is None or indices[0].ndim != 1:
        return None
    wanted = torch.arange(len(tensor._rows))[indices[0]].tolist()
    frames = [tensor._clip.read(range(row, row + 1)) for row in (tensor._rows[i] for i in wanted)]
    return torch.cat(frames) if frames else torch.empty((0, *tensor.shape[1:]))


def _clone(tensor: FrameTensor, memory_format: Any = None) -> torch.Tensor:
    if tensor.is_made or tensor._part is not None:
        return tensor._made().clone()
    return tensor._clip.read(tensor._rows)  # made just now: it belongs to nobody else


def _same(tensor: FrameTensor) -> torch.Tensor:
    return FrameTensor._over(tensor._clip, tensor._rows)


_LAZY: dict[Any, Callable[..., torch.Tensor | None]] = {
    _aten.select.int: _select,
    _aten.slice.Tensor: _slice,
    _aten.index.Tensor: _index,
    _aten.clone.default: _clone,
    _aten.detach.default: _same,
    _aten.alias.default: _same,
}
