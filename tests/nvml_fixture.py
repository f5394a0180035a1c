"""A machine with NVIDIA's cards as this pack sees them: nvidia-ml-py is real, the library under it is a stand-in."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).resolve().parent / "nvml" / "stand_in.c"
NAME = "libnvidia-ml.so.1"  # by which nvidia-ml-py asks for it
LOST, NOT_PERMITTED, OTHER_VERSION = 15, 4, 18  # of what NVIDIA's library answers

# Answers expressions, a line each, so that its machine can be changed between two of them.
CHILD = """
import json, sys
{begin}
for line in sys.stdin:
    print(json.dumps(eval(line)), flush=True)
"""
Ask = Callable[[str], Any]


@dataclass(frozen=True)
class NvmlMachine:
    """library: the folder of the stand-in. file: what it reads. said: the standard error of what ran."""

    library: Path
    file: Path
    said: Path

    def has(self, *lines: str) -> None:
        """From now on the machine has these: the lines of nvml/stand_in.c."""
        new = self.file.with_suffix(".new")
        new.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        new.replace(self.file)

    @contextlib.contextmanager
    def python(self, begin: str) -> Iterator[Ask]:
        """A process of its own on this machine, as a library is loaded once; answers expressions after ``begin``."""
        variables = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        variables["PYTHONPATH"] = os.pathsep.join(sys.path)
        variables |= {"LD_LIBRARY_PATH": str(self.library), "NVML_STAND_IN": str(self.file)}
        command = [sys.executable, "-c", CHILD.format(begin=begin)]
        pipe = subprocess.PIPE
        with (
            self.said.open("w") as said,
            subprocess.Popen(command, env=variables, stdin=pipe, stdout=pipe, stderr=said, text=True) as process,
        ):
            questions, answers = process.stdin, process.stdout
            assert questions and answers

            def ask(expression: str) -> Any:
                questions.write(f"{expression}\n")
                questions.flush()
                line = answers.readline()
                assert line, self.said.read_text()
                return json.loads(line)

            try:
                yield ask
            finally:
                process.kill()


def build_library(folder: Path) -> Path:
    """The stand-in in that folder, under the name of NVIDIA's library; where it cannot be, the test is skipped."""
    compiler = shutil.which("cc")
    missing = "nvidia-ml-py" if importlib.util.find_spec("pynvml") is None else "" if compiler else "A C compiler (cc)"
    if missing:
        reason = f"{missing} is not installed."
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    options = ["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([str(compiler), *options, "-o", str(folder / NAME), str(SOURCE)], check=True)
    return folder
