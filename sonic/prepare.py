"""Picture + sound -> prepared data: the face found and cut to size, the sound checked and cut to length."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from . import landmarks
from .audio import MODEL_RATE, check_sound, speech_for_models, used_part
from .errors import NoFace
from .frames import Frame
from .loudness import at_usual_loudness
from .options import PrepareOptions
from .portrait import crop_to_face, prepared_size, resize
from .prepared import Box, Face, PreparedData, Sound

log = logging.getLogger("sonic.prepare")

FindFaces = Callable[[Frame], Sequence[Face]]


def prepare(
    picture: Frame, sound: Sound, options: PrepareOptions, find_faces: FindFaces = landmarks.find_faces
) -> PreparedData:
    """Everything an engine needs. Raises BadSound, BadPortrait, NoFace.

    picture: (H, W, 3) uint8 RGB of any size; find_faces: faces of a picture, the largest first.
    """
    sound, duration_note = used_part(sound, options.duration_s)
    check_sound(sound)
    face, face_note = _choose_face(find_faces(picture), options)
    crop_box = _crop_box(picture, face, options)
    cut = _cut(picture, crop_box)
    size = prepared_size(cut.shape[1], cut.shape[0], options.min_resolution)
    notes = tuple(note for note in (duration_note, face_note) if note)
    for note in notes:
        log.info(note)
    return PreparedData(
        picture=resize(cut, size),
        face=None if face is None else _moved(face, crop_box, size),
        sound=sound,
        speech=at_usual_loudness(speech_for_models(sound), MODEL_RATE),
        original=picture,
        original_size=(picture.shape[1], picture.shape[0]),
        crop_box=crop_box,
        notes=notes,
    )


def _choose_face(faces: Sequence[Face], options: PrepareOptions) -> tuple[Face | None, str | None]:
    """The asked-for face and a sentence if there was a choice; None and a sentence if the caller allows no face."""
    index = options.face_index
    if index < len(faces):
        note = (
            f"{len(faces)} faces were found; number {index} by size, counted from 0, speaks."
            if len(faces) > 1
            else None
        )
        return faces[index], note
    if options.on_no_face == "whole picture":
        return None, "No face was found that could speak; the whole picture is used as it is."
    if not faces:
        raise NoFace(
            "No face was found in the picture; use one that shows an upright face from the front, large enough."
        )
    found = "only one face was" if len(faces) == 1 else f"only {len(faces)} faces were"
    raise NoFace(f"Face number {index} (counted from 0) was asked for, but {found} found in the picture.")


def _crop_box(picture: Frame, face: Face | None, options: PrepareOptions) -> Box:
    height, width = picture.shape[:2]
    if face is None or options.crop == "whole picture":
        return 0, 0, width, height
    return crop_around(face, options.expand_ratio, width, height)


def crop_around(face: Face, expand_ratio: float, width: int, height: int) -> Box:
    """The square that is cut when cropping to this face of a picture, within the picture."""
    left, top, right, bottom = crop_to_face(face.box, expand_ratio, width, height)
    return max(0, left), max(0, top), min(width, right), min(height, bottom)


def _cut(picture: Frame, box: Box) -> Frame:
    left, top, right, bottom = box
    return np.ascontiguousarray(picture[top:bottom, left:right])


def _moved(face: Face, crop_box: Box, size: tuple[int, int]) -> Face:
    """The face in the pixels of the cut and resized picture."""
    left, top, right, bottom = crop_box
    scale_x, scale_y = size[0] / (right - left), size[1] / (bottom - top)
    x1, y1, x2, y2 = face.box
    box = ((x1 - left) * scale_x, (y1 - top) * scale_y, (x2 - left) * scale_x, (y2 - top) * scale_y)
    scale = np.array([scale_x, scale_y, (scale_x + scale_y) / 2], np.float32)
    landmarks_moved = (face.landmarks - np.array([left, top, 0], np.float32)) * scale
    return replace(face, box=box, landmarks=landmarks_moved.astype(np.float32))
