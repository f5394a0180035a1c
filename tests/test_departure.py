"""How a process with the bridge ends when it is told to: what SIGTERM leads to, once and twice."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest
from comfyui_sonic.queue_bridge.errors import StartStopped
from comfyui_sonic.queue_bridge.execution.wishes import Leaving

SERVER = """
import asyncio, signal, sys
from comfyui_sonic.queue_bridge.execution.departure import depart_on_sigterm
from comfyui_sonic.queue_bridge.execution.wishes import Leaving

async def job(leaving):
    sleep = asyncio.create_task(asyncio.sleep({seconds}))
    over = asyncio.create_task(leaving.grace_over())
    await asyncio.wait({{sleep, over}}, return_when=asyncio.FIRST_COMPLETED)
    print("ended" if sleep.done() else "given back", flush=True)

async def main():
    leaving = Leaving()
    task = asyncio.create_task(job(leaving))
    depart_on_sigterm(leaving, task, {grace})
    print("ready", flush=True)
    await asyncio.sleep(60)

{before}
loop = asyncio.new_event_loop()
try:
    loop.run_until_complete(main())
except KeyboardInterrupt:
    print("stopped", flush=True)
"""

posix = pytest.mark.skipif(os.name != "posix", reason="there are no such signals here")


def serve(*, seconds: float, grace: float, before: str = "", signals: int = 1) -> tuple[list[str], int, float]:
    """What a server printed, its exit status, and how long it took to end."""
    source = SERVER.format(seconds=seconds, grace=grace, before=before)
    process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    told = time.monotonic()
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    said = process.communicate(timeout=20)[0].split("\n")
    return [line for line in said if line], process.returncode, time.monotonic() - told


@posix
def test_the_job_at_hand_ends_within_the_grace_and_then_the_process_as_by_ctrl_c() -> None:
    said, status, _ = serve(seconds=0.5, grace=20.0)
    assert (said, status) == (["ended", "stopped"], 0)


@posix
def test_after_the_grace_it_is_given_back() -> None:
    said, status, took_s = serve(seconds=30.0, grace=0.5)
    assert (said, status) == (["given back", "stopped"], 0)
    assert took_s < 5.0


@posix
def test_a_second_sigterm_does_not_wait() -> None:
    said, status, took_s = serve(seconds=30.0, grace=30.0, signals=2)
    assert (said, status) == (["given back", "stopped"], 0)
    assert took_s < 5.0


@posix
def test_an_ignored_ctrl_c_as_in_the_background_of_a_shell_is_no_obstacle() -> None:
    said, status, _ = serve(seconds=0.1, grace=5.0, before="signal.signal(signal.SIGINT, signal.SIG_IGN)")
    assert (said, status) == (["ended", "stopped"], 0)


@posix
def test_somebody_elses_handler_of_sigterm_comes_after_ours() -> None:
    before = "signal.signal(signal.SIGTERM, lambda *_: (print('theirs', flush=True), sys.exit(7)))"
    said, status, _ = serve(seconds=0.1, grace=5.0, before=before)
    assert (said, status) == (["ended", "theirs"], 7)


async def test_a_grace_can_be_shortened_while_it_runs() -> None:
    leaving = Leaving()
    assert not leaving.asked
    over = asyncio.create_task(leaving.grace_over())
    leaving.ask(60.0)
    await asyncio.sleep(0.05)
    assert leaving.asked
    assert not over.done()
    leaving.ask(0.0)
    stop = await asyncio.wait_for(over, 1.0)
    assert isinstance(stop, StartStopped)
    assert stop.cause == "drained"
