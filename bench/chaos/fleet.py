"""The real servers of a run: started, killed, frozen, and started again whenever one is gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from comfyui_sonic.queue_bridge.errors import InstanceError
from comfyui_sonic.queue_bridge.servers.instance import Instance, install_pack

from .wire import Link

log = logging.getLogger("bench.chaos")

LOOK_S = 0.05
PACK = Path(__file__).resolve().parents[2]
NODES = PACK / "tests" / "comfyui_pack"


class Server:
    """One place for a ComfyUI process. name: of the instance; two places of one name are a server and its stand-by."""

    def __init__(self, comfyui: Path, directory: Path, link: Link, environment: Mapping[str, str]) -> None:
        self.name = link.owner
        self.link = link
        self.starts = 0
        self.ready = False
        self._comfyui = comfyui
        self._directory = directory
        self._environment = environment
        self._instance: Instance | None = None
        self._expected_dead = False

    def start(self) -> None:
        """A new process, until it answers. Raises InstanceError when it ends before."""
        self.starts += 1
        self._expected_dead = False
        self._instance = Instance(
            self._comfyui,
            self._directory,
            environment=self._environment,
            log_file=self._directory / f"comfyui-{self.starts}.log",
        )
        custom_nodes = self._directory / "custom_nodes"
        install_pack(PACK, custom_nodes)
        install_pack(NODES, custom_nodes, "test_nodes")
        self._instance.start()
        self._instance.wait_until_ready()
        self.ready = True

    def is_alive(self) -> bool:
        return self._instance is not None and self._instance.is_alive()

    def died_by_itself(self) -> bool:
        """True once, when it is gone although nobody here has killed it."""
        by_itself = self.ready and not self._expected_dead
        self._expected_dead, self.ready = True, False
        return by_itself

    def send(self, number: signal.Signals) -> None:
        """To the whole process group; nothing when it is gone."""
        if number is signal.SIGKILL:
            self._expected_dead = True
        process = self._instance.process if self._instance else None
        if process and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def stop(self) -> None:
        if self._instance:
            self.send(signal.SIGCONT)
            self._instance.stop()


class Fleet:
    """exited: called with a server whose process has ended by itself."""

    def __init__(self, servers: Sequence[Server], exited: Callable[[Server], None]) -> None:
        self.servers = tuple(servers)
        self._exited = exited
        self._starting = asyncio.Semaphore(1)  # together they would only wait for each other, and starve the others
        self._keepers: list[asyncio.Task[None]] = []
        self._thaws: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        for server in self.servers:
            await asyncio.to_thread(server.start)
        self._keepers = [asyncio.create_task(self._keep(server)) for server in self.servers]

    async def stop(self) -> None:
        for task in self._keepers:
            task.cancel()
        await asyncio.gather(*self._keepers, *self._thaws, return_exceptions=True)
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in self.servers))

    def kill(self, server: Server) -> None:
        server.send(signal.SIGKILL)

    def freeze(self, server: Server, seconds: float) -> None:
        """Stop all of it where it is, and let it go on after so long."""

        async def thaw() -> None:
            try:
                await asyncio.sleep(seconds)
            finally:
                server.send(signal.SIGCONT)

        server.send(signal.SIGSTOP)
        task = asyncio.create_task(thaw())
        self._thaws.add(task)
        task.add_done_callback(self._thaws.discard)

    async def _keep(self, server: Server) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if server.is_alive():
                continue
            if server.died_by_itself():
                self._exited(server)
            async with self._starting:
                started = time.monotonic()
                try:
                    await asyncio.to_thread(server.start)
                except InstanceError as error:  # killed while it was starting
                    log.info("%s: %s", server.name, error)
                else:
                    log.info("%s is back after %.1f s", server.name, time.monotonic() - started)
