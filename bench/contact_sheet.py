"""Contact sheets of the draft engine: the poses a face can take, and consecutive frames of a real clip."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from comfyui_sonic.sonic.draft.performance import Performance
from comfyui_sonic.sonic.draft.render import DraftClip, render_draft
from comfyui_sonic.sonic.frames import Frame
from comfyui_sonic.sonic.options import InferenceOptions
from PIL import Image

from .draft import FPS, PAIRS, made

TILE = 224
POSES: dict[str, dict[str, float]] = {
    "picture": {"closing": 0},
    "closed": {},
    "half open": {"jaw": 0.5},
    "wide open": {"jaw": 1, "wide": 0.2},
    "teeth (ee)": {"jaw": 0.3, "wide": 1},
    "round (oo)": {"jaw": 0.35, "round": 1},
    "f, v": {"jaw": 0.1, "teeth": 1},
    "blink": {"blink": 1},
}
CURVES = ("jaw", "wide", "round", "pressed", "teeth", "blink", "shift_u", "shift_v", "roll", "yaw", "pitch")


def posed(clip: DraftClip, pose: dict[str, float]) -> Frame:
    curves = {name: np.array([pose.get(name, 0.0)], np.float32) for name in CURVES}
    return DraftClip(clip.picture, clip.geometry, Performance(closing=pose.get("closing", 1.0), **curves)).frame(0)


def around_face(clip: DraftClip, frame: Frame, label: str) -> Frame:
    centre, half = clip.geometry.oval
    x, y = clip.geometry.to_picture(centre[None])[0]
    reach = 1.2 * float(half.max())
    x0, y0 = max(0, int(x - reach)), max(0, int(y - reach))
    part = frame[y0 : int(y + reach), x0 : int(x + reach)]
    tile = cv2.resize(part, (TILE, TILE), interpolation=cv2.INTER_AREA if part.shape[0] > TILE else cv2.INTER_CUBIC)
    for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(tile, label, (6, TILE - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, width, cv2.LINE_AA)
    return tile


def sheet(tiles: list[Frame], columns: int = 8) -> Frame:
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    return np.vstack(rows)


def draw_all(folder: Path) -> None:
    """For every example: its poses, and 16 consecutive frames from the middle of its speech."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_moving(folder / "speaking.webp")
    drawn = set()
    for picture, voice in PAIRS:
        prepared = made(picture, voice)
        clip = render_draft(prepared, InferenceOptions(fps=FPS))
        if picture not in drawn:
            drawn.add(picture)
            poses = [around_face(clip, posed(clip, pose), name) for name, pose in POSES.items()]
            _save(folder / f"{Path(picture).stem}_poses.jpg", sheet(poses))
        busiest = int(np.argmax(np.convolve(clip.performance.jaw, np.ones(16), mode="valid")))
        frames = [
            around_face(clip, clip.frame(i), f"{i / FPS:.2f} s") for i in range(busiest, min(busiest + 16, clip.count))
        ]
        _save(folder / f"{voice.split('.')[0].replace('问候', 'mandarin')}_frames.jpg", sheet(frames))


def draw_moving(path: Path, seconds: float = 3.0, side: int = 360) -> None:
    """The README's picture: the beginning of the close-up's speech, moving."""
    clip = render_draft(made("close_up.png", "close_up.mp3"), InferenceOptions(fps=FPS))
    frames = [
        Image.fromarray(frame).resize((side, side), Image.Resampling.LANCZOS)
        for frame in clip.frames(0, int(seconds * FPS))
    ]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=round(1000 / FPS), loop=0, quality=70)


def _save(path: Path, picture: Frame) -> None:
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
