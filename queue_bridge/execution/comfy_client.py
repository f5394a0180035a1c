"""Talks to one ComfyUI server over its public API: upload, prompt, progress over the websocket, interrupt, result."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import aiohttp

from ..errors import BridgeError, InstanceError
from ..prompt_events import TERMINAL_EVENTS, Graph, Progress, ProgressMeter, PromptResult, SavedFile, outcome, rejection

log = logging.getLogger("sonic.comfy_client")

QUIET_S = 2.0  # after so long without an event, look into the history
LOST_AFTER_S = 15.0  # a server that cannot be reached for so long is gone
CHUNK_BYTES = 1 << 20


class ComfyClient:
    """One client of one server; used as an async context manager.

    address: host:port of a ComfyUI server.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.client_id = f"bridge-{uuid.uuid4()}"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ComfyClient:
        # Only the connection has a time limit: a big upload or a long prompt may take as long as it takes.
        limits = aiohttp.ClientTimeout(total=None, sock_connect=5.0)
        self._session = aiohttp.ClientSession(f"http://{self.address}", timeout=limits)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session:
            await self._session.close()

    async def node_types(self, *names: str) -> dict[str, Any]:
        """ComfyUI's description of these node types; one it does not know is missing from the answer."""
        found: dict[str, Any] = {}
        for name in names:
            found.update(await self._json("GET", f"/object_info/{quote(name, safe='')}"))
        return found

    async def upload(self, path: Path, *, subfolder: str = "") -> str:
        """Copy a picture or a sound into the server's input folder; returns the name a loader node takes.

        Raises BridgeError when the file cannot be read or the server refuses it.
        """
        form = aiohttp.FormData(quote_fields=False)  # names as they are, in UTF-8, as browsers send them
        form.add_field("subfolder", subfolder)
        form.add_field("overwrite", "true")
        try:
            with path.open("rb") as file:
                form.add_field("image", file, filename=path.name, content_type="application/octet-stream")
                stored = await self._json("POST", "/upload/image", data=form)
        except OSError as error:
            raise BridgeError(f"'{path.name}' cannot be read: {error.strerror or error}.") from error
        return f"{stored['subfolder']}/{stored['name']}" if stored.get("subfolder") else str(stored["name"])

    async def submit(self, graph: Graph, *, prompt_id: str | None = None) -> str:
        """Put a graph into the server's queue; returns its prompt id. Raises PromptRejected with the reason."""
        prompt_id = prompt_id or str(uuid.uuid4())
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": self.client_id}
        async with self._request("POST", "/prompt", json=body) as answer:
            if answer.status == 400:
                raise rejection(await answer.json(), graph)
            await self._check(answer, "/prompt")
            return str((await answer.json())["prompt_id"])

    async def run(
        self,
        graph: Graph,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        weights: Mapping[str, float] | None = None,
        prompt_id: str | None = None,
    ) -> PromptResult:
        """Run a graph to its end; cancelling this call interrupts the prompt on the server.

        Raises PromptRejected, PromptFailed, PromptInterrupted, or InstanceError when the server is gone.
        """
        prompt_id = prompt_id or str(uuid.uuid4())
        meter = ProgressMeter(graph, weights)

        def report(event: str, data: Mapping[str, Any]) -> None:
            progress = meter.feed(event, data)
            if on_progress:
                on_progress(progress)

        # The socket comes first: events of a prompt that was submitted before it are lost.
        socket = await self._open_socket()
        try:
            await self.submit(graph, prompt_id=prompt_id)
            try:
                entry = await self._follow(socket, prompt_id, report)
            except asyncio.CancelledError:
                await asyncio.shield(self.interrupt(prompt_id))
                raise
        finally:
            await socket.close()
        return outcome(prompt_id, entry, graph)

    async def turn(self) -> None:
        """Any time will do: over HTTP a prompt goes behind those that wait."""

    async def check(self, graph: Graph) -> None:
        """Nothing can be seen of a graph over HTTP without queueing it."""

    def withdraw(self, prompt_id: str) -> bool:
        """Never, since between a look and an answer the prompt may begin."""
        return False

    async def interrupt(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, or stop it where it runs; one that has ended stays as it is."""
        await self._call("POST", "/queue", json={"delete": [prompt_id]})
        await self._call("POST", "/interrupt", json={"prompt_id": prompt_id})

    async def has_ended(self, prompt_id: str) -> bool:
        """True when a prompt neither runs nor waits any more."""
        lines = await self._json("GET", "/queue")
        return not any(item[1] == prompt_id for line in lines.values() for item in line)

    def can_run(self) -> bool:
        """True: from outside it cannot be told."""
        return True

    async def unload_models(self) -> None:
        """Have the card's memory emptied before the next prompt."""
        await self._call("POST", "/free", json={"unload_models": True})

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The history entry of a prompt, or None while it has not ended."""
        entry = (await self._json("GET", f"/history/{prompt_id}")).get(prompt_id)
        return entry if isinstance(entry, dict) else None

    async def download(self, file: SavedFile, place: Path) -> Path:
        """Fetch a saved file to ``place``, which appears whole or not at all."""
        params = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
        unfinished = place.with_name(f".{uuid.uuid4().hex}.part")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            async with self._request("GET", "/view", params=params) as answer:
                await self._check(answer, "/view")
                with unfinished.open("wb") as target:
                    async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                        target.write(chunk)
            unfinished.replace(place)
        except aiohttp.ClientError as error:
            raise self._gone(error) from error
        except OSError as error:
            raise BridgeError(f"'{place}' cannot be written: {error.strerror or error}.") from error
        finally:
            unfinished.unlink(missing_ok=True)
        return place

    async def _follow(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        prompt_id: str,
        report: Callable[[str, Mapping[str, Any]], None],
    ) -> dict[str, Any]:
        """Hand on the events of one prompt until it has ended; returns its history entry."""
        loop = asyncio.get_running_loop()
        unreachable_since: float | None = None
        ended = False
        while True:
            event, data = await _next_event(socket)
            if data.get("prompt_id") == prompt_id:
                report(event, data)
                # The entry is written just before "executing" with no node; the other end events come earlier.
                ended = ended or event in TERMINAL_EVENTS
            if event and not ended:
                continue
            try:
                entry = await self.history(prompt_id)
                unreachable_since = None
                if entry:
                    return entry
                if socket.closed:
                    socket = await self._open_socket()
            except InstanceError:
                unreachable_since = unreachable_since or loop.time()
                if loop.time() - unreachable_since > LOST_AFTER_S:
                    raise
                await asyncio.sleep(0.5)
            if ended:
                await asyncio.sleep(0.02)

    async def _open_socket(self) -> aiohttp.ClientWebSocketResponse:
        assert self._session, "use the client as an async context manager"
        try:
            return await self._session.ws_connect("/ws", params={"clientId": self.client_id}, max_msg_size=0)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._gone(error) from error

    def _request(self, method: str, path: str, **options: Any) -> _Request:
        assert self._session, "use the client as an async context manager"
        return _Request(self._session.request(method, path, **options), self._gone)

    async def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        async with self._request(method, path, **options) as answer:
            await self._check(answer, path)
            parsed = await answer.json()
        return parsed if isinstance(parsed, dict) else {}

    async def _call(self, method: str, path: str, **options: Any) -> None:
        async with self._request(method, path, **options) as answer:
            await self._check(answer, path)

    async def _check(self, answer: aiohttp.ClientResponse, path: str) -> None:
        if answer.status == 413:
            raise BridgeError(
                f"The file is larger than the ComfyUI at {self.address} takes; raise its --max-upload-size."
            )
        if answer.status >= 400:
            raise BridgeError(f"The ComfyUI at {self.address} answered {path} with status {answer.status}.")

    def _gone(self, error: Exception) -> InstanceError:
        log.debug("no answer from %s: %r", self.address, error)
        return InstanceError(f"The ComfyUI at {self.address} does not answer.")


class _Request:
    """A request whose connection errors are ours; everything else is aiohttp's."""

    def __init__(self, request: Any, gone: Callable[[Exception], InstanceError]) -> None:
        self._request = request
        self._gone = gone

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            answer: aiohttp.ClientResponse = await self._request.__aenter__()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._gone(error) from error
        return answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._request.__aexit__(kind, error, trace)


async def _next_event(socket: aiohttp.ClientWebSocketResponse) -> tuple[str, dict[str, Any]]:
    """The next event and its data; two empty values when nothing came, or a picture, or the socket closed."""
    try:
        message = await socket.receive(timeout=QUIET_S)
    except TimeoutError:
        return "", {}
    if message.type is aiohttp.WSMsgType.BINARY:
        return "preview", {}
    if message.type is not aiohttp.WSMsgType.TEXT:
        return "", {}
    parsed = json.loads(message.data)
    data = parsed.get("data")
    return str(parsed.get("type", "")), data if isinstance(data, dict) else {}
