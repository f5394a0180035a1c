"""A portrait with the faces that were found in it and the crop around the one that speaks, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from .frames import Frame
from .prepared import Box, Face
from .visible_label import OWN_FONT

LONGEST_SIDE = 640  # of the drawing
SPEAKS, OTHER, CROP = (64, 220, 120), (170, 170, 170), (255, 190, 60)
LEFT_OUT = (0, 0, 0, 130)  # laid over what the video does not show


def draw_faces(picture: Frame, faces: Sequence[Face], speaker: Face | None, crop: Box | None,
               used: Box) -> Image.Image:  # fmt: skip
    """A small copy of the picture: the speaker's box green, others grey with their numbers, the crop amber.

    faces, boxes: in pixels of the picture; the faces in the order of their numbers. crop: the one around the speaker,
    whether or not it is used. used: what the video shows; the rest is darkened.
    """
    height, width = picture.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    drawing = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    if used != (0, 0, width, height):
        drawing = _darkened(drawing, _scaled(used, scale))
    pen = ImageDraw.Draw(drawing)
    line = max(2, max(size) // 128)
    if crop is not None:
        pen.rectangle(_inner(crop, scale), outline=CROP, width=line)
    font = ImageFont.truetype(str(OWN_FONT), max(12, max(size) // 24))
    for number, face in enumerate(faces):
        colour = SPEAKS if face is speaker else OTHER
        box = _inner(face.box, scale)
        pen.rectangle(box, outline=colour, width=line)
        if len(faces) > 1:
            pen.text((box[0] + 2 * line, box[1] + line), str(number), colour, font, stroke_width=2, stroke_fill=0)
    return drawing


def _darkened(drawing: Image.Image, used: Box) -> Image.Image:
    shade = Image.new("RGBA", drawing.size, LEFT_OUT)
    shade.paste((0, 0, 0, 0), used)
    return Image.alpha_composite(drawing.convert("RGBA"), shade).convert("RGB")


def _scaled(box: tuple[float, float, float, float], scale: float) -> Box:
    left, top, right, bottom = (round(edge * scale) for edge in box)
    return left, top, right, bottom


def _inner(box: tuple[float, float, float, float], scale: float) -> Box:
    """As Pillow draws boxes: the last pixels belong to it, and there is one at least."""
    left, top, right, bottom = _scaled(box, scale)
    return left, top, max(left, right - 1), max(top, bottom - 1)
