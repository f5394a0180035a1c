"""Makes torch know a device ``npu`` whose memory is counted and whose work the processor does (../card.cpp).

ComfyUI looks for the cards of Ascend by importing a module of this name, and takes the device as it takes a graphics
card. Read from the environment: SOFTWARE_CARD_LIBRARY, the compiled card.cpp; SOFTWARE_CARD_MIB, what the card has;
SOFTWARE_CARD_SAID_MIB, what it says that it has, more than that on a card that is cut up into small free pieces.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from types import ModuleType

import torch

NAME = "npu"


def card_module(said_mib: int) -> ModuleType:
    """``torch.npu``, as far as torch and ComfyUI ask for it."""
    counted, said = torch.ops.software_card, said_mib << 20

    def statistics(_device: object = None) -> dict[str, int]:
        """As if nothing that was ever taken had been given back before ``empty_cache``."""
        return {"active_bytes.all.current": counted.taken(), "reserved_bytes.all.current": counted.most()}

    module = ModuleType(f"torch.{NAME}")
    answers = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda _device=None: "software card",
        "get_amp_supported_dtype": lambda: [torch.float16, torch.bfloat16],
        "memory_stats": statistics,
        "mem_get_info": lambda _device=None: (said - counted.most(), said),
        "empty_cache": counted.forget_most,
        "synchronize": lambda _device=None: None,
        "manual_seed": lambda _seed: None,
        "manual_seed_all": lambda _seed: None,
        "_is_in_bad_fork": lambda: False,
    }
    for name, answer in answers.items():
        setattr(module, name, answer)
    return module


def register() -> None:
    memory_mib = int(os.environ["SOFTWARE_CARD_MIB"])
    torch.ops.load_library(os.environ["SOFTWARE_CARD_LIBRARY"])
    torch.ops.software_card.set_limit(memory_mib << 20)
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, card_module(int(os.environ.get("SOFTWARE_CARD_SAID_MIB", memory_mib))))
    torch.utils.generate_methods_for_privateuse1_backend()
    # A torch without CUDA is what there is, as with --cpu, on which the launcher does this.
    launcher = runpy.run_path(str(Path(__file__).parents[3] / "queue_bridge" / "servers" / "launch_comfyui.py"))
    launcher["make_torchvision_importable"]()
    launcher["make_torchaudio_importable"]()


register()
