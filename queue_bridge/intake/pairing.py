"""Which picture goes with which recording in a folder. Standard library only; looks at names, never into files.

The rules, in this order:

1. Only files directly in the folder count. Hidden files, notes (.md, .txt, ...) and an earlier result are passed over.
2. A recording goes with the picture of the same name: ``anna.png`` + ``anna.wav``.
3. Else with the picture whose name it begins with, followed by ``_``, ``-``, ``.`` or a space: ``anna.png`` +
   ``anna_hello.wav``; among several such pictures, the longest name wins.
4. Else, when the folder holds exactly one picture, with that one.
5. What is then left alone is left out, with the reason; so are two files of one kind with the same name (``a.jpg`` and
   ``a.png``), since choosing between them would be a guess, and links that lead out of the folder.

Names are compared without regard to case and to the way an accent is encoded. A video is named after its recording.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ..errors import PairingError

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic"})
SOUNDS = frozenset({".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".wma", ".aif", ".aiff", ".webm"})
PASSED_OVER = frozenset({".md", ".txt", ".json", ".csv", ".html", ".pdf", ".ini", ".db", ".mp4"})
SEPARATORS = ("_", "-", ".", " ")


@dataclass(frozen=True)
class Pair:
    """One video to be made. name: of the video, without ``.mp4``."""

    name: str
    portrait: Path
    voice: Path


@dataclass(frozen=True)
class LeftOut:
    """One file that no video is made of. reason: a sentence."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Pairing:
    """What a folder holds, both parts in the order of the files' names."""

    pairs: tuple[Pair, ...]
    left_out: tuple[LeftOut, ...]


def pair_folder(folder: Path) -> Pairing:
    """Pair the pictures and recordings of a folder by the rules above; raises PairingError when it cannot be read."""
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise PairingError(f"The folder '{folder}' cannot be read: {error.strerror or error}.") from error
    left_out: list[LeftOut] = []
    pictures: dict[str, list[Path]] = defaultdict(list)
    sounds: dict[str, list[Path]] = defaultdict(list)
    for path in entries:
        suffix = path.suffix.lower()
        if path.name.startswith(".") or suffix in PASSED_OVER:
            continue
        if reason := _why_unusable(path, folder):
            left_out.append(LeftOut(path, reason))
        else:
            (pictures if suffix in PICTURES else sounds)[comparable(path.stem)].append(path)
    left_out += _take_doubles(pictures, "pictures") + _take_doubles(sounds, "recordings")
    pairs, unpaired = _match(pictures, sounds)
    left_out += unpaired
    return Pairing(
        tuple(sorted(pairs, key=lambda pair: pair.name)),
        tuple(sorted(left_out, key=lambda item: item.path.name)),
    )


def _why_unusable(path: Path, folder: Path) -> str:
    """The reason why a file cannot take part, or an empty string."""
    if not path.name.isprintable():  # control characters, and bytes that are no UTF-8
        return "Its name holds characters that cannot be shown; rename it."
    if path.is_dir() and not path.is_symlink():
        return "It is a folder; only files directly in the given folder are read."
    if path.suffix.lower() not in PICTURES | SOUNDS:
        return f"'{path.suffix or path.name}' is no picture or sound that is known here."
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        return "It is a link that leads nowhere."
    if not target.is_relative_to(folder.resolve()):
        return "It is a link out of the folder; put the file itself here."
    return "" if target.is_file() else "It is not an ordinary file."


def _take_doubles(files: dict[str, list[Path]], kind: str) -> list[LeftOut]:
    """Remove the names that more than one file of a kind has."""
    left_out = []
    for key in [key for key, paths in files.items() if len(paths) > 1]:
        paths = files.pop(key)
        names = " and ".join(f"'{path.name}'" for path in paths)
        left_out += [LeftOut(path, f"{names} are {kind} of the same name; keep one of them.") for path in paths]
    return left_out


def _match(pictures: dict[str, list[Path]], sounds: dict[str, list[Path]]) -> tuple[list[Pair], list[LeftOut]]:
    pairs, left_out, used = [], [], set()
    for key, (voice,) in sounds.items():
        owner = _owner(key, pictures)
        if owner is None:
            left_out.append(LeftOut(voice, "No picture has this name or the beginning of it."))
            continue
        used.add(owner)
        pairs.append(Pair(voice.stem, pictures[owner][0], voice))
    for key in pictures.keys() - used:
        left_out.append(LeftOut(pictures[key][0], "No recording has this name or begins with it."))
    return pairs, left_out


def _owner(sound: str, pictures: dict[str, list[Path]]) -> str | None:
    """The picture's key for a recording's key, or None."""
    if sound in pictures:
        return sound
    beginnings = [name for name in pictures if sound.startswith(tuple(name + mark for mark in SEPARATORS))]
    if beginnings:
        return max(beginnings, key=len)
    return next(iter(pictures)) if len(pictures) == 1 else None


def comparable(name: str) -> str:
    """The form in which names are compared: without regard to case and to the way an accent is encoded."""
    return unicodedata.normalize("NFC", name).casefold()
