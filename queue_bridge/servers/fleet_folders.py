"""What a server of a fleet finds on disk: input, output and user folders of its own, models and node packs of all.

ComfyUI looks for models and node packs in its base directory, of which every server has its own. So these two are
links there: every kind of model is found in the one folder, Sonic's files among them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..errors import FleetError
from .instance import install_pack

NO_PACKS = ("__pycache__", ".disabled")


def lay_out(base: Path, comfyui: Path, models: Path, pack: Path) -> None:
    """Make a server's base directory, or bring one up to date.

    comfyui: whose ``custom_nodes`` are shared. models: the shared folder. pack: this one, which need not be installed.
    Raises FleetError when something is in the way.
    """
    base.mkdir(parents=True, exist_ok=True)
    if not models.is_dir():
        raise FleetError(f"The folder '{models}' for models is not there; name another one with --models.")
    _link(base / "models", models)
    nodes = base / "custom_nodes"
    nodes.mkdir(exist_ok=True)
    shared = _packs(comfyui / "custom_nodes")
    for place in nodes.iterdir():
        if place.is_symlink() and not place.exists():  # a pack that has been taken away
            place.unlink()
    for source in shared:
        if source.is_dir():
            install_pack(source, nodes, source.name)
        else:
            _link(nodes / source.name, source)
    if not any(source.resolve() == pack.resolve() for source in shared):
        install_pack(pack, nodes)


def _packs(folder: Path) -> list[Path]:
    """Node packs as ComfyUI finds them: folders, and single files of Python."""
    if not folder.is_dir():
        return []
    return sorted(
        one
        for one in folder.iterdir()
        if not one.name.startswith(".") and not one.name.endswith(NO_PACKS) and (one.is_dir() or one.suffix == ".py")
    )


def _link(place: Path, target: Path) -> None:
    target = target.resolve()
    if place.is_symlink() or (hasattr(place, "is_junction") and place.is_junction()):
        if place.resolve() == target:
            return
        place.unlink()
    elif place.is_dir() and not any(place.iterdir()):
        place.rmdir()
    elif place.exists():
        raise FleetError(f"'{place}' is in the way of a link to '{target}'; move it elsewhere.")
    if sys.platform == "win32" and target.is_dir():  # a link to a folder needs no right there when it is a junction
        import _winapi

        _winapi.CreateJunction(str(target), str(place))
    else:
        place.symlink_to(target, target_is_directory=target.is_dir())
