"""A question to something that may never answer, asked where its silence holds up nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Answer = TypeVar("Answer")


def begun(ask: Callable[[], Answer]) -> Future[Answer]:
    """Its answer, once it is there. Neither a wait for it nor the end of this process waits for one that hangs."""
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            future.set_result(ask())
        except BaseException as error:  # noqa: BLE001  # whoever asks for the result gets it
            future.set_exception(error)

    threading.Thread(target=run, name="sonic_asks", daemon=True).start()
    return future
