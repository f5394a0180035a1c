"""Two real ComfyUI servers with the bridge on one real queue, and hands to submit to it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect, connect_sync
from comfyui_sonic.queue_bridge.job import JobRecord, JobSpec, Priority, Value, new_job_id
from comfyui_sonic.queue_bridge.queue.follow import Follower
from comfyui_sonic.queue_bridge.queue.keys import Keys
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Store, Submission
from comfyui_sonic.queue_bridge.servers.instance import Instance, install_pack

from .certificates import signing_environment
from .collector import Collector
from .object_store import ObjectStore
from .webhook_receiver import SECRET

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = ROOT / "tests" / "templates"
NAMES = ("gpu-1", "gpu-2")
JOIN_S = 30.0
RAW_NODES = ("LoadImage", "ImageInvert", "SaveImage")  # of which prompts without a template may consist


@dataclass(frozen=True)
class Bridge:
    """instances: by name. orders: a folder that jobs may use. settings: those of the queue."""

    instances: dict[str, Instance]
    orders: Path
    settings: Settings

    @contextlib.asynccontextmanager
    async def queue(self) -> AsyncIterator[BridgeQueue]:
        store = Store(connect(self.settings.url), self.settings)
        try:
            yield BridgeQueue(self, store, QueueView(store.client, store.keys, self.settings.url))
        finally:
            await store.close()


@dataclass(frozen=True)
class BridgeQueue:
    """An open queue, for one test."""

    bridge: Bridge
    store: Store
    view: QueueView

    async def submit(
        self,
        folder: Path,
        name: str = "job",
        priority: Priority = "normal",
        workflow: str = "save_after_failures",
        **config: Value,
    ) -> str:
        """A job of the template that fails and waits as it is told (or ``workflow``); returns its id."""
        for file in ("a.png", "a.wav"):
            (folder / file).write_bytes(b"not looked into")
        spec = JobSpec(
            new_job_id(),
            (folder / "a.png").as_uri(),
            (folder / "a.wav").as_uri(),
            (folder / f"{name}.mp4").as_uri(),
            name=name,
            priority=priority,
            workflow=workflow,
            config={"tally": str(folder / f"{name}.tally"), **config},
        )
        (answer,) = await self.store.submit([Submission(spec, 512)])
        return answer.task_id

    async def ended(self, *task_ids: str) -> dict[str, JobRecord]:
        """The jobs' last records, once they have ended."""
        follower = Follower(self.view, await self.view.last_event())
        follower.add(task_ids)
        records: dict[str, JobRecord] = {}
        async for changed in follower.changes():
            records.update({record.task_id: record for record in changed})
        return records

    async def events_of(self, *task_ids: str) -> list[dict[str, str]]:
        """Every event of these jobs so far, oldest first."""
        found: list[dict[str, str]] = []
        after = "0-0"
        while True:
            events, next_after = await self.view.events(after, 0.01)
            if next_after == after:
                return [event for event in found if event["job"] in task_ids]
            found, after = found + events, next_after


def environment(url: str, queue: str, name: str, orders: Path) -> dict[str, str]:
    """The bridge's settings for a test server: everything as usual, but for short waits."""
    return {
        "SONIC_QUEUE_URL": url,
        "SONIC_QUEUE_QUEUE": queue,
        "SONIC_QUEUE_INSTANCE": name,
        "SONIC_QUEUE_ROOTS": str(orders),
        "SONIC_QUEUE_GATEWAY_FOLDER": str(orders / "gateway"),
        "SONIC_QUEUE_TEMPLATES": str(TEMPLATES),
        "SONIC_QUEUE_RETRIES": "2",
        "SONIC_QUEUE_BACKOFF_S": "0.2",
        "SONIC_QUEUE_LEASE_S": "6",
        "SONIC_QUEUE_HEARTBEAT_S": "1",
        "SONIC_QUEUE_PROGRESS_S": "0.1",
        "SONIC_QUEUE_RAW_NODES": ",".join(RAW_NODES),
        "SONIC_QUEUE_WEBHOOK_SECRETS": SECRET,
        "SONIC_QUEUE_PRIVATE_HOSTS": "127.0.0.1",
    }


def store_environment(store: ObjectStore, directory: Path) -> dict[str, str]:
    """What a test server has to know to take inputs from this machine and a store, and to put videos into that."""
    file = directory / "queue.toml"
    file.write_text(f'results = "s3://videos/results"\nprivate_hosts = ["127.0.0.1"]\n{store.toml()}')
    return {"SONIC_QUEUE_CONFIG": str(file), **store.environment()}


def start_bridge(
    comfyui: Path, url: str, directory: Path, store: ObjectStore, collector: Collector
) -> Iterator[Bridge]:
    """Two servers that take jobs; a generator for a fixture."""
    queue, orders = f"bridge-{new_job_id()}", directory / "orders"
    orders.mkdir()
    shared = store_environment(store, directory) | signing_environment(directory) | collector.environment()
    variables: dict[str, Any] = {name: environment(url, queue, name, orders) | shared for name in NAMES}
    instances = {name: Instance(comfyui, directory / name, environment=variables[name]) for name in NAMES}
    with contextlib.ExitStack() as stack:
        for instance in instances.values():  # in turn, as together they would only wait for each other
            install_pack(ROOT, instance.base_directory / "custom_nodes")
            install_pack(ROOT / "tests" / "comfyui_pack", instance.base_directory / "custom_nodes", "test_nodes")
            stack.enter_context(instance)
        settings = Settings(url=url, queue=queue, lease_s=6.0, heartbeat_s=1.0, retries=2)
        await_joined(settings, NAMES)
        yield Bridge(instances, orders, settings)


def await_joined(settings: Settings, names: Sequence[str]) -> None:
    """A server answers a moment before its bridge has joined the queue."""
    keys = [Keys(settings.prefix).instance(name) for name in names]
    deadline = time.monotonic() + JOIN_S
    with connect_sync(settings.url) as client:
        while client.exists(*keys) < len(keys):
            assert time.monotonic() < deadline, "the servers do not join the queue"
            time.sleep(0.05)
