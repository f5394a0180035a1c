"""Picture file or float image -> (H, W, 3) uint8, and the published geometry: crop to the face, size, face mask."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import BadPortrait
from .frames import Frame
from .options import SIZE_STEP

log = logging.getLogger("sonic.portrait")

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels

LONGEST_SIDE = 4096  # of a picture as read and as prepared; a frame of 4096 x 4096 is 50 MB
MASK_GROWTH = 1.1  # the mask is this much larger than the face box, each way
WHITE = (255, 255, 255)


def read_picture(path: Path) -> Frame:
    """The picture in a file as (H, W, 3) uint8 RGB, upright, transparency laid over white.

    A picture with a side longer than 4096 pixels is reduced while it is read. Raises BadPortrait.
    """
    if not path.is_file():
        raise BadPortrait(f"The picture '{path.name}' is not there (looked in {path.parent}).")
    if path.stat().st_size == 0:
        raise BadPortrait(f"The picture '{path.name}' is an empty file (0 bytes); save or copy it again.")
    try:
        with Image.open(path) as opened:
            return np.array(_rgb(_upright_and_not_too_large(opened)))
    except UnidentifiedImageError as error:
        raise BadPortrait(
            f"'{path.name}' is not a picture that can be read; use a JPEG, PNG, WebP, BMP or TIFF file."
        ) from error
    except Image.DecompressionBombError as error:
        raise BadPortrait(
            f"The picture '{path.name}' has more pixels than are safe to open; reduce it to 4096 pixels or less a side."
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow's decoders speak through all of these when data are cut off or damaged.
        raise BadPortrait(
            f"The picture '{path.name}' is damaged or cut off ({error}); save or copy it again."
        ) from error


def _upright_and_not_too_large(picture: Image.Image) -> Image.Image:
    picture.draft(
        None, (LONGEST_SIDE, LONGEST_SIDE)
    )  # a JPEG is then decoded at 1/2, 1/4 or 1/8: a fraction of the memory
    width, height = picture.size
    factor = -(-max(width, height) // LONGEST_SIDE)
    if factor > 1:
        log.info("reducing a picture of %d x %d pixels by %d", width, height, factor)
        if picture.mode in ("P", "1"):
            picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
        elif picture.mode.startswith("I;16"):
            picture = picture.convert("I")  # Pillow reduces 32-bit integers, not 16-bit ones
        picture = picture.reduce(factor)
    return ImageOps.exif_transpose(picture)


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        # Pillow's own conversion clips 16-bit grey at 255, which turns nearly every pixel white.
        return Image.fromarray(_grey_to_8_bit(np.asarray(picture))).convert("RGB")
    if picture.has_transparency_data:
        above = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, (*WHITE, 255)), above).convert("RGB")
    return picture.convert("RGB")


def _grey_to_8_bit(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values of any range -> 0..255; white is 1, 255 or 65535, the smallest that holds all values."""
    values = grey.astype(np.float32)
    top = float(values.max(initial=0.0))
    floating = np.issubdtype(grey.dtype, np.floating)
    white = 1.0 if floating and top <= 1.0 else 255.0 if top <= 255.0 else max(65535.0, top)
    return np.asarray(np.rint(np.clip(values / white, 0.0, 1.0) * 255.0), np.uint8)


def picture_from_floats(image: NDArray[np.floating[Any]]) -> Frame:
    """(H, W, 1 | 3 | 4) floats in 0..1 -> (H, W, 3) uint8; a fourth channel is transparency, laid over white.

    Raises BadPortrait for another shape or values that are no numbers.
    """
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise BadPortrait(f"The image has the shape {tuple(image.shape)} where (height, width, 1, 3 or 4) is needed.")
    height, width, channels = image.shape
    picture = np.empty((height, width, 3), np.uint8)
    rows = max(1, 2**22 // width)  # by strips: a 20 000 pixels wide picture would otherwise need several GB of copies
    for top in range(0, height, rows):
        strip = np.asarray(image[top : top + rows], np.float32)
        if not np.isfinite(strip).all():
            raise BadPortrait(
                "The image holds values that are no numbers (NaN or infinite); check the node that made it."
            )
        if channels == 4:
            strip = strip[..., :3] * strip[..., 3:] + (1.0 - strip[..., 3:])
        picture[top : top + rows] = np.rint(np.clip(strip, 0.0, 1.0) * 255.0)
    return picture


def crop_to_face(box: Box, expand_ratio: float, width: int, height: int) -> tuple[int, int, int, int]:
    """The published square crop around a face: x1, y1, x2, y2 in whole pixels; rounding may make it a pixel off square.

    The box grows by ``expand_ratio`` of its size to each side, within the picture; the square has the shorter of the
    grown sides, and along the longer one it moves towards the middle of the face.
    """
    x1, y1, x2, y2 = box
    margin_x, margin_y = expand_ratio * (x2 - x1), expand_ratio * (y2 - y1)
    left, right = max(x1 - margin_x, 0), min(x2 + margin_x, width)
    top, bottom = max(y1 - margin_y, 0), min(y2 + margin_y, height)
    grown_width, grown_height = right - left, bottom - top
    half = min(grown_width, grown_height) / 2
    centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
    if grown_width < grown_height:
        centre_y += _towards(centre_y, (y1 + y2) / 2, (grown_height - grown_width) / 2)
    else:
        centre_x += _towards(centre_x, (x1 + x2) / 2, (grown_width - grown_height) / 2)
    return round(centre_x - half), round(centre_y - half), round(centre_x + half), round(centre_y + half)


def _towards(start: float, goal: float, at_most: float) -> float:
    return max(-at_most, min(at_most, goal - start))


def prepared_size(width: int, height: int, min_resolution: int) -> tuple[int, int]:
    """(width, height) with the short side near ``min_resolution`` and both sides multiples of 64.

    Raises BadPortrait when the long side would be longer than 4096 pixels.
    """
    scale = min_resolution / min(width, height)
    new_width, new_height = (round(side * scale / SIZE_STEP) * SIZE_STEP for side in (width, height))
    if max(new_width, new_height) > LONGEST_SIDE:
        raise BadPortrait(
            f"A picture of {width} x {height} pixels would become {new_width} x {new_height}, "
            f"more than {LONGEST_SIDE} a side; choose 'crop to face', a smaller min_resolution, or cut the picture."
        )
    return new_width, new_height


def resize(picture: Frame, size: tuple[int, int]) -> Frame:
    """``picture`` at (width, height) by Lanczos; the same picture when the size is right already."""
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def face_mask(box: Box, width: int, height: int) -> NDArray[np.uint8]:
    """(height, width) uint8: 255 in the face box grown by a tenth, 0 elsewhere; floor division as published."""
    x1, y1, x2, y2 = box
    grown_width, grown_height = (x2 - x1) * MASK_GROWTH, (y2 - y1) * MASK_GROWTH
    centre_x, centre_y = (x1 + x2) // 2, (y1 + y2) // 2
    left, right = max(centre_x - grown_width // 2, 0), min(centre_x + grown_width // 2, width)
    top, bottom = max(centre_y - grown_height // 2, 0), min(centre_y + grown_height // 2, height)
    mask = np.zeros((height, width), np.uint8)
    mask[int(top) : max(0, int(bottom)), int(left) : max(0, int(right))] = 255
    return mask
