"""What is seen between the lips: cavity, tongue and teeth, lit like the skin around them.

Upper teeth hang on the skull, tongue and lower teeth on the jaw. A mouth that is wide open in the picture keeps its own
inside, fixed to the skull, so that a smile shows the person's own teeth.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..frames import Frame
from .face_geometry import LOWER_INNER, UPPER_INNER, FaceGeometry, Points

Colour = NDArray[np.float32]  # (3,) RGB 0..255
Plane = NDArray[np.float32]  # (h, w)

CHEEKS = (50, 280, 205, 425, 199)
TOOTH = np.array([250, 244, 230], np.float32)
TONGUE = np.array([168, 74, 72], np.float32)
CAVITY = np.array([70, 26, 26], np.float32)

# Parts of the face's height.
UPPER_TEETH_BELOW_SEAM = 0.013  # their edge under the line of the closed lips
LOWER_TEETH_ABOVE_LIP = 0.010
TONGUE_RISE = 0.042
TOOTH_EDGES = (0.0, 0.046, 0.082, 0.112, 0.136)  # from the middle outwards, foreshortened along the arch
LIP_SHADOW = 0.022
LIGHT_FROM_GAP = 0.035  # a narrower slit lets in less light
SEAM_LINE_THICKNESS = 0.004
SEAM_LINE_UP_TO = 0.012
OWN_INSIDE_FROM = 0.03  # a wider gap in the picture is taken to show the person's own teeth

SEAM_LINE_SHADE = 0.25
PUCKER_SHADE = 0.1


@dataclass(frozen=True)
class MouthPatch:
    """The rectangle in which the mouth may open: x0, y0 in the picture, and every pixel's local u and v."""

    x0: int
    y0: int
    u: Plane
    v: Plane

    @classmethod
    def of(cls, geometry: FaceGeometry, width: int, height: int) -> MouthPatch:
        half, face = geometry.mouth_half_width, geometry.height
        low, high = np.array([-1.5 * half, -0.13 * face]), np.array([1.5 * half, 0.33 * face])
        corners = geometry.to_picture(
            np.array([[low[0], low[1]], [high[0], low[1]], [low[0], high[1]], [high[0], high[1]]])
        )
        x0, y0 = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, (width - 1, height - 1))
        x1, y1 = np.clip(np.ceil(corners.max(axis=0)).astype(int), (x0 + 1, y0 + 1), (width, height))
        pixels = np.stack(np.meshgrid(np.arange(x0, x1), np.arange(y0, y1)), axis=-1)
        local = geometry.to_local(pixels.astype(np.float64)).astype(np.float32)
        return cls(int(x0), int(y0), np.ascontiguousarray(local[..., 0]), np.ascontiguousarray(local[..., 1]))


@dataclass(frozen=True)
class _Opening:
    """The lips of one frame: a box of the patch, its pixels' u and v, the lips' edges above and below each pixel.

    lowest: v of the lower lip's lowest point; widest: the gap, in pixels; shift: (2,) of the skull, local.
    """

    box: tuple[slice, slice]
    u: Plane
    v: Plane
    top: Plane
    bottom: Plane
    lowest: float
    widest: float
    shift: Points


@dataclass(frozen=True)
class MouthInterior:
    """Made once for a face; ``paint`` draws it into a frame."""

    geometry: FaceGeometry
    patch: MouthPatch
    light: float
    tooth: Colour
    tongue: Colour
    cavity: Colour
    own_inside: Frame | None  # the picture's pixels of the patch, where its mouth is open

    @classmethod
    def of(cls, geometry: FaceGeometry, picture: Frame) -> MouthInterior:
        height, width = picture.shape[:2]
        patch = MouthPatch.of(geometry, width, height)
        skin = _mean_colour(picture, geometry.points[list(CHEEKS)], radius=0.03 * geometry.height)
        light = float(np.clip(skin @ (0.299, 0.587, 0.114) / 190, 0.25, 1.15))
        saturation = float(np.clip((skin.max() - skin.min()) / max(float(skin.max()), 1.0) / 0.3, 0, 1))

        def lit(colour: Colour, amount: float) -> Colour:
            grey = np.full(3, colour @ (0.299, 0.587, 0.114), np.float32)
            return np.asarray((grey + (colour - grey) * saturation) * amount, np.float32)

        opened = geometry.lip_gap.max() > OWN_INSIDE_FROM * geometry.height
        rows, columns = slice(patch.y0, patch.y0 + patch.v.shape[0]), slice(patch.x0, patch.x0 + patch.v.shape[1])
        own = picture[rows, columns].copy() if opened else None
        warmth = (skin / skin.max()) ** 0.3  # what lights the skin lights the teeth
        return cls(
            geometry, patch, light, lit(TOOTH, 0.9 * light) * warmth, lit(TONGUE, light), lit(CAVITY, light), own
        )

    def paint(
        self, frame: Frame, upper: Points, lower: Points, skull_shift: Points, opacity: float, pucker: float
    ) -> None:
        """Draws the inside between two inner lip contours into an (H, W, 3) frame, in place.

        upper, lower: (11, 2) contours from corner to corner in picture pixels as posed; skull_shift: (2,) how far the
        skull has moved at the mouth, in pixels; opacity: 0 leaves what the picture shows there; pucker: 0..1, rounded
        lips let in less light.
        """
        opening = self._opening(upper, lower, skull_shift)
        if opening is None or opacity <= 0:
            return
        rows, columns = opening.box
        target = frame[
            self.patch.y0 + rows.start : self.patch.y0 + rows.stop,
            self.patch.x0 + columns.start : self.patch.x0 + columns.stop,
        ]
        soft = self.soft
        if self.own_inside is not None and opening.widest < SEAM_LINE_UP_TO * self.geometry.height:
            target[...] = (target * (1 - opacity * self._seam_line(opening))[..., None] + 0.5).astype(np.uint8)
        if opening.widest > 0.25 * soft:
            inside = opacity * np.clip(np.minimum(opening.v - opening.top, opening.bottom - opening.v) / soft, 0, 1)
            colour = self._shade(opening, pucker)
            target[...] = (target + (colour - target) * inside[..., None] + 0.5).astype(np.uint8)

    @property
    def soft(self) -> float:
        """Width of an edge in pixels."""
        return max(0.6, 0.006 * self.geometry.height)

    def _opening(self, upper: Points, lower: Points, skull_shift: Points) -> _Opening | None:
        top, bottom = self.geometry.to_local(upper), self.geometry.to_local(lower)
        bottom[:, 1] = np.maximum(bottom[:, 1], top[:, 1])
        around = self.geometry.to_picture(np.concatenate([top, bottom])) - (self.patch.x0, self.patch.y0)
        high, wide = self.patch.v.shape
        x0, y0 = np.clip(np.floor(around.min(axis=0)).astype(int) - 2, 0, (wide, high))
        x1, y1 = np.clip(np.ceil(around.max(axis=0)).astype(int) + 3, 0, (wide, high))
        if x1 <= x0 or y1 <= y0:
            return None
        box = slice(int(y0), int(y1)), slice(int(x0), int(x1))
        u, v = self.patch.u[box], self.patch.v[box]
        return _Opening(
            box, u, v,
            top=np.interp(u, top[:, 0], top[:, 1]).astype(np.float32),
            bottom=np.interp(u, bottom[:, 0], bottom[:, 1]).astype(np.float32),
            lowest=float(bottom[:, 1].max()),
            widest=float((bottom[:, 1] - top[:, 1]).max()),
            shift=self.geometry.axes @ skull_shift,
        )  # fmt: skip

    def _seam_line(self, opening: _Opening) -> Plane:
        """How much to darken where lips meet that were apart in the picture, and so have no line of their own."""
        half, face = self.geometry.mouth_half_width, self.geometry.height
        middle = (opening.top + opening.bottom) / 2
        thickness = max(0.7, SEAM_LINE_THICKNESS * face)
        line = np.exp(-(((opening.v - middle) / thickness) ** 2))
        along = np.clip((1.05 - np.abs(opening.u - opening.shift[0]) / half) / 0.2, 0, 1)
        fading = 1 - opening.widest / (SEAM_LINE_UP_TO * face)
        shade: Plane = (SEAM_LINE_SHADE * fading * line * along).astype(np.float32)
        return shade

    def _shade(self, opening: _Opening, pucker: float) -> NDArray[np.float32]:
        """(h, w, 3) colours of the inside, 0..255."""
        face, half, soft = self.geometry.height, self.geometry.mouth_half_width, self.soft
        u, v = opening.u - float(opening.shift[0]), opening.v
        across = u / half
        depth = np.clip((v - opening.top) / (0.08 * face), 0, 1)
        colour = self.cavity * (1 - 0.55 * depth[..., None])

        tongue_top = opening.lowest - TONGUE_RISE * face * (1 - 0.8 * across**2)
        tongue = np.clip((v - tongue_top) / (0.012 * face), 0, 1) * np.clip((0.85 - np.abs(across)) / 0.25, 0, 1)
        ridge = 1 - 0.25 * np.exp(-((across / 0.07) ** 2))
        colour = _over(colour, self.tongue * (0.75 * ridge)[..., None], tongue)

        lower_edge = opening.lowest - LOWER_TEETH_ABOVE_LIP * face * (1 - 0.9 * across**2)
        lower_teeth = np.clip((v - lower_edge) / soft, 0, 1) * np.clip((0.62 - np.abs(across)) / 0.2, 0, 1)
        colour = _over(colour, self.tooth * 0.5, lower_teeth * 0.4)

        if self.own_inside is None:
            colour = self._upper_teeth(colour, u, v - float(opening.shift[1]), across, soft)
        else:
            colour = self._own(colour, opening, soft)
        # The lips shade what is behind them, the cheeks what is far to the side.
        opened = min(opening.widest / (LIGHT_FROM_GAP * face), 1.0)
        shadow = (0.62 + 0.38 * np.clip((v - opening.top) / (LIP_SHADOW * face), 0, 1)) * (0.6 + 0.4 * opened)
        sides = 1 - 0.55 * np.clip(np.abs(across) - 0.3, 0, 1) ** 1.5
        if self.own_inside is not None:  # the picture has shadows of its own
            shadow, sides = 0.7 + 0.3 * shadow, np.float32(1)
        light = shadow * sides * (1 - PUCKER_SHADE * pucker)
        shaded: NDArray[np.float32] = (colour * light[..., None]).astype(np.float32)
        return shaded

    def _upper_teeth(
        self, colour: NDArray[np.float32], u: Plane, v: Plane, across: Plane, soft: float
    ) -> NDArray[np.float32]:
        face = self.geometry.height
        seam = self._seam_level(u)
        along = np.abs(u) / face
        edges = np.array(TOOTH_EDGES, np.float32)
        which = np.clip(np.searchsorted(edges, along, side="right") - 1, 0, len(edges) - 2)
        within = (along - edges[which]) / (edges[which + 1] - edges[which])  # 0..1 across one tooth
        rounding = 0.22 * (2 * np.clip(within, 0, 1) - 1) ** 4  # the edge is a row of arcs
        rise = np.array([0.0, 0.15, 0.05, 0.25], np.float32)[which] + 0.5 * across**2
        edge = seam + UPPER_TEETH_BELOW_SEAM * face * (1 - rise - rounding)
        teeth = np.clip((edge - v) / soft, 0, 1) * np.clip((0.93 - np.abs(across)) / 0.2, 0, 1)
        line = np.minimum(within, 1 - within) * (edges[which + 1] - edges[which]) * face
        shade = 1 - 0.16 * np.exp(-((line / max(0.7, 0.004 * face)) ** 2))
        return _over(colour, self.tooth * shade[..., None], teeth.astype(np.float32))

    def _own(self, colour: NDArray[np.float32], opening: _Opening, soft: float) -> NDArray[np.float32]:
        """Lays the picture's own inside over the painted one, moved with the skull."""
        assert self.own_inside is not None
        by = self.geometry.axes.T @ opening.shift
        move = np.array([[1, 0, by[0]], [0, 1, by[1]]])
        high, wide = self.patch.v.shape
        own = cv2.warpAffine(
            self.own_inside, move, (wide, high), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )[opening.box]
        lips = self.geometry.local
        u, v = opening.u - opening.shift[0], opening.v - opening.shift[1]
        top = np.interp(u, lips[list(UPPER_INNER), 0], lips[list(UPPER_INNER), 1])
        bottom = np.interp(u, lips[list(LOWER_INNER), 0], lips[list(LOWER_INNER), 1])
        # Upwards the gums go on behind the lip; downwards the picture ends at the lower lip.
        inside = np.clip((v - top + 2 * soft) / soft, 0, 1) * np.clip((bottom - soft - v) / (1.5 * soft), 0, 1)
        return _over(colour, own.astype(np.float32), inside.astype(np.float32))

    def _seam_level(self, u: Plane) -> Plane:
        """Where the closed lips meet, local v for each u."""
        lips = self.geometry.local
        middle = (lips[list(UPPER_INNER)] + lips[list(LOWER_INNER)]) / 2
        level: Plane = np.interp(u, middle[:, 0], middle[:, 1]).astype(np.float32)
        return level


def _over(below: NDArray[np.float32], colour: NDArray[np.float32], alpha: Plane) -> NDArray[np.float32]:
    blended: NDArray[np.float32] = below + (colour - below) * alpha[..., None]
    return blended


def _mean_colour(picture: Frame, points: Points, radius: float) -> Colour:
    """Median colour of small squares around points; the median ignores a mole or a highlight."""
    reach = max(1, round(radius))
    height, width = picture.shape[:2]
    samples = []
    for x, y in points:
        x, y = int(np.clip(x, 0, width - 1)), int(np.clip(y, 0, height - 1))
        square = picture[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        samples.append(square.reshape(-1, 3))
    return np.asarray(np.median(np.concatenate(samples), axis=0), np.float32)
