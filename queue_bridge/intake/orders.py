"""What a person hands in becomes a list of orders, one for each video. Standard library only.

A source is a folder, a manifest (``.csv``, ``.jsonl``, see manifest.py) or a ``.zip``, which is unpacked and then read
as a folder. A folder is paired by names (see pairing.py), unless it holds a ``manifest.csv`` or ``manifest.jsonl``:
then that decides, and files beside those that it names are left out.

A video lands beside its recording, or where the manifest says below the manifest's folder. With an output folder the
same paths lie below that instead.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import PairingError
from .archive import unpack
from .manifest import SUFFIXES, Entry, Scalar, read_manifest
from .pairing import PICTURES, SOUNDS, LeftOut, comparable, pair_folder

MANIFESTS = frozenset(f"manifest{suffix}" for suffix in SUFFIXES)


@dataclass(frozen=True)
class Order:
    """One video to be made; all paths are absolute.

    name: of the video, without ``.mp4``; with ``/`` between folders when a manifest says so. output: the MP4.
    config: parameters from a manifest, else empty. priority: ``priority``, ``normal`` or None for the submitter's
    default. template: a manifest's ``workflow``. root: the folder in which portrait and voice lie. consent_id: a
    manifest's, or ''.
    """

    name: str
    portrait: Path
    voice: Path
    output: Path
    config: Mapping[str, Scalar]
    priority: str | None
    template: str | None
    root: Path
    consent_id: str = ""


@dataclass(frozen=True)
class Orders:
    """What a source asks for. left_out: what no video is made of, and why; to be said before anything is queued."""

    orders: tuple[Order, ...]
    left_out: tuple[LeftOut, ...]


def read_orders(source: Path, output: Path | None = None) -> Orders:
    """The orders in a folder, manifest or ZIP; raises PairingError when it cannot be used.

    output: the folder in which the videos are to land; it need not exist yet.
    """
    try:
        mode = source.stat().st_mode
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise PairingError(f"'{source}' cannot be read: {reason}.") from error
    suffix = source.suffix.lower()
    if stat.S_ISDIR(mode):
        return _in_folder(source, output)
    if stat.S_ISREG(mode) and suffix in SUFFIXES:
        return _in_manifest(source, output)
    if stat.S_ISREG(mode) and suffix == ".zip":
        return _in_folder(unpack(source), output)
    raise PairingError(f"'{source}' is neither a folder nor a .csv, .jsonl or .zip file.")


def _in_folder(folder: Path, output: Path | None) -> Orders:
    if manifest := _manifest_of(folder):
        orders = _in_manifest(manifest, output)
        return Orders(orders.orders, tuple(_not_named(orders.orders)))
    root = _resolved(folder)
    pairing = pair_folder(root)
    entries = [Entry(0, pair.name, pair.portrait, pair.voice, {}, None, None) for pair in pairing.pairs]
    return Orders(_orders(entries, root, output), pairing.left_out)


def _in_manifest(manifest: Path, output: Path | None) -> Orders:
    return Orders(_orders(read_manifest(manifest), _resolved(manifest.parent), output), ())


def _manifest_of(folder: Path) -> Path | None:
    """The manifest by which a folder is read, or None."""
    found = [path for path in _listed(folder) if path.name.lower() in MANIFESTS]
    if len(found) > 1:
        names = " and ".join(f"'{path.name}'" for path in found)
        raise PairingError(f"The folder '{folder}' holds {names}; keep one of them.")
    if found and not _resolved(found[0]).is_relative_to(_resolved(folder)):
        raise PairingError(f"'{found[0]}' is a link out of the folder; put the file itself there.")
    return found[0] if found else None


def _not_named(orders: Iterable[Order]) -> Iterator[LeftOut]:
    """The pictures and recordings that lie beside those of the orders and are in none of them."""
    named = {path for order in orders for path in (order.portrait, order.voice)}
    folders = {order.root for order in orders} | {path.parent for path in named}
    for folder in sorted(folders):
        for path in _listed(folder):
            if path not in named and path.suffix.lower() in PICTURES | SOUNDS and not path.name.startswith("."):
                yield LeftOut(path, "No line of the manifest names it.")


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise PairingError(f"The folder '{folder}' cannot be read: {error.strerror or error}.") from error


def _orders(entries: Iterable[Entry], root: Path, output: Path | None) -> tuple[Order, ...]:
    base = root if output is None else _resolved(output)
    orders = tuple(
        Order(
            name=entry.name,
            portrait=entry.portrait,
            voice=entry.voice,
            output=base / f"{entry.name}.mp4",
            config=entry.config,
            priority=entry.priority,
            template=entry.template,
            root=root,
            consent_id=entry.consent_id,
        )
        for entry in entries
    )
    _check_places(orders, base)
    return orders


def _check_places(orders: Iterable[Order], base: Path) -> None:
    """Refuse videos that could not be written, or would land on each other or, through a link, outside ``base``."""
    real: dict[Path, Path] = {}
    taken: dict[str, Order] = {}
    for order in orders:
        folder = order.output.parent
        try:
            if folder not in real:
                real[folder] = _resolved(folder)
                _check_folder(order.output, real[folder], base)
            if order.output.is_dir():
                raise PairingError(f"The video '{order.output}' cannot be written, since that is a folder.")
        except OSError as error:
            raise PairingError(f"The video '{order.output}' cannot be written: {error.strerror or error}.") from error
        other = taken.setdefault(comparable(str(real[folder] / order.output.name)), order)
        if other is not order:
            raise PairingError(f"'{other.voice}' and '{order.voice}' would both become the video '{order.output}'.")


def _check_folder(video: Path, real: Path, base: Path) -> None:
    """Refuse a video whose folder, with all links resolved, is not below ``base`` or cannot be made."""
    if not real.is_relative_to(base):
        raise PairingError(f"The video '{video}' would land outside '{base}', through a link on the way.")
    # A link that is left is one of a circle; from Python 3.13 on that is not said while it is resolved.
    blocked = [one for one in (real, *real.parents) if (one.exists() or one.is_symlink()) and not one.is_dir()]
    if blocked:
        raise PairingError(f"The video '{video}' cannot be written, since '{blocked[0]}' is no folder.")


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle, before 3.13
        raise PairingError(f"'{path}' cannot be read: it is a link that leads nowhere.") from error
