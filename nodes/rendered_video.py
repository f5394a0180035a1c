"""A VIDEO in ComfyUI's temp folder, made once, when somebody wants it, and there for as long as somebody may."""

from __future__ import annotations

import json
import os
import uuid
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import InputImpl, Types

from ..sonic.labels import KEY as MARK
from ..sonic.video import copy_mp4

_MP4 = (Types.VideoContainer.AUTO, Types.VideoContainer.MP4)
_H264 = (Types.VideoCodec.AUTO, Types.VideoCodec.H264)


def new_temp_video() -> Path:
    """A path for a new MP4 in ComfyUI's temp folder, which is made if it is not there."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"sonic_{uuid.uuid4().hex}.mp4"


class RenderedVideo(InputImpl.VideoFromFile):
    """Saved as an MP4 it is copied and not encoded again; the file goes when nobody holds this object any more.

    write: writes the file; called before anything is asked of this video that is not there yet.
    """

    def __init__(self, write: Callable[[Path], None]) -> None:
        self._path = new_temp_video()
        super().__init__(str(self._path))
        self._write: Callable[[Path], None] | None = write
        weakref.finalize(self, self._path.unlink, missing_ok=True)

    def render(self, write: Callable[[Path], None] | None = None) -> None:
        """Make the file now, if it was not made yet. write: instead of the one that was given before."""
        if self._write is not None:
            (write or self._write)(self._path)
            self._write = None

    def __getattribute__(self, name: str) -> Any:
        # Whatever ComfyUI's class can be asked, in this version or another, it answers from the file.
        if name != "render" and not name.startswith("_"):
            self.render()
        return super().__getattribute__(name)

    def save_to(
        self,
        path: Any,
        format: Any = Types.VideoContainer.AUTO,  # ComfyUI's name
        codec: Any = Types.VideoCodec.AUTO,
        metadata: Mapping[str, Any] | None = None,
        **others: Any,  # newer servers ask for more; only encoding anew can do that
    ) -> None:
        if isinstance(path, str | os.PathLike) and format in _MP4 and codec in _H264 and not others:
            texts = {
                key: value if isinstance(value, str) else json.dumps(value)
                for key, value in (metadata or {}).items()
                if key != MARK  # whoever queues a prompt may name any key, but not that one anew
            }
            copy_mp4(self._path, Path(path), texts)
        else:
            super().save_to(path, format=format, codec=codec, metadata=metadata, **others)
