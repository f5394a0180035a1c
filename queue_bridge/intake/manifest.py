"""A CSV or JSONL file says which picture goes with which recording. Standard library only.

CSV: a header line, then a line for each video; comma, semicolon or tab. JSONL: an object a line; blank lines and lines
that begin with ``#`` are passed over. Both are UTF-8, with or without a BOM. The fields:

``image``, ``audio``          required: paths below the manifest's folder, with ``/`` between folders; or ``file:``
                              URIs, also as ``image_url``, ``audio_url``
``output``                    the video, a path that ends in ``.mp4``; without it, that of the recording
``priority``                  ``priority`` or ``normal``
``workflow``                  the name of a template
``consent_id``                where the consent of the person in the picture is found; kept with the job
everything else               a parameter; in JSONL also in an object ``config``. A CSV cell becomes an integer, a
                              float, a truth value (``true``, ``false``) or else a text; an empty cell is not given.

A file is found by its exact name, else, as in pairing, without regard to case and to the way an accent is encoded:
ZIPs of macOS split accents and Korean syllables into parts. A manifest is read as a whole or refused as a whole, with
the number of the first line that is wrong.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import ManifestError
from .pairing import PICTURES, SOUNDS, comparable

Scalar = int | float | str | bool

SUFFIXES = frozenset({".csv", ".jsonl"})
PRIORITIES = ("priority", "normal")
MEDIA = {"image": ("picture", PICTURES), "audio": ("sound", SOUNDS)}
FIELDS = frozenset({*MEDIA, *(f"{name}_url" for name in MEDIA), "output", "priority", "workflow", "consent_id"})
DELIMITERS = ",;\t"
MAX_BYTES = 64 << 20
DRIVE = re.compile("[A-Za-z]:")
URI = re.compile("[A-Za-z][A-Za-z0-9+.-]*://|file:|data:", re.IGNORECASE)
INTEGER = re.compile("[+-]?(0|[1-9][0-9]{0,19})")  # 007 stays a text, and so does what is longer than 64 bits
FLOAT = re.compile(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Entry:
    """One line of a manifest. name: of the video, without ``.mp4``, with ``/`` between folders. portrait, voice: below
    the manifest's folder, with its links resolved. config: parameters. template: the line's ``workflow``. consent_id:
    '' for none."""

    line: int
    name: str
    portrait: Path
    voice: Path
    config: Mapping[str, Scalar]
    priority: str | None
    template: str | None
    consent_id: str = ""


class _BadLine(Exception):
    """One line is wrong; the message is the second half of a sentence."""


@dataclass(frozen=True)
class _Row:
    """One line before its meaning is looked at."""

    fields: dict[str, str]
    config: dict[str, Scalar] = field(default_factory=dict)


Rows = Iterator[tuple[int, _Row | _BadLine]]  # with the number of the line


def read_manifest(file: Path) -> tuple[Entry, ...]:
    """The lines of a manifest in their order; raises ManifestError when one of them, or the file, cannot be used."""
    text = _read_text(file)
    folder = _Folder(file.parent.resolve())
    rows = _csv_rows(text) if file.suffix.lower() == ".csv" else _jsonl_rows(text)
    entries: list[Entry] = []
    problems: list[tuple[int, str]] = []
    lines: dict[str, int] = {}  # of each video
    for line, row in rows:
        try:
            if isinstance(row, _BadLine):
                raise row
            entry = _entry(line, row, folder)
            first = lines.setdefault(comparable(entry.name), line)
            if first != line:
                raise _BadLine(f"it makes '{entry.name}.mp4' and so does line {first}; name another 'output'")
            entries.append(entry)
        except _BadLine as problem:
            problems.append((line, str(problem)))
    _refuse(file, problems)
    if not entries:
        raise ManifestError(f"The manifest '{file}' names no video; give it a line for each.")
    return tuple(entries)


def _refuse(file: Path, problems: list[tuple[int, str]]) -> None:
    if problems:
        line, problem = problems[0]
        more = len(problems) - 1
        rest = f" ({more} more {'line is' if more == 1 else 'lines are'} wrong as well)" if more else ""
        raise ManifestError(f"The manifest '{file}' is wrong in line {line}: {problem}{rest}.")


def _read_text(file: Path) -> str:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ManifestError(f"The manifest '{file}' is not an ordinary file.")
        if status.st_size > MAX_BYTES:
            raise ManifestError(f"The manifest '{file}' is larger than {MAX_BYTES >> 20} MiB; split it.")
        content = file.read_bytes()
    except OSError as error:
        raise ManifestError(f"The manifest '{file}' cannot be read: {error.strerror or error}.") from error
    problems = []
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            problems.append((number, "it is not UTF-8; save the file as UTF-8"))
        else:
            if b"\0" in line:
                problems.append((number, "it holds a NUL byte; save the file as plain UTF-8 text"))
    _refuse(file, problems)
    return content.decode("utf-8-sig")


# --- CSV and JSONL ---------------------------------------------------------------------------------------------------


def _csv_rows(text: str) -> Rows:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True, skipinitialspace=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1  # a quoted cell may reach over several lines; the first one counts
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            yield line, _BadLine(f"it is broken CSV ({error}); look for a quotation mark that is not closed")
            return  # where the next line begins is not known
        if not any(cells):
            continue
        if header:
            yield line, _csv_row(header, cells)
            continue
        header = [cell.lower() if cell.lower() in FIELDS else cell for cell in cells]
        if problem := _why_no_header(header):
            yield line, _BadLine(problem)
            return


def _delimiter(text: str) -> str:
    """The delimiter that makes the most of the header line: known names first, then columns."""
    first = next((line for line in text.splitlines() if line.strip()), "")

    def worth(delimiter: str) -> tuple[int, int]:
        cells = [cell.strip(' "').lower() for cell in first.split(delimiter)]
        return len(FIELDS.intersection(cells)), len(cells)

    return max(DELIMITERS, key=worth)


def _why_no_header(header: list[str]) -> str:
    """What is wrong with a header line, or an empty string."""
    for name in MEDIA:
        if not {name, f"{name}_url"}.intersection(header):
            return f"the header has no column '{name}'"
    doubles = [name for name in header if name and header.count(name) > 1]
    return f"the header has the column '{doubles[0]}' twice" if doubles else ""


def _csv_row(header: list[str], cells: list[str]) -> _Row | _BadLine:
    if len(cells) > len(header):
        return _BadLine(f"it has {len(cells)} cells and the header {len(header)}; put cells with commas into quotes")
    row = _Row({})
    for name, cell in zip(header, cells, strict=False):  # cells that a line leaves out at its end are not given
        if not cell:
            continue
        if not name:
            return _BadLine(f"'{cell}' is in a column without a name")
        if name in FIELDS:
            row.fields[name] = cell
        else:
            row.config[name] = _parsed(cell)
    return row


def _parsed(cell: str) -> Scalar:
    """A cell as what it looks like."""
    if cell.lower() in ("true", "false"):
        return cell.lower() == "true"
    if INTEGER.fullmatch(cell):
        return int(cell)
    if FLOAT.fullmatch(cell) and math.isfinite(float(cell)):
        return float(cell)
    return cell


def _jsonl_rows(text: str) -> Rows:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: JSON texts may hold other line separators
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                yield number, _json_row(line)
            except _BadLine as problem:
                yield number, problem


def _json_row(line: str) -> _Row:
    def no_constant(name: str) -> None:
        raise _BadLine(f"{name} is no number that can be used")

    def no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if doubles := [name for name in names if names.count(name) > 1]:
            raise _BadLine(f"it has '{doubles[0]}' twice")
        return dict(pairs)

    try:
        found = json.loads(line, parse_constant=no_constant, object_pairs_hook=no_doubles)
    except json.JSONDecodeError as error:
        raise _BadLine(f"it is broken JSON ({error.msg} at character {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise _BadLine("it is JSON that is too long or too deep") from error
    if not isinstance(found, dict):
        raise _BadLine('it is no object; write {"image": "a.png", "audio": "a.wav"}')
    return _row_of(found)


def _row_of(found: dict[str, Any]) -> _Row:
    config = found.pop("config", None)
    if not isinstance(config, dict | None):
        raise _BadLine("'config' is no object")
    row = _Row({})
    for name, value in found.items():
        if name in FIELDS and isinstance(value, str):
            if value.strip():
                row.fields[name] = value.strip()
        elif name in FIELDS and value is not None:
            raise _BadLine(f"'{name}' is {json.dumps(value)}, and a text is needed")
    for name, value in [*((name, found[name]) for name in found.keys() - FIELDS), *(config or {}).items()]:
        if value is not None:
            _add(row, name, value)
    return row


def _add(row: _Row, name: str, value: object) -> None:
    """Add a parameter of a JSON object."""
    if name in FIELDS:
        raise _BadLine(f"'{name}' belongs beside 'config', not into it")
    if name in row.config:
        raise _BadLine(f"'{name}' is both in 'config' and beside it; keep one of them")
    if not isinstance(value, Scalar) or (isinstance(value, float) and not math.isfinite(value)):
        raise _BadLine(f"'{name}' has to be a number, a text, true or false")
    row.config[name] = value


# --- what a line means -----------------------------------------------------------------------------------------------


class _Folder:
    """The manifest's folder, every part of which is listed once however many lines there are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names: dict[Path, dict[str, list[str]]] = {}

    def find(self, parts: Iterable[str]) -> Path:
        """The path below this folder; of names that differ only in case and accents, the exact or else the only one."""
        path = self.path
        for part in parts:
            alike = self._names_in(path).get(comparable(part), [])
            path /= alike[0] if len(alike) == 1 else part
        return path

    def _names_in(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._names:
            names: dict[str, list[str]] = {}
            try:
                for path in folder.iterdir():
                    names.setdefault(comparable(path.name), []).append(path.name)
            except OSError:
                pass  # whoever opens what is not there says so
            self._names[folder] = names
        return self._names[folder]


def _entry(line: int, row: _Row, folder: _Folder) -> Entry:
    for parameter, value in row.config.items():
        if not parameter or not parameter.isprintable():
            raise _BadLine(f"the parameter {parameter!r} has a name that cannot be used")
        if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):  # half characters, from JSON's \u escapes
            raise _BadLine(f"the parameter '{parameter}' holds characters that are none")
    portrait, voice = (_media(row, kind, folder) for kind in MEDIA)
    output = row.fields.get("output")
    name = _video_name(output) if output else voice.relative_to(folder.path).with_suffix("").as_posix()
    priority = row.fields.get("priority", "").lower() or None
    if priority not in (None, *PRIORITIES):
        raise _BadLine(f"{priority!r} is no priority; write {' or '.join(PRIORITIES)}")
    template = row.fields.get("workflow")
    if template is not None and not re.fullmatch(r"[\w-]+", template):
        raise _BadLine(f"{template!r} is no name of a workflow (letters, digits, '_' and '-')")
    return Entry(line, name, portrait, voice, row.config, priority, template, row.fields.get("consent_id", ""))


def _media(row: _Row, kind: str, folder: _Folder) -> Path:
    """The file that a line names as its ``image`` or ``audio``."""
    plain, uri = row.fields.get(kind), row.fields.get(f"{kind}_url")
    if plain and uri:
        raise _BadLine(f"it has both '{kind}' and '{kind}_url'; keep one of them")
    given = plain or uri
    if not given:
        raise _BadLine(f"'{kind}' is missing")
    word, suffixes = MEDIA[kind]
    if not given.isprintable():
        raise _BadLine(f"{given!r} holds characters that cannot be shown")
    if URI.match(given):
        path = _path_of_uri(given)
    elif uri:
        raise _BadLine(f"'{given}' is no file: URI; give a path as '{kind}'")
    else:
        path = folder.find(_parts(given))
    try:
        target = path.resolve(strict=True)
        if not target.is_relative_to(folder.path):
            raise _BadLine(f"'{given}' is not inside the manifest's folder; put the file there")
        if not target.is_file():
            raise _BadLine(f"'{given}' is not an ordinary file")
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        raise _BadLine(f"there is no file '{given}'") from error
    if path.suffix.lower() not in suffixes:
        raise _BadLine(f"'{given}' is no {word} that is known here")
    return path if path.is_relative_to(folder.path) else target


def _path_of_uri(uri: str) -> Path:
    try:
        parts = urlsplit(uri)
        text = unquote(parts.path, errors="strict")
    except ValueError as error:
        raise _BadLine(f"'{uri}' is no URI") from error
    if parts.scheme != "file":
        raise _BadLine(f"'{uri}' is no file; only files in the manifest's folder are taken")
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not text.startswith("/"):
        raise _BadLine(f"'{uri}' is no URI of a file here; write file:///folder/name, with %23 for # and %3F for ?")
    if not text.isprintable() or ".." in text.split("/"):
        raise _BadLine(f"'{uri}' climbs out of a folder or holds characters that cannot be shown")
    return Path(text[1:] if os.name == "nt" and DRIVE.match(text[1:]) else text)


def _parts(given: str) -> list[str]:
    """The folders and the name in a path that has to stay below a folder."""
    if "\\" in given:
        raise _BadLine(f"'{given}' has a backslash; write '/' between folders")
    if given.startswith("/") or DRIVE.match(given):
        raise _BadLine(f"'{given}' is an absolute path; write it as seen from the folder")
    parts = [part for part in given.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _BadLine(f"'{given}' climbs out of the folder")
    return parts


def _video_name(given: str) -> str:
    if not given.isprintable():
        raise _BadLine(f"{given!r} holds characters that cannot be shown")
    parts = _parts(given)
    if given.endswith("/") or not given.lower().endswith(".mp4") or parts[-1].lower() == ".mp4":
        raise _BadLine(f"the output '{given}' is no name that ends in .mp4")
    if any(len(part.encode()) > 200 for part in parts):  # file systems take 255, and a half-made file needs some
        raise _BadLine(f"the output '{given}' is longer than file systems allow")
    return "/".join(parts)[: -len(".mp4")]
