"""Tasks over HTTP whose files are on the web and in an object store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .gateway_fixture import GatewayHands, gateway_hands
from .object_store import ObjectStore, check_keys
from .webhook_receiver import SECRET, is_signed, receiving


@pytest.fixture
async def hands(
    redis_url: str, tmp_path: Path, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[GatewayHands]:
    for name, value in object_store.environment().items():
        monkeypatch.setenv(name, value)
    async with gateway_hands(redis_url, tmp_path, storage=(object_store.place(),), results="s3://videos/shop") as hands:
        yield hands


async def test_inputs_may_be_on_the_web_and_in_a_bucket(hands: GatewayHands) -> None:
    answer = await hands.post({"image_url": "https://pictures.example/anna.png?key=1", "audio": "s3://orders/anna.wav"})
    assert answer.status == 202, answer.body
    shown = await hands.get(answer.json["links"]["self"])
    assert (shown.json["image"], shown.json["audio"]) == ("https://pictures.example/anna.png", "s3://orders/anna.wav")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image": "http://127.0.0.1/a.png"}, "127.0.0.1"),
        ({"image": "http://169.254.169.254/latest/meta-data"}, "169.254.169.254"),
        ({"image": "http://0x7f000001/a.png"}, "unusual way"),
        ({"audio": "s3://private/anna.wav"}, "no bucket that jobs may use"),
        ({"audio": "ftp://sounds.example/anna.wav"}, "begins with file://, https:// or s3://"),
        ({"callback": "http://10.0.0.7/hook"}, "10.0.0.7"),
        ({"output": "https://videos.example/anna.mp4"}, "a video cannot be put there"),
        ({"output": "s3://private/anna.mp4"}, "no bucket that jobs may use"),
        ({"output": "../anna.mp4"}, "no place below the folder of results"),
        ({"output": "{name}.mp4"}, "is not known of this job"),
        ({"output": "s3://videos/anna.txt"}, "does not end with .mp4"),
    ],
)
async def test_what_may_not_be_named_is_refused_at_once(
    hands: GatewayHands, fields: dict[str, str], words: str
) -> None:
    answer = await hands.post(hands.task(**fields))
    assert answer.problem()[0] == 422
    assert words in answer.json["detail"]
    assert (await hands.get("/v1/tasks")).json["tasks"] == []


async def test_a_video_in_a_bucket_is_had_by_a_link_that_works_for_a_while(
    hands: GatewayHands, object_store: ObjectStore
) -> None:
    task_id = await hands.submit(output="{task_id}.mp4")
    job = await hands.claim()
    object_store.put("videos", f"shop/{task_id}.mp4", b"a video")
    await hands.store.complete(job, {"output": f"s3://videos/shop/{task_id}.mp4", "bytes": 7})
    answer = await hands.get(f"/v1/tasks/{task_id}/result")
    assert answer.status == 302
    link = (await hands.get(f"/v1/tasks/{task_id}/link")).json
    assert link["elsewhere"] and link["url"].partition("?")[0] == answer.headers["Location"].partition("?")[0]
    check_keys(object_store.endpoint, False)
    try:
        async with hands.session.get(answer.headers["Location"]) as video:
            assert (video.status, await video.read()) == (200, b"a video")
    finally:
        check_keys(object_store.endpoint, True)
    assert object_store.secret not in str(await hands.get(f"/v1/tasks/{task_id}"))


async def test_a_gateway_tells_a_tasks_callback_of_its_end_and_of_no_batch_that_nobody_has_named(
    redis_url: str, tmp_path: Path
) -> None:
    async with (
        receiving() as receiver,
        gateway_hands(redis_url, tmp_path, webhook_secrets=(SECRET,), private_hosts=("127.0.0.1",)) as hands,
    ):
        task_id = await hands.submit(key=await hands.key("submit"), callback=receiver.url())
        await hands.complete()
        messages = [one async for one in hands.store.client.scan_iter(hands.store.keys.message("*"))]
        assert len(messages) == 1
        (told,) = await receiver.until(1)
        assert is_signed(told, SECRET)
        assert (told.told["type"], told.told["data"]["task_id"]) == ("job.completed", task_id)
        assert "batch" not in told.told["data"]
