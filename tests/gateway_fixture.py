"""A real gateway on a free port, over a queue of its own, and hands to ask it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.gateway.api_keys import ApiKeys
from comfyui_sonic.queue_bridge.gateway.serve import Listening, listening
from comfyui_sonic.queue_bridge.job import JobRecord, new_job_id
from comfyui_sonic.queue_bridge.pipelines.templates import SHIPPED, load_templates
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Store
from comfyui_sonic.queue_bridge.tracing import Tracing

LANES = ("512", "768", "1024")


@dataclass(frozen=True)
class Answer:
    """status, headers and body of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def problem(self) -> tuple[int, str]:
        """Its status and the kind of problem that it is; fails when it is none."""
        assert self.headers["Content-Type"] == "application/problem+json", self.body
        assert self.json["status"] == self.status
        return self.status, self.json["type"].rpartition(":")[2]


@dataclass
class GatewayHands:
    """The gateway at ``address``; an instance ``gpu-1`` beside it. root: a folder that jobs may use."""

    address: str
    root: Path
    settings: Settings
    store: Store
    view: QueueView
    keys: ApiKeys
    session: aiohttp.ClientSession
    headers: dict[str, str] = field(default_factory=dict)

    async def ask(self, method: str, path: str, key: str = "", **options: Any) -> Answer:
        headers = {**self.headers, **({"Authorization": f"Bearer {key}"} if key else {}), **options.pop("headers", {})}
        async with self.session.request(
            method, f"{self.address}{path}", headers=headers, allow_redirects=False, **options
        ) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def get(self, path: str, key: str = "", **options: Any) -> Answer:
        return await self.ask("GET", path, key, **options)

    def task(self, **fields: Any) -> dict[str, Any]:
        """What a client may send as a task."""
        return {"image": (self.root / "a.png").as_uri(), "audio": (self.root / "a.wav").as_uri(), **fields}

    async def post(self, fields: Any = None, path: str = "/v1/tasks", key: str = "", **options: Any) -> Answer:
        return await self.ask("POST", path, key, json=self.task() if fields is None else fields, **options)

    async def submit(self, key: str = "", **fields: Any) -> str:
        """A task; returns its id."""
        answer = await self.post(self.task(**fields), key=key)
        assert answer.status == 202, answer.body
        return str(answer.json["task_id"])

    async def key(self, *scopes: str, rate: int = 0, backlog: int = 0) -> str:
        return (await self.keys.create("somebody", scopes, rate, backlog))[1]

    async def claim(self) -> JobRecord:
        job = await self.store.claim("gpu-1", "boot", LANES)
        assert isinstance(job, JobRecord)
        return job

    async def complete(self, video: bytes = b"not really a video") -> JobRecord:
        """The next job, with its video in its place."""
        job = await self.claim()
        place = Path(job.spec.output.removeprefix("file://"))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(video)
        await self.store.complete(job, {"bytes": len(video), "attempt": 1, "warnings": []})
        return job

    async def kept(self, path: str, kind: str = "") -> list[Path]:
        """Files below a folder of the gateway."""
        return sorted(one for one in (self.root / "gateway" / path).rglob("*") if one.is_file())


@contextlib.asynccontextmanager
async def gateway_hands(
    redis_url: str,
    root: Path,
    *,
    is_open: bool = False,
    instance: str = "gpu-1",
    tracing: Tracing | None = None,
    **settings: Any,
) -> AsyncIterator[GatewayHands]:
    """A gateway in this process, for the time of a test. instance: '' where real ones take the jobs."""
    given = Settings(
        url=redis_url,
        **{
            "queue": f"gateway-{new_job_id()}",
            "roots": (root,),
            "gateway_folder": str(root / "gateway"),
            "gateway_read_s": 5.0,
            "grace_s": 5.0,
            "lease_s": 600.0,
            **settings,
        },
    )
    store = Store(connect(redis_url, many=True), given)
    view = QueueView(store.client, store.keys, redis_url)
    if instance:
        await store.register(Identity(instance, "boot"))
    for name in ("a.png", "a.wav"):
        (root / name).write_bytes(b"not looked into")
    where = Listening(port=0, is_open=is_open)
    templates = load_templates((SHIPPED, *given.templates))
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
            listening(given, store, view, templates, where, tracing) as address,
        ):
            yield GatewayHands(address, root, given, store, view, ApiKeys(store), session)
    finally:
        await store.close()


@dataclass
class Told:
    """One server-sent event."""

    kind: str
    id: str
    data: Any


async def events_of(answer: aiohttp.ClientResponse, timeout_s: float = 20.0) -> AsyncIterator[Told]:
    """The events of an open answer, to its end."""
    deadline = time.monotonic() + timeout_s
    kind = event_id = data = ""
    async for line in answer.content:
        assert time.monotonic() < deadline
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "event":
            kind = value
        elif name == "id":
            event_id = value
        elif name == "data":
            data = value
        elif not name and data:
            yield Told(kind, event_id, json.loads(data))
            kind = data = ""
