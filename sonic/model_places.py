"""Where the model folders of a ComfyUI are, told from its files without running it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import BadSetting

PACK = Path(__file__).absolute().parent.parent  # not resolved: a linked pack belongs to the ComfyUI it is linked into
KINDS = ("sonic", "checkpoints")
EXTRA_PATHS = "extra_model_paths.yaml"  # beside ComfyUI's main.py, which reads it by itself


def model_folders(
    models: Sequence[Path],
    comfyui: Path | None,
    environment: Mapping[str, str] = os.environ,
    pack: Path = PACK,
) -> dict[str, list[Path]]:
    """The folders of each kind, "sonic" and "checkpoints", in the order in which ComfyUI searches them.

    models: folders of models; comfyui: the folder of a ComfyUI, when there are none; then COMFYUI_PATH, then the
    ComfyUI in whose custom_nodes the folder ``pack`` lies. Raises BadSetting when nothing says where they are.
    """
    for folder in models:
        if not folder.is_dir():
            raise BadSetting("--models", f"there is no folder '{folder}'.")
    if models:
        return {kind: [folder.absolute() / kind for folder in models] for kind in KINDS}
    root = _comfyui(comfyui, environment, pack).absolute()
    folders = {kind: [root / "models" / kind] for kind in KINDS}
    extra = root / EXTRA_PATHS
    if extra.is_file():
        named = list(_extra_folders(extra))
        if any(kind == "sonic" for kind, _, _ in named):
            folders["sonic"] = []  # ComfyUI has no such kind of its own: what the file names are all there are
        for kind, folder, first in named:
            folders[kind].insert(0 if first else len(folders[kind]), folder)
    return folders


def _comfyui(comfyui: Path | None, environment: Mapping[str, str], pack: Path) -> Path:
    setting = "--comfyui"
    if comfyui is None and environment.get("COMFYUI_PATH"):
        setting, comfyui = "COMFYUI_PATH", Path(environment["COMFYUI_PATH"])
    if comfyui is None and pack.parent.name == "custom_nodes":
        comfyui = pack.parent.parent
    if comfyui is None:
        raise BadSetting(setting, "it is not known which ComfyUI is meant; give its folder, or that of --models.")
    if not (comfyui / "models").is_dir():
        raise BadSetting(setting, f"'{comfyui}' is no ComfyUI: it has no folder 'models'; --models names one itself.")
    return comfyui


def _extra_folders(file: Path) -> Iterator[tuple[str, Path, bool]]:
    """Each folder that the file names for a kind of ours, and whether it is to be searched first."""
    try:
        import yaml  # with ComfyUI; nothing else here needs it
    except ImportError as error:
        raise BadSetting(
            "--comfyui", f"reading '{file}' takes the package PyYAML; install it or use --models."
        ) from error
    try:
        sections: Any = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        for section in sections.values():
            base = Path(os.path.expandvars((section or {}).get("base_path", ""))).expanduser()
            for kind in KINDS:
                for line in filter(None, (section or {}).get(kind, "").split("\n")):
                    yield kind, Path(os.path.normpath(file.parent / base / line)), bool(section.get("is_default"))
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, OSError) as error:
        raise BadSetting("--comfyui", f"'{file}' is not as ComfyUI expects it; mend it or use --models.") from error
