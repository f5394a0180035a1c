"""A folder into which files arrive: an order counts when its files have stopped growing."""

from __future__ import annotations

from pathlib import Path

from .orders import Order, read_orders

Stamp = tuple[int, int]


class FolderWatch:
    """Looks at a folder again and again; each order is handed out once, and again when its files have changed."""

    def __init__(self, folder: Path, output: Path | None = None) -> None:
        self._folder = folder
        self._output = output
        self._seen: dict[Path, tuple[Stamp, Stamp]] = {}
        self._handed_out: dict[Path, tuple[Stamp, Stamp]] = {}

    def settled(self) -> list[Order]:
        """Orders whose files are as they were at the last look and have not been handed out like that."""
        ready = []
        for order in read_orders(self._folder, self._output).orders:
            try:
                stamps = (_stamp(order.portrait), _stamp(order.voice))
            except OSError:  # gone between the listing and now
                continue
            if self._seen.get(order.output) == stamps and self._handed_out.get(order.output) != stamps:
                self._handed_out[order.output] = stamps
                ready.append(order)
            self._seen[order.output] = stamps
        return ready


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
