"""What a machine has to compute on: its NVIDIA cards and their parts, by UUID, and the processor.

A card's number can change with a driver or a slot; its UUID cannot, and CUDA_VISIBLE_DEVICES takes it.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..aside import begun
from ..errors import FleetError

log = logging.getLogger("sonic.devices")

VISIBLE = "CUDA_VISIBLE_DEVICES"
CARD = re.compile(r"^GPU (\d+): (.*?) \(UUID: (GPU-[^)]+)\)$")
PART = re.compile(r"^\s+MIG (.*?)\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)$")
ASK_S = 30.0
OTHERWISE = "--cpu 1 runs a server on the processor."


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
        raise FleetError(f"No NVIDIA card was found on this machine; {OTHERWISE}")
    if wanted != "all" or VISIBLE not in environment:
        return chosen(wanted, found)
    # As in CUDA, "" and "-1" hide every card, and what follows "-1" is hidden, too.
    visible = re.split(r"(?:^|,)\s*-1", environment[VISIBLE])[0].strip()
    if not visible:
        raise FleetError(f"{VISIBLE} hides every card; name them with --gpus, or {OTHERWISE}")
    return chosen(visible, found, VISIBLE)


def chosen(wanted: str, found: Sequence[Device], named_by: str = "--gpus") -> list[Device]:
    """Those of the devices that are named, in the order of their numbers. named_by: what to say of a wrong name."""
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
            raise FleetError(f"{named_by}: '{name}' is none of the cards of this machine: {known}.")
        picked += [one for one in these if one not in picked]
    if not picked:
        raise FleetError(f"{named_by}: no card is named; give 'all', or numbers or UUIDs separated by commas.")
    return sorted(picked, key=found.index)


def found_cards() -> list[Device]:
    """Every card of this machine, or its parts where it is divided (MIG), by nvidia-ml-py or by nvidia-smi.

    One that does not answer is left out with a warning. Raises FleetError when none does, or when the driver does not.
    """
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        return _cards_by_program()
    try:
        return begun(lambda: _cards_by_library(library)).result(ASK_S)
    except TimeoutError:
        raise _untold(f"no answer within {ASK_S:g} s") from None


def _cards_by_library(library: Any) -> list[Device]:
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        if error.value == library.NVML_ERROR_LIBRARY_NOT_FOUND:
            return []
        raise _untold(str(error)) from error
    try:
        found: list[Device] = []
        silent: list[str] = []
        for index in range(library.nvmlDeviceGetCount()):
            try:
                found += _asked(library, index)
            except library.NVMLError as error:  # it has fallen off the bus, or is not for this user
                silent.append(f"card {index}: {error}")
    except library.NVMLError as error:
        raise _untold(str(error)) from error
    finally:
        with contextlib.suppress(library.NVMLError):
            library.nvmlShutdown()
    return _without(silent, found)


def _without(silent: Sequence[str], found: list[Device]) -> list[Device]:
    """What was found, if there is anything. silent: what is said of each card that does not answer."""
    if silent and not found:
        raise _untold("; ".join(silent))
    if silent:
        log.warning("Something is wrong with the NVIDIA cards: %s. Those that answer are used.", "; ".join(silent))
    return found


def _untold(why: str) -> FleetError:
    return FleetError(f"The NVIDIA driver does not say which cards there are: {why.rstrip('.')}. {OTHERWISE}")


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


def _cards_by_program() -> list[Device]:
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=ASK_S)
    except FileNotFoundError:
        return []
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FleetError(f"nvidia-smi does not say which cards there are: {error}.") from error
    # A card that does not answer has a sentence in the place of its line, and the exit status is not 0.
    lines = [" ".join(line.split()) for line in f"{answer.stdout}\n{answer.stderr}".splitlines()]
    others = [line.rstrip(".") for line in lines if line and not line.startswith(("GPU ", "MIG "))]
    return _without(others if answer.returncode else [], cards_of_list(answer.stdout))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
