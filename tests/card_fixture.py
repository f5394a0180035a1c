"""A graphics card of software (tests/software_card): for what belongs to a card and not to its speed."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

SOURCE = Path(__file__).parent / "software_card"


@dataclass(frozen=True)
class SoftwareCard:
    """The compiled device; ``environment`` makes a process of Python have one."""

    library: Path

    def environment(self, memory_mib: int, said_mib: int | None = None) -> dict[str, str]:
        """said_mib: what it says that it has, when that is more."""
        return {
            "PYTHONPATH": str(SOURCE),
            "SOFTWARE_CARD_LIBRARY": str(self.library),
            "SOFTWARE_CARD_MIB": str(memory_mib),
            "SOFTWARE_CARD_SAID_MIB": str(said_mib or memory_mib),
        }


def compiler() -> str | None:
    return shutil.which("c++")


def compile_card(folder: Path) -> SoftwareCard:
    """Ten seconds. Raises CalledProcessError, with what the compiler said."""
    parts = Path(torch.__file__).parent
    library = folder / "software_card.so"
    includes = [f"-I{parts / 'include'}", f"-I{parts / 'include' / 'torch' / 'csrc' / 'api' / 'include'}"]
    libraries = [f"-L{parts / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    command = [compiler() or "c++", "-O1", "-shared", "-fPIC", "-std=c++20", "-w", *includes]
    subprocess.run([*command, str(SOURCE / "card.cpp"), *libraries, "-o", str(library)], check=True)
    return SoftwareCard(library)
