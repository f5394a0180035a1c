"""Which cards a machine has and which of them are chosen."""

from __future__ import annotations

import pytest
from comfyui_sonic.queue_bridge.errors import FleetError
from comfyui_sonic.queue_bridge.servers.devices import Device, cards_of_list, chosen, processors

TWO = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-4d2f1c00-0000-0000-0000-000000000001)
GPU 1: NVIDIA RTX 4090 (UUID: GPU-9b7e1c00-0000-0000-0000-000000000002)
"""
DIVIDED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f)
  MIG 1g.5gb      Device  0: (UUID: MIG-04f8a7d4-1d4c-5e8c-a0d2-a0a0f0fcb1a1)
  MIG 2g.10gb     Device  1: (UUID: MIG-04f8a7d4-1d4c-5e8c-a0d2-a0a0f0fcb1a2)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc40)
"""


def uuids(devices: list[Device]) -> list[str]:
    return [one.uuid for one in devices]


def test_the_list_of_nvidia_smi_is_read() -> None:
    first, second = cards_of_list(TWO)
    assert (first.label, first.name, first.index) == ("gpu0", "NVIDIA H100 80GB HBM3", 0)
    assert second.uuid == "GPU-9b7e1c00-0000-0000-0000-000000000002"
    assert cards_of_list("No devices found.\n") == []


def test_the_parts_of_a_divided_card_are_devices_in_its_place() -> None:
    assert [(one.label, one.name) for one in cards_of_list(DIVIDED)] == [
        ("gpu0-0", "NVIDIA A100-SXM4-40GB MIG 1g.5gb"),
        ("gpu0-1", "NVIDIA A100-SXM4-40GB MIG 2g.10gb"),
        ("gpu1", "NVIDIA A100-SXM4-40GB"),
    ]


@pytest.mark.parametrize(
    ("wanted", "labels"),
    [
        ("all", ["gpu0", "gpu1"]),
        ("1", ["gpu1"]),
        ("1, 0,1", ["gpu0", "gpu1"]),
        ("GPU-9b7e1c00-0000-0000-0000-000000000002", ["gpu1"]),
        ("GPU-9b", ["gpu1"]),
    ],
)
def test_cards_are_chosen_by_number_and_by_uuid(wanted: str, labels: list[str]) -> None:
    assert [one.label for one in chosen(wanted, cards_of_list(TWO))] == labels


@pytest.mark.parametrize("wanted", ["2", "GPU-1", "GPU-", "first"])
def test_a_card_that_is_not_there_is_one_sentence_that_names_those_that_are(wanted: str) -> None:
    with pytest.raises(FleetError, match=rf"^--gpus: '{wanted}' is none of the cards of this machine: 0 \(GPU-4d2f"):
        chosen(wanted, cards_of_list(TWO))


def test_a_server_sees_its_own_card_and_one_on_the_processor_sees_none() -> None:
    (card, _), (processor,) = cards_of_list(TWO), processors(1)
    assert card.environment() == {"CUDA_VISIBLE_DEVICES": card.uuid}
    assert processor.environment(beside=1)["CUDA_VISIBLE_DEVICES"] == ""
    assert processor.arguments == ("--cpu",)
