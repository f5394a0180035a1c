"""All that a prompt has saved, as one file: a ZIP with its members as they are, so that parts can be read."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import PromptFailed
from ..pipelines.raw_prompt import PREFIX
from ..places.job_places import plain_name
from ..prompt_events import PromptResult, SavedFile

OURS = "video"  # how the names of files begin where the bridge has said where they go (JobFiles.output_prefix)
HEADER_BYTES = 30  # of a member, before its name


def bundle(
    outcome: PromptResult,
    prompt: Mapping[str, Any],
    path_of: Callable[[SavedFile], Path],
    folder: Path,
    place: Path,
) -> list[dict[str, Any]]:
    """Put every saved file into a ZIP at ``place``; returns node, name and bytes of each, in the order of the members.

    folder: in which they have to lie. Raises PromptFailed when there are none.
    """
    members: list[dict[str, Any]] = []
    place.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(place, "w", zipfile.ZIP_STORED) as archive:
        for node_id in outcome.outputs:
            for file in outcome.files_of(node_id, ("",)):
                path = path_of(file).resolve()
                if file.type != "output" or not path.is_relative_to(folder.resolve()) or not path.is_file():
                    continue
                name = _name(file.filename, prompt.get(node_id, {}).get("inputs", {}).get(PREFIX))
                archive.write(path, f"{len(members)}/{name}")
                members.append({"node": node_id, "name": name, "bytes": path.stat().st_size})
    if not members:
        raise PromptFailed("ComfyUI finished, but no node of the prompt saved a file.")
    return members


def window(place: Path, number: int) -> tuple[int, int]:
    """Where a member lies in the ZIP: its first byte, and how many there are. Raises OSError when it does not."""
    try:
        with zipfile.ZipFile(place) as archive:
            member = archive.infolist()[number]
            if member.compress_type != zipfile.ZIP_STORED:
                raise OSError(f"'{place}' is not as it was made.")
        with place.open("rb") as file:
            file.seek(member.header_offset)
            header = file.read(HEADER_BYTES)
    except (zipfile.BadZipFile, IndexError) as error:
        raise OSError(f"'{place}' is not as it was made.") from error
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return member.header_offset + HEADER_BYTES + lengths, member.file_size


def _name(filename: str, prefix: object) -> str:
    """A file's name as the client would have it: it begins with the end of its own prefix, not with ours."""
    own = plain_name(prefix.replace("\\", "/").rpartition("/")[2]) if isinstance(prefix, str) else ""
    return plain_name(own + filename.removeprefix(OURS) if own and filename.startswith(OURS) else filename) or "file"
