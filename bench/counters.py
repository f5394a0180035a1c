"""What a piece of work takes, seen from its tensors: arithmetic, and memory at its peak."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


NOT_COUNTED_BY_TORCH = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


def flops_of(work: Callable[[], object]) -> int:
    """Matrix products, convolutions and attentions of ``work``; a multiplication with its addition is 2."""
    counter = FlopCounterMode(display=False, custom_mapping=NOT_COUNTED_BY_TORCH)
    with torch.inference_mode(), counter:
        work()
    return int(counter.get_total_flops())


class LiveBytes(TorchDispatchMode):
    """Adds up the storages of what is made within; ``peak`` is the most that lived at once, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in given:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def forget(_: Any) -> None:
            del self._known[key]
            self.live -= size

        self._known[key] = weakref.ref(storage, forget)
        self.live += size
        self.peak = max(self.peak, self.live)


def peak_of(work: Callable[[], object]) -> int:
    """Bytes: the most that lived at once of what ``work`` makes."""
    with torch.inference_mode(), LiveBytes() as counted:
        work()
    return counted.peak


def allocated_peak_of(work: Callable[[], object]) -> int:
    """The same as the processor's allocator saw it, with what kernels take for themselves."""
    with torch.profiler.profile(profile_memory=True) as profile, torch.inference_mode():
        work()
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak
