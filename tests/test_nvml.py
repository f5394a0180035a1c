"""Cards by the real nvidia-ml-py, from a library that says what the test's machine has."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.errors import FleetError
from comfyui_sonic.queue_bridge.servers.devices import cards as wanted_cards

from .nvml_fixture import LOST, NOT_PERMITTED, OTHER_VERSION, NvmlMachine

linux = pytest.mark.skipif(sys.platform != "linux", reason="the library has this name on Linux")
posix = pytest.mark.skipif(os.name != "posix", reason="the program of the test is a shell script")

FIRST = "card GPU-aa 0 73 5000 NVIDIA L4"
SECOND = "card GPU-bb 0 12 2000 NVIDIA L4"
THIRD = "card GPU-cc 0 0 0 NVIDIA T4"
DIVIDED = ("card GPU-dd 0 -1 9000 NVIDIA A100", "part MIG-1 0 -1 700 NVIDIA A100 MIG 1g.5gb", "place",
           "part MIG-2 0 -1 800 NVIDIA A100 MIG 2g.10gb")  # fmt: skip
DEVICES = """
from comfyui_sonic.queue_bridge.errors import FleetError
from comfyui_sonic.queue_bridge.servers import devices

def found(wanted="all", **environment):
    try:
        return [[one.label, one.uuid, one.name, one.index] for one in devices.cards(wanted, environment)]
    except FleetError as error:
        return str(error)

def names(*asked, **environment):
    all_found = found(*asked, **environment)
    return all_found if isinstance(all_found, str) else [one[0] for one in all_found]
"""


@linux
def test_a_card_is_a_device_by_its_uuid_and_the_parts_of_a_divided_one_stand_in_its_place(cards: NvmlMachine) -> None:
    cards.has(FIRST, *DIVIDED, THIRD)
    with cards.python(DEVICES) as ask:
        assert ask("found()") == [
            ["gpu0", "GPU-aa", "NVIDIA L4", 0],
            ["gpu1-0", "MIG-1", "NVIDIA A100 MIG 1g.5gb", 1],
            ["gpu1-1", "MIG-2", "NVIDIA A100 MIG 2g.10gb", 1],
            ["gpu2", "GPU-cc", "NVIDIA T4", 2],
        ]
        assert ask("names('1,2')") == ["gpu1-0", "gpu1-1", "gpu2"]
        assert ask("names('MIG-2')") == ["gpu1-1"]
        cards.has()
        assert ask("found()").startswith("No NVIDIA card was found on this machine; --cpu 1 ")


@linux
def test_all_cards_are_those_that_cuda_visible_devices_leaves(cards: NvmlMachine) -> None:
    cards.has(FIRST, SECOND, THIRD)
    with cards.python(DEVICES) as ask:
        for visible, left in {"2,0": ["gpu0", "gpu2"], "GPU-b": ["gpu1"], "1, -1,2": ["gpu1"]}.items():
            assert ask(f"names(CUDA_VISIBLE_DEVICES={visible!r})") == left
        for visible in ("", " ", "-1", "-1,0"):
            hidden = ask(f"names(CUDA_VISIBLE_DEVICES={visible!r})")
            assert hidden.startswith("CUDA_VISIBLE_DEVICES hides every card; name them with --gpus"), visible
        assert ask("names('0', CUDA_VISIBLE_DEVICES='')") == ["gpu0"], "what is named is taken all the same"
        assert ask("names(CUDA_VISIBLE_DEVICES='7')").startswith("CUDA_VISIBLE_DEVICES: '7' is none of the cards")


@linux
def test_a_card_that_has_failed_or_is_not_for_us_is_left_out_and_the_others_keep_their_numbers(
    cards: NvmlMachine,
) -> None:
    cards.has(f"card GPU-aa {LOST} 0 0 -", SECOND, f"card GPU-cc {NOT_PERMITTED} 0 0 -", "card GPU-dd 0 0 0 NVIDIA T4")
    with cards.python(DEVICES) as ask:
        assert ask("names()") == ["gpu1", "gpu3"]
        assert ask("names('0')").startswith("--gpus: '0' is none of the cards of this machine: 1 (GPU-bb), 3 (GPU-dd)")
    assert "card 0: GPU is lost; card 2: Insufficient Permissions. Those that answer" in cards.said.read_text()


@linux
@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((FIRST, f"fail nvmlInitWithFlags {OTHER_VERSION}"), "RM has detected an NVML/RM version mismatch"),
        ((FIRST, "fail nvmlDeviceGetCount_v2 999"), "Unknown Error"),
        ((f"card GPU-aa {LOST} 0 0 -", f"card GPU-bb {LOST} 0 0 -"), "card 0: GPU is lost; card 1: GPU is lost"),
        ((FIRST, "hang nvmlInitWithFlags"), "no answer within 0.2 s"),
    ],
)
def test_a_driver_that_tells_of_no_card_is_one_sentence(cards: NvmlMachine, lines: tuple[str, ...], why: str) -> None:
    cards.has(*lines)
    with cards.python(f"{DEVICES}\ndevices.ASK_S = 0.2") as ask:
        told = ask("found()")
    assert (
        told == f"The NVIDIA driver does not say which cards there are: {why}. --cpu 1 runs a server on the processor."
    )


# What nvidia-smi 535 writes of a card that has fallen off the bus, and where there is no driver.
LISTED = """echo 'GPU 0: NVIDIA T4 (UUID: GPU-aa)'
echo 'Unable to determine the device handle for gpu 1: GPU is lost.  Reboot the system to recover this GPU'
echo
echo 'GPU 2: NVIDIA T4 (UUID: GPU-cc)'
exit 15"""
NO_DRIVER = 'echo "NVIDIA-SMI has failed because it couldn\'t communicate with the NVIDIA driver."\nexit 9'


@posix
def test_what_nvidia_smi_says_beside_its_list_is_told_and_what_it_lists_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    program.write_text(f"#!/bin/sh\n{LISTED}\n")
    program.chmod(0o755)
    assert [one.label for one in wanted_cards("all", {})] == ["gpu0", "gpu2"]
    assert "gpu 1: GPU is lost. Reboot the system to recover this GPU. Those that answer are used." in caplog.text
    program.write_text(f"#!/bin/sh\n{NO_DRIVER}\n")
    with pytest.raises(FleetError, match=r"which cards there are: NVIDIA-SMI has failed .* the NVIDIA driver\. --cpu"):
        wanted_cards("all", {})
