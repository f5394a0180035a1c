"""Progress and videos over HTTP: events that resume, one reader for all, and downloads in parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.retry import Verdict
from comfyui_sonic.queue_bridge.states import State

from .gateway_fixture import GatewayHands, Told, events_of, gateway_hands

VIDEO = bytes(range(256)) * 40


@pytest.fixture
async def hands(redis_url: str, tmp_path: Path) -> AsyncIterator[GatewayHands]:
    async with gateway_hands(redis_url, tmp_path) as hands:
        yield hands


async def follow(hands: GatewayHands, path: str, last_id: str = "", stop: str = "end") -> list[Told]:
    """Events until one of this kind or state."""
    headers = {"Last-Event-ID": last_id} if last_id else {}
    found = []
    async with hands.session.get(f"{hands.address}{path}/events", headers=headers) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        async for told in events_of(answer):
            found.append(told)
            if stop in (told.kind, told.data.get("state")):
                break
    return found


async def test_a_follower_gets_a_snapshot_then_changes_then_the_end(hands: GatewayHands) -> None:
    task_id = await hands.submit()
    following = asyncio.create_task(follow(hands, f"/v1/tasks/{task_id}"))
    while not hands_followers(await hands.get("/metrics")):
        await asyncio.sleep(0.01)
    job = await hands.claim()
    await hands.store.progress(job, 42.0, "Make frames", 7.0)
    await hands.store.complete(job, {"bytes": 3})
    told = await following
    assert [one.kind for one in told] == ["snapshot", "change", "change", "change", "end"]
    assert (told[0].data["task_id"], told[0].data["state"]) == (task_id, "queued")
    assert [one.data.get("cause") for one in told[1:4]] == ["claimed", "progress", "completed"]
    assert (told[2].data["percent"], told[2].data["stage"], told[2].data["seconds_left"]) == (42.0, "Make frames", 7.0)
    assert (told[4].data["state"], told[4].data["percent"], told[4].data["result"]["bytes"]) == ("completed", 100.0, 3)
    assert "token" not in told[1].data


def hands_followers(answer: Any) -> bool:
    return b"sonic_gateway_followers 1" in answer.body


async def test_who_comes_back_gets_what_was_missed_and_nothing_twice(hands: GatewayHands) -> None:
    task_id = await hands.submit()
    path = f"/v1/tasks/{task_id}"
    (first,) = await follow(hands, path, stop="snapshot")
    other = await hands.submit()
    job = await hands.claim()
    for percent in (10.0, 20.0):
        await hands.store.progress(job, percent, "Make frames", None)
    await hands.store.progress(job, 30.0, "Make frames", None)
    await hands.store.settle(job, Verdict(State.FAILED, "bad input"), "No face.", "bad input", "gpu-1")
    told = await follow(hands, path, first.id)
    assert [one.data.get("percent") for one in told[:-1]] == [None, 10.0, 20.0, 30.0, None]
    assert {one.kind for one in told[:-1]} == {"change"}
    assert (told[-1].kind, told[-1].data["error"]) == ("end", "No face.")
    assert {one.data["task_id"] for one in told} == {task_id}
    from_the_middle = await follow(hands, path, told[2].id)
    assert [one.data.get("percent") for one in from_the_middle[:-1]] == [30.0, None]
    over = await hands.get(f"{path}/events", headers={"Last-Event-ID": told[-1].id})
    assert (over.status, over.body) == (204, b""), "so a browser does not come back for ever"
    assert other != task_id


async def test_an_event_that_is_no_longer_kept_leads_to_a_snapshot(hands: GatewayHands) -> None:
    task_id = await hands.submit()
    await hands.complete()
    for last_id in ("1-1", "nonsense", "999999999999999-0"):  # the last is of a database that an older one replaced
        told = await follow(hands, f"/v1/tasks/{task_id}", last_id)
        assert [one.kind for one in told] == ["snapshot", "end"]


async def test_an_end_that_the_reader_has_not_read_yet_is_told(
    hands: GatewayHands, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_slow(view: QueueView, after: str, timeout_s: float) -> list[tuple[str, dict[str, str]]]:
        await asyncio.sleep(timeout_s)
        return []

    monkeypatch.setattr(QueueView, "entries", is_slow)
    batch = (await hands.post({"tasks": [hands.task()]}, "/v1/batches")).json
    task, path_of_batch = f"/v1/tasks/{batch['task_ids'][0]}", f"/v1/batches/{batch['batch_id']}"
    (seen,) = await follow(hands, task, stop="snapshot")
    await hands.complete()
    for path in (task, path_of_batch):
        told = await follow(hands, path, seen.id)
        assert [one.data.get("cause") for one in told[:-1]] == ["claimed", "completed"]
        assert (told[-1].kind, told[-1].id) == ("end", told[-2].id)


async def test_many_followers_cost_one_reader(hands: GatewayHands) -> None:
    task_id = await hands.submit()
    following = [asyncio.create_task(follow(hands, f"/v1/tasks/{task_id}")) for _ in range(50)]
    while b"sonic_gateway_followers 50" not in (await hands.get("/metrics")).body:
        await asyncio.sleep(0.02)

    async def reads() -> int:
        stats = await hands.store.client.info("commandstats")
        return int(stats["cmdstat_xread"]["calls"])

    before = await reads()
    job = await hands.claim()
    for percent in range(1, 11):
        await hands.store.progress(job, float(percent), "Make frames", None)
    await hands.store.complete(job, {})
    told = await asyncio.gather(*following)
    assert all(one[-1].kind == "end" and len(one) == 14 for one in told)
    assert await reads() - before <= 14


async def test_a_batch_is_followed_to_the_end_of_its_last_task(hands: GatewayHands) -> None:
    made = (await hands.post({"tasks": [hands.task(), hands.task()]}, "/v1/batches")).json
    following = asyncio.create_task(follow(hands, f"/v1/batches/{made['batch_id']}"))
    while not hands_followers(await hands.get("/metrics")):
        await asyncio.sleep(0.01)
    await hands.submit()
    for _ in range(3):
        await hands.complete()
    told = await following
    assert told[0].kind == "snapshot"
    assert {one.data["task_id"] for one in told[1:-1]} == set(made["task_ids"])
    assert (told[-1].kind, told[-1].data["completed"], told[-1].data["unended"]) == ("end", 2, 0)


async def test_the_video_is_sent_whole_in_parts_and_not_again(hands: GatewayHands) -> None:
    task_id = await hands.submit(name="安娜")
    path = f"/v1/tasks/{task_id}/result"
    early = await hands.get(path)
    assert early.problem() == (409, "not-finished")
    assert early.json["state"] == "queued"
    job = await hands.complete(VIDEO)
    whole = await hands.get(path)
    assert (whole.status, whole.body, whole.headers["Content-Type"]) == (200, VIDEO, "video/mp4")
    assert "filename*=UTF-8''%E5%AE%89%E5%A8%9C.mp4" in whole.headers["Content-Disposition"]
    tag = whole.headers["ETag"]
    head = await hands.ask("HEAD", path)
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(VIDEO)))
    for given, part in (("bytes=0-99", VIDEO[:100]), ("bytes=10000-", VIDEO[10000:]), ("bytes=-7", VIDEO[-7:])):
        answer = await hands.get(path, headers={"Range": given})
        assert (answer.status, answer.body) == (206, part)
        assert answer.headers["Content-Range"].endswith(f"/{len(VIDEO)}")
    for given in ("bytes=10240-", "bytes=5-2", "bytes=x"):
        beyond = await hands.get(path, headers={"Range": given})
        assert beyond.problem() == (416, "range")
        assert beyond.headers["Content-Range"] == f"bytes */{len(VIDEO)}"
    assert (await hands.get(path, headers={"Range": "lines=1-2"})).status == 200
    assert (await hands.get(path, headers={"If-None-Match": tag})).status == 304
    same = await hands.get(path, headers={"Range": "bytes=0-9", "If-Range": tag})
    assert (same.status, same.body) == (206, VIDEO[:10])
    other = await hands.get(path, headers={"Range": "bytes=0-9", "If-Range": '"another"'})
    assert (other.status, other.body) == (200, VIDEO), "parts of two versions are never mixed"
    assert (await hands.get(path, headers={"If-Match": '"another"'})).problem() == (412, "precondition-failed")
    Path(job.spec.output.removeprefix("file://")).unlink()
    assert (await hands.get(path)).problem() == (410, "gone")


async def test_a_result_outside_the_roots_is_not_sent(hands: GatewayHands, tmp_path: Path) -> None:
    outside = (hands.root / "link.mp4").as_uri()
    task_id = await hands.submit(output=outside)
    await hands.complete(VIDEO)
    assert (await hands.get(f"/v1/tasks/{task_id}/result")).body == VIDEO
    (hands.root / "link.mp4").unlink()
    (hands.root / "link.mp4").symlink_to("/etc/passwd")
    assert (await hands.get(f"/v1/tasks/{task_id}/result")).problem() == (410, "gone")
