"""What the gateway's page asks for: one stream of everything, batches, small pictures, draining, the dead letter."""

from __future__ import annotations

import asyncio
import contextlib
import io
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from comfyui_sonic.queue_bridge.gateway.event_stream import WATCHED_TASKS, Watcher
from comfyui_sonic.queue_bridge.queue.presence import Identity, registration
from comfyui_sonic.queue_bridge.retry import Verdict
from comfyui_sonic.queue_bridge.states import State
from PIL import Image

from .gateway_fixture import GatewayHands, Told, events_of, gateway_hands
from .small_video import small_video

GIVEN_UP = Verdict(State.FAILED, "retries used up", dead_letter=True)


@pytest.fixture
async def hands(redis_url: str, tmp_path: Path) -> AsyncIterator[GatewayHands]:
    async with gateway_hands(redis_url, tmp_path) as hands:
        yield hands


@contextlib.asynccontextmanager
async def watching(hands: GatewayHands, key: str = "", last_id: str = "") -> AsyncIterator[AsyncIterator[Told]]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    headers |= {"Last-Event-ID": last_id} if last_id else {}
    async with hands.session.get(f"{hands.address}/v1/events", headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        yield events_of(answer)


async def until(events: AsyncIterator[Told], kind: str, **wanted: Any) -> Told:
    """The next event of this kind; of changes, one with such a task."""
    async for told in events:
        tasks = told.data.get("tasks", [{}])
        if told.kind == kind and any(wanted.items() <= one.items() for one in tasks):
            return told
    raise AssertionError(f"no {kind} with {wanted}")


async def test_a_watcher_gets_a_snapshot_and_then_what_changes(hands: GatewayHands) -> None:
    async with watching(hands) as events:
        first = await anext(events)
        assert (first.kind, first.data["queue"]["queued"]) == ("snapshot", 0)
        assert [one["name"] for one in first.data["instances"]] == ["gpu-1"]
        assert first.data["caller"] == {"name": "", "scopes": ["admin", "read", "submit"]}
        task_id = await hands.submit(name="anna")
        await until(events, "changes", task_id=task_id, state="queued")
        queue = (await until(events, "queue")).data["queue"]
        assert (queue["waiting"]["pending"], list(queue["oldest"]["pending"])) == ({"512": 1}, ["512"])
        job = await hands.claim()
        await hands.store.progress(job, 42.0, "Make frames", 7.0)
        wanted = {"state": "running", "percent": 42.0, "stage": "Make frames", "seconds_left": 7.0}
        await until(events, "changes", task_id=task_id, **wanted)
        assert (await until(events, "instances")).data["instances"][0]["running"] == task_id


async def test_a_watcher_that_was_cut_off_is_told_what_it_has_missed(hands: GatewayHands) -> None:
    await hands.submit()
    async with watching(hands) as events:
        seen = (await anext(events)).id
    task_id = await hands.submit()
    async with watching(hands, last_id=seen) as events:
        told = await until(events, "changes")
        assert [one["task_id"] for one in told.data["tasks"]] == [task_id]
    async with watching(hands, last_id="1-1") as events:
        assert (await anext(events)).kind == "snapshot", "what it has missed is not kept"


async def test_a_watcher_sees_the_tasks_of_its_own_key_only(hands: GatewayHands) -> None:
    mine, other, admin = await hands.key("submit", "read"), await hands.key("submit", "read"), await hands.key("admin")
    await hands.submit(admin)
    async with watching(hands, mine) as events, watching(hands, admin) as everything:
        first = await anext(events)
        assert "running" not in first.data["instances"][0]
        seen = first.id
        theirs, own = await hands.submit(other), await hands.submit(mine)
        told = await until(events, "changes")
        assert {one["task_id"] for one in told.data["tasks"]} == {own}
        ids: set[str] = set()
        while ids < {theirs, own}:
            ids |= {one["task_id"] for one in (await until(everything, "changes")).data["tasks"]}
    async with watching(hands, mine, last_id=seen) as events:
        assert {one["task_id"] for one in (await until(events, "changes")).data["tasks"]} == {own}


def test_a_slow_watcher_costs_no_more_than_the_tasks_there_are() -> None:
    watcher = Watcher(None)
    for number in range(3000):
        watcher.put(f"{number}-0", {"job": "a", "state": "running", "percent": str(number)})
    watcher.put("4000-0", {"job": "a", "state": "completed"})
    assert watcher.take() == [{"job": "a", "state": "completed", "percent": "2999"}]
    watcher.put("9-0", {"job": "a", "state": "queued", "stage": ""})
    watcher.put_past(
        [("8-0", {"job": "a", "state": "failed", "percent": "3"}), ("8-1", {"job": "b", "state": "failed"})]
    )
    assert watcher.last_id == "9-0"
    newest = {one["job"]: one for one in watcher.take()}
    assert newest["a"] == {"job": "a", "state": "queued", "stage": "", "percent": "3"}, "what came meanwhile is newer"
    assert newest["b"]["state"] == "failed"
    for number in range(WATCHED_TASKS + 1):
        watcher.put("1-0", {"job": str(number), "state": "queued"})
    assert watcher.missed


async def test_batches_are_listed_the_latest_first_each_for_its_own_key(hands: GatewayHands) -> None:
    mine, other, admin = await hands.key("submit", "read"), await hands.key("submit", "read"), await hands.key("admin")
    made = []
    for key in (mine, other, mine):
        made.append((await hands.post({"tasks": [hands.task()] * 2}, "/v1/batches", key=key)).json["batch_id"])
        await hands.submit(key)  # belongs to no batch that anybody has named
        await asyncio.sleep(0.002)

    async def listed(key: str) -> list[str]:
        found: list[str] = []
        cursor = ""
        while cursor is not None:
            page = (await hands.get(f"/v1/batches?limit=1{cursor and '&cursor=' + cursor}", key)).json
            found += [one["batch_id"] for one in page["batches"]]
            cursor = page["next"]
        return found

    assert await listed(mine) == [made[2], made[0]]
    assert await listed(other) == [made[1]]
    assert await listed(admin) == made[::-1]
    (one,) = (await hands.get("/v1/batches", other)).json["batches"]
    assert (one["total"], one["unended"], one["submitted_at"][:2]) == (2, 2, "20")


async def test_tasks_are_found_by_a_part_of_their_name_or_id(hands: GatewayHands) -> None:
    ids = [await hands.submit(name=name) for name in ("Anna hello", "bea", "ANNABEL")]

    async def found(text: str) -> list[str]:
        return [one["task_id"] for one in (await hands.get(f"/v1/tasks?name={text}")).json["tasks"]]

    assert await found("anna") == [ids[2], ids[0]]
    assert await found(ids[1][-9:]) == [ids[1]]
    assert await found("nobody") == []


async def test_a_thumbnail_is_the_portrait_upright_and_small(hands: GatewayHands) -> None:
    portrait = hands.root / "a.png"
    turned = Image.Exif()
    turned[0x0112] = 6  # lies on its side
    Image.new("RGB", (640, 480), (200, 30, 30)).save(portrait.with_suffix(".jpg"), exif=turned)
    task_id = await hands.submit(image=portrait.with_suffix(".jpg").as_uri())
    path = f"/v1/tasks/{task_id}/thumbnail"
    answer = await hands.get(path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/jpeg")
    with Image.open(io.BytesIO(answer.body)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (120, 160))
        red, green, blue = picture.getpixel((60, 80))
        assert red > 180 and green < 60 and blue < 60
    known = {"If-None-Match": answer.headers["ETag"]}
    assert (await hands.get(path, headers=known)).status == 304
    stranger = await hands.key("read")
    assert (await hands.get(path, stranger)).problem() == (404, "not-found")


async def test_a_thumbnail_is_of_the_video_where_the_portrait_is_gone_and_of_nothing_outside_the_roots(
    hands: GatewayHands, tmp_path_factory: pytest.TempPathFactory
) -> None:
    task_id = await hands.submit()
    path = f"/v1/tasks/{task_id}/thumbnail"
    assert (await hands.get(path)).problem() == (404, "not-found"), "what is no picture gives none"
    outside = tmp_path_factory.mktemp("outside") / "a.png"
    Image.new("RGB", (50, 50), "red").save(outside)
    (hands.root / "a.png").unlink()
    (hands.root / "a.png").symlink_to(outside)
    assert (await hands.get(path)).problem() == (404, "not-found")
    await hands.complete(small_video())
    with Image.open(io.BytesIO((await hands.get(path)).body)) as picture:
        assert picture.size == (64, 64)


async def test_where_a_video_is_fetched_is_told_once_it_is_there(hands: GatewayHands) -> None:
    task_id = await hands.submit()
    path = f"/v1/tasks/{task_id}"
    assert (await hands.get(f"{path}/link")).problem() == (409, "not-finished")
    await hands.complete()
    assert (await hands.get(f"{path}/link")).json == {"url": f"{path}/result", "elsewhere": False}


async def test_a_huge_picture_is_not_decoded_for_a_thumbnail(hands: GatewayHands) -> None:
    Image.new("1", (10_000, 6_000)).save(hands.root / "a.png")
    task_id = await hands.submit()
    assert (await hands.get(f"/v1/tasks/{task_id}/thumbnail")).problem() == (404, "not-found")


async def test_an_administrator_drains_an_instance_and_lets_it_go_on(hands: GatewayHands) -> None:
    described = {
        "device": "NVIDIA L4",
        "memory_total": 24_000,
        "memory_free": 20_000,
        "tiers": [512],
        "engines": ["draft"],
    }
    await hands.store._call("register", *registration(Identity("gpu-1", "boot"), 600.0, described))
    path, read, admin = "/v1/instances/gpu-1/drain", await hands.key("read", "submit"), await hands.key("admin")
    assert (await hands.ask("POST", path, read)).problem() == (403, "forbidden")
    for _ in range(2):
        assert (await hands.ask("POST", path, admin)).json == {"instance": "gpu-1", "draining": True, "running": []}
    (one,) = (await hands.get("/v1/instances", read)).json["instances"]
    assert (one["draining"], one["device"], one["memory_total"], one["memory_free"]) == (
        True,
        "NVIDIA L4",
        24_000,
        20_000,
    )
    for _ in range(2):
        assert (await hands.ask("DELETE", path, admin)).json["draining"] is False
    assert not (await hands.get("/v1/instances", read)).json["instances"][0]["draining"]
    for method, name in (("POST", "nobody"), ("DELETE", "%C2%84")):
        assert (await hands.ask(method, f"/v1/instances/{name}/drain", admin)).problem() == (404, "not-found")


async def test_a_cards_load_is_told_where_its_server_knows_it(hands: GatewayHands) -> None:
    figures = {"gpu_used": 0.73, "gpu_memory_used": 19_000}
    for name, described in (("gpu-1", {"gpu": "GPU-aa", **figures}), ("gpu-2", {})):
        await hands.store._call("register", *registration(Identity(name, "boot"), 600.0, described))
    told = {one["name"]: one for one in (await hands.get("/v1/instances")).json["instances"]}
    assert {name: told["gpu-1"][name] for name in figures} == figures
    assert {name: told["gpu-2"][name] for name in figures} == dict.fromkeys(figures)
    schemas = (await hands.get("/openapi.json")).json["components"]["schemas"]
    described = schemas["Instances"]["properties"]["instances"]["items"]["properties"]
    assert set(described) == set(told["gpu-1"]) == set(told["gpu-2"])
    for name, (kind, limits) in {"gpu_used": ("number", (0, 1)), "gpu_memory_used": ("integer", (0, None))}.items():
        assert described[name]["type"] == [kind, "null"]
        assert (described[name]["minimum"], described[name].get("maximum")) == limits
    async with watching(hands) as events:
        first = {one["name"]: one["gpu_used"] for one in (await anext(events)).data["instances"]}
        assert (first["gpu-1"], first["gpu-2"]) == (0.73, None)


async def test_a_task_is_dropped_from_the_dead_letter_by_whoever_sees_it(hands: GatewayHands) -> None:
    mine, other = await hands.key("submit", "read"), await hands.key("submit", "read")
    task_id = await hands.submit(mine)
    path = f"/v1/dead/{task_id}"
    assert (await hands.ask("DELETE", path, mine)).problem() == (409, "conflict")
    await hands.store.settle(await hands.claim(), GIVEN_UP, "It failed.", "may pass", "gpu-1")
    assert (await hands.ask("DELETE", path, other)).problem() == (404, "not-found")
    assert (await hands.ask("DELETE", path, mine)).json == {"task_id": task_id, "status": "dropped"}
    assert (await hands.get("/v1/dead", mine)).json["tasks"] == []
    assert (await hands.get(f"/v1/tasks/{task_id}", mine)).json["state"] == "failed"


async def test_the_page_comes_with_a_strict_policy_and_names_no_other_server(hands: GatewayHands) -> None:
    await hands.key("admin")  # the page itself needs none
    page = await hands.get("/")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = page.headers["Content-Security-Policy"]
    for rule in (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "form-action 'none'",
    ):
        assert rule in policy
    assert "unsafe" not in policy and "http" not in policy
    assert page.headers["X-Frame-Options"] == "DENY"
    assert (await hands.get("/", headers={"If-None-Match": page.headers["ETag"]})).status == 304
    assert (await hands.get("/panel/panel.css")).headers["Content-Type"] == "text/css; charset=utf-8"
    for strange in ("/panel/../api.py", "/panel/%2e%2e/%2e%2e/pyproject.toml", "/panel/nothing.js"):
        assert (await hands.get(strange)).status == 404
    root = Path(__file__).resolve().parent.parent
    assert (
        "web/panel/*"
        in tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["comfyui_sonic"]
    ), "an installation has the page"
    for file in (root / "web" / "panel").iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text and "//cdn" not in text, file
        for unwanted in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage"):
            assert unwanted not in text, f"{file.name} uses {unwanted}"
