"""Starting and stopping a real ComfyUI server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.errors import InstanceError
from comfyui_sonic.queue_bridge.servers.instance import (
    Instance,
    end_process_group,
    free_port,
    install_pack,
    serves_from,
    system_stats,
)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
posix_only = pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX's")


def process_lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "main.py").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InstanceError, match=rf"^Port {port} is in use by another program; .*\.$"):
            Instance(tmp_path, tmp_path / "base", port=port).start()


def test_a_folder_without_comfyui_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InstanceError, match=r"main\.py is missing"):
        Instance(tmp_path, tmp_path / "base").start()


def test_a_server_that_ends_while_starting_says_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("import sys\nsys.exit('The frontend is too old')\n")
    sentence = r"exit status 1\): The frontend is too old\. The whole log is .*comfyui\.log"
    with pytest.raises(InstanceError, match=sentence), Instance(tmp_path, tmp_path / "base", arguments=()):
        pytest.fail("it must not become ready")


def test_a_server_that_never_answers_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("import time\ntime.sleep(600)\n")
    instance = Instance(tmp_path, tmp_path / "base", arguments=())
    instance.start()
    with pytest.raises(InstanceError, match="did not answer"):
        instance.wait_until_ready(timeout_s=0.5)
    assert not instance.is_alive()


@posix_only
def test_a_process_that_ignores_polite_signals_is_killed_with_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "child"
    stubborn = textwrap.dedent(f"""
        import pathlib, signal, subprocess, sys, time
        signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        pathlib.Path({str(pid_file)!r}).write_text(str(child.pid))
        time.sleep(600)
    """)
    process = subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True)
    while not pid_file.exists() or not pid_file.read_text():
        time.sleep(0.02)
    end_process_group(process, grace_s=0.2)
    assert process.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 5
    while process_lives(int(pid_file.read_text())):
        assert time.monotonic() < deadline, "the child outlived its group"
        time.sleep(0.02)


@posix_only
def test_a_server_whose_prompt_worker_dies_ends(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(
        "import threading, time\n"
        "def prompt_worker(): time.sleep(1.5)\n"
        "threading.Thread(target=prompt_worker, daemon=True).start()\n"
        "time.sleep(600)\n"
    )
    instance = Instance(tmp_path, tmp_path / "base", arguments=())
    instance.start()
    assert instance.process
    assert instance.process.wait(20) == 70
    assert "prompt worker" in instance.log_file.read_text()
    instance.stop()


def test_the_pack_is_linked_once_and_a_stale_link_is_replaced(tmp_path: Path) -> None:
    for pack in ("old", "new"):
        (tmp_path / pack).mkdir()
        (tmp_path / pack / "__init__.py").write_text(pack)
    for pack in ("old", "new", "new"):
        place = install_pack(tmp_path / pack, tmp_path / "custom_nodes")
        assert (place / "__init__.py").read_text() == pack


def test_another_server_on_the_same_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    stats = {"system": {"argv": ["main.py", "--base-directory", str(tmp_path)]}}
    assert serves_from(stats, tmp_path)
    assert not serves_from(stats, tmp_path / "other")
    assert system_stats(f"127.0.0.1:{free_port()}", timeout_s=1) is None


@posix_only
def test_starting_and_stopping_leaves_no_process_and_frees_the_port(comfyui_path: Path, tmp_path: Path) -> None:
    with Instance(comfyui_path, tmp_path) as instance:
        assert instance.is_ready()
        assert instance.process
        pid = instance.process.pid
        assert process_lives(pid)
    assert not process_lives(pid)
    assert system_stats(instance.address, timeout_s=1) is None
    instance.stop()  # again, without harm


@posix_only
def test_a_server_ends_when_the_process_that_started_it_is_killed(comfyui_path: Path, tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from comfyui_sonic.queue_bridge.servers.instance import Instance
        instance = Instance(Path({str(comfyui_path)!r}), Path({str(tmp_path)!r}))
        instance.start()
        instance.wait_until_ready()
        print(instance.process.pid, flush=True)
        time.sleep(600)
    """)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    starter = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment)
    assert starter.stdout
    pid = int(starter.stdout.readline())
    starter.kill()
    starter.wait()
    deadline = time.monotonic() + 10
    while process_lives(pid):
        assert time.monotonic() < deadline, "the server outlived the one who started it"
        time.sleep(0.1)
