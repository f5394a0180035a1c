"""What may become of the queue's data, its server's clock, rights and disks: one sentence, and the line goes on."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.errors import BadJob, PromptFailed, QueueForbidden
from comfyui_sonic.queue_bridge.job import SPEC_BYTES, JobRecord, JobSpec, new_job_id
from comfyui_sonic.queue_bridge.places.job_files import JobFiles
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.store import Store, Submission
from comfyui_sonic.queue_bridge.retry import FailureKind, Verdict, kind_of
from comfyui_sonic.queue_bridge.states import State
from redis.asyncio import Redis

from .test_store import LANES, Bench, bench, spec

__all__ = ["bench"]
HOUR_S = 3600.0
NESTED = "[" * 100_000 + "]" * 100_000


async def next_good(bench: Bench) -> str:
    """What the line comes to when nothing holds it up."""
    for _ in range(3):
        answer = await bench.ask()
        if isinstance(answer, JobRecord):
            return answer.task_id
    raise AssertionError("the line has stopped")


# --- records that somebody has changed by hand ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("0", None, "what it asks for is missing"),
        ("0", "{", "job: is no JSON ("),
        ("0", "\x01\x07", "job: is no JSON (it cannot be unpacked"),
        ("lane", None, "its field 'lane' is missing"),
        ("token", "abc", "its field 'token' is no number"),
        ("attempt", "1e999", "its field 'attempt' is no number"),
        ("crashes", "many", "its field 'crashes' is no number"),
        ("place", "", "its field 'place' is no number"),
        ("state", "broken", "its state 'broken' is none"),
        ("state", None, "its field 'state' is missing"),
        ("spec", "{", "job: is no JSON ("),
        ("spec", "[]", "job: is no JSON object."),
        ("spec", '{"image": 3}', "image: is no text."),
        ("spec", "[" * 30_000 + "]" * 30_000, "job: is JSON that is nested too deeply."),
        ("spec", '{"config": {"seed": ' + "9" * 5000 + "}}", "job: is no JSON ("),
        ("spec", NESTED, "takes 200000 bytes, and 65536 are the limit"),
        ("spec", "x" * 10_000_000, "takes 10000000 bytes, and 65536 are the limit"),
        ("history", "{", "history: is no JSON ("),
        ("staged", "[1]", "staged: is no JSON object."),
        ("percent", "nearly", "its field 'percent' is no number"),
        ("submitted_ms", "today", "record: holds what it cannot hold ("),
    ],
)
async def test_a_spoilt_record_fails_with_what_is_wrong_and_the_next_job_starts(
    bench: Bench, field: str, value: str | None, words: str
) -> None:
    broken, good = await bench.submit(2)
    client, key = bench.store.client, bench.store.keys.job(broken)
    await (client.hdel(key, field) if value is None else client.hset(key, field, value))
    assert await next_good(bench) == good
    state, error = await client.hmget(key, "state", "error")
    assert state == "failed"
    assert words in error
    assert "\n" not in error
    shown = (await bench.view.jobs([broken]))[broken]
    assert (shown.state, shown.error) == (State.FAILED, error), "status and list show it"
    assert await client.lrange(bench.store.keys.ended, 0, -1) == [broken]
    assert await bench.view.lag("pending", "512") == 0


async def test_a_key_of_another_kind_in_a_jobs_place_stops_nobody(bench: Bench) -> None:
    broken, good = await bench.submit(2)
    key = bench.store.keys.job(broken)
    await bench.store.client.delete(key)
    await bench.store.client.set(key, "no hash")
    assert await next_good(bench) == good


async def test_a_record_that_is_gone_stops_nobody(bench: Bench) -> None:
    gone, good = await bench.submit(2)
    await bench.store.client.delete(bench.store.keys.job(gone))
    assert await next_good(bench) == good


@pytest.mark.parametrize("field", ["class", "lane", "place", "crashes", "owner", "attempt"])
@pytest.mark.parametrize("value", [None, "no number"])
async def test_a_record_spoilt_while_it_runs_stops_no_other_instance(
    bench: Bench, field: str, value: str | None
) -> None:
    """Its instance dies, and everybody who looks after what is due comes upon it."""
    broken, good = await bench.submit(2)
    await bench.claim("a")
    client, key = bench.store.client, bench.store.keys.job(broken)
    await (client.hdel(key, field) if value is None else client.hset(key, field, value))
    bench.clock.pass_s(31)
    await bench.store.tend()
    started = [answer.task_id for _ in range(3) if isinstance(answer := await bench.ask("b"), JobRecord)]
    assert good in started
    shown = (await bench.view.jobs([broken]))[broken]
    assert broken in started or (shown.state is State.FAILED and f"its field '{field}'" in shown.error)
    assert await bench.store.register(Identity("c"))


@pytest.mark.parametrize("spoil", ["string", "gone"])
async def test_a_running_or_delayed_job_that_is_no_record_any_more_stops_nobody(bench: Bench, spoil: str) -> None:
    await bench.submit(3)
    running, delayed = await bench.claim(), await bench.claim()
    await bench.store.settle(delayed, Verdict(State.RETRYING, "failed, may pass", delay_s=5.0))
    for job in (running, delayed):
        await bench.store.client.delete(bench.store.keys.job(job.task_id))
        if spoil == "string":
            await bench.store.client.set(bench.store.keys.job(job.task_id), "no hash")
    await bench.register("a", "boot-2", predecessor_is_dead=True)
    bench.clock.pass_s(31)
    await bench.store.tend()
    assert isinstance(await bench.claim("b"), JobRecord)
    keys = bench.store.keys
    assert await bench.store.client.zrange(keys.leases, 0, -1) != [running.task_id]
    assert await bench.store.client.zcard(keys.delayed) == 0


async def test_a_spoilt_token_never_lets_an_old_owner_back_in(bench: Bench) -> None:
    await bench.submit()
    old = await bench.claim("a")
    bench.clock.pass_s(31)
    await bench.store.tend()
    await bench.store.client.hset(bench.store.keys.job(old.task_id), "token", "abc")
    assert await next_or_none(bench) is None, "it has failed, and says why"
    assert await bench.state(old.task_id) is State.FAILED


async def next_or_none(bench: Bench) -> JobRecord | None:
    answer = await bench.ask("b")
    return answer if isinstance(answer, JobRecord) else None


# --- too much ---------------------------------------------------------------------------------------------------------


def test_ten_megabytes_of_parameters_are_refused_when_they_are_submitted() -> None:
    fields = {"image": "file:///a.png", "audio": "file:///a.wav", "output": "file:///a.mp4"}
    with pytest.raises(BadJob, match=rf"^job: takes \d+ bytes, and {SPEC_BYTES} are the limit"):
        JobSpec.parse({**fields, "config": {"text": "x" * 10_000_000}})
    with pytest.raises(BadJob, match=r"^config.seed: is a larger number than any parameter takes\.$"):
        JobSpec.parse({**fields, "config": {"seed": 10**5000}})
    with pytest.raises(BadJob, match=r"^config.deep: is no number, text, true or false\.$"):
        JobSpec.parse({**fields, "config": {"deep": [[]]}})


# --- a clock that jumps -----------------------------------------------------------------------------------------------


async def test_a_clock_set_back_by_hours_makes_no_lease_longer(bench: Bench) -> None:
    (only,) = await bench.submit()
    await bench.claim("a")
    bench.clock.pass_s(-5 * HOUR_S)
    await bench.store.tend()
    bench.clock.pass_s(29)
    await bench.store.tend()
    assert await bench.state(only) is State.RUNNING
    bench.clock.pass_s(2)
    await bench.store.tend()
    assert await bench.state(only) is State.QUEUED


async def test_a_clock_set_back_by_hours_makes_no_retry_later(bench: Bench) -> None:
    (only,) = await bench.submit()
    job = await bench.claim()
    await bench.store.settle(job, Verdict(State.RETRYING, "failed, may pass", delay_s=60.0, counter="failures"))
    bench.clock.pass_s(-5 * HOUR_S)
    await bench.store.tend()
    bench.clock.pass_s(59)
    await bench.store.tend()
    assert await bench.state(only) is State.RETRYING
    bench.clock.pass_s(2)
    assert (await bench.claim()).task_id == only


async def test_a_clock_set_forward_by_hours_loses_no_job_and_commits_one_result(bench: Bench) -> None:
    jobs = await bench.submit(3)
    slow = await bench.claim("a")
    bench.clock.pass_s(5 * HOUR_S)
    done = {}
    for _ in jobs:
        job = await bench.claim("b")
        await bench.store.complete(job, {"by": "b"})
        done[job.task_id] = job
    assert set(done) == set(jobs)
    with pytest.raises(Exception, match="belongs to another instance now"):
        await bench.store.complete(slow, {"by": "a"})
    assert {(await bench.view.job(one)).result["by"] for one in jobs} == {"b"}  # type: ignore[union-attr,index]


async def test_the_order_does_not_depend_on_the_clock(bench: Bench) -> None:
    first = await bench.submit(2)
    bench.clock.pass_s(-5 * HOUR_S)
    second = await bench.submit(2)
    assert [(await bench.claim()).task_id for _ in range(4)] == first + second


# --- rights that are missing ------------------------------------------------------------------------------------------

ForUser = Callable[..., Awaitable[Store]]


@pytest.fixture
async def as_user(redis_url: str) -> AsyncIterator[ForUser]:
    """A store on the shared server as a user with these rights."""
    admin: Redis = connect(redis_url)
    made: list[tuple[str, Store]] = []

    async def make(*rights: str, queue: str = "") -> Store:
        name, password = f"user-{secrets.token_hex(4)}", secrets.token_hex(8)
        await admin.execute_command("ACL", "SETUSER", name, "on", f">{password}", *rights)
        url = redis_url.replace("unix://", f"unix://{name}:{password}@")
        store = Store(connect(url), Settings(url=url, queue=queue or f"rights-{new_job_id()}"))
        made.append((name, store))
        return store

    yield make
    for name, store in made:
        await store.close()
        await admin.execute_command("ACL", "DELUSER", name)
    await admin.aclose()


async def test_a_server_that_refuses_lua_is_one_sentence_and_takes_no_job(as_user: ForUser) -> None:
    store = await as_user("~*", "+@all", "-@scripting")
    with pytest.raises(
        QueueForbidden, match=r"does not let its user run Lua scripts, .* give it the right \+@scripting"
    ):
        await store.submit([Submission(spec(), 512)])


async def test_the_rights_that_are_missing_are_named_before_anything_is_written(
    as_user: ForUser, redis_url: str
) -> None:
    store = await as_user("~*", "+@all", "-xadd", "-zadd")
    with pytest.raises(QueueForbidden, match=r"lets its user do too little; give it the rights \+xadd \+zadd\."):
        await store.submit([Submission(spec(), 512)])
    admin: Redis = connect(redis_url)
    assert await admin.keys(f"{store.settings.prefix.replace('{', '[{]')}:*") == []
    await admin.aclose()


async def test_a_user_of_other_keys_is_told_which_it_needs(as_user: ForUser) -> None:
    store = await as_user("~other:*", "+@all")
    with pytest.raises(QueueForbidden, match=r"give it the rights ~\{rights-.*\}:\*"):
        await store.submit([Submission(spec(), 512)])


async def test_the_rights_that_are_asked_for_suffice(as_user: ForUser) -> None:
    store = await as_user("~*", "-@all", "+@scripting", "+ping", "+select", "+hello", "+client", "+info")
    with pytest.raises(QueueForbidden) as raised:
        await store.submit([Submission(spec(), 512)])
    asked = str(raised.value).rpartition("the rights ")[2].rstrip(".").split()
    if "+@all" in asked:
        asked = [f"+{name.lower()}" for name in store.scripts.commands()]
    other = await as_user("~*", "-@all", "+@scripting", "+ping", "+select", "+hello", "+client", *asked)
    await other.submit([Submission(spec(), 512)])
    me = Identity("me")
    assert await other.register(me)
    job = await other.claim(me.name, me.boot, LANES)
    assert isinstance(job, JobRecord)
    await other.progress(job, 50.0, "Draw", 1.0)
    await other.complete(job, {"output": "x"})


async def test_a_sentence_about_rights_holds_no_password(as_user: ForUser) -> None:
    store = await as_user("~*", "+@all", "-@scripting")
    with pytest.raises(QueueForbidden) as raised:
        await store.tend()
    assert store.settings.url.partition("@")[0].rpartition(":")[2] not in str(raised.value)


# --- disks that are full ----------------------------------------------------------------------------------------------

IN_A_SMALL_WORLD = """
import json, resource, sys
from pathlib import Path
from comfyui_sonic.queue_bridge.errors import BridgeError
from comfyui_sonic.queue_bridge.job import JobSpec
from comfyui_sonic.queue_bridge.places.job_files import JobFiles
from comfyui_sonic.queue_bridge.retry import kind_of

what, root, comfyui = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
files = JobFiles([root], comfyui / "input", comfyui / "output")
named = {name: (root / place).as_uri() for name, place in
         (("image", "a.png"), ("audio", "a.wav"), ("output", "videos/a.mp4"))}
spec = JobSpec("tsk_1", **named)
if len(sys.argv) > 4:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), -1))
try:
    if what == "fetch":
        files.copy_input(spec, 1, "image", spec.image)
    else:
        files.stage(comfyui / "output" / "made.mp4", spec, 1)
except BridgeError as error:
    print(json.dumps([type(error).__name__, str(kind_of(error)), str(error)]))
"""


def told(*arguments: str | Path, before: str = "") -> list[str]:
    """What is said in a process of its own, with limits or a mount of its own."""
    command = [sys.executable, "-c", IN_A_SMALL_WORLD, *map(str, arguments)]
    if before:
        quoted = " ".join(f"'{one}'" if one != IN_A_SMALL_WORLD else '"$PROGRAM"' for one in command)
        command = ["unshare", "--map-root-user", "--mount", "sh", "-ec", f"{before}; exec {quoted}"]
    environment = os.environ | {"PROGRAM": IN_A_SMALL_WORLD}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert ended.returncode == 0, ended.stderr
    found: list[str] = json.loads(ended.stdout)
    return found


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of orders with a picture and a sound, and ComfyUI's folders with a finished video of 300 KB."""
    orders, comfyui = tmp_path / "orders", tmp_path / "comfyui"
    (orders / "videos").mkdir(parents=True)
    (comfyui / "output").mkdir(parents=True)
    for name in ("a.png", "a.wav"):
        (orders / name).write_bytes(b"x" * 300_000)
    (comfyui / "output" / "made.mp4").write_bytes(b"v" * 300_000)
    return orders, comfyui


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a file system of its own")
@pytest.mark.parametrize(("what", "full"), [("stage", "orders/videos"), ("fetch", "comfyui/input")])
def test_a_full_disk_is_named_by_its_folder_may_pass_and_leaves_nothing_half_written(
    world: tuple[Path, Path], tmp_path: Path, what: str, full: str
) -> None:
    folder = tmp_path / full
    folder.mkdir(parents=True, exist_ok=True)
    left = tmp_path / "left"
    mount = f"mount -t tmpfs -o size=64k none {folder}"
    may = subprocess.run(["unshare", "--map-root-user", "--mount", "sh", "-ec", mount], capture_output=True)
    if may.returncode:
        pytest.skip("no file system may be mounted here")
    kind, failure, sentence = told(what, *world, before=f"{mount}; trap 'ls -A {folder} > {left}' EXIT")
    assert (kind, failure) == ("FileUnreachable", str(FailureKind.MAY_PASS))
    assert sentence == f"There is no room for more in '{folder}' (No space left on device); free some there."


@pytest.mark.skipif(sys.platform == "win32", reason="sets a limit of POSIX systems")
def test_a_file_that_may_not_become_so_large_is_no_fault_of_the_source(world: tuple[Path, Path]) -> None:
    orders, comfyui = world
    kind, failure, sentence = told("fetch", orders, comfyui, "100000")
    assert (kind, failure) == ("FileUnreachable", str(FailureKind.MAY_PASS))
    assert sentence == f"There is no room for more in '{comfyui / 'input'}' (File too large); free some there."


def test_a_node_that_had_no_room_for_the_video_is_told_with_the_folder(world: tuple[Path, Path]) -> None:
    orders, comfyui = world
    files = JobFiles([orders], comfyui / "input", comfyui / "output")
    error = files.about_room(PromptFailed("Save failed: [Errno 28] No space left on device: 'video_00001_.mp4'."))
    assert error
    assert kind_of(error) is FailureKind.MAY_PASS
    folder = comfyui / "output"
    assert str(error) == f"There is no room for more in '{folder}' (No space left on device); free some there."
    assert files.about_room(PromptFailed("Save failed: planted.")) is None
