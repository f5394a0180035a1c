"""Object stores, by a real S3 server with users and policies: videos that are there whole or not at all."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import hmac
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
from aiohttp import web
from aiohttp.test_utils import TestServer
from comfyui_sonic.queue_bridge.config import Settings, load_settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.errors import BadJob, BridgeError, ConfigError, FileUnreachable, JobError, ObjectMissing
from comfyui_sonic.queue_bridge.execution.old_results import OldResults
from comfyui_sonic.queue_bridge.fetch_limits import Limits
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.places.job_files import JobFiles
from comfyui_sonic.queue_bridge.places.job_places import JobPlaces, output_address, plain_name
from comfyui_sonic.queue_bridge.places.storage import Storage
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.store import Store, Submission
from comfyui_sonic.queue_bridge.storage_places import (
    SecretSource,
    StoragePlace,
    object_address,
    places_of_buckets,
)

from .object_store import LIMITS, ObjectStore, check_keys

VIDEO = b"a video of a person who speaks"


def at(uri: str) -> Any:
    return object_address(uri, "image")


def places_in(folder: Path, storage: Storage, **more: Any) -> JobPlaces:
    return JobPlaces(JobFiles([folder], folder / "input", folder / "output"), storage, **more)


def spec_for(output: str, **more: str) -> JobSpec:
    fields = {"task_id": new_job_id(), "image": "s3://orders/a.png", "audio": "s3://orders/a.wav", "output": output}
    return JobSpec.parse(fields | more)


def made(folder: Path, content: bytes = VIDEO) -> Path:
    path = folder / "made.mp4"
    path.write_bytes(content)
    return path


# --- inputs -----------------------------------------------------------------------------------------------------------


async def test_inputs_come_from_a_store_under_their_own_names(object_store: ObjectStore, tmp_path: Path) -> None:
    object_store.put("orders", "today/安娜 (1).png", b"picture")
    object_store.put("orders", "a.wav", b"sound" * 100_000)
    places = places_in(tmp_path, object_store.storage())
    spec = spec_for("s3://videos/a.mp4", image="s3://orders/today/安娜 (1).png")
    image, audio = (await places.fetch(spec, 3)).values()
    own = places.files.folders.name(spec.task_id, 3)
    assert (image, audio) == (f"{own}/image/安娜 (1).png", f"{own}/audio/a.wav")
    assert (places.input_directory / image).read_bytes() == b"picture"
    assert (places.input_directory / audio).read_bytes() == b"sound" * 100_000
    await places.tidy(spec.task_id, 3)
    assert list((tmp_path / "input").rglob("*.*")) == []


@pytest.mark.parametrize(
    ("uri", "error", "words"),
    [
        ("s3://orders/nobody.png", BadJob, "^image: 's3://orders/nobody.png' is not there.$"),
        ("s3://orders/empty.png", BadJob, "^image: 's3://orders/empty.png' is an empty file.$"),
        ("s3://orders/large.png", BadJob, r"^image: 's3://orders/large.png' is larger than 0\.000953 MiB"),
        (
            "s3://gone/a.png",
            FileUnreachable,
            r"^image: The bucket 's3://gone' is not there; make it, or mend \[",
        ),
        ("s3://closed/a.png", FileUnreachable, r"may not be read with the keys of \[storage.shop\] \(AccessDenied\)"),
        ("s3://other/a.png", BadJob, "^image: 's3://other' is no bucket that jobs may use here"),
        ("gs://orders/a.png", BadJob, "^image: 'gs://orders' is no bucket that jobs may use here"),
        ("s3:///a.png", BadJob, "^image: the address names no bucket; write s3://bucket/key"),
        ("s3://orders/../a.png", BadJob, "is no key of a file"),
        ("s3://orders/", BadJob, "is no key of a file"),
        ("s3://orders/a.png?X-Amz-Signature=c0ffee", BadJob, "holds characters that are not taken here"),
    ],
)
async def test_an_input_that_cannot_be_had_is_one_sentence_that_says_whether_it_may_pass(
    object_store: ObjectStore, tmp_path: Path, uri: str, error: type[BridgeError], words: str
) -> None:
    object_store.put("orders", "empty.png", b"")
    object_store.put("orders", "large.png", bytes(1000))
    storage = object_store.storage("orders", "gone", "closed", limits=dataclasses.replace(LIMITS, bytes=999))
    with pytest.raises(error, match=words) as raised:
        await places_in(tmp_path, storage).fetch(spec_for("s3://orders/a.mp4", image=uri), 1)
    told_nothing_secret(object_store, raised.value)
    assert list((tmp_path / "input").rglob("*.p*")) == []


async def test_an_allowed_prefix_allows_nothing_beside_it(object_store: ObjectStore, tmp_path: Path) -> None:
    for key in ("in/a.png", "inner/a.png"):
        object_store.put("orders", key, b"picture")
    storage = object_store.storage("orders/in")
    await storage.download(at("s3://orders/in/a.png"), tmp_path / "a.png")
    places = places_in(tmp_path, storage)
    with pytest.raises(BadJob, match="or not with this prefix"):
        await places.fetch(spec_for("s3://orders/in/a.mp4", image="s3://orders/inner/a.png"), 1)


# --- wrong keys, servers that are away --------------------------------------------------------------------------------


def told_nothing_secret(object_store: ObjectStore, error: BaseException) -> None:
    """Nor may what is behind an error, as a log shows that, too."""
    said = "".join(repr(one) + str(one) for one in (error, error.__cause__) if one)
    assert object_store.secret not in said
    assert object_store.key_id not in said
    assert error.__suppress_context__ or error.__context__ is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"STORE_SECRET": "wrong"}, r"refuses the keys of \[storage.shop\] \(SignatureDoesNotMatch\)"),
        ({"STORE_KEY_ID": "AKIANOBODY"}, r"refuses the keys of \[storage.shop\] \(InvalidAccessKeyId\)"),
        ({"STORE_SECRET": ""}, r"The variable STORE_SECRET, which \[storage.shop\] names, is not set."),
        ({"endpoint": "http://127.0.0.1:9"}, "could not be (read|written|listed): the store does not answer"),
    ],
)
async def test_a_store_that_cannot_be_used_now_may_be_usable_later(
    object_store: ObjectStore, tmp_path: Path, changed: dict[str, str], words: str
) -> None:
    storage = object_store.storage(**changed)
    places = places_in(tmp_path, storage)
    steps: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: places.fetch(spec_for("s3://videos/a.mp4"), 1),
        lambda: places.stage(made(tmp_path), spec_for("s3://videos/a.mp4"), 1),
        lambda: storage.under(at("s3://videos/folder")),
    ]
    for step in steps:
        with pytest.raises(FileUnreachable, match=words) as raised:
            await step()
        told_nothing_secret(object_store, raised.value)
    assert not isinstance(raised.value, JobError), "then it would not be tried again"


async def test_a_store_of_another_kind_is_not_said_to_be_silent(object_store: ObjectStore) -> None:
    async def without_etag(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", without_etag)
    async with TestServer(app) as server:
        storage = object_store.storage(endpoint=f"http://127.0.0.1:{server.port}")
        with pytest.raises(FileUnreachable, match="answers, but not as one of kind s3 does"):
            await storage.upload(VIDEO, at("s3://videos/a.mp4"), "video/mp4")


async def test_an_answer_that_cannot_be_read_is_not_said_to_be_silence(object_store: ObjectStore) -> None:
    async def a_page(request: web.Request) -> web.Response:
        return web.Response(text="<html>Welcome & log in<p></html>", content_type="text/html")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", a_page)
    async with TestServer(app) as server:
        storage = object_store.storage(endpoint=f"http://127.0.0.1:{server.port}")
        with pytest.raises(FileUnreachable, match="could not be listed: the store answers, but not as one of kind s3"):
            await storage.under(at("s3://videos/folder"))


async def test_a_copy_says_that_it_has_no_body_as_some_stores_refuse_it_otherwise(object_store: ObjectStore) -> None:
    async def strict(request: web.Request) -> web.Response:
        if request.headers.get("Content-Length") != "0":
            return web.Response(status=411, text="<Error><Code>MissingContentLength</Code></Error>")
        return web.Response(text="<CopyObjectResult><ETag>e</ETag></CopyObjectResult>")

    app = web.Application()
    app.router.add_put("/videos/b.mp4", strict)
    async with TestServer(app) as server:
        storage = object_store.storage(endpoint=f"http://127.0.0.1:{server.port}")
        await storage.copy(at("s3://videos/a.mp4"), at("s3://videos/b.mp4"))


async def test_keys_are_read_again_after_they_were_refused(object_store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "id").write_text(object_store.key_id + "\n")
    (tmp_path / "secret").write_text("wrong")
    sources = {
        name: SecretSource(file=str(tmp_path / file)) for name, file in (("key_id", "id"), ("secret_key", "secret"))
    }
    place = dataclasses.replace(object_store.place("videos"), secrets=sources)
    storage = Storage([place], LIMITS)
    with pytest.raises(FileUnreachable, match="SignatureDoesNotMatch"):
        await storage.upload(VIDEO, at("s3://videos/keys.mp4"), "video/mp4")
    (tmp_path / "secret").write_text(object_store.secret)
    await storage.upload(VIDEO, at("s3://videos/keys.mp4"), "video/mp4")


async def test_a_store_is_tried_at_the_start_and_what_fails_is_one_sentence(object_store: ObjectStore) -> None:
    found = await object_store.storage("videos", "orders/in", "closed", "gone").probe("me")
    assert sorted(found) == ["s3://closed", "s3://gone"]
    assert "may not be written with the keys of [storage.shop] (AccessDenied)" in found["s3://closed"]
    assert found["s3://gone"] == "The bucket 's3://gone' is not there; make it, or mend [storage.shop]."
    assert not any("probe" in key for key in object_store.keys("videos") + object_store.keys("orders"))


async def test_the_variables_of_the_provider_are_enough(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", object_store.key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", object_store.secret)
    monkeypatch.setenv("AWS_ENDPOINT_URL", object_store.endpoint)
    assert await Storage(places_of_buckets(["s3://videos"]), LIMITS).probe("me") == {}
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    (said,) = (await Storage(places_of_buckets(["s3://videos"]), LIMITS).probe("me")).values()
    assert "refuses the keys of the variables of the environment (SignatureDoesNotMatch)" in said


async def test_a_missing_library_is_one_sentence(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    found = await object_store.storage("videos").probe("me")
    assert found == {
        "s3://videos": "Object stores need the package obstore, which is not installed here: pip install obstore."
    }


# --- videos -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [30, 11_000_000])
async def test_a_video_appears_only_when_it_is_delivered(object_store: ObjectStore, tmp_path: Path, size: int) -> None:
    """The larger one is uploaded in parts, and keeps what is written with it all the same."""
    folder, content = new_job_id(), bytes(size - 1) + b"x"
    places, spec = places_in(tmp_path, object_store.storage()), spec_for(f"s3://videos/{folder}/安娜.mp4")
    staged = await places.stage(made(tmp_path, content), spec, 1)
    assert object_store.keys("videos", folder) == [f"{folder}/.sonic-{spec.task_id}/1.part"]
    laid = staged | {"result": {"quality": {"score": 1.0}}}
    for _ in range(2):  # a lost answer is asked for again
        assert await places.deliver(laid, spec.task_id)
    assert object_store.keys("videos", folder) == [f"{folder}/安娜.mp4", f"{folder}/安娜.quality.json"]
    assert object_store.get("videos", f"{folder}/安娜.mp4") == content
    assert object_store.admin.head_object(Bucket="videos", Key=f"{folder}/安娜.mp4")["ContentType"] == "video/mp4"
    assert object_store.get("videos", f"{folder}/安娜.quality.json") == b'{\n  "score": 1.0\n}'


async def test_a_start_that_wakes_up_late_overwrites_nothing(object_store: ObjectStore, tmp_path: Path) -> None:
    folder = new_job_id()
    places, spec = places_in(tmp_path, object_store.storage()), spec_for(f"s3://videos/{folder}/a.mp4")
    late = await places.stage(made(tmp_path, b"late"), spec, 1)
    winner = await places.stage(made(tmp_path, b"winner"), spec, 2)
    assert await places.deliver(winner, spec.task_id)
    assert not await places.deliver(late, spec.task_id), "what it had laid is gone"
    assert object_store.get("videos", f"{folder}/a.mp4") == b"winner"
    assert object_store.keys("videos", folder) == [f"{folder}/a.mp4"]
    object_store.put("videos", f"{folder}/a.mp4", b"WINNER")
    assert not await places.deliver(winner, spec.task_id), "another object of the same size is not this video"


async def test_a_store_that_copies_nothing_costs_nobody_the_video(object_store: ObjectStore, tmp_path: Path) -> None:
    asked = []

    async def takes_a_copy_for_an_upload(request: web.Request) -> web.Response:
        asked.append(request.method)
        date = "Fri, 27 Nov 2026 00:00:00 GMT"
        return web.Response(headers={"ETag": '"e"', "Last-Modified": date, "Content-Length": "0"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", takes_a_copy_for_an_upload)
    async with TestServer(app) as server:
        storage = object_store.storage(endpoint=f"http://127.0.0.1:{server.port}")
        places, spec = places_in(tmp_path, storage), spec_for("s3://videos/a.mp4")
        laid = await places.stage(made(tmp_path), spec, 1)
        with pytest.raises(FileUnreachable, match=r"^'s3://videos/a.mp4' was not copied whole: .* 0 of 30 bytes"):
            await places.deliver(laid, spec.task_id)
    assert asked == ["PUT", "PUT", "HEAD"], "what was uploaded is still there"


async def test_what_a_start_laid_in_vain_goes_and_the_others_stay(object_store: ObjectStore, tmp_path: Path) -> None:
    folder = new_job_id()
    places, spec = places_in(tmp_path, object_store.storage()), spec_for(f"s3://videos/{folder}/a.mp4")
    for token in (1, 12):
        await places.stage(made(tmp_path), spec, token)
    await places.discard(spec, 1)
    assert object_store.keys("videos", folder) == [f"{folder}/.sonic-{spec.task_id}/12.part"]
    await places.discard(spec)
    assert object_store.keys("videos", folder) == []
    await places.discard(spec_for("s3://nowhere/a.mp4"))


async def test_a_video_goes_by_age_only_while_it_is_ours(object_store: ObjectStore, tmp_path: Path) -> None:
    folder = new_job_id()
    places = places_in(tmp_path, object_store.storage())
    described = {}
    for name in ("old", "changed", "gone"):
        spec = spec_for(f"s3://videos/{folder}/{name}.mp4")
        described[name] = await places.stage(made(tmp_path), spec, 1)
        await places.deliver(described[name] | {"result": {"quality": {"score": 1}}}, spec.task_id)
    object_store.put("videos", f"{folder}/changed.mp4", VIDEO.upper())
    object_store.admin.delete_object(Bucket="videos", Key=f"{folder}/gone.mp4")
    fates = {
        name: await places.remove_result(f"s3://videos/{folder}/{name}.mp4", described[name]) for name in described
    }
    assert fates == {"old": "removed", "changed": "not ours", "gone": "not ours"}
    left = object_store.keys("videos", folder)
    assert left == [f"{folder}/changed.mp4", f"{folder}/changed.quality.json", f"{folder}/gone.quality.json"]
    assert await places.remove_result("s3://elsewhere/a.mp4", described["old"]) == "out of reach"
    away = places_in(tmp_path, object_store.storage(endpoint="http://127.0.0.1:9"))
    assert await away.remove_result(f"s3://videos/{folder}/changed.mp4", described["old"]) == "out of reach"


async def test_the_queue_remembers_videos_in_a_store_and_removes_them_by_age(
    object_store: ObjectStore, redis_url: str, tmp_path: Path
) -> None:
    now_s, places = 1_800_000_000.0, places_in(tmp_path, object_store.storage(), results="s3://videos")
    settings = Settings(url=redis_url, queue=f"store-{new_job_id()}", results_days=10.0)
    store = Store(connect(redis_url), settings, clock=lambda: now_s)
    try:
        await store.register(Identity("a", "boot"))
        await store.submit([Submission(spec_for("{task_id}/old.mp4"), 512)])
        job = await store.claim("a", "boot", ("512",))
        assert isinstance(job, JobRecord)
        laid = await places.stage(made(tmp_path), job.spec, job.token)
        await store.stage(job, laid)
        assert await places.deliver(laid, job.task_id)
        await store.complete(job, {"output": laid["place"]})
        now_s += 9 * 86_400
        assert await OldResults(store, places).sweep() == 0
        assert object_store.keys("videos", job.task_id) == [f"{job.task_id}/old.mp4"]
        now_s += 2 * 86_400
        assert await OldResults(store, places).sweep() == 1
        assert object_store.keys("videos", job.task_id) == []
    finally:
        await store.close()


async def test_a_link_to_a_result_works_for_everybody_for_a_while(object_store: ObjectStore) -> None:
    storage = object_store.storage("videos")
    await storage.upload(VIDEO, at("s3://videos/linked 1.mp4"), "video/mp4")
    link = await storage.result_link("s3://videos/linked 1.mp4", 60)
    assert "X-Amz-Expires=60" in link
    assert "X-Amz-Signature=" in link
    assert object_store.secret not in link
    check_keys(object_store.endpoint, False)
    try:
        answer = await asyncio.to_thread(requests.get, link, timeout=10)
    finally:
        check_keys(object_store.endpoint, True)
    assert (answer.status_code, answer.content) == (200, VIDEO)
    with pytest.raises(BadJob, match="is no bucket that jobs may use here"):
        await storage.result_link("s3://orders/a.png", 60)


@pytest.mark.parametrize(
    "output", ["s3://orders/a.avi", "s3://elsewhere/a.mp4", "s3://orders//a.mp4", "a.mp4", "http://a/b.mp4"]
)
async def test_a_wrong_place_is_the_jobs_fault(object_store: ObjectStore, tmp_path: Path, output: str) -> None:
    with pytest.raises(BadJob, match=r"^output: "):
        await places_in(tmp_path, object_store.storage()).check_output(spec_for(output))


@pytest.mark.parametrize(
    ("output", "results", "found"),
    [
        ("{task_id}.mp4", "s3://videos/out/", "s3://videos/out/tsk_1.mp4"),
        ("{batch}/{task_id}.mp4", "s3://videos", "s3://videos/b-1/tsk_1.mp4"),
        ("s3://videos/{task_id}.mp4", "", "s3://videos/tsk_1.mp4"),
        ("results/安 {task_id}.mp4", "/mnt/nas", "file:///mnt/nas/results/%E5%AE%89%20tsk_1.mp4"),
        ("file:///mnt/%7Btask_id%7D.mp4", "", "file:///mnt/%7Btask_id%7D.mp4"),
    ],
)
def test_an_output_is_below_the_place_of_results_with_its_marks_filled_in(
    output: str, results: str, found: str
) -> None:
    assert output_address(JobSpec("tsk_1", "", "", output, batch="b-1"), results) == found


@pytest.mark.parametrize(
    "output", ["../a.mp4", "/etc/a.mp4", "a//b.mp4", "a\\b.mp4", "{name}.mp4", "{batch}.mp4", "C:/a.mp4/.."]
)
def test_an_output_that_leads_out_of_the_place_of_results_is_refused(output: str) -> None:
    with pytest.raises(BadJob, match=r"^output: "):
        output_address(JobSpec("tsk_1", "", "", output), "/mnt/nas")


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("安娜 (1).PNG", "安娜 (1).PNG"),
        ("../../etc/passwd", "etcpasswd"),
        ("a\nb\0?.wav", "ab.wav"),
        ("...", ""),
        ("x" * 300 + ".wav", "x" * 80 + ".wav"),
        ("a.png [output]", "a.png output"),
    ],
)
def test_a_name_from_elsewhere_becomes_a_plain_one(name: str, plain: str) -> None:
    assert plain_name(name) == plain


# --- settings ---------------------------------------------------------------------------------------------------------

S3 = '[storage.a]\nkind = "s3"\nbuckets = ["abc"]\n'
OSS = """
results = "s3://shop-videos/results"
buckets = ["az://frames"]

[storage.oss]
kind = "s3"
buckets = ["shop-videos", "shop-orders/in"]
endpoint = "https://oss-cn-hangzhou.aliyuncs.com"
region = "oss-cn-hangzhou"
virtual_hosted = true
key_id_env = "OSS_ID"
secret_key_file = "{file}"
"""


def settings_of(tmp_path: Path, text: str) -> Settings:
    (tmp_path / "queue.toml").write_text(text)
    return load_settings({"SONIC_QUEUE_CONFIG": str(tmp_path / "queue.toml")})


async def test_oss_is_addressed_by_hosts_that_begin_with_the_bucket(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a-secret-key\n")
    settings = settings_of(tmp_path, OSS.format(file=tmp_path / "key"))
    storage = Storage(settings.places, settings.limits, {"OSS_ID": "an-id"})
    link = await storage.result_link("s3://shop-videos/results/a.mp4", 60)
    assert link.startswith("https://shop-videos.oss-cn-hangzhou.aliyuncs.com/results/a.mp4?")
    assert "%2Foss-cn-hangzhou%2Fs3%2F" in link
    assert "a-secret-key" not in repr(settings) + link


async def test_azure_and_google_are_opened_with_their_own_keys() -> None:
    azure = StoragePlace("az", "az", ("frames",), account="shop", secrets={"account_key": SecretSource(env="KEY")})
    storage = Storage(
        [azure, StoragePlace("gs", "gs", ("b0",), secrets={"service_account": SecretSource(env="KEY")})],
        LIMITS,
        {"KEY": "a2V5"},
    )
    link = await storage.result_link("az://frames/a.mp4", 60)
    assert link.startswith("https://shop.blob.core.windows.net/frames/a.mp4?")
    with pytest.raises(FileUnreachable, match=r"^'gs://b0/a.mp4' could not be signed") as raised:
        await storage.result_link("gs://b0/a.mp4", 60)
    assert "a2V5" not in str(raised.value)


@pytest.mark.parametrize(
    ("endpoint", "blob"),
    [
        ("", "/blob/shop/frames/安娜 1.mp4"),
        ("http://127.0.0.1:10000/shop", "/blob/shop/frames/安娜 1.mp4"),
    ],
)
async def test_a_link_to_azure_is_signed_over_the_name_as_it_is(endpoint: str, blob: str) -> None:
    place = StoragePlace(
        "az", "az", ("frames",), endpoint, account="shop", secrets={"account_key": SecretSource(env="KEY")}
    )
    link = urlsplit(await Storage([place], LIMITS, {"KEY": "a2V5"}).result_link("az://frames/安娜 1.mp4", 60))
    assert link.path.endswith("/frames/%E5%AE%89%E5%A8%9C%201.mp4")
    said = dict(parse_qsl(link.query))
    signed = [said["sp"], said["st"], said["se"], blob, "", "", "", said["sv"], said["sr"], *[""] * 7]
    digest = hmac.new(b"key", "\n".join(signed).encode(), hashlib.sha256).digest()
    assert base64.b64decode(said["sig"]) == digest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[storage.a]\nkind = "ftp"', "storage.a.kind: is none of s3, gs, az."),
        ('[storage.a]\nkind = "s3"', "storage.a.buckets: is no list of the buckets"),
        ('[storage.a]\nkind = "s3"\nbuckets = ["a/../b"]', "storage.a.buckets: 'a/../b' is no name of a bucket"),
        (S3 + 'secret_key = "c0ffee"', "storage.a.secret_key: a secret does not"),
        (S3 + 'secret_key_env = "S"', "storage.a: key_id and secret_key belong"),
        (S3 + 'regoin = "x"', "storage.a.regoin: is no setting of a place of kind s3"),
        ('[storage.a]\nkind = "az"\nbuckets = ["abc"]\nregion = "x"', "storage.a.region: is no setting of a place"),
        (S3 + 'endpoint = "https://k:c0ffee@h"', "storage.a.endpoint: is no address"),
        ('storage = "s3"', "storage: is no setting of one line"),
        ('buckets = ["abc"]', "buckets: 'abc' is no bucket; write s3://bucket"),
        ('buckets = ["s3://abc"]\n' + S3, "storage: s3://abc is in [storage.a]"),
        ('results = "videos"', "results: 'videos' is neither an absolute path nor s3://bucket/prefix"),
        ('results = "s3://abc/x"', "results: 's3://abc' is no bucket of buckets or of a [storage.NAME]"),
        ('results = "s3://k:c0ffee@abc/x"', "results: the address names no bucket"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_one_sentence_that_names_it_and_no_secret(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        settings_of(tmp_path, text)
    assert str(raised.value).startswith(words), str(raised.value)
    assert "c0ffee" not in str(raised.value)


def test_the_simplest_case_needs_no_file() -> None:
    settings = load_settings(
        {"SONIC_QUEUE_BUCKETS": "s3://videos,gs://orders/in", "SONIC_QUEUE_RESULTS": "s3://videos"}
    )
    assert [(place.kind, place.buckets) for place in settings.places] == [("s3", ("videos",)), ("gs", ("orders/in",))]
    assert places_of_buckets([]) == ()


# --- what a job may say -----------------------------------------------------------------------------------------------


def test_a_job_may_say_image_url_and_audio_url() -> None:
    spec = JobSpec.parse({"image_url": "https://shop.example/a.png", "audio_url": "s3://orders/a.wav", "output": "b"})
    assert (spec.image, spec.audio) == ("https://shop.example/a.png", "s3://orders/a.wav")


@pytest.mark.parametrize("uri", ["https://anna:c0ffee@shop.example/a.png", "s3://id:c0ffee@orders/a.png"])
def test_a_password_in_an_address_is_never_taken_in(uri: str) -> None:
    with pytest.raises(BadJob, match=r"^image: the address holds a user's name or a password") as raised:
        JobSpec.parse({"image": uri, "audio": "s3://orders/a.wav", "output": "a.mp4"})
    assert "c0ffee" not in str(raised.value)


async def test_a_download_that_is_too_slow_may_pass(object_store: ObjectStore, tmp_path: Path) -> None:
    async def dumb(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(dumb, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    limits = Limits(total_s=0.5, idle_s=0.3)
    storage = object_store.storage(endpoint=f"http://127.0.0.1:{port}", limits=limits)
    with pytest.raises(FileUnreachable, match="could not be read"):
        await storage.download(at("s3://orders/a.png"), tmp_path / "a.png")
    server.close()


async def test_an_object_that_is_not_there_is_told_apart_from_a_bucket(object_store: ObjectStore) -> None:
    storage = object_store.storage("videos")
    assert await storage.stored(at("s3://videos/nobody.mp4")) is None
    await storage.remove(at("s3://videos/nobody.mp4"))
    with pytest.raises(ObjectMissing):
        await storage.copy(at("s3://videos/nobody.mp4"), at("s3://videos/b.mp4"))
