"""The picture that SONIC_PreData shows: the faces found, and the crop, in ComfyUI's temporary folder."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import folder_paths

from ..sonic.face_drawing import draw_faces
from ..sonic.options import PrepareOptions
from ..sonic.prepare import crop_around
from ..sonic.prepared import Face, PreparedData


def face_picture(prepared: PreparedData, faces: Sequence[Face], options: PrepareOptions) -> dict[str, list[Any]]:
    """The ``ui`` output that a browser shows as a picture on the node; empty when there is no place for it.

    faces: in pixels of the original. A name made of the content, so that the same portrait takes up its place once.
    """
    width, height = prepared.original_size
    speaker = faces[options.face_index] if options.face_index < len(faces) else None
    crop = crop_around(speaker, options.expand_ratio, width, height) if speaker is not None else None
    drawing = draw_faces(prepared.original, faces, speaker, crop, prepared.crop_box)
    written = io.BytesIO()
    drawing.save(written, "JPEG", quality=85)
    name = f"face_{hashlib.sha256(written.getbuffer()).hexdigest()[:16]}.jpg"
    folder = Path(folder_paths.get_temp_directory())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(written.getbuffer())
    except OSError:  # a full disk ends a job where the video is written, not for want of this
        return {}
    return {"images": [{"filename": name, "subfolder": "", "type": "temp"}], "animated": [False]}
