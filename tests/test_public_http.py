"""Addresses that strangers wrote: nothing around us is reached by them, and nothing endless or wrong comes in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.test_utils import TestServer
from comfyui_sonic.queue_bridge.errors import AddressRefused, BridgeError, FileUnreachable, JobError
from comfyui_sonic.queue_bridge.fetch_limits import Limits
from comfyui_sonic.queue_bridge.places.public_http import REDIRECTS_MAX, _Answer, fetch, open_public_session
from comfyui_sonic.queue_bridge.web_address import Reach, check_address, safe_address
from yarl import URL

PICTURE = b"\x89PNG" + bytes(3000)
LIMITS = Limits(bytes=10_000, total_s=3.0, idle_s=0.5)
HERE = Reach(private_hosts=("127.0.0.1",))
SECRET = "c0ffee-secret"


class Names(AbstractResolver):
    """Answers with what it is told, one list after another; the last one stays."""

    def __init__(self, *answers: tuple[str, ...]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for address in answer
        ]

    async def close(self) -> None:
        pass


async def picture(request: web.Request) -> web.Response:
    return web.Response(body=PICTURE, content_type="image/png")


async def redirect(request: web.Request) -> web.Response:
    return web.Response(status=302, headers={"Location": request.query["to"]} if "to" in request.query else {})


async def around(request: web.Request) -> web.Response:
    return web.Response(status=302, headers={"Location": f"/around/{int(request.match_info['n']) + 1}"})


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 1000)


async def slow(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"x")
    await asyncio.sleep(30)
    return response


async def trickle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x")
        await asyncio.sleep(0.05)


async def broken_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "5000"})
    await response.prepare(request)
    await response.write(b"x" * 100)
    assert request.transport
    request.transport.close()
    return response


async def status(request: web.Request) -> web.Response:
    return web.Response(status=int(request.match_info["code"]))


async def page(request: web.Request) -> web.Response:
    return web.Response(text="<p>Please log in</p>", content_type="text/html")


async def packed(request: web.Request) -> web.Response:
    return web.Response(body=PICTURE, headers={"Content-Encoding": "gzip"})


async def empty(request: web.Request) -> web.Response:
    return web.Response(body=b"", content_type="image/png")


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    """Serves a picture, redirects wherever ?to= says, and misbehaves where a path says so."""
    application = web.Application()
    application.add_routes(
        [
            web.get("/安娜 1.png", picture),
            web.get("/a.png", picture),
            web.get("/redirect", redirect),
            web.get("/around/{n}", around),
            web.get("/endless", endless),
            web.get("/slow", slow),
            web.get("/trickle", trickle),
            web.get("/broken", broken_off),
            web.get("/status/{code}", status),
            web.get("/page", page),
            web.get("/packed", packed),
            web.get("/empty", empty),
        ]
    )
    async with TestServer(application, host="127.0.0.1") as server:
        yield server


REFUSED = [
    "http://127.0.0.1/a.png",
    "http://127.1/a.png",
    "http://127.255.255.254/a.png",
    "http://2130706433/a.png",
    "http://0x7f000001/a.png",
    "http://0x7f.0.0.1/a.png",
    "http://0177.0.0.1/a.png",
    "http://017700000001/a.png",
    "http://127.0.0.1./a.png",
    "http://①②⑦.⓪.⓪.①/a.png",
    "http://0.0.0.0/a.png",
    "http://0/a.png",
    "http://10.1.2.3/a.png",
    "http://100.64.0.1/a.png",
    "http://100.100.100.200/latest/meta-data/",
    "http://169.254.169.254/latest/meta-data/",
    "http://168.63.129.16/machine",
    "http://172.16.0.1/a.png",
    "http://172.31.255.255/a.png",
    "http://192.0.0.170/a.png",
    "http://192.0.2.1/a.png",
    "http://192.168.1.1/a.png",
    "http://198.18.0.1/a.png",
    "http://203.0.113.9/a.png",
    "http://224.0.0.1/a.png",
    "http://240.0.0.1/a.png",
    "http://255.255.255.255/a.png",
    "http://[::]/a.png",
    "http://[::1]/a.png",
    "http://[::127.0.0.1]/a.png",
    "http://[::ffff:127.0.0.1]/a.png",
    "http://[::ffff:7f00:1]/a.png",
    "http://[64:ff9b::10.0.0.1]/a.png",
    "http://[64:ff9b::a9fe:a9fe]/a.png",
    "http://[64:ff9b:1::1]/a.png",
    "http://[2002:7f00:1::]/a.png",
    "http://[2002:c0a8:101::1]/a.png",
    "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/a.png",
    "http://[2001:db8::1]/a.png",
    "http://[fc00::1]/a.png",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://[fe80::1]/a.png",
    "http://[fe80::1%25lo]/a.png",
    "http://[fec0::1]/a.png",
    "http://[ff02::1]/a.png",
    "http://localhost/a.png",
    "http://LOCALHOST./a.png",
]


@pytest.mark.parametrize("url", REFUSED)
async def test_an_address_of_the_network_around_us_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(AddressRefused):
        await fetch(f"{url}?token={SECRET}", tmp_path / "a.png", Reach(), LIMITS)
    async with open_public_session(Reach()) as session:
        with pytest.raises((AddressRefused, aiohttp.InvalidURL)):
            await session.post(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://shop.example/a.png", "'ftp' is no kind of web address; use https://"),
        ("file:///etc/passwd", "'file' is no kind of web address"),
        ("gopher://shop.example/", "is no kind of web address"),
        ("a.png", "is no kind of web address"),
        (f"https://anna:{SECRET}@shop.example/a.png", "'https://shop.example/a.png' holds a user's name"),
        ("https://anna@shop.example/a.png", "holds a user's name"),
        ("https://:443/a.png", "cannot be read|without a host"),
        ("https://[half/a.png", "cannot be read"),
        ("https://shop.example:99999/a.png", "cannot be read"),
        ("https://shop.example:6379/a.png", "port 6379 of 'shop.example' may not be reached.*allowed are 80, 443"),
        ("https://8.8.8.8:22/", "port 22 of '8.8.8.8' may not be reached"),
        ("https://shop.example/" + "a" * 5000, "is too long; 4096 are the limit"),
    ],
)
def test_an_address_of_another_kind_is_refused_before_anybody_is_asked(url: str, words: str) -> None:
    with pytest.raises(AddressRefused, match=words) as raised:
        check_address(f"{url}?token={SECRET}", Reach())
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    ["https://8.8.8.8/a", "http://[2606:4700::1111]/a", "http://[64:ff9b::8.8.8.8]/a", "https://shop.example/a?b"],
)
def test_an_address_on_the_internet_is_allowed(url: str) -> None:
    assert check_address(url, Reach())


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9000/"),
        ("10.0.0.0/8", "http://10.1.2.3/"),
        ("10.0.0.0/8", "http://[::ffff:10.1.2.3]/"),
        ("fd12::/16", "http://[fd12::5]:8080/"),
        ("localhost", "http://localhost:9000/"),
    ],
)
def test_what_the_operator_names_is_allowed_at_every_port(allowed: str, url: str) -> None:
    assert check_address(url, Reach(private_hosts=(allowed,)))
    with pytest.raises(AddressRefused):
        check_address(url, Reach(private_hosts=("192.168.7.7",)))


async def test_a_file_arrives_whole_under_its_name(server: TestServer, tmp_path: Path) -> None:
    fetched = await fetch(str(server.make_url("/安娜 1.png")), tmp_path / "a.png", HERE, LIMITS)
    assert (tmp_path / "a.png").read_bytes() == PICTURE
    assert (fetched.bytes, fetched.content_type, fetched.name) == (len(PICTURE), "image/png", "安娜 1.png")


@pytest.mark.parametrize(
    "target",
    ["http://10.0.0.1/", "http://127.0.0.2:{port}/a.png", "http://[::1]:{port}/a.png", "http://0x7f.1:{port}/a.png",
     "//169.254.169.254/latest/", "file:///etc/passwd", f"http://anna:{SECRET}@127.0.0.1:{{port}}/a.png", "http://2130706433/"],
)  # fmt: skip
async def test_every_redirect_is_checked_like_the_first_address(
    server: TestServer, tmp_path: Path, target: str
) -> None:
    url = server.make_url("/redirect").with_query(to=target.format(port=server.port), token=SECRET)
    with pytest.raises(AddressRefused, match=r"/redirect' redirects to where it may not: ") as raised:
        await fetch(str(url), tmp_path / "a.png", HERE, LIMITS)
    assert SECRET not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


async def test_a_redirect_to_where_it_may_is_followed_but_not_for_ever(server: TestServer, tmp_path: Path) -> None:
    url = server.make_url("/redirect").with_query(to="/a.png?x=1")
    assert (await fetch(str(url), tmp_path / "a.png", HERE, LIMITS)).name == "a.png"
    with pytest.raises(JobError, match=f"redirects more than {REDIRECTS_MAX} times"):
        await fetch(str(server.make_url("/around/0")), tmp_path / "b.png", HERE, LIMITS)
    for target in ("", "http://[half", "http://127.0.0.1:99999/"):
        url = server.make_url("/redirect").with_query(to=target)
        with pytest.raises(JobError, match="redirects to nowhere"):
            await fetch(str(url), tmp_path / "b.png", HERE, LIMITS)


def test_a_redirect_from_https_to_http_is_not_followed() -> None:
    answer = _Answer(None, "https://shop.example/a.png", Reach())  # type: ignore[arg-type]
    with pytest.raises(AddressRefused, match="redirects from https to http, which is not followed"):
        answer._next(URL("https://shop.example/a.png"), "http://shop.example/a.png")
    assert answer._next(URL("https://shop.example/a.png"), "/b.png") == URL("https://shop.example/b.png")


async def test_a_session_that_follows_redirects_by_itself_is_checked_as_well(server: TestServer) -> None:
    async with open_public_session(HERE) as session:
        with pytest.raises(AddressRefused):
            await session.get(server.make_url("/redirect").with_query(to=f"http://127.0.0.2:{server.port}/a.png"))


@pytest.mark.parametrize("answer", [("127.0.0.1",), ("8.8.8.8", "10.0.0.1"), ("::ffff:10.0.0.1",), ("fe80::1%1",)])
async def test_a_name_that_stands_for_the_network_around_us_is_refused(answer: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(AddressRefused, match=r"^'evil\.example' is in a private network"):
        await fetch("http://evil.example/a.png", tmp_path / "a.png", Reach(), LIMITS, resolver=Names(answer))


async def test_a_name_that_changes_its_answer_gains_nothing(server: TestServer, tmp_path: Path) -> None:
    """The address that was checked is the one that is connected to; a new connection is checked anew."""
    names = Names(("127.0.0.1",), ("127.0.0.2",))
    url = f"http://rebind.example:{server.port}/a.png"
    await fetch(url, tmp_path / "a.png", HERE, LIMITS, resolver=names)
    assert names.asked == 1, "asked a second time, it could have been connected to another address"
    names = Names(("127.0.0.1",), ("127.0.0.2",))
    url = f"http://rebind.example:{server.port}/redirect?to=/a.png"
    with pytest.raises(AddressRefused, match="private network"):
        await fetch(url, tmp_path / "b.png", HERE, LIMITS, resolver=names)
    assert names.asked == 2


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("/status/404", JobError, r"is not there \(status 404\)"),
        ("/status/403", JobError, r"may not be read \(status 403\)"),
        ("/status/418", JobError, "status 418 instead of a file"),
        ("/status/500", FileUnreachable, "answers with status 500 now"),
        ("/status/503", FileUnreachable, "answers with status 503 now"),
        ("/status/429", FileUnreachable, "answers with status 429 now"),
        ("/page", JobError, r"answers with a page or a text \(text/html\)"),
        ("/packed", JobError, "sends its file packed"),
        ("/empty", JobError, "is an empty file"),
        ("/endless", JobError, r"is larger than 0\.00954 MiB, which is the limit"),
        ("/slow", FileUnreachable, r"was too slow: 3 s in all and 0\.5 s of silence"),
        ("/broken", FileUnreachable, "broke the connection off before its end"),
    ],
)
async def test_what_goes_wrong_is_one_sentence_that_says_whether_it_may_pass(
    server: TestServer, tmp_path: Path, path: str, error: type[BridgeError], words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        await fetch(str(server.make_url(path).with_query(token=SECRET)), tmp_path / "a.png", HERE, LIMITS)
    assert SECRET not in str(raised.value)
    assert path in str(raised.value)
    assert isinstance(raised.value, JobError) is not isinstance(raised.value, FileUnreachable)
    assert list(tmp_path.iterdir()) == []


async def test_one_that_sends_a_little_for_ever_is_ended(server: TestServer, tmp_path: Path) -> None:
    limits = Limits(bytes=10_000, total_s=0.4, idle_s=5.0)
    with pytest.raises(FileUnreachable, match=r"was too slow: 0\.4 s in all"):
        await fetch(str(server.make_url("/trickle")), tmp_path / "a.png", HERE, limits)


async def test_a_server_that_is_away_may_come_back(unused_tcp_port: int, tmp_path: Path) -> None:
    with pytest.raises(FileUnreachable, match="cannot be reached"):
        await fetch(f"http://127.0.0.1:{unused_tcp_port}/a.png", tmp_path / "a.png", HERE, LIMITS)


async def test_a_stated_length_over_the_limit_is_not_begun(server: TestServer, tmp_path: Path) -> None:
    limits = Limits(bytes=len(PICTURE) - 1)
    with pytest.raises(JobError, match="is larger than"):
        await fetch(str(server.make_url("/a.png")), tmp_path / "a.png", HERE, limits)


def test_an_address_is_shown_without_what_is_secret_in_it() -> None:
    shown = safe_address(f"https://anna:{SECRET}@shop.example:8443/a%20b.png?signature={SECRET}#{SECRET}")
    assert shown == "https://shop.example:8443/a%20b.png"
    assert safe_address("https://[2606:4700::1111]/a") == "https://[2606:4700::1111]/a"
    assert len(safe_address("https://shop.example/" + "a" * 4000)) < 250
