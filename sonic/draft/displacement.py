"""How skin moves: one smooth displacement field per movement, made once for a face, then only added up.

Two layers, because the lips part: what hangs on the skull (down to the upper lip) and what hangs on the jaw (from the
lower lip). Both agree beside the corners of the mouth. Fields are forward (rest -> posed); rendering needs the inverse,
found by a few fixed-point steps, which works because each layer alone is smooth (thin-plate splines, Bookstein 1989).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .face_geometry import (
    CHIN,
    LOWER_BETWEEN,
    LOWER_INNER,
    LOWER_OUTER,
    NOSE_BASE,
    OVAL,
    UPPER_BETWEEN,
    UPPER_INNER,
    UPPER_OUTER,
    FaceGeometry,
    Points,
)
from .performance import Performance

Field = NDArray[np.float32]  # (grid, grid, 2) displacement in picture pixels

MOUTH = ("closing", "jaw", "wide", "round", "pressed", "teeth")
HEAD = ("shift_u", "shift_v", "roll", "yaw", "pitch")

# Extents for a value of 1, as parts of the face's height unless said otherwise.
JAW_DROP = 0.085
UPPER_LIFT = 0.017
CHIN_FOLLOWS = 0.75  # of the lower lip's drop
CORNER_INWARD, CORNER_DOWN = 0.10, 0.14  # with an open jaw, of the mouth's half width / of the drop
WIDE_OUT, ROUND_IN = 0.13, 0.26  # of the mouth's half width
ROUND_PART = 0.005  # a pucker holds the lips a little apart
PRESS = 0.002
TEETH_LIFT, TEETH_TUCK = 0.012, 0.004
CLOSING_UPPER = 0.4  # the part of an open mouth's gap that the upper lip bridges
GRIN_GAP = 0.05
RELAX_IN, RELAX_DOWN = 0.10, 0.012
SHIFT, ROLL_RAD, TURN_RAD = 0.010, 0.012, 0.030

HEAD_STILL_FROM, HEAD_WHOLE_TO = 2.1, 1.2  # in distances of oval_distance
MOUTH_STILL_FROM, MOUTH_WHOLE_TO = 1.5, 1.12
BORDER_STILL = 0.05  # of the shorter side: the picture's edge never moves
INVERSION_STEPS = 5
STIFFNESS = 1e-3
SPARSE = 4  # away from the lips skin moves smoothly: every fourth landmark says enough


@dataclass(frozen=True)
class Region:
    """The rectangle of the picture that can move: x0, y0, x1, y1 in whole pixels, sampled by a grid x grid lattice."""

    x0: int
    y0: int
    x1: int
    y1: int
    grid: int

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    def lattice(self) -> Points:
        """(grid * grid, 2) picture coordinates of the cells' middles, as cv2.resize samples them."""
        x = self.x0 + (np.arange(self.grid) + 0.5) * self.width / self.grid - 0.5
        y = self.y0 + (np.arange(self.grid) + 0.5) * self.height / self.grid - 0.5
        return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def moving_region(geometry: FaceGeometry, width: int, height: int, grid: int) -> Region:
    centre, half = geometry.oval
    turn = np.linspace(0, 2 * np.pi, 64)
    outline = geometry.to_picture(centre + HEAD_STILL_FROM * half * np.stack([np.cos(turn), np.sin(turn)], axis=1))
    low = np.floor(np.clip(outline.min(axis=0), 0, None)).astype(int)
    high = np.ceil(np.minimum(outline.max(axis=0), (width, height))).astype(int)
    return Region(int(low[0]), int(low[1]), int(high[0]), int(high[1]), grid)


def smoothstep(x: NDArray[np.float64]) -> NDArray[np.float64]:
    t = np.clip(x, 0, 1)
    return t * t * (3 - 2 * t)


def fade(distance: NDArray[np.float64], whole_to: float, still_from: float) -> NDArray[np.float64]:
    return smoothstep((still_from - distance) / (still_from - whole_to))


class ThinPlate:
    """Values given at some points, interpolated over others; the system is solved once for all movements."""

    def __init__(self, at: Points, unit: float) -> None:
        self.at, self.unit = at / unit, unit
        n = len(at)
        ones = np.concatenate([np.ones((n, 1)), self.at], axis=1)
        self.system = np.zeros((n + 3, n + 3))
        self.system[:n, :n] = self._kernel(self.at) + STIFFNESS * np.eye(n)
        self.system[:n, n:], self.system[n:, :n] = ones, ones.T

    def _kernel(self, points: Points) -> NDArray[np.float64]:
        squared = ((points[:, None] - self.at[None]) ** 2).sum(-1)
        kernel: NDArray[np.float64] = squared * np.log(squared + 1e-12)
        return kernel

    def spread(self, values: NDArray[np.float64], over: Points) -> NDArray[np.float64]:
        """values: (n, k) at the control points -> (len(over), k)."""
        weights = np.linalg.solve(self.system, np.concatenate([values, np.zeros((3, values.shape[1]))]))
        over = over / self.unit
        spread: NDArray[np.float64] = (
            self._kernel(over) @ weights[:-3] + np.concatenate([np.ones((len(over), 1)), over], axis=1) @ weights[-3:]
        )
        return spread


@dataclass(frozen=True)
class Displacement:
    """All movements of one face: per layer a stack of fields, (movements, grid, grid, 2), order MOUTH + HEAD."""

    region: Region
    skull: NDArray[np.float32]
    jaw: NDArray[np.float32]

    @classmethod
    def of(cls, geometry: FaceGeometry, width: int, height: int, grid: int = 128) -> Displacement:
        region = moving_region(geometry, width, height, grid)
        lattice = region.lattice()
        local = geometry.to_local(lattice)
        distance = geometry.oval_distance(local)
        edge = np.minimum(np.minimum(lattice, (width - 1, height - 1) - lattice).min(axis=1), 1e9)
        border = smoothstep(edge / (BORDER_STILL * min(width, height)))
        mouth_fade = fade(distance, MOUTH_WHOLE_TO, MOUTH_STILL_FROM) * border
        head_fade = fade(distance, HEAD_WHOLE_TO, HEAD_STILL_FROM) * border
        head_fields = _head_fields(geometry, local) * head_fade[:, None, None]
        layers = []
        for upper in (True, False):
            controls = _controls(geometry, upper)
            anchors = _anchors(geometry)
            plate = ThinPlate(np.concatenate([geometry.local[controls], anchors]), geometry.height)
            mouth = _mouth_values(geometry, controls)  # (controls, movements, 2) local
            still = np.zeros((len(anchors), *mouth.shape[1:]))
            values = np.concatenate([mouth, still]).reshape(len(controls) + len(anchors), -1)
            mouth_fields = plate.spread(values, local).reshape(len(local), len(MOUTH), 2) * mouth_fade[:, None, None]
            fields = np.concatenate([mouth_fields, head_fields], axis=1) @ geometry.axes
            layers.append(np.moveaxis(fields, 1, 0).reshape(-1, grid, grid, 2).astype(np.float32))
        return cls(region, *layers)

    def weights(self, performance: Performance, frame: int) -> NDArray[np.float32]:
        """How much of every movement is in a frame, in the order of the fields."""
        mouth = [performance.closing, *(getattr(performance, name)[frame] for name in MOUTH[1:])]
        return np.array([*mouth, *(getattr(performance, name)[frame] for name in HEAD)], dtype=np.float32)

    def forward(self, layer: NDArray[np.float32], weights: NDArray[np.float32]) -> Field:
        field: Field = np.tensordot(weights, layer, axes=1)
        return field

    def at(self, field: Field, points: Points) -> Points:
        """A field's displacement at picture coordinates (N, 2)."""
        return sample(field, self.region, points)

    def inverse(self, field: Field) -> Field:
        """The displacement from posed to rest: g with g(y) = -field(y + g(y))."""
        grid = self.region.grid
        to_cells = np.array([grid / self.region.width, grid / self.region.height], dtype=np.float32)
        cells = np.stack(np.meshgrid(np.arange(grid), np.arange(grid)), axis=-1).astype(np.float32)
        backward = -field
        for _ in range(INVERSION_STEPS):
            where = cells + backward * to_cells
            backward = -cv2.remap(field, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return backward


def sample(field: Field, region: Region, points: Points) -> Points:
    scale = np.array([region.grid / region.width, region.grid / region.height])
    cells = ((points - (region.x0, region.y0) + 0.5) * scale - 0.5).astype(np.float32)[None]
    sampled: Points = cv2.remap(field, cells, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0].astype(
        np.float64
    )
    return sampled


def _controls(geometry: FaceGeometry, upper: bool) -> list[int]:
    """Landmarks that say how a layer moves: its own side of the lips, and everything beside the mouth."""
    own = {*UPPER_INNER, *UPPER_OUTER, *UPPER_BETWEEN} if upper else {*LOWER_INNER, *LOWER_OUTER, *LOWER_BETWEEN}
    other = {*LOWER_INNER, *LOWER_OUTER, *LOWER_BETWEEN} if upper else {*UPPER_INNER, *UPPER_OUTER, *UPPER_BETWEEN}
    other -= own
    chosen = []
    for index, (u, v) in enumerate(geometry.local):
        beside = abs(u) > 1.3 * geometry.mouth_half_width
        kept = index % SPARSE == 0 or index in OVAL
        if index in own or (kept and index not in other and (beside or (v < 0) == upper)):
            chosen.append(index)
    return chosen


def _anchors(geometry: FaceGeometry) -> Points:
    """Points around the face that never move with the mouth (local)."""
    centre, half = geometry.oval
    turn = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    ring = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return np.concatenate([centre + MOUTH_STILL_FROM * half * ring, centre + HEAD_STILL_FROM * half * ring])


def _profile(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """How an opening spreads from the middle (0) to the corner (1): an oval that narrows towards the corners."""
    profile: NDArray[np.float64] = np.clip(1 - np.abs(x) ** 2.0, 0, None) ** 0.95
    return profile


def _mouth_values(geometry: FaceGeometry, controls: list[int]) -> NDArray[np.float64]:
    """(controls, movements, 2) local displacement of each landmark for each of MOUTH at 1."""
    face, half = geometry.height, geometry.mouth_half_width
    chosen = geometry.local[controls]
    u, v = chosen[:, 0], chosen[:, 1]
    lower_lip = np.interp(u, geometry.local[list(LOWER_INNER), 0], geometry.local[list(LOWER_INNER), 1])
    upper_lip = np.interp(u, geometry.local[list(UPPER_INNER), 0], geometry.local[list(UPPER_INNER), 1])
    is_upper = np.isin(controls, (*UPPER_INNER[1:-1], *UPPER_OUTER[1:-1], *UPPER_BETWEEN)) | (
        (v < (lower_lip + upper_lip) / 2) & ~np.isin(controls, (*LOWER_INNER, *LOWER_OUTER, *LOWER_BETWEEN))
    )
    # t: 0 at the lip, 1 at the chin or at the base of the nose.
    down = np.clip((v - lower_lip) / max(geometry.chin_distance - float(lower_lip.mean()), 1e-6), 0, 1)
    up = np.clip((upper_lip - v) / max(-float(geometry.local[NOSE_BASE, 1]), 1e-6), 0, 1)
    jaw_share = np.where(is_upper, 0.0, _profile(u / (half * (1 + 1.7 * down))) * (1 - (1 - CHIN_FOLLOWS) * down))
    lift_share = np.where(is_upper, _profile(u / (half * (1 + 0.3 * up))) * (1 - up) ** 2, 0.0)

    corners = geometry.local[[UPPER_INNER[0], UPPER_INNER[-1]]]
    corner_share = [np.exp(-(((chosen - corner) / (0.55 * half)) ** 2).sum(1)) for corner in corners]
    inward = corner_share[0] - corner_share[1]
    both = corner_share[0] + corner_share[1]
    lips = np.exp(-((v / (0.9 * half)) ** 2))  # how near the level of the mouth
    reach = np.abs(u) / half
    sideways = np.sign(u) * np.where(reach < 1, reach, np.clip(1 - (reach - 1) / 1.4, 0, 1)) * lips

    gap = np.interp(u, geometry.local[list(UPPER_INNER), 0], geometry.lip_gap)
    gap_spread = np.interp(u / (1 + 1.7 * down), geometry.local[list(UPPER_INNER), 0], geometry.lip_gap)
    values = np.zeros((len(controls), len(MOUTH), 2))
    closing = values[:, MOUTH.index("closing")]
    closing[:, 1] = np.where(
        is_upper, CLOSING_UPPER * gap * (1 - up) ** 1.5, -(1 - CLOSING_UPPER) * gap_spread * (1 - 0.6 * down)
    )
    grin = min(float(geometry.lip_gap.max()) / (GRIN_GAP * face), 1.0)  # lips that meet do not stay stretched
    closing[:, 0] = -RELAX_IN * grin * half * sideways
    closing[:, 1] += RELAX_DOWN * grin * face * both
    jaw = values[:, MOUTH.index("jaw")]
    jaw[:, 0] = CORNER_INWARD * half * inward
    jaw[:, 1] = JAW_DROP * face * (jaw_share + CORNER_DOWN * both) - UPPER_LIFT * face * lift_share
    values[:, MOUTH.index("wide"), 0] = WIDE_OUT * half * sideways
    values[:, MOUTH.index("wide"), 1] = -0.012 * face * both
    rounded = values[:, MOUTH.index("round")]
    rounded[:, 0] = -ROUND_IN * half * sideways
    rounded[:, 1] = ROUND_PART * face * (0.6 * jaw_share - 0.4 * lift_share)
    values[:, MOUTH.index("pressed"), 1] = PRESS * face * (lift_share - jaw_share * (1 - down))
    values[:, MOUTH.index("teeth"), 1] = -face * (TEETH_LIFT * lift_share + TEETH_TUCK * jaw_share * (1 - down))
    return values


def _head_fields(geometry: FaceGeometry, local: Points) -> NDArray[np.float64]:
    """(points, movements, 2) local displacement for each of HEAD at 1; depth turns a slight yaw into parallax."""
    face = geometry.height
    centre, half = geometry.oval
    depth = geometry.depth - geometry.depth[list(OVAL)].mean()
    around = centre + (geometry.local[list(OVAL)] - centre) * 1.6
    plate = ThinPlate(np.concatenate([geometry.local[::SPARSE], around]), face)
    relief = plate.spread(np.concatenate([depth[::SPARSE], np.zeros(len(OVAL))])[:, None], local)[:, 0]
    pivot = geometry.local[CHIN] + (0, 0.25 * face)  # heads turn about the neck
    from_pivot = local - pivot
    zero = np.zeros(len(local))
    towards_viewer = np.clip(-relief, 0, None) + 0.25 * half[0]
    fields = {
        "shift_u": (np.full(len(local), SHIFT * face), zero),
        "shift_v": (zero, np.full(len(local), 0.6 * SHIFT * face)),
        "roll": (-ROLL_RAD * from_pivot[:, 1], ROLL_RAD * from_pivot[:, 0]),
        "yaw": (TURN_RAD * towards_viewer * 1.6, zero),
        "pitch": (zero, TURN_RAD * towards_viewer),
    }
    return np.stack([np.stack(fields[name], axis=1) for name in HEAD], axis=1)
