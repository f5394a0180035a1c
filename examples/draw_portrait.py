"""Draws examples/batch/painted_anna.png: a portrait that belongs to nobody, so that it may be shipped and changed.

python examples/draw_portrait.py examples/batch/painted_anna.png
"""

from __future__ import annotations

import sys

import cv2
import numpy as np

SIZE = 768
SKIN = np.array([224, 172, 140], np.float32)
rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE


def ellipse(x: float, y: float, rx: float, ry: float, soft: float) -> np.ndarray:
    """1 inside, 0 outside, ``soft`` wide (all in parts of the picture's side)."""
    distance = np.hypot((columns - x) / rx, (rows - y) / ry)
    return np.clip((1 - distance) * min(rx, ry) / soft + 0.5, 0, 1)


def glow(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    return np.exp(-(((columns - x) / rx) ** 2) - ((rows - y) / ry) ** 2)


def polygon(points: list[tuple[float, float]], soft: float) -> np.ndarray:
    mask = np.zeros((SIZE * 2, SIZE * 2), np.uint8)
    cv2.fillPoly(mask, [np.round(np.array(points) * SIZE * 2).astype(np.int32)], 255, cv2.LINE_AA)
    mask = cv2.resize(mask, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return cv2.GaussianBlur(mask, (0, 0), soft * SIZE) if soft else mask


def curve(*knots: tuple[float, float], steps: int = 60) -> list[tuple[float, float]]:
    """A smooth line through the knots (Catmull-Rom)."""
    p = np.array([knots[0], *knots, knots[-1]])
    t = np.linspace(0, 1, steps // (len(knots) - 1))[:, None]
    parts = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]
    return [(float(x), float(y)) for x, y in np.concatenate(parts)]


def mirrored(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(1 - x, y) for x, y in points]


def draw() -> np.ndarray:
    """(768, 768, 3) uint8 RGB."""
    picture = np.empty((SIZE, SIZE, 3), np.float32)
    picture[:] = np.array([96, 122, 140])
    picture += 46 * glow(0.35, 0.3, 0.5, 0.5)[..., None]

    def paint(mask: np.ndarray, colour: tuple[float, ...] | np.ndarray, alpha: float = 1.0) -> None:
        picture[:] += (np.asarray(colour, np.float32) - picture) * (mask * alpha)[..., None]

    hair, dark_hair = (70, 44, 34), (44, 27, 22)
    paint(ellipse(0.5, 0.43, 0.285, 0.335, 0.01), dark_hair)  # behind
    paint(polygon([(0.225, 0.42), (0.775, 0.42), (0.80, 0.83), (0.2, 0.83)], 0.006), dark_hair)
    paint(
        polygon(curve((0.02, 1.0), (0.14, 0.86), (0.38, 0.79), (0.62, 0.79), (0.86, 0.86), (0.98, 1.0)), 0.002),
        (52, 92, 96),
    )
    neck = polygon([(0.405, 0.6), (0.595, 0.6), (0.61, 0.8), (0.5, 0.87), (0.39, 0.8)], 0.004)
    paint(neck, SKIN * 0.80)
    paint(neck * glow(0.5, 0.705, 0.16, 0.055), SKIN * 0.55, 0.75)  # the chin's shadow
    for x in (0.292, 0.708):
        paint(ellipse(x, 0.475, 0.03, 0.055, 0.004), SKIN * 0.84)
    outline = curve((0.5, 0.195), (0.36, 0.235), (0.298, 0.36), (0.302, 0.48), (0.335, 0.6), (0.41, 0.69), (0.5, 0.722))
    face = polygon(outline + mirrored(outline)[::-1], 0.003)
    paint(face, SKIN)
    picture += (face * (26 * glow(0.44, 0.33, 0.13, 0.1) - 34 * np.clip((columns - 0.57) / 0.16, 0, 1)))[..., None]
    picture += (face * (-26 * np.clip((0.36 - columns) / 0.07, 0, 1) - 20 * np.clip((rows - 0.65) / 0.08, 0, 1)))[
        ..., None
    ]
    for x in (0.385, 0.615):
        paint(face * glow(x, 0.535, 0.055, 0.04), (226, 128, 112), 0.38)
    # nose: a lit ridge, a shaded side, wings and nostrils
    picture += (face * 22 * glow(0.494, 0.46, 0.014, 0.075))[..., None]
    paint(face * glow(0.525, 0.46, 0.014, 0.08), SKIN * 0.72, 0.5)
    picture += (face * 26 * glow(0.497, 0.523, 0.018, 0.014))[..., None]
    paint(face * glow(0.5, 0.553, 0.042, 0.010), SKIN * 0.56, 0.75)
    for x in (0.479, 0.521):
        paint(ellipse(x, 0.548, 0.0105, 0.006, 0.004), SKIN * 0.33, 0.85)
    for x in (0.456, 0.544):
        paint(glow(x, 0.535, 0.007, 0.016), SKIN * 0.66, 0.6)
    # eyes
    for side in (0, 1):
        turn = mirrored if side else list
        upper = curve((0.352, 0.425), (0.378, 0.404), (0.408, 0.402), (0.446, 0.429))
        lower = curve((0.446, 0.429), (0.415, 0.441), (0.38, 0.439), (0.352, 0.425))
        eye = polygon(turn(upper + lower), 0.0008)
        x = 0.6 if side else 0.4
        paint(glow(x, 0.405, 0.055, 0.028), SKIN * 0.68, 0.45)
        paint(eye, (240, 236, 230))
        paint(eye * ellipse(x, 0.42, 0.0185, 0.0205, 0.002), (84, 100, 74))
        paint(eye * ellipse(x, 0.42, 0.009, 0.010, 0.002), (18, 16, 16))
        paint(ellipse(x - 0.006, 0.413, 0.004, 0.0045, 0.002), (255, 255, 255), 0.9)
        paint(eye * np.clip((0.416 - rows) / 0.012, 0, 1), (90, 70, 66), 0.55)
        lash = upper + [(px, py - 0.0075) for px, py in reversed(upper)]
        paint(polygon(turn(lash), 0.0008), (40, 26, 24), 0.9)
        crease = [(px, py - 0.017) for px, py in upper] + [(px, py - 0.0195) for px, py in reversed(upper)]
        paint(polygon(turn(crease), 0.001), SKIN * 0.55, 0.6)
        paint(glow(x, 0.452, 0.04, 0.008), SKIN * 0.74, 0.35)
        brow = curve((0.338, 0.372), (0.372, 0.347), (0.412, 0.347), (0.455, 0.365))
        brow_band = brow + [(px, py + 0.016 - 0.01 * abs(px - 0.43) / 0.09) for px, py in reversed(brow)]
        paint(polygon(turn(brow_band), 0.002), (66, 44, 34), 0.85)
    # mouth: closed, a calm smile
    seam = curve((0.428, 0.618), (0.465, 0.6235), (0.5, 0.627), (0.535, 0.6235), (0.572, 0.618))
    upper_lip = curve(
        (0.428, 0.618), (0.463, 0.6035), (0.488, 0.5985), (0.5, 0.602), (0.512, 0.5985), (0.537, 0.6035), (0.572, 0.618)
    )
    lower_lip = curve((0.428, 0.618), (0.46, 0.641), (0.5, 0.653), (0.54, 0.641), (0.572, 0.618))
    paint(polygon(upper_lip + seam[::-1], 0.0012), (176, 86, 84))
    paint(polygon(lower_lip + seam[::-1], 0.0012), (204, 108, 102))
    picture += (36 * glow(0.494, 0.639, 0.024, 0.0055))[..., None]
    paint(polygon(seam + [(x, y + 0.0035) for x, y in reversed(seam)], 0.0012), (104, 44, 46), 0.95)
    paint(glow(0.5, 0.668, 0.034, 0.009), SKIN * 0.7, 0.5)
    for x in (0.424, 0.576):
        paint(glow(x, 0.618, 0.006, 0.008), SKIN * 0.6, 0.5)
    # hair in front, with strands
    fringe = curve((0.27, 0.52), (0.262, 0.33), (0.36, 0.15), (0.52, 0.112), (0.68, 0.17), (0.74, 0.34), (0.73, 0.52))
    inner = curve((0.706, 0.5), (0.69, 0.36), (0.62, 0.262), (0.5, 0.262), (0.4, 0.225), (0.335, 0.31), (0.294, 0.5))
    front = polygon(fringe + inner, 0.002)
    strands = 0.5 + 0.5 * np.sin(150 * np.hypot(columns - 0.42, rows - 0.62) + 9 * np.sin(14 * columns))
    paint(front, hair)
    paint(front * strands, (104, 68, 50), 0.45)
    paint(front * glow(0.4, 0.19, 0.12, 0.05), (168, 120, 90), 0.6)
    grain = np.random.default_rng(7).normal(0, 2.0, (SIZE, SIZE, 1))
    return np.clip(cv2.GaussianBlur(picture, (0, 0), 0.7) + grain, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    cv2.imwrite(sys.argv[1], draw()[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
