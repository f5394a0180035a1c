"""What a machine has to compute on: its NVIDIA cards and their parts, by UUID, and the processor.

A card's number can change with a driver or a slot; its UUID cannot, and CUDA_VISIBLE_DEVICES takes it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import FleetError

VISIBLE = "CUDA_VISIBLE_DEVICES"
CARD = re.compile(r"^GPU (\d+): (.*?) \(UUID: (GPU-[^)]+)\)$")
PART = re.compile(r"^\s+MIG (.*?)\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)$")
ASK_S = 30.0


@dataclass(frozen=True)
class Device:
    """label: what the instance on it is called, such as gpu0. uuid: of a card or a part of one; '' is the processor.

    name: what people call it. arguments: ComfyUI's own. index: among the cards, as nvidia-smi numbers them.
    """

    label: str
    uuid: str = ""
    name: str = "processor"
    arguments: tuple[str, ...] = ()
    index: int = -1

    def environment(self, beside: int = 1) -> dict[str, str]:
        """Variables of a server on it. beside: so many run on the processor, which share its cores."""
        if self.uuid:
            return {VISIBLE: self.uuid}
        threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, _cores() // beside))}
        return {VISIBLE: "", **threads}


def processors(count: int) -> list[Device]:
    """Places for servers that compute on the processor."""
    return [Device(f"cpu{number}", arguments=("--cpu",)) for number in range(count)]


def cards(wanted: str, environment: Mapping[str, str] | None = None) -> list[Device]:
    """The cards that are wanted: "all", or numbers or UUIDs separated by commas.

    "all" are those of CUDA_VISIBLE_DEVICES where that is set. Raises FleetError when there are none, or not these.
    """
    environment = os.environ if environment is None else environment
    found = found_cards()
    if not found:
        raise FleetError("No NVIDIA card was found on this machine; --cpu 1 runs a server on the processor.")
    visible = environment.get(VISIBLE, "") if wanted == "all" else ""
    return chosen(visible or wanted, found)


def chosen(wanted: str, found: Sequence[Device]) -> list[Device]:
    """Those of the devices that are named, in the order of their numbers."""
    if wanted == "all":
        return list(found)
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    picked: list[Device] = []
    for name in names:
        these = [one for one in found if one.uuid == name or (name.isdigit() and one.index == int(name))]
        # As in CUDA, the beginning of a UUID is enough when it is the only such one.
        these = these or [one for one in found if not name.isdigit() and one.uuid.startswith(name)]
        if not these or (len(these) > 1 and not name.isdigit()):
            known = ", ".join(f"{one.index} ({one.uuid})" for one in found)
            raise FleetError(f"--gpus: '{name}' is none of the cards of this machine: {known}.")
        picked += [one for one in these if one not in picked]
    if not picked:
        raise FleetError("--gpus: no card is named; give 'all', or numbers or UUIDs separated by commas.")
    return sorted(picked, key=found.index)


def found_cards() -> list[Device]:
    """Every card of this machine, or its parts where it is divided (MIG), by nvidia-ml-py or by nvidia-smi."""
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        return cards_of_list(_nvidia_smi())
    try:
        library.nvmlInit()
    except library.NVMLError:
        return []
    try:
        return [one for index in range(library.nvmlDeviceGetCount()) for one in _asked(library, index)]
    except library.NVMLError as error:
        raise FleetError(f"The NVIDIA driver does not say which cards there are: {error}.") from error
    finally:
        library.nvmlShutdown()


def _asked(library: Any, index: int) -> list[Device]:
    """A card, or its parts."""
    card = library.nvmlDeviceGetHandleByIndex(index)
    parts: list[Device] = []
    with contextlib.suppress(library.NVMLError):  # most cards cannot be divided
        if library.nvmlDeviceGetMigMode(card)[0]:
            for number in range(library.nvmlDeviceGetMaxMigDeviceCount(card)):
                with contextlib.suppress(library.NVMLError):  # a place without a part
                    part = library.nvmlDeviceGetMigDeviceHandleByIndex(card, number)
                    uuid, name = _text(library.nvmlDeviceGetUUID(part)), _text(library.nvmlDeviceGetName(part))
                    parts.append(Device(f"gpu{index}-{len(parts)}", uuid, name, index=index))
            return parts
    name = _text(library.nvmlDeviceGetName(card))
    return [Device(f"gpu{index}", _text(library.nvmlDeviceGetUUID(card)), name, index=index)]


def cards_of_list(text: str) -> list[Device]:
    """The cards of what ``nvidia-smi -L`` prints."""
    found: list[Device] = []
    for line in text.splitlines():
        if match := CARD.match(line):
            index, name, uuid = int(match[1]), match[2], match[3]
            found.append(Device(f"gpu{index}", uuid, name, index=index))
        elif (match := PART.match(line)) and found:
            index, whole = found[-1].index, found[-1].label == f"gpu{found[-1].index}"
            name = f"{found[-1].name.partition(' MIG ')[0]} MIG {match[1]}"
            if whole:
                found.pop()
            number = sum(one.index == index for one in found)
            found.append(Device(f"gpu{index}-{number}", match[2], name, index=index))
    return found


def _nvidia_smi() -> str:
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=ASK_S)
    except FileNotFoundError:
        return ""
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FleetError(f"nvidia-smi does not say which cards there are: {error}.") from error
    return answer.stdout if answer.returncode == 0 else ""


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
