"""Runs prompts through the prompt queue of the ComfyUI that this code is part of, without a detour over HTTP.

Uses of ComfyUI: PromptServer (number, prompt_queue, trigger_on_prompt, send_sync), execution.validate_prompt,
PromptQueue.put, get_history, delete_queue_item, and the interrupt flag. They are the same from 0.3.64 to 0.28 but for
the queue item, which has grown from five to six values; ``fits`` recognises both.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import PromptInterrupted, PromptWithdrawn
from ..job_progress import WAITING
from ..prompt_events import Graph, Progress, ProgressMeter, PromptResult, outcome, rejection
from .local_turns import LocalPrompts, number_of_job, queue_may_claim

WORKER_THREAD = "prompt_worker"  # part of its name in every ComfyUI
UNLOAD = "unload_models"
UNLOAD_S = 5.0  # a prompt of somebody else's may be in between
POLL_S = 1.0  # the history is asked at least this often, should an event be lost
STOP_S = 3.0  # how long the end of a prompt that was interrupted is waited for


class PromptQueueRunner:
    """One ComfyUI's own queue. Everything here runs on the server's event loop.

    server: PromptServer.instance. validate: execution.validate_prompt. interrupt: sets ComfyUI's interrupt flag.
    local_share: how many prompts of the browser may run between two of ours.
    """

    def __init__(
        self, server: Any, validate: Callable[..., Any], interrupt: Callable[[], None], local_share: int = 1
    ) -> None:
        self._server = server
        self._queue = server.prompt_queue
        self._validate = validate
        self._interrupt = interrupt
        self._worker_seen = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: dict[str, Callable[[str, Mapping[str, Any]], None]] = {}
        self._local_share = local_share
        self._begun = 0  # ComfyUI's count of prompts when the last one of ours had begun
        self._ended: dict[str, asyncio.Event] = {}
        self._withdrawn: set[str] = set()
        self._changed = asyncio.Event()

    @staticmethod
    def fits(server: Any, validate: Callable[..., Any]) -> bool:
        """True when this ComfyUI has what is used here; else its HTTP interface is the way."""
        queue = getattr(server, "prompt_queue", None)
        methods = ("put", "get_history", "delete_queue_item", "get_current_queue", "task_done")
        return (
            all(callable(getattr(queue, name, None)) for name in methods)
            and hasattr(queue, "mutex")
            and hasattr(queue, "currently_running")
            and hasattr(queue, "task_counter")
            and all(hasattr(server, name) for name in ("number", "send_sync", "trigger_on_prompt"))
            and len(inspect.signature(validate).parameters) == 3
        )

    def listen(self) -> None:
        """Hear what ComfyUI tells its clients, from now on."""
        self._loop = asyncio.get_running_loop()
        send_sync = self._server.send_sync

        def send_and_tell(event: Any, data: Any, sid: Any = None) -> None:
            send_sync(event, data, sid)
            # On the thread that does the work: nothing but a hand-over.
            assert self._loop
            if event == "status":  # ComfyUI's queue has changed
                self._loop.call_soon_threadsafe(self._changed.set)
            if self._listeners and isinstance(data, dict) and data.get("prompt_id") in self._listeners:
                if event == "execution_start":
                    self._begun = self._queue.task_counter
                self._loop.call_soon_threadsafe(self._tell, str(event), dict(data))

        self._server.send_sync = send_and_tell

    async def run(
        self,
        graph: Graph,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        weights: Mapping[str, float] | None = None,
        prompt_id: str | None = None,
    ) -> PromptResult:
        """See PromptRunner.run."""
        prompt_id = prompt_id or str(uuid.uuid4())
        meter = ProgressMeter(graph, weights)
        ended = asyncio.Event()

        def hear(event: str, data: Mapping[str, Any]) -> None:
            progress = meter.feed(event, data)
            if on_progress:
                on_progress(progress)
            # The worker says this after it has written the history.
            if event == "executing" and data.get("node") is None:
                ended.set()

        self._listeners[prompt_id] = hear
        self._ended[prompt_id] = ended
        try:
            await self._put(graph, prompt_id)
            if on_progress and self._local_prompts().running:
                on_progress(Progress(0.0, WAITING))
            try:
                entry = await self._entry(prompt_id, ended)
            except asyncio.CancelledError:
                await self._stop(prompt_id)
                raise
        finally:
            del self._listeners[prompt_id], self._ended[prompt_id]
            self._withdrawn.discard(prompt_id)
        return outcome(prompt_id, entry, graph)

    async def has_ended(self, prompt_id: str) -> bool:
        """True when a prompt neither runs nor waits any more."""
        return not self._is_known(prompt_id)

    def can_run(self) -> bool:
        """False when the thread that runs prompts has ended; ComfyUI itself would not notice."""
        alive = any(WORKER_THREAD in thread.name for thread in threading.enumerate())
        self._worker_seen = self._worker_seen or alive
        return alive or not self._worker_seen

    async def unload_models(self) -> None:
        """Have the card's memory emptied before the next prompt: the thread that runs them does it between two."""
        if not callable(getattr(self._queue, "set_flag", None)):
            return
        self._queue.set_flag(UNLOAD, True)
        for _ in range(round(UNLOAD_S / 0.05)):
            if UNLOAD not in self._queue.get_flags(reset=False):
                return
            await asyncio.sleep(0.05)

    async def _put(self, graph: Graph, prompt_id: str) -> None:
        """What ComfyUI does with a POST to /prompt, in the same order."""
        server = self._server
        asked = {"prompt": copy.deepcopy(dict(graph)), "prompt_id": prompt_id, "extra_data": {}}
        prompt = server.trigger_on_prompt(asked)["prompt"]
        replacements = getattr(server, "node_replace_manager", None)
        if replacements is not None:
            replacements.apply_replacements(prompt)
        valid, error, outputs, node_errors = await self._validate(prompt_id, prompt, None)
        if not valid:
            raise rejection({"error": error, "node_errors": node_errors}, graph)
        number = number_of_job(self._local_prompts(), self._local_share, server.number)
        server.number += 1
        # A client of its own: without one ComfyUI would keep some events to itself and send others to everybody.
        extra = {"client_id": f"bridge-{prompt_id}", "create_time": int(time.time() * 1000)}
        item: tuple[Any, ...] = (number, prompt_id, prompt, extra, outputs)
        if "process_item" in inspect.signature(self._queue.task_done).parameters:
            item = (*item, {})  # secrets that ComfyUI keeps apart
        self._queue.put(item)

    async def _entry(self, prompt_id: str, ended: asyncio.Event) -> dict[str, Any]:
        while True:
            known = self._is_known(prompt_id)  # asked first: it may end between the two questions
            entry = self._queue.get_history(prompt_id=prompt_id).get(prompt_id)
            if entry:
                return dict(entry)
            if prompt_id in self._withdrawn:
                raise PromptWithdrawn("The prompt was taken back before it began.")
            if not known:
                raise PromptInterrupted("Somebody took the prompt out of ComfyUI's queue.")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await ended.wait()

    async def turn(self) -> None:
        """See PromptRunner.turn."""
        while True:
            self._changed.clear()
            if queue_may_claim(self._local_prompts(), self._local_share):
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._changed.wait()

    async def check(self, graph: Graph) -> None:
        """See PromptRunner.check."""
        valid, error, _, node_errors = await self._validate(str(uuid.uuid4()), copy.deepcopy(dict(graph)), None)
        if not valid:
            raise rejection({"error": error, "node_errors": node_errors}, graph)

    def withdraw(self, prompt_id: str) -> bool:
        """See PromptRunner.withdraw."""
        if prompt_id not in self._ended:
            return False
        if not self._queue.delete_queue_item(lambda item: item[1] == prompt_id):
            return False
        self._withdrawn.add(prompt_id)
        self._ended[prompt_id].set()
        return True

    def _local_prompts(self) -> LocalPrompts:
        with self._queue.mutex:
            running = [item[1] for item in self._queue.currently_running.values()]
            return LocalPrompts(
                running=any(prompt_id not in self._listeners for prompt_id in running),
                waiting=[item[0] for item in self._queue.queue if item[1] not in self._listeners],
                served=self._queue.task_counter - self._begun,
            )

    def _is_known(self, prompt_id: str) -> bool:
        with self._queue.mutex:
            running = [item[1] for item in self._queue.currently_running.values()]
            return prompt_id in running or any(item[1] == prompt_id for item in self._queue.queue)

    async def _stop(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, or interrupt it where it runs, and no other one; wait until it has ended.

        It may not end soon: a node looks for interruptions when it likes.
        """
        if self._queue.delete_queue_item(lambda item: item[1] == prompt_id):
            return
        deadline = time.monotonic() + STOP_S
        while self._interrupt_if_running(prompt_id) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    def _interrupt_if_running(self, prompt_id: str) -> bool:
        """Again and again, as a prompt that has only just been taken takes the flag back when it begins."""
        with self._queue.mutex:  # held, so that the next prompt cannot start in between
            running = any(item[1] == prompt_id for item in self._queue.currently_running.values())
            if running:
                self._interrupt()
        return running

    def _tell(self, event: str, data: Mapping[str, Any]) -> None:
        listener = self._listeners.get(data["prompt_id"])
        if listener:
            listener(event, data)
