"""The Celery task with Celery's real worker, over Redis and over RabbitMQ; the test is the instance that runs jobs."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.job import JobRecord, new_job_id
from comfyui_sonic.queue_bridge.ports import free_port
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Idle, Store
from comfyui_sonic.queue_bridge.retry import Verdict
from comfyui_sonic.queue_bridge.states import State

celery = pytest.importorskip("celery", reason="Celery is not installed: pip install celery")

MODULE = "comfyui_sonic.queue_bridge.celery_app"
TASK = "generate_sonic_video"
START_S = 30.0
RESULT = {"output": "/v/a.mp4", "bytes": 3, "seconds": 1.0, "instance": "a", "attempt": 1, "warnings": []}
pytestmark = pytest.mark.slow


@dataclass
class Worker:
    """A worker of Celery on a queue of its own, and what a caller needs."""

    process: subprocess.Popen[bytes]
    app: Any
    settings: Settings
    log: Path

    def send(self, **arguments: Any) -> Any:
        """As a program does that knows the task's name only. task_id: of an earlier message, to send it again."""
        task_id = arguments.pop("task_id", None)
        return self.app.send_task(TASK, kwargs=arguments, task_id=task_id)

    def children(self) -> list[psutil.Process]:
        return list(psutil.Process(self.process.pid).children())


def _rabbitmq() -> str | None:
    """The server itself: the command of Debian's package beside it is for root's service only."""
    named, usual = os.environ.get("RABBITMQ_SERVER"), "/usr/lib/rabbitmq/bin/rabbitmq-server"
    return named or (usual if Path(usual).exists() else shutil.which("rabbitmq-server"))


@pytest.fixture(scope="module")
def rabbitmq_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program, epmd = _rabbitmq(), shutil.which("epmd")
    if not program or not epmd:
        pytest.skip("RabbitMQ is not installed (Debian: apt-get install rabbitmq-server).")
    place, port, names = tmp_path_factory.mktemp("rabbitmq"), free_port(), free_port()
    environment = os.environ | {
        "HOME": str(place),
        "ERL_EPMD_PORT": str(names),
        "RABBITMQ_NODENAME": f"sonic{names}@localhost",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_MNESIA_BASE": str(place / "data"),
        "RABBITMQ_LOG_BASE": str(place / "log"),
        "RABBITMQ_PID_FILE": str(place / "pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(place / "plugins"),
        "RABBITMQ_CONFIG_FILE": str(place / "none"),
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
    }
    with (place / "out").open("wb") as out:
        options: dict[str, Any] = {"env": environment, "stdout": out, "stderr": out, "cwd": place}
        # Started by us and not by the server, it ends with us.
        directory = subprocess.Popen([epmd, "-port", str(names), "-address", "127.0.0.1"], **options)
        try:
            server = subprocess.Popen([program], start_new_session=True, **options)
            try:
                _await_port(port, server)
                yield f"amqp://guest:guest@127.0.0.1:{port}//"
            finally:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()
        finally:
            directory.kill()
            directory.wait()


def _await_port(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("RabbitMQ did not start.")


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def worker(
    request: pytest.FixtureRequest, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    database = f"redis+socket://{urlsplit(redis_url).path}?virtual_host=9"
    broker = database if request.param == "redis" else str(request.getfixturevalue("rabbitmq_url"))
    queue = f"celery-{secrets.token_hex(4)}"
    log = tmp_path_factory.mktemp("celery") / "log"
    variables = {
        "CELERY_BROKER_URL": broker,
        "CELERY_RESULT_BACKEND": database,
        "SONIC_QUEUE_URL": redis_url,
        "SONIC_QUEUE_QUEUE": queue,
    }
    options = [
        "--pool",
        "prefork",
        "--concurrency",
        "2",
        "--queues",
        queue,
        "--without-mingle",
        "--without-gossip",
        "--loglevel",
        "INFO",
    ]
    command = [sys.executable, "-m", "celery", "--app", MODULE, "worker", *options, "--hostname", f"{queue}@h"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=os.environ | variables, stdout=out, stderr=out, cwd=log.parent)
    app = celery.Celery(broker=broker, backend=database)
    app.conf.update(task_default_queue=queue, broker_connection_retry_on_startup=True)
    try:
        deadline = time.monotonic() + START_S
        while b" ready." not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield Worker(process, app, Settings(url=redis_url, queue=queue, lease_s=600.0), log)
    finally:
        process.send_signal(signal.SIGQUIT)  # without waiting for tasks
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        app.close()


@dataclass
class Hands:
    """The one instance, which is this test."""

    store: Store
    view: QueueView

    async def claim(self) -> JobRecord:
        async with asyncio.timeout(15):
            while isinstance(job := await self.store.claim("a", "boot", ("512", "768", "512-sonic")), Idle):
                await self.store.sleep(job, 1.0)
        return job

    async def complete(self, job: JobRecord) -> None:
        await self.store.stage(job, {"place": "/v/a.mp4", "result": RESULT})
        await self.store.complete(job, RESULT)

    async def state(self, task_id: str) -> State:
        record = await self.view.job(task_id)
        assert record
        return record.state

    async def until(self, task_id: str, state: State) -> None:
        async with asyncio.timeout(10):
            while await self.state(task_id) is not state:
                await asyncio.sleep(0.05)


@pytest.fixture
async def hands(worker: Worker) -> AsyncIterator[Hands]:
    store = Store(connect(worker.settings.url), worker.settings)
    await store.register(Identity("a", "boot"))
    yield Hands(store, QueueView(store.client, store.keys, worker.settings.url))
    await store.close()


async def outcome(message: Any) -> Any:
    """The task's result, or the exception that it raised."""
    return await asyncio.to_thread(message.get, timeout=15, propagate=False)


async def test_a_task_is_a_job_with_its_progress_and_its_result(worker: Worker, hands: Hands, tmp_path: Path) -> None:
    message = worker.send(
        image_path=str(tmp_path / "a b.png"),
        audio_path=str(tmp_path / "安娜.wav"),
        duration=2.5,
        resolution=768,
        steps=12,
        smooth=False,
        priority="priority",
        consent_id="c 1",
    )
    job = await hands.claim()
    assert job.task_id == f"celery_{message.id}"
    assert job.spec.image == (tmp_path / "a b.png").as_uri()
    assert job.spec.output == (tmp_path / "安娜.mp4").as_uri()
    assert (job.spec.name, job.spec.consent_id, job.job_class, job.lane) == ("安娜", "c 1", "priority", "768")
    expected = {"duration": 2.5, "resolution": 768, "inference_steps": 12, "temporal_smoothing": False}
    assert job.spec.config == expected
    await hands.store.progress(job, 40.0, "Speak", 12.0)
    async with asyncio.timeout(10):
        while message.state != "PROGRESS" or message.info["percent"] != 40.0:
            await asyncio.sleep(0.05)
    told = {"task_id": job.task_id, "state": "running", "percent": 40.0, "stage": "Speak", "seconds_left": 12.0}
    assert message.info == told
    await hands.complete(job)
    assert await outcome(message) == {"task_id": job.task_id, "output_path": "/v/a.mp4", **RESULT}


async def test_a_job_that_fails_is_one_error_with_its_sentence(worker: Worker, hands: Hands) -> None:
    message = worker.send(image_path="https://h/a.png", audio_path="s3://b/a.wav", output_path="r/{task_id}.mp4")
    job = await hands.claim()
    assert (job.spec.image, job.spec.audio) == ("https://h/a.png", "s3://b/a.wav")
    assert job.spec.output == "r/{task_id}.mp4"
    await hands.store.settle(job, Verdict(State.FAILED, "bad input"), "There is no face in a.png.", "bad input", "a")
    error = await outcome(message)
    assert type(error).__name__ == "VideoNotMade"
    assert str(error) == f"The job {job.task_id} has failed: There is no face in a.png."
    wrong = await outcome(worker.send(image_path="/a.png", audio_path="/a.wav", resolution=500))
    assert type(wrong).__name__ == "BadJob"
    assert str(wrong) == "config.resolution: 500 is not a multiple of 64."
    assert "Traceback" not in worker.log.read_text()


async def test_a_message_that_comes_again_finds_the_same_job(worker: Worker, hands: Hands) -> None:
    message = worker.send(image_path="/a.png", audio_path="/a.wav")
    job = await hands.claim()
    following = [one for one in worker.children() if one.is_running()]
    assert following
    for child in following:  # the broker delivers what they had in hand once more
        child.kill()
    received = f"[{message.id}] received"
    async with asyncio.timeout(10):
        while worker.log.read_text().count(received) < 2:
            await asyncio.sleep(0.05)
    again = worker.send(task_id=message.id, image_path="/a.png", audio_path="/a.wav")
    await hands.complete(job)
    assert (await outcome(again))["task_id"] == job.task_id
    counts = await hands.view.counts()
    assert (counts.queued, counts.running) == (0, 0)


async def test_a_task_that_is_revoked_cancels_its_job_wherever_it_is(worker: Worker, hands: Hands) -> None:
    running = worker.send(image_path="/a.png", audio_path="/a.wav")
    job = await hands.claim()
    await asyncio.to_thread(running.revoke, terminate=True)
    async with asyncio.timeout(10):
        while (await hands.store.wished("a", job)).cause != "cancelled":
            await asyncio.sleep(0.05)
    await hands.store.settle(job, Verdict(State.CANCELLED, "cancelled"))
    waiting = worker.send(image_path="/a.png", audio_path="/a.wav")
    async with asyncio.timeout(10):
        while not await hands.view.job(f"celery_{waiting.id}"):
            await asyncio.sleep(0.05)
    await asyncio.to_thread(waiting.revoke, terminate=True)
    await hands.until(f"celery_{waiting.id}", State.CANCELLED)


def test_ids_that_are_none_of_ours_still_name_one_job() -> None:
    from comfyui_sonic.queue_bridge.celery_app import job_id_of

    assert job_id_of("3f-1") == "celery_3f-1"
    strange = job_id_of("a/b c" * 40)
    assert strange == job_id_of("a/b c" * 40) != job_id_of("a/b c")
    assert len(strange) == 47
    assert new_job_id()
