"""One ComfyUI server process: start it, wait until it answers, stop it with everything it started."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import InstanceError
from ..ports import free_port, port_is_free

log = logging.getLogger("sonic.instance")

LAUNCHER = Path(__file__).with_name("launch_comfyui.py")
FOLDERS = ("custom_nodes", "input", "output", "models", "user")
POLL_S = 0.1
START_TIMEOUT_S = 180.0
STOP_GRACE_S = 5.0  # for each of the two polite signals
NEW_PROCESS_GROUP = 0x00000200  # subprocess.CREATE_NEW_PROCESS_GROUP, which exists on Windows only
# No proxy between us and a server on this machine.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def system_stats(address: str, timeout_s: float = 5.0) -> dict[str, Any] | None:
    """What ``http://address/system_stats`` answers, or None when nothing sensible answers there."""
    try:
        with _direct.open(f"http://{address}/system_stats", timeout=timeout_s) as answer:
            stats = json.load(answer)
    except (OSError, ValueError, urllib.error.URLError):
        return None
    return stats if isinstance(stats, dict) else None


def install_pack(pack: Path, custom_nodes: Path, name: str = "comfyui_sonic") -> Path:
    """Put a node pack into a custom_nodes folder, as a link or, where links are not allowed, a copy."""
    custom_nodes.mkdir(parents=True, exist_ok=True)
    place = custom_nodes / name
    if place.is_symlink() or (hasattr(place, "is_junction") and place.is_junction()):
        if place.resolve() == pack.resolve():
            return place
        place.unlink()
    elif place.exists():
        shutil.rmtree(place)
    try:
        place.symlink_to(pack.resolve(), target_is_directory=True)
    except OSError:
        leave_out = shutil.ignore_patterns(".*", "__pycache__", "output", "build", "*.egg-info")
        shutil.copytree(pack, place, ignore=leave_out)
    return place


class Instance:
    """A ComfyUI server of our own, with its own base directory, port and log.

    comfyui: the folder with ComfyUI's main.py; never written to.
    base_directory: models, custom_nodes, input, output and user folders of this server; made when missing.
    port: 0 takes a free one. python: the interpreter that has ComfyUI's packages.
    arguments: further arguments of ComfyUI, such as ``("--cuda-device", "1")``; the default runs without a GPU.
    outlives_us: when false, the server ends as soon as this process ends, however that happens.
    environment: further variables of the server, such as the bridge's settings.
    """

    def __init__(
        self,
        comfyui: Path,
        base_directory: Path,
        *,
        port: int = 0,
        python: Path | None = None,
        arguments: Sequence[str] = ("--cpu",),
        log_file: Path | None = None,
        outlives_us: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.comfyui = comfyui.resolve()
        self.base_directory = base_directory.resolve()
        self.host = "127.0.0.1"
        self.port = port
        self.python = python or Path(sys.executable)
        self.arguments = tuple(arguments)
        self.log_file = log_file or self.base_directory / "comfyui.log"
        self.outlives_us = outlives_us
        self.environment = dict(environment or {})
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """host:port, as a client wants it."""
        return f"{self.host}:{self.port}"

    @property
    def input_directory(self) -> Path:
        return self.base_directory / "input"

    @property
    def output_directory(self) -> Path:
        return self.base_directory / "output"

    def start(self) -> None:
        """Start the process and return at once; ``wait_until_ready`` comes next.

        Raises InstanceError when ComfyUI is not there, the port is taken or the process cannot be started.
        """
        if self.is_alive():
            raise InstanceError(f"The ComfyUI at {self.address} is already running.")
        main_py = self.comfyui / "main.py"
        if not main_py.is_file():
            raise InstanceError(f"There is no ComfyUI in '{self.comfyui}': main.py is missing there.")
        if self.port and not port_is_free(self.port, self.host):
            raise InstanceError(f"Port {self.port} is in use by another program; choose another one with --port.")
        self.port = self.port or free_port(self.host)
        for folder in FOLDERS:
            (self.base_directory / folder).mkdir(parents=True, exist_ok=True)
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        self.log_file.write_bytes(b"")
        with self.log_file.open("ab") as log_file:  # appending, so that it may be cut while the server writes
            try:
                self.process = subprocess.Popen(
                    self._command(main_py),
                    cwd=self.comfyui,
                    stdin=subprocess.DEVNULL if self.outlives_us else subprocess.PIPE,
                    stdout=log_file,
                    stderr=subprocess.STDOUT,
                    env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"} | self.environment,
                    # A group of its own: Ctrl-C in the terminal reaches us first, and stop() reaches all of it.
                    **_own_group(),
                )
            except OSError as error:
                raise InstanceError(f"ComfyUI could not be started with '{self.python}': {error}.") from error
        log.info("ComfyUI starting at %s (process %d)", self.address, self.process.pid)

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return when /system_stats answers; raises InstanceError when the process ends or the time is over."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self.is_alive():
                status = self.process.returncode if self.process else None
                raise InstanceError(
                    f"ComfyUI ended while starting (exit status {status}): {self.last_words()} "
                    f"The whole log is {self.log_file}."
                )
            if self.is_ready():
                return
            time.sleep(POLL_S)
        self.stop()
        raise InstanceError(f"ComfyUI did not answer within {timeout_s:.0f} s; its log is {self.log_file}.")

    def is_alive(self) -> bool:
        """True while the process runs; it ends itself when its prompt worker has died."""
        return self.process is not None and self.process.poll() is None

    def is_ready(self) -> bool:
        """True when this very server (not another one on the same port) answers."""
        stats = system_stats(self.address)
        return stats is not None and serves_from(stats, self.base_directory)

    def ask_to_leave(self) -> None:
        """SIGTERM to the server alone: its bridge takes no new job and lets the one at hand end (departure.py)."""
        if self.process and self.process.poll() is None:
            self.process.terminate()

    def kill(self) -> None:
        """End the process and everything in its group at once; does not wait, as one that hangs in a driver stays."""
        if self.process is None:
            return
        if os.name == "posix":
            _signal_group(self.process, signal.SIGKILL)
        elif self.process.poll() is None:
            self.process.kill()
        self.process.poll()
        if self.process.stdin:
            self.process.stdin.close()

    def stop(self) -> None:
        """End the process and everything in its group: SIGINT, then SIGTERM, then SIGKILL. Safe to call again."""
        process = self.process
        if process is None:
            return
        try:
            end_process_group(process)
        finally:
            if process.stdin:
                process.stdin.close()
        log.info("ComfyUI at %s has ended (exit status %s)", self.address, process.returncode)

    def __enter__(self) -> Instance:
        self.start()
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _command(self, main_py: Path) -> list[str]:
        base = self.base_directory
        return [
            str(self.python),
            str(LAUNCHER),
            *([] if self.outlives_us else ["--exit-with-parent"]),
            str(main_py),
            *("--listen", self.host, "--port", str(self.port), "--base-directory", str(base)),
            *("--database-url", f"sqlite:///{(base / 'comfyui.db').as_posix()}"),
            *("--disable-auto-launch", "--disable-api-nodes"),
            *self.arguments,
        ]

    def last_words(self) -> str:
        """The last line of the log that says something, for a sentence."""
        try:
            lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        spoken = [line.strip() for line in lines if line.strip()]
        return spoken[-1].rstrip(".") + "." if spoken else "it said nothing."


def serves_from(stats: dict[str, Any], base_directory: Path) -> bool:
    """True when a server's /system_stats shows that it was started with this base directory."""
    argv = stats.get("system", {}).get("argv", [])
    return str(base_directory.resolve()) in argv


def end_process_group(process: subprocess.Popen[bytes], grace_s: float = STOP_GRACE_S) -> None:
    """Ask a process politely, then less politely, to end, and then end what is left of its group."""
    polite = [signal.SIGINT, signal.SIGTERM] if os.name == "posix" else [getattr(signal, "CTRL_BREAK_EVENT", 0)]
    for number in polite:
        if process.poll() is not None:
            break
        _signal_group(process, number)
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            log.debug("process %d did not end on signal %d", process.pid, number)
    if os.name == "posix":
        _signal_group(process, signal.SIGKILL)  # children that stayed behind; none is the usual case
    elif process.poll() is None:
        process.kill()
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        if os.name == "posix":
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    except (ProcessLookupError, PermissionError):
        log.debug("process group %d is gone", process.pid)


def _own_group() -> dict[str, Any]:
    return {"start_new_session": True} if os.name == "posix" else {"creationflags": NEW_PROCESS_GROUP}
