"""How busy this instance's card and process are, as its heartbeat says it. What cannot be found out is left out.

The card's load comes from NVIDIA's own library (extra ``nvidia``); its answers are for the whole card, whoever uses it.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger("sonic.device_load")


def device_load(
    gpu_uuid: str, importer: Callable[[str], Any] = importlib.import_module
) -> Callable[[], dict[str, Any]]:
    """A function that answers what is known now: resident (bytes), gpu_used (0..1), gpu_memory_used (bytes).

    gpu_uuid: the card's, ``GPU-...``, or '' for none; a number would not do, as processes see different ones.
    """
    card = _card(gpu_uuid, importer)
    process = _process(importer)

    def now() -> dict[str, Any]:
        return {**process(), **card()}

    return now


def _process(importer: Callable[[str], Any]) -> Callable[[], dict[str, Any]]:
    try:
        process = importer("psutil").Process()
    except ImportError:
        return dict
    return lambda: {"resident": int(process.memory_info().rss)}


def _card(gpu_uuid: str, importer: Callable[[str], Any]) -> Callable[[], dict[str, Any]]:
    if not gpu_uuid:
        return dict
    try:
        nvml = importer("pynvml")
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(gpu_uuid)
    except ImportError:
        log.info("The card's load is not told: nvidia-ml-py is not installed.")
        return dict
    except Exception as error:  # noqa: BLE001  # NVMLError is known only where the library is
        log.info("The card's load is not told: %s", error)
        return dict

    def now() -> dict[str, Any]:
        try:
            used = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
            return {
                "gpu": gpu_uuid,
                "gpu_used": used,
                "gpu_memory_used": int(nvml.nvmlDeviceGetMemoryInfo(handle).used),
            }
        except Exception as error:  # noqa: BLE001  # a card that has failed is told of elsewhere
            log.debug("the card's load: %s", error)
            return {"gpu": gpu_uuid}

    return now
