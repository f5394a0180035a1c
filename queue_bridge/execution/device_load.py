"""How busy this instance's card and process are, as its heartbeat says it. What cannot be found out is left out.

The card's load comes from NVIDIA's own library (extra ``nvidia``); its answers are for the whole card, whoever uses it,
or for the part of a divided one (MIG), of which it tells the memory only. A driver in trouble may let the library hang,
so it is asked aside: a heartbeat waits for it for a moment, and then goes without.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from ..aside import begun

log = logging.getLogger("sonic.device_load")

WAIT_S = 0.5


def device_load(
    uuids: Sequence[str], importer: Callable[[str], Any] = importlib.import_module
) -> Callable[[], dict[str, Any]]:
    """A function that answers what is known now: resident (bytes), gpu_used (0..1), gpu_memory_used (bytes).

    uuids: what the card may be called, the likeliest first; none when there is no card. A number would not do, as
    processes see different ones.
    """
    process = _process(importer)
    card = _in_time(_card(uuids, importer)) if uuids else dict

    def now() -> dict[str, Any]:
        return {**process(), **card()}

    return now


def _process(importer: Callable[[str], Any]) -> Callable[[], dict[str, Any]]:
    try:
        process = importer("psutil").Process()
    except ImportError:
        return dict
    return lambda: {"resident": int(process.memory_info().rss)}


def _in_time(ask: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """The same, but with no answer where there is none in time; what hangs is not asked a second time meanwhile."""
    asked: Future[dict[str, Any]] | None = None

    def now() -> dict[str, Any]:
        nonlocal asked
        wait_s = 0.0
        if asked is None or asked.done():  # an answer that came too late is an old one
            asked, wait_s = begun(ask), WAIT_S
        try:
            return asked.result(wait_s)
        except Exception as error:  # noqa: BLE001  # no answer yet, or one that was not foreseen
            log.debug("the card's load: %r", error)
            return {}

    return now


def _card(uuids: Sequence[str], importer: Callable[[str], Any]) -> Callable[[], dict[str, Any]]:
    found: tuple[Any, Any, str] | None = None  # the library, the card's handle there, what it is called there
    sought = False

    def now() -> dict[str, Any]:
        nonlocal found, sought
        if not sought:  # at the first question, as it may take its time
            found, sought = _found(uuids, importer), True
        return _told(*found) if found else {}

    return now


def _found(uuids: Sequence[str], importer: Callable[[str], Any]) -> tuple[Any, Any, str] | None:
    try:
        nvml = importer("pynvml")
        nvml.nvmlInit()
        return nvml, *_handle(nvml, uuids)
    except ImportError:
        log.info("The card's load is not told: nvidia-ml-py is not installed.")
    except Exception as error:  # noqa: BLE001  # NVMLError is known only where the library is
        log.info("The card's load is not told: %s", error)
    return None


def _handle(nvml: Any, uuids: Sequence[str]) -> tuple[Any, str]:
    for uuid in uuids:
        with contextlib.suppress(nvml.NVMLError):
            return nvml.nvmlDeviceGetHandleByUUID(uuid), uuid
    # A card that has fallen off the bus may spoil the search for any other, but not their numbers.
    for number in range(nvml.nvmlDeviceGetCount()):
        with contextlib.suppress(nvml.NVMLError):
            handle = nvml.nvmlDeviceGetHandleByIndex(number)
            if (uuid := nvml.nvmlDeviceGetUUID(handle)) in uuids:
                return handle, uuid
    raise LookupError(f"the NVIDIA driver knows no card {uuids[0]}")


def _told(nvml: Any, handle: Any, uuid: str) -> dict[str, Any]:
    told: dict[str, Any] = {"gpu": uuid}
    with contextlib.suppress(nvml.NVMLError):  # a card that has failed is told of elsewhere
        told["gpu_used"] = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    with contextlib.suppress(nvml.NVMLError):
        told["gpu_memory_used"] = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
    return told
