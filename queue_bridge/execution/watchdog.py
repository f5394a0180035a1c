"""Ends a prompt that takes too long, says nothing for too long, or has nobody left who runs it. Knows no ComfyUI."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import PromptOverdue, PromptStuck

Result = TypeVar("Result")
TICK_S = 0.5


@dataclass(frozen=True)
class Limits:
    """limit_s: from the first sign of life to the end. silence_s: between two; 0 for never. grace_s: to end in."""

    limit_s: float
    silence_s: float
    grace_s: float


class Watchdog:
    """Watches one prompt. A prompt that waits in line behind others has not begun, and nothing is over.

    begun: called at its first sign of life. stuck: called with the sentence when ComfyUI can run nothing any more.
    """

    def __init__(self, limits: Limits, begun: Callable[[], None], stuck: Callable[[str], None]) -> None:
        self._limits = limits
        self._begun = begun
        self._stuck = stuck
        self._began_s: float | None = None
        self._heard_s = 0.0

    def hear(self) -> None:
        """The prompt has given a sign of life."""
        self._heard_s = time.monotonic()
        if self._began_s is None:
            self._began_s = self._heard_s
            self._begun()

    async def run(
        self,
        work: Coroutine[Any, Any, Result],
        *,
        has_ended: Callable[[], Coroutine[Any, Any, bool]],
        can_run: Callable[[], bool],
    ) -> Result:
        """Await the work. Cancelling it interrupts the prompt; has_ended: whether ComfyUI has let go of it.

        can_run: whether there is anybody who runs prompts. Raises PromptOverdue or PromptStuck, and what work raises.
        Being cancelled, it returns when the prompt has ended, too: the next one could not run before.
        """
        task = asyncio.create_task(work)
        why = ""
        try:
            while not (task.done() or why):
                asked_s = time.monotonic()
                await asyncio.wait({task}, timeout=TICK_S)
                blind_s = time.monotonic() - asked_s - TICK_S
                if blind_s > TICK_S:  # something held up this loop, so what was said meanwhile is yet to be heard
                    self._heard_s += blind_s
                    continue
                if not task.done() and not can_run():
                    raise self._is_stuck("The thread of this ComfyUI that runs prompts has ended.")
                why = self._overdue()
            if task.done():
                return task.result()
        finally:
            if not task.done():
                await _cancelled(task)
                if can_run() and not await self._ends(has_ended):
                    interrupted = f"{why}, was interrupted" if why else "The prompt was interrupted"
                    raise self._is_stuck(f"{interrupted}, and did not end within {_span(self._limits.grace_s)}.")
        raise PromptOverdue(f"{why}, so it was interrupted.")

    def _is_stuck(self, sentence: str) -> PromptStuck:
        self._stuck(sentence)
        return PromptStuck(sentence)

    def _overdue(self) -> str:
        if self._began_s is None:
            return ""
        now, limits = time.monotonic(), self._limits
        if now - self._began_s > limits.limit_s:
            return f"The prompt took longer than its limit of {_span(limits.limit_s)}"
        if limits.silence_s and now - self._heard_s > limits.silence_s:
            return f"The prompt showed no progress for {_span(limits.silence_s)}"
        return ""

    async def _ends(self, has_ended: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
        deadline = time.monotonic() + self._limits.grace_s
        while not await has_ended():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.1)
        return True


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:g} s"


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # looked at, so that asyncio does not complain
