"""Who may do what over HTTP, how often, and how slowly: against a real gateway on a real queue."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_server import RedisServer, ServerProgram
from comfyui_sonic.queue_bridge.errors import BadJob, ConfigError
from comfyui_sonic.queue_bridge.gateway.serve import Listening, listening
from comfyui_sonic.queue_bridge.job import new_job_id

from .gateway_fixture import GatewayHands, gateway_hands


@pytest.fixture
async def hands(redis_url: str, tmp_path: Path) -> AsyncIterator[GatewayHands]:
    async with gateway_hands(redis_url, tmp_path) as hands:
        yield hands


async def test_without_any_key_this_machine_may_do_everything_and_from_the_first_key_on_nobody(
    hands: GatewayHands,
) -> None:
    assert (await hands.get("/v1/dead")).status == 200
    key = await hands.key("read")
    refused = await hands.get("/v1/queue")
    assert refused.problem() == (401, "unauthorized")
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    assert (await hands.get("/v1/queue", key)).status == 200
    assert (await hands.get("/v1/queue", headers={"X-API-Key": key})).status == 200
    (only,) = await hands.keys.list()
    await hands.keys.revoke(only.id)
    assert (await hands.get("/v1/queue", key)).problem() == (401, "unauthorized")
    assert (await hands.get("/v1/queue")).problem() == (401, "unauthorized"), "the last key's end opens nothing"
    for open_to_all in ("/healthz", "/readyz", "/openapi.json", "/metrics"):
        assert (await hands.get(open_to_all)).status == 200


@pytest.mark.parametrize(
    "headers",
    [{"X-Forwarded-For": "203.0.113.7"}, {"Forwarded": "for=203.0.113.7"}, {"Via": "1.1 proxy"}],
)
async def test_who_comes_through_a_proxy_is_not_this_machine(hands: GatewayHands, headers: dict[str, str]) -> None:
    for path in ("/v1/queue", "/metrics"):
        assert (await hands.get(path, headers=headers)).problem() == (401, "unauthorized")


async def test_a_page_of_the_web_uses_no_gateway_that_needs_no_key(hands: GatewayHands) -> None:
    form = {"image": "x", "audio": "x"}
    evil = {"Origin": "https://evil.example"}
    assert (await hands.ask("POST", "/v1/tasks", data=form, headers=evil)).problem() == (403, "forbidden")
    assert (await hands.get("/v1/tasks", headers={"Host": "evil.example"})).problem() == (403, "forbidden")
    assert (await hands.get("/v1/tasks", headers={"Origin": hands.address})).status == 200


@pytest.mark.parametrize("text", ["", "sq_", "sq_00000000_" + "A" * 43, "Bearer", "x" * 500, "sq_zz", "\u00e9"])
async def test_what_is_no_key_opens_nothing(hands: GatewayHands, text: str) -> None:
    await hands.key("admin")
    assert (await hands.get("/v1/queue", headers={"Authorization": f"Bearer {text}"})).problem()[0] == 401
    assert (await hands.get("/v1/queue", headers={"Authorization": f"Basic {text}"})).problem()[0] == 401


async def test_scopes_allow_what_they_say(hands: GatewayHands) -> None:
    submit, read, admin = [await hands.key(scope) for scope in ("submit", "read", "admin")]
    assert (await hands.post(key=read)).problem() == (403, "forbidden")
    task_id = await hands.submit(key=submit)
    assert (await hands.get(f"/v1/tasks/{task_id}", submit)).problem() == (403, "forbidden")
    assert (await hands.ask("DELETE", f"/v1/tasks/{task_id}", read)).problem() == (403, "forbidden")
    assert (await hands.get(f"/v1/tasks/{task_id}", admin)).status == 200
    assert (await hands.ask("DELETE", f"/v1/tasks/{task_id}", admin)).status == 200
    with pytest.raises(BadJob, match="'write' is not one of submit, read, admin"):
        await hands.keys.create("x", ["write"])


async def test_a_caller_sees_its_own_tasks_and_an_administrator_all(hands: GatewayHands) -> None:
    mine, other, admin = await hands.key("submit", "read"), await hands.key("submit", "read"), await hands.key("admin")
    ids = [await hands.submit(key=key) for key in (mine, other, admin, mine)]
    batch = (await hands.post({"tasks": [hands.task()]}, "/v1/batches", key=mine)).json
    task_id = ids[0]
    paths = [
        *(("GET", f"/v1/tasks/{task_id}{end}") for end in ("", "/events", "/result")),
        *(("DELETE", f"/v1/tasks/{task_id}"), ("POST", f"/v1/tasks/{task_id}/retry")),
        *((method, f"/v1/batches/{batch['batch_id']}") for method in ("GET", "DELETE")),
        ("GET", f"/v1/batches/{batch['batch_id']}/events"),
    ]
    for method, path in paths:
        assert (await hands.ask(method, path, other)).problem() == (404, "not-found"), path
    seen = {key: [one["task_id"] for one in (await hands.get("/v1/tasks", key)).json["tasks"]] for key in (mine, other)}
    assert seen == {mine: [*batch["task_ids"], ids[3], ids[0]], other: [ids[1]]}
    everything: list[str] = []
    cursor = ""
    while cursor is not None:
        page = (await hands.get(f"/v1/tasks?limit=2{cursor and '&cursor=' + cursor}", admin)).json
        everything += [one["task_id"] for one in page["tasks"]]
        cursor = page["next"]
    assert sorted(everything) == sorted([*ids, *batch["task_ids"]])
    assert (await hands.get(f"/v1/tasks?batch={batch['batch_id']}", other)).json["tasks"] == []
    into = await hands.post(hands.task(batch=batch["batch_id"]), key=other)
    assert into.problem() == (422, "invalid")
    for _ in range(2):
        clash = await hands.post(hands.task(task_id=task_id), key=other)
        assert clash.problem() == (409, "conflict")


async def test_tasks_of_each_key_take_turns_though_nobody_names_a_batch(hands: GatewayHands) -> None:
    busy, small = await hands.key("submit"), await hands.key("submit")
    ids = [await hands.submit(key=busy) for _ in range(3)] + [await hands.submit(key=small)]
    assert [(await hands.claim()).task_id for _ in ids] == [ids[0], ids[3], ids[1], ids[2]]


async def test_a_key_may_ask_so_often_and_is_told_when_again(hands: GatewayHands) -> None:
    key, other = await hands.key("read", rate=5), await hands.key("read")
    answers = [await hands.get("/v1/queue", key) for _ in range(6)]
    assert [answer.status for answer in answers] == [*[200] * 5, 429]
    assert answers[5].problem() == (429, "too-many-requests")
    assert 1 <= int(answers[5].headers["Retry-After"]) <= 12
    assert (await hands.get("/v1/queue", other)).status == 200


async def test_a_key_may_have_so_many_unfinished_tasks_however_fast_it_sends_them(hands: GatewayHands) -> None:
    key = await hands.key("submit", "read", backlog=5)
    again = {"Idempotency-Key": "first"}
    first = await hands.post(key=key, headers=again)
    answers = await asyncio.gather(*(hands.post(key=key) for _ in range(20)))
    assert sorted(answer.status for answer in answers) == [*[202] * 4, *[429] * 16]
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.problem() == (429, "backlog-full")
    assert refused.headers["Retry-After"]
    assert (await hands.post(key=key, headers=again)).json["task_id"] == first.json["task_id"], "it is there already"
    assert (await hands.post({"tasks": [hands.task()]}, "/v1/batches", key=key)).problem()[1] == "backlog-full"
    await hands.complete()
    assert (await hands.post(key=key)).status == 202
    (only,) = await hands.keys.list()
    assert await hands.view.unended(only.id) == 5


async def test_keys_are_kept_as_digests_and_are_in_no_log(
    hands: GatewayHands, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    key = await hands.key("submit")
    await hands.submit(key=key)
    await hands.get("/v1/queue", key[:-1] + ("A" if key[-1] != "A" else "B"))
    secret = key[len("sq_01234567_") :]  # it may hold underscores itself
    assert secret not in json.dumps(await hands.store.client.hgetall(hands.store.keys.api_keys))
    assert key[12:30] not in caplog.text


async def test_a_key_in_a_header_that_is_no_http_is_in_no_log(
    hands: GatewayHands, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    answer, _ = await raw(hands, b"GET /v1/queue HTTP/1.1\r\nHost: localhost\r\nX-API-Key: sq_c0ffee\x01\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 400 ")
    assert "What came from 127.0.0.1 is no HTTP that can be read." in caplog.text
    assert "sq_c0ffee" not in caplog.text


def command(settings: Settings, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    variables = {"SONIC_QUEUE_URL": settings.url, "SONIC_QUEUE_QUEUE": settings.queue}
    line = [sys.executable, "-m", "comfyui_sonic.queue_bridge.cli", *arguments]
    return subprocess.run(line, capture_output=True, text=True, env=os.environ | variables, timeout=60, **options)


@pytest.mark.slow
async def test_keys_are_made_listed_and_revoked_by_the_command(hands: GatewayHands) -> None:
    async def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(command, hands.settings, "keys", *arguments)

    limits = ("--scopes", "submit,read", "--rate", "120/min", "--backlog", "50")
    made = await run("create", "shop", *limits, "--json")
    told = json.loads(made.stdout)
    assert (told["name"], told["scopes"], told["rate"], told["backlog"]) == ("shop", ["submit", "read"], 120, 50)
    assert (await hands.get("/v1/queue", told["key"])).status == 200
    listed = (await run("list")).stdout
    assert told["id"] in listed
    assert told["key"] not in listed
    assert (await run("revoke", told["id"])).stdout == f"The key {told['id']} of 'shop' opens nothing any more.\n"
    assert (await hands.get("/v1/queue", told["key"])).status == 401
    wrong = await run("create", "shop", "--rate", "often")
    assert (wrong.returncode, wrong.stderr) == (
        1,
        "--rate: 'often' is no number of requests a minute, such as 120/min.\n",
    )


async def test_it_listens_to_others_only_with_a_key_or_when_told(hands: GatewayHands) -> None:
    def others(is_open: bool = False) -> Any:
        return listening(hands.settings, hands.store, hands.view, {}, Listening("0.0.0.0", 0, is_open))

    with pytest.raises(ConfigError, match=r"^--host: '0\.0\.0\.0' is reached by others, and there is no API key yet;"):
        async with others():
            pass
    async with others(is_open=True):
        pass
    await hands.key("admin")
    async with others():
        pass


async def test_open_to_all_means_what_it_says(redis_url: str, tmp_path: Path) -> None:
    async with gateway_hands(redis_url, tmp_path, is_open=True) as hands:
        await hands.key("read")
        assert (await hands.get("/v1/queue", headers={"X-Forwarded-For": "203.0.113.7"})).status == 200
        assert (await hands.get("/v1/queue", "sq_wrong")).problem() == (401, "unauthorized")


async def test_pages_of_the_origins_that_are_named_may_use_it(redis_url: str, tmp_path: Path) -> None:
    async with gateway_hands(redis_url, tmp_path, gateway_origins=("https://shop.example",)) as hands:
        key = await hands.key("read")
        asking = {"Access-Control-Request-Method": "POST"}
        ahead = await hands.ask("OPTIONS", "/v1/tasks", headers={"Origin": "https://shop.example", **asking})
        assert (ahead.status, ahead.headers["Access-Control-Allow-Origin"]) == (204, "https://shop.example")
        assert "Idempotency-Key" in ahead.headers["Access-Control-Allow-Headers"]
        seen = await hands.get("/v1/queue", key, headers={"Origin": "https://shop.example"})
        assert seen.headers["Access-Control-Allow-Origin"] == "https://shop.example"
        other = await hands.ask("OPTIONS", "/v1/tasks", headers={"Origin": "https://evil.example", **asking})
        assert other.status == 405
        assert "Access-Control-Allow-Origin" not in other.headers


async def test_answers_say_little_of_the_server_and_are_not_kept(hands: GatewayHands) -> None:
    for path in ("/v1/queue", "/nothing"):
        headers = (await hands.get(path)).headers
        assert (headers["Server"], headers["X-Content-Type-Options"]) == ("sonic-queue", "nosniff")
        assert headers["Cache-Control"] == "no-store"


# --- slow and large --------------------------------------------------------------------------------------------------


async def raw(hands: GatewayHands, *parts: bytes | float) -> tuple[bytes, float]:
    """What comes back for these bytes, with pauses of so many seconds between them; and after how long it ended."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(hands.address.rpartition(":")[2]))
    answer = asyncio.create_task(reader.read())
    with contextlib.suppress(ConnectionError):
        for part in parts:
            if answer.done():
                break
            if isinstance(part, float):
                await asyncio.wait({answer}, timeout=part)
            else:
                writer.write(part)
                await writer.drain()
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            await answer
    writer.close()
    return (answer.result() if not answer.exception() else b""), time.monotonic() - began


HEAD = b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


async def test_a_head_that_never_ends_and_a_body_that_pauses_or_trickles_are_cut(
    redis_url: str, tmp_path: Path
) -> None:
    async with gateway_hands(redis_url, tmp_path, gateway_read_s=0.5) as hands:
        trickle = [one for _ in range(40) for one in (b" ", 0.1)]
        answers = await asyncio.gather(
            raw(hands, HEAD, 10.0),
            raw(hands, HEAD + b"Content-Length: 100\r\n\r\n{", 10.0),
            raw(hands, HEAD + b"Content-Length: 100\r\n\r\n{", *trickle),
            raw(hands, b"", 10.0),
        )
        heads = [answer.partition(b"\r\n")[0] for answer, _ in answers]
        assert heads == [b"", b"HTTP/1.1 408 Request Timeout", b"HTTP/1.1 408 Request Timeout", b""]
        assert all(seconds < 3 for _, seconds in answers)
        assert b"urn:sonic-queue:problem:too-slow" in answers[1][0]


async def test_a_body_is_cut_where_it_becomes_too_large(redis_url: str, tmp_path: Path) -> None:
    async with gateway_hands(redis_url, tmp_path, gateway_read_s=0.5) as hands:
        said, _ = await raw(hands, HEAD + b"Content-Length: 2000000\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 413 ")
        assert b"urn:sonic-queue:problem:too-large" in said
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        unsaid, _ = await raw(hands, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 20)
        assert unsaid.startswith(b"HTTP/1.1 413 ")


async def test_a_task_is_answered_in_few_milliseconds(hands: GatewayHands) -> None:
    await hands.submit()
    took = []
    for _ in range(30):
        began = time.perf_counter()
        await hands.submit()
        took.append(time.perf_counter() - began)
    assert sorted(took)[7] < 0.02, "on a machine that does little else"


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl to make a certificate")
async def test_with_a_certificate_it_speaks_tls(hands: GatewayHands) -> None:
    files = {name: hands.root / f"{name}.pem" for name in ("key", "cert")}
    line = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-batch"]
    line += ["-subj", "/CN=localhost", "-keyout", str(files["key"]), "-out", str(files["cert"])]
    await asyncio.to_thread(subprocess.run, line, check=True, capture_output=True)
    where = Listening("localhost", 0, certificate=files["cert"], private_key=files["key"])
    async with listening(hands.settings, hands.store, hands.view, {}, where) as address:
        trusted = ssl.create_default_context(cafile=files["cert"])
        async with hands.session.get(f"https://localhost:{address.rpartition(':')[2]}/healthz", ssl=trusted) as answer:
            assert (answer.status, answer.headers["Strict-Transport-Security"]) == (200, "max-age=31536000")
    with pytest.raises(ConfigError, match=r"^--tls-cert: .* are no certificate with its key"):
        async with listening(
            hands.settings, hands.store, hands.view, {}, Listening("localhost", 0, certificate=hands.root / "a.png")
        ):
            pass


@pytest.mark.slow
async def test_a_queue_that_is_away_is_503_and_the_same_request_passes_later(
    redis_program: ServerProgram, tmp_path: Path
) -> None:
    data = tmp_path / "db"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = RedisServer(data, port=port, program=redis_program, outlives_us=False)
    server.start()
    server.wait_until_ready()
    root = tmp_path / "root"
    root.mkdir()
    async with gateway_hands(server.url, root) as hands:
        key = {"Idempotency-Key": "order 9"}
        task_id = (await hands.post(headers=key)).json["task_id"]
        server.stop()
        away = await hands.post(headers=key)
        assert away.problem() == (503, "unavailable")
        assert away.headers["Retry-After"]
        assert (await hands.get("/readyz")).problem() == (503, "unavailable")
        assert (await hands.get("/healthz")).status == 200
        server.start()
        server.wait_until_ready()
        assert (await hands.post(headers=key)).json["task_id"] == task_id
        assert (await hands.get("/readyz")).status == 200
    server.stop()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="no SIGTERM")
async def test_the_command_serves_and_ends_tidily_on_sigterm(redis_url: str, tmp_path: Path) -> None:
    queue = f"gateway-{new_job_id()}"
    variables = {
        "SONIC_QUEUE_URL": redis_url,
        "SONIC_QUEUE_QUEUE": queue,
        "SONIC_QUEUE_ROOTS": str(tmp_path),
        "SONIC_QUEUE_GATEWAY_FOLDER": str(tmp_path / "gateway"),
    }
    line = [sys.executable, "-m", "comfyui_sonic.queue_bridge.cli", "gateway", "--port", "0", "--json"]
    process = await asyncio.create_subprocess_exec(
        *line, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    address = json.loads(await process.stdout.readline())["address"]
    port = int(address.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"image": (tmp_path / "a").as_uri(), "audio": (tmp_path / "b").as_uri()}).encode()
    writer.write(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = await reader.readuntil(b"}}")
    task_id = json.loads(answer.partition(b"\r\n\r\n")[2])["task_id"]
    follower, follow = await asyncio.open_connection("127.0.0.1", port)
    follow.write(f"GET /v1/tasks/{task_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await follower.readuntil(b"event: snapshot")
    writer.write(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:10])  # a request at hand
    await writer.drain()
    await asyncio.sleep(0.2)
    process.terminate()
    await follower.read()  # is sent away
    writer.write(body[10:])
    assert b"202 Accepted" in await reader.read()
    _, errors = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, b"Traceback" in errors) == (0, False), errors
    for one in (writer, follow):
        one.close()
