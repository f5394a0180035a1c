"""What a person sees in the terminal: one line per job that moves, and a table at the end."""

from __future__ import annotations

import shutil
import sys
import time
import unicodedata
from collections.abc import Sequence
from typing import TextIO

REDRAW_S = 0.1
ETA_FROM = 0.05  # an estimate from less than this part would only jump about


def width(text: str) -> int:
    """Columns that a text takes in a terminal: wide letters and emoji two, accents none."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def shorten(text: str, columns: int) -> str:
    """The text in at most so many columns, with an ellipsis where it was cut."""
    if width(text) <= columns:
        return text
    while text and width(text) > columns - 1:
        text = text[:-1]
    return text + "…"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain table; the last column may be as wide as it likes."""
    columns = list(zip(heads, *rows, strict=True))
    widths = [max(map(width, column)) for column in columns[:-1]] + [0]

    def line(cells: Sequence[str]) -> str:
        padded = (cell + " " * (wide - width(cell)) for cell, wide in zip(cells, widths, strict=True))
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * wide for wide in [*widths[:-1], width(heads[-1])])
    return "\n".join([line(heads), rule, *map(line, rows)])


class JobLine:
    """The line of one job. In a terminal it is redrawn in place; elsewhere each quarter is a line of its own."""

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        self._label = label
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty()
        self._started = time.monotonic()
        self._drawn = float("-inf")
        self._quarter = 0

    def show(self, fraction: float, stage: str) -> None:
        """fraction: 0..1 of the job; stage: what is being done."""
        now = time.monotonic()
        if self._live:
            if now - self._drawn >= REDRAW_S:
                self._drawn = now
                columns = shutil.get_terminal_size().columns - 1
                self._write("\r\x1b[2K" + shorten(self._text(fraction, stage, now), columns))
        elif int(fraction * 4) > self._quarter and fraction < 1:
            self._quarter = int(fraction * 4)
            self._write(self._text(fraction, stage, now) + "\n")

    def end(self, text: str) -> None:
        """Replace the moving line by its last word."""
        self._write(("\r\x1b[2K" if self._live else "") + f"{self._label}  {text}\n")

    def _text(self, fraction: float, stage: str, now: float) -> str:
        left = (now - self._started) * (1 - fraction) / fraction if fraction >= ETA_FROM else None
        eta = f", {left:.0f} s left" if left is not None else ""
        return f"{self._label}  {fraction:4.0%}  {stage}{eta}"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
