"""The explicit mark: a text in a corner of the picture, drawn once and laid over each of the first frames."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .errors import BadSetting
from .frames import Frame

Corner = Literal["top left", "top right", "bottom left", "bottom right"]
CORNERS: tuple[Corner, ...] = get_args(Corner)

OWN_FONT = Path(__file__).parent / "fonts" / "label.otf"
LEAST_SECONDS = 2.0  # at the start of a video, by GB 45438-2025
LEAST_SIZE = 5.0  # per cent of the shorter side, by the same
LONGEST_TEXT = 40
PLATE = (0, 0, 0, 166)  # two thirds black: white letters keep a contrast of 7 to 1 on white
INK = (255, 255, 255, 255)
FLAT = 0.6  # of the size: what is lower is flat by nature
NO_CHARACTER = "\U0010ffff"  # in no font


@dataclass(frozen=True)
class VisibleLabel:
    """seconds: from the start, 0 for the whole clip. size: height of the letters, per cent of the shorter side.

    font: a TrueType or OpenType file. Raises BadSetting for what the mark may not be, or the font does not hold.
    """

    text: str = "AI生成"
    seconds: float = 3.0
    corner: str = "bottom right"
    size: float = 6.0
    font: Path = OWN_FONT

    def __post_init__(self) -> None:
        if not self.text.strip() or len(self.text) > LONGEST_TEXT:
            raise BadSetting("mark_text", f"takes 1 to {LONGEST_TEXT} characters.")
        if any(unicodedata.category(letter).startswith("C") for letter in self.text):
            raise BadSetting("mark_text", "holds a character that cannot be seen; leave it out.")
        if self.seconds and not LEAST_SECONDS <= self.seconds < math.inf:
            raise BadSetting("mark_seconds", f"{self.seconds:g} is not {LEAST_SECONDS:g} or more; 0 is the whole clip.")
        if not LEAST_SIZE <= self.size <= 25:
            raise BadSetting("mark_size", f"{self.size:g} is outside {LEAST_SIZE:g} to 25 per cent.")
        if self.corner not in CORNERS:
            raise BadSetting("mark_corner", f"'{self.corner}' is none of {', '.join(CORNERS)}.")
        missing = missing_characters(self.text, _font(self.font, 64))
        if missing:
            raise BadSetting(
                "mark_text",
                f"the font {self.font.name} has no {' '.join(missing)}; change the text, or name another font file in "
                "SONIC_MARK_FONT.",
            )


def labelled(frames: Iterable[Frame], label: VisibleLabel, fps: float) -> Iterator[Frame]:
    """The frames with the label on those of its seconds. Raises BadSetting when it does not fit into the picture."""
    last = math.inf if label.seconds == 0 else math.ceil(label.seconds * fps)
    stamp: _Stamp | None = None
    for index, frame in enumerate(frames):
        if index >= last:
            yield frame
            continue
        stamp = stamp or _Stamp(label, *frame.shape[:2])
        yield stamp.over(frame)


def missing_characters(text: str, font: ImageFont.FreeTypeFont) -> list[str]:
    """The characters of a text for which a font only has its empty box, each once."""
    box = _shape(font, NO_CHARACTER)
    return [letter for letter in dict.fromkeys(text) if not letter.isspace() and _shape(font, letter) == box]


def _shape(font: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


def _font(file: Path, size: int) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise BadSetting(
            "SONIC_MARK_FONT", f"'{file}' is no font file that can be read; name a .ttf or .otf file."
        ) from error


def _ink(font: ImageFont.FreeTypeFont, text: str) -> float:
    _, top, _, bottom = font.getbbox(text)
    return bottom - top


def _letter_height(font: ImageFont.FreeTypeFont, text: str) -> float:
    """Height of the lowest of the capitals and ideographs, such as A and 人 but not 一; without any, of the highest."""
    heights = [_ink(font, letter) for letter in text if not letter.isspace()]
    upright = [_ink(font, letter) for letter in text if letter.isalnum() and not letter.islower()]
    return min((height for height in upright if height >= FLAT * font.size), default=max(heights))


class _Stamp:
    """The label for pictures of one size: where it lies, its colours and how much they cover."""

    def __init__(self, label: VisibleLabel, height: int, width: int) -> None:
        wanted = math.ceil(label.size / 100 * min(height, width)) + 1  # the outermost row of a letter is half there
        size = wanted
        while _letter_height(_font(label.font, size), label.text) < wanted:
            size += 1
        font = _font(label.font, size)
        left, top, right, bottom = font.getbbox(label.text)
        padding, margin = round(wanted * 0.4), round(wanted * 0.5)
        plate = (math.ceil(right - left) + 2 * padding, math.ceil(bottom - top) + 2 * padding)
        if plate[0] > width or plate[1] > height:
            raise BadSetting(
                "mark_text",
                f"'{label.text}' in letters of {label.size:g} per cent is {plate[0]} x {plate[1]} pixels, and the "
                f"picture {width} x {height}; choose a shorter text.",
            )
        picture = Image.new("RGBA", plate, PLATE)
        # What ImageDraw blends, it blends into the plate; the letters themselves are opaque.
        ImageDraw.Draw(picture).text((padding - left, padding - top), label.text, font=font, fill=INK)
        row = margin if label.corner.startswith("top") else height - plate[1] - margin
        column = margin if label.corner.endswith("left") else width - plate[0] - margin
        row, column = (min(max(0, at), most) for at, most in ((row, height - plate[1]), (column, width - plate[0])))
        self._part = (slice(row, row + plate[1]), slice(column, column + plate[0]))
        pixels: NDArray[np.uint16] = np.asarray(picture, np.uint16)
        self._kept: NDArray[Any] = 255 - pixels[..., 3:]
        self._added: NDArray[Any] = pixels[..., :3] * pixels[..., 3:] + 127

    def over(self, frame: Frame) -> Frame:
        """A copy with the label."""
        marked = frame.copy()
        marked[self._part] = (marked[self._part] * self._kept + self._added) // 255
        return marked
