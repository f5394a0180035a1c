"""Cards and their load by the real nvidia-ml-py, from a library that says what the test's machine has."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from comfyui_sonic.queue_bridge.attach import _uuids_of
from comfyui_sonic.queue_bridge.errors import FleetError
from comfyui_sonic.queue_bridge.execution.device_load import WAIT_S, device_load
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
LOAD = """
from comfyui_sonic.queue_bridge.execution import device_load as module
from comfyui_sonic.queue_bridge.execution.device_load import device_load

def load(*uuids):
    told = device_load(uuids)()
    assert told.pop("resident") > 10**6
    return told

now = device_load(["GPU-aa"])
"""
PATIENT = f"{LOAD}\nmodule.WAIT_S = 30"  # a busy machine of tests may be slow


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


@linux
def test_a_heartbeat_says_how_busy_its_own_card_is_and_of_a_part_only_the_memory(cards: NvmlMachine) -> None:
    cards.has(FIRST, SECOND, *DIVIDED)
    with cards.python(PATIENT) as ask:
        assert ask("load('GPU-aa')") == {"gpu": "GPU-aa", "gpu_used": 0.73, "gpu_memory_used": 5000}
        assert ask("load('GPU-bb', 'MIG-bb')") == {"gpu": "GPU-bb", "gpu_used": 0.12, "gpu_memory_used": 2000}
        assert ask("load('GPU-2', 'MIG-2')") == {"gpu": "MIG-2", "gpu_memory_used": 800}
        assert ask("load('GPU-ee')") == ask("load()") == {}


@linux
def test_what_a_card_does_not_answer_is_absent_and_back_when_it_answers(cards: NvmlMachine) -> None:
    cards.has(FIRST)
    with cards.python(PATIENT) as ask:
        assert ask("now()['gpu_used']") == 0.73
        for lines, told in (
            ((FIRST, "fail nvmlDeviceGetUtilizationRates 999"), ["gpu", "gpu_memory_used", "resident"]),
            ((FIRST, "fail nvmlDeviceGetMemoryInfo 999"), ["gpu", "gpu_used", "resident"]),
            ((f"card GPU-aa {LOST} 73 5000 -",), ["gpu", "resident"]),
            (("card GPU-aa 0 5 6 -",), ["gpu", "gpu_memory_used", "gpu_used", "resident"]),
        ):
            cards.has(*lines)
            assert ask("sorted(now())") == told
        assert ask("now()['gpu_used']") == 0.05


@linux
def test_a_library_that_hangs_holds_up_no_heartbeat_and_leaves_no_old_figure(cards: NvmlMachine) -> None:
    cards.has(FIRST, "hang nvmlDeviceGetHandleByUUID")
    with cards.python(LOAD) as ask:
        for function in ("nvmlDeviceGetHandleByUUID", "nvmlDeviceGetMemoryInfo"):
            cards.has(FIRST, f"hang {function}")
            began_s = time.monotonic()
            assert [ask("sorted(now())") for _ in range(9)] == [["resident"]] * 9
            assert time.monotonic() - began_s < 9 * WAIT_S, "only the first of them waits"
            cards.has("card GPU-aa 0 5 6 -")
            deadline = time.monotonic() + 10
            while ask("'gpu_used' not in (told := now())"):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert ask("told['gpu_used'], told['gpu_memory_used']") == [0.05, 6]


@linux
def test_a_card_is_found_though_another_has_fallen_off_the_bus_and_spoils_the_search(cards: NvmlMachine) -> None:
    cards.has(f"card GPU-cc {LOST} 0 0 -", FIRST, f"fail nvmlDeviceGetHandleByUUID {LOST}")
    with cards.python(PATIENT) as ask:
        assert ask("load('GPU-aa')") == {"gpu": "GPU-aa", "gpu_used": 0.73, "gpu_memory_used": 5000}


@pytest.mark.parametrize(
    ("missing", "words"),
    [(ImportError("pynvml"), "nvidia-ml-py is not installed."), (OSError("Driver Not Loaded"), "Driver Not Loaded")],
)
def test_without_library_or_driver_the_log_says_so_once(
    missing: Exception, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    def importer(name: str) -> object:
        if name == "pynvml":
            raise missing
        return importlib.import_module(name)

    caplog.set_level("INFO", "sonic.device_load")
    now = device_load(["GPU-1"], importer)
    assert set(now()) == set(now()) == {"resident"}
    assert [one.message for one in caplog.records] == [f"The card's load is not told: {words}"]


@pytest.mark.parametrize(
    ("kind", "visible", "names"),
    [
        ("cuda", "GPU-aa", ("GPU-aa", "MIG-aa")),
        ("cuda", "3", ("GPU-aa", "MIG-aa")),
        ("cuda", "MIG-1,MIG-2", ("MIG-1", "GPU-aa", "MIG-aa")),
        ("cpu", "GPU-aa", ()),
    ],
)
def test_a_servers_card_is_called_as_torch_calls_it_and_a_part_as_cuda_was_told(
    kind: str, visible: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = importlib.import_module("torch")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="aa"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert _uuids_of(SimpleNamespace(get_torch_device=lambda: torch.device(kind))) == names
