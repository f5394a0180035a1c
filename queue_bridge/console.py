"""What a person sees in the terminal: a moving line for each running job and one for the whole, tables, plain lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from .job import JobRecord
from .states import TERMINAL, State

UNBOUNDED = 100_000  # columns of a file or a pipe: nothing is cut or wrapped there


def console_for(stream: TextIO | None = None) -> Console:
    """A console that wraps in a terminal and never elsewhere, and takes no text for markup."""
    stream = stream or sys.stdout
    width = None if stream.isatty() else UNBOUNDED
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False, soft_wrap=True)


def print_table(console: Console, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table; wide letters and accents take the columns that they have in a terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def card_in_use(instance: Mapping[str, Any]) -> str:
    """How busy its card is, and how much of the card's memory is in use by all; what is not known is left out."""
    used, memory = instance.get("gpu_used"), instance.get("gpu_memory_used")
    load = f"{100 * used:.0f} %" if isinstance(used, int | float) else ""
    return ", ".join(filter(None, (load, decimal(memory) if isinstance(memory, int) else "")))


def print_json(value: object) -> None:
    """One line of JSON, at once, for programs."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


class JobsDisplay:
    """The moving part of a command that follows jobs. In a terminal it is redrawn; elsewhere each quarter is a line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: dict[str, TaskID] = {}
        self._quarters: dict[str, int] = {}
        self._names: dict[str, str] = {}
        self._failures: dict[str, int] = {}
        self._ended: set[str] = set()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._whole = self._progress.add_task("all", total=100.0, note="")

    def __enter__(self) -> JobsDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def add(self, names: dict[str, str]) -> None:
        """Jobs that will be followed, by id, with what a person calls them."""
        self._names |= names
        self._show_whole()

    def update(self, record: JobRecord) -> None:
        """Show where a job is now."""
        name = self._names.get(record.task_id, record.spec.name or record.task_id)
        if record.state in TERMINAL:
            if record.task_id not in self._ended:
                self._ended.add(record.task_id)
                self._remove_line(record.task_id)
                self._console.print(f"{self._count()} {name}  {last_word(record)}")
        elif record.state is State.RUNNING:
            self._show_running(record, name)
        else:
            self._remove_line(record.task_id)
            if record.state is State.RETRYING and self._failures.get(record.task_id) != record.failures:
                self._failures[record.task_id] = record.failures
                self._console.print(f"{name}  will be tried again: {record.error}")
        self._show_whole()

    def _show_running(self, record: JobRecord, name: str) -> None:
        left = f", {record.seconds_left:.0f} s left" if record.seconds_left is not None else ""
        note = f"{record.stage}{left}  ({record.owner})"
        if self._console.is_terminal:
            if record.task_id not in self._lines:
                self._lines[record.task_id] = self._progress.add_task(name, total=100.0, note="")
            self._progress.update(self._lines[record.task_id], completed=record.percent, note=note)
        elif (quarter := int(record.percent // 25)) > self._quarters.get(record.task_id, 0):
            self._quarters[record.task_id] = quarter
            self._console.print(f"{name}  {record.percent:.0f} %  {note}")

    def _remove_line(self, task_id: str) -> None:
        line = self._lines.pop(task_id, None)
        if line is not None:
            self._progress.remove_task(line)

    def _show_whole(self) -> None:
        total = len(self._names) or 1
        self._progress.update(self._whole, completed=100.0 * len(self._ended) / total, note=self._count())

    def _count(self) -> str:
        return f"[{len(self._ended)}/{len(self._names)}]"


def last_word(record: JobRecord) -> str:
    """What became of an ended job, in a few words."""
    if record.state is State.COMPLETED:
        seconds = (record.ended_s or 0.0) - (record.started_s or record.submitted_s)
        return f"done in {seconds:.1f} s on {(record.result or {}).get('instance', '?')}"
    return f"{record.state}: {record.error}" if record.error else str(record.state)
