"""How a server leaves that is told to end by SIGTERM: no new job, the one at hand to its end or back, then its own end.

ComfyUI itself would die at once. A supervisor (systemd, Docker, Kubernetes) sends SIGTERM and waits; it has to wait for
longer than the grace.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal

from .wishes import Leaving

log = logging.getLogger("sonic.departure")

OVERTIME_S = 10.0  # after the grace, for the prompt's end and for telling the queue


def depart_on_sigterm(leaving: Leaving, work: asyncio.Task[None], grace_s: float) -> None:
    """From now on SIGTERM lets ``work`` end first; a second one does not wait for the job at hand.

    Called on the event loop. Where signals cannot be caught there (Windows), nothing changes.
    """
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_IGN:
        return
    tasks: list[asyncio.Task[None]] = []

    async def depart() -> None:
        await asyncio.wait({work}, timeout=grace_s + OVERTIME_S)
        log.info("the queue bridge has left")
        if callable(before):
            before(signal.SIGTERM, None)
            return
        # As Ctrl-C, which ComfyUI knows. A server started in the background of a shell may ignore it.
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        os.kill(os.getpid(), signal.SIGINT)

    def told() -> None:
        again = leaving.asked
        leaving.ask(0.0 if again else grace_s)
        if again:
            log.info("SIGTERM again: the job at hand is given back now")
        else:
            log.info("SIGTERM: no new job; the one at hand has %.0f s to end", grace_s)
            tasks.append(asyncio.create_task(depart(), name="sonic_departure"))

    try:
        loop.add_signal_handler(signal.SIGTERM, told)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        log.debug("SIGTERM is not caught: %s", error)
