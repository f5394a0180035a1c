"""Measures what is done to finished frames and sound, on the shipped examples; prints JSON, before and after.

    python -m bench.quality [--models DIR] [--steps N] [--size PIXELS] [--seconds S] [--table] [--sheet FILE]
                            [--margin RATIO] [--rife FILE] [--only STAGE ...]

The clips are the draft engine's, or with ``--models`` (a ComfyUI's folder, with ComfyUI itself on PYTHONPATH) Sonic's:
each example portrait speaks each example voice and the tests' own. What is wrong with a clip is planted, so that what
is right is known: strobing, steps between windows, a sound that is 80 ms off, a mouth that stands open, frames that are
held out, colours that are off in a crop. In Sonic's clips the mouth is measured as it stands in silence, with nothing
planted. Where a stage needs a face and a clip shows none, its figure is "no face found". ``--margin``: pictures are cut
to the face, as Sonic's own demonstration does with 0.5; smoothing is measured beside the face and wants whole ones.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from comfyui_sonic.sonic.audio import MODEL_RATE, read_sound, speech_for_models
from comfyui_sonic.sonic.draft.mouth_shapes import mouth_shapes
from comfyui_sonic.sonic.draft.performance import Performance
from comfyui_sonic.sonic.draft.render import DraftClip, render_draft
from comfyui_sonic.sonic.errors import SonicError
from comfyui_sonic.sonic.frames import Frame, FrameSource, StillFrames
from comfyui_sonic.sonic.loudness import at_usual_loudness, integrated_loudness
from comfyui_sonic.sonic.options import InferenceOptions
from comfyui_sonic.sonic.postprocess.composite import CompositeFrames, place_of
from comfyui_sonic.sonic.postprocess.lip_sync import measure_sync, mouth_openings, possible_shift, shift_sound
from comfyui_sonic.sonic.postprocess.retiming import Between, FlowBetween, RetimedFrames, RifeBetween
from comfyui_sonic.sonic.postprocess.silence_gate import ClosedMouthFrames, opening_at_rest, silence_curve
from comfyui_sonic.sonic.postprocess.smoothing import SmoothingMethod, smooth
from comfyui_sonic.sonic.prepared import PreparedData, Sound
from numpy.typing import NDArray

from .clips import FPS, OWN, PICTURES, VOICES, Clips, Kept, clips_of

log = logging.getLogger("bench.quality")

FRAMES = 150  # of a clip, six seconds
STROBE_HZ, STROBE = 1.0, 0.03
WINDOW, STEP = 25, 4.0  # frames of a window, levels of 255
PLANTED_S = 0.08
OPEN_JAW = 0.3
TINT = np.array([8, -5, 4])
GLIDE, EDGE = 6.0, 64  # pixels a frame; pixels at the edge, where what comes in was never seen
EDGE_RATIO = 0.5  # around the face, so that the crop has edges within the picture
LEAST_SILENT = 5  # frames
NO_FACE, NO_SILENCE = "no face found", "no silence"
METHODS: tuple[SmoothingMethod, ...] = ("light", "flow", "both")


def outside_brightness(frames: Sequence[Frame], prepared: PreparedData) -> NDArray[np.float64]:
    """Mean brightness of each frame beside the face."""
    assert prepared.face is not None
    x1, _, x2, _ = prepared.face.box
    left, right = max(1, int(x1) - 60), min(frames[0].shape[1] - 1, int(x2) + 60)
    return np.array([np.concatenate([f[:, :left], f[:, right:]], axis=1).mean() for f in frames])


def shows_a_face(openings: NDArray[np.float32]) -> bool:
    return bool(np.isfinite(openings).any())


def smoothing(clips: Clips, picture: str, voice: Path) -> dict[str, Any]:
    prepared, source = clips.clip(picture, voice)
    assert prepared.face is not None
    clip = list(source.frames(0, FRAMES))
    at = np.arange(len(clip))
    strobe = 1 + STROBE * np.sin(2 * np.pi * STROBE_HZ * at / FPS)
    levels = np.random.default_rng(1).uniform(-STEP, STEP, len(clip) // WINDOW + 1)[at // WINDOW]
    planted = {
        "strobe": [np.clip(np.rint(f * g), 0, 255).astype(np.uint8) for f, g in zip(clip, strobe, strict=True)],
        "steps": [
            np.clip(np.rint(f.astype(np.float32) + level), 0, 255).astype(np.uint8)
            for f, level in zip(clip, levels, strict=True)
        ],
    }
    noise = np.random.default_rng(2)
    noisy = [np.clip(np.rint(f + noise.normal(0, 2, f.shape)), 0, 255).astype(np.uint8) for f in clip[:50]]
    mouth = mouth_openings(clip)
    result: dict[str, Any] = {}
    for method in METHODS:
        row: dict[str, Any] = {}
        for name, frames in planted.items():
            if method == "flow":  # it has nothing to do with brightness
                continue
            after = list(smooth(Kept(frames), method, FPS, prepared.face).frames())
            before_curve, after_curve = (outside_brightness(f, prepared) for f in (frames, after))
            if name == "strobe":
                row["strobe_std"] = [float(before_curve.std()), float(after_curve.std())]
            else:
                steps = [np.abs(np.diff(c)).max() for c in (before_curve, after_curve)]
                row["largest_step"] = [float(step) for step in steps]
        if shows_a_face(mouth):
            clean = mouth_openings(smooth(Kept(clip), method, FPS, prepared.face).frames())
            row["mouth_amplitude_kept"] = float(np.nanstd(clean) / np.nanstd(mouth))
        else:
            row["mouth_amplitude_kept"] = NO_FACE
        calm = list(smooth(Kept(noisy), method, FPS, prepared.face).frames())
        error = [
            np.mean([np.abs(a.astype(np.int16) - b).mean() for a, b in zip(c[3:-3], clip[3:], strict=False)])
            for c in (noisy, calm)
        ]
        row["noise_error"] = [float(e) for e in error]
        result[method] = row
    return result


def lip_sync(clips: Clips, picture: str, voice: Path) -> dict[str, Any] | str:
    prepared, clip = clips.clip(picture, voice)
    openings = mouth_openings(clip.frames(0, min(clip.count, int(15 * FPS))))
    if not shows_a_face(openings):
        return NO_FACE
    result = {}
    own = measure_sync(openings, FPS, speech_for_models(prepared.sound))  # nobody knows how far off an engine is itself
    for planted_s in (-PLANTED_S, PLANTED_S):
        sound = planted(prepared.sound, -planted_s)
        before = measure_sync(openings, FPS, speech_for_models(sound))
        moved = shift_sound(sound, possible_shift(sound, before.correction_s))
        after = measure_sync(openings, FPS, speech_for_models(moved))
        result[f"{planted_s * 1000:+.0f}"] = {
            "found_ms": before.offset_s * 1000,
            "found_beside_own_ms": (before.offset_s - own.offset_s) * 1000,
            "sure": before.is_sure,
            "confidence": before.confidence,
            "left_ms": (planted_s - before.correction_s) * 1000,
            "agreement": [before.as_it_is, after.as_it_is],
        }
    return result


def planted(sound: Sound, seconds: float) -> Sound:
    """The sound later (silence comes first) or earlier (its first moment is lost)."""
    samples = round(seconds * sound.sample_rate)
    if samples < 0:
        return Sound(sound.waveform[:, -samples:], sound.sample_rate)
    silence = np.zeros((len(sound.waveform), samples), np.float32)
    return Sound(np.concatenate([silence, sound.waveform], axis=1), sound.sample_rate)


def open_in_silence(prepared: PreparedData) -> DraftClip:
    """The example with a jaw that hangs open wherever it would be shut."""
    clip = render_draft(prepared, InferenceOptions(fps=FPS))
    curves = {name: getattr(clip.performance, name) for name in Performance.__dataclass_fields__}
    curves["jaw"] = np.maximum(curves["jaw"], OPEN_JAW).astype(np.float32)
    curves["pressed"] = np.zeros_like(curves["pressed"])
    return DraftClip(clip.picture, clip.geometry, Performance(**curves))


def silence(clips: Clips, picture: str, voice: Path) -> dict[str, Any] | str:
    """Mean opening in silence above rest, in parts of the face's height, before and after."""
    prepared, clip = clips.clip(picture, voice)
    assert prepared.face is not None
    opened = open_in_silence(prepared) if clips.engine == "draft" else clip
    count = min(opened.count, 125)
    openings = mouth_openings(clip.frames(0, count))
    if not shows_a_face(openings):
        return NO_FACE
    rest = opening_at_rest(openings)
    shut = silence_curve(prepared.speech, FPS, opened.count)
    whole = np.flatnonzero(shut[:count] >= 0.99)
    if len(whole) < LEAST_SILENT:
        return NO_SILENCE
    closed = ClosedMouthFrames(opened, prepared.face, shut, rest)
    before, after = (mouth_openings(frames.frames(0, count)) for frames in (opened, closed))
    spoken = shut[:count] == 0
    return {
        "frames": len(whole),
        "opening_above_rest": [float(np.nanmean(np.clip(c[whole] - rest, 0, None))) for c in (before, after)],
        "change_in_speech": float(np.nanmax(np.abs(before[spoken] - after[spoken]))) if spoken.any() else 0.0,
    }


def interpolation(clips: Clips, picture: str, voice: Path) -> dict[str, Any]:
    """Every second frame is held out and made anew: mean error of blending and of each way to make it.

    In the face of a clip; and of the portrait as it glides by, so that all of it moves by more than a mouth does.
    """
    prepared = clips.prepared(picture, voice)
    assert prepared.face is not None
    spoken = list(clips.spoken(prepared, motion_scale=2.0).frames(0, 51))
    x1, y1, x2, y2 = (max(0, int(value)) for value in prepared.face.box)
    height, width = prepared.picture.shape[:2]
    shown = np.s_[EDGE : height - EDGE, EDGE : width - EDGE]
    return {
        "face": held_out(clips, spoken, np.s_[y1:y2, x1:x2]),
        f"glides by {GLIDE:g} pixels": held_out(clips, gliding(prepared.picture, 9), shown),
    }


def held_out(clips: Clips, clip: Sequence[Frame], place: tuple[slice, slice]) -> dict[str, list[float]]:
    """Mean error in levels within ``place`` for each way to make a frame between, [blending's, its own]."""
    truth = [frame[place].astype(np.float32) for frame in clip]
    middles = range(1, len(clip) - 1, 2)
    blended = np.mean([np.abs((truth[k - 1] + truth[k + 1]) / 2 - truth[k]).mean() for k in middles])
    errors = {}
    for way in ways_between(clips, *clip[0].shape[:2]):
        made = list(RetimedFrames(Kept(clip[::2]), FPS / 2, FPS, way).frames())
        error = np.mean([np.abs(made[k][place] - truth[k]).mean() for k in middles])
        errors[f"error_by_{way.name}"] = [float(blended), float(error)]
    return errors


def gliding(picture: Frame, count: int) -> list[Frame]:
    """The picture moved to the right by GLIDE pixels a frame; what comes in repeats its edge."""
    height, width = picture.shape[:2]
    shifts = [np.array([[1, 0, GLIDE * (k - count // 2)], [0, 1, 0]], np.float32) for k in range(count)]
    return [np.asarray(cv2.warpAffine(picture, s, (width, height), borderMode=cv2.BORDER_REPLICATE)) for s in shifts]


def ways_between(clips: Clips, height: int, width: int) -> list[Between]:
    ways: list[Between] = [FlowBetween(height, width)]
    if (network := clips.rife) is not None:
        ways.append(RifeBetween(height, width, lambda: network, torch.device("cpu")))
    return ways


def composite(clips: Clips, picture: str, voice: Path) -> dict[str, Any]:
    """A crop with its colours off, laid back: the step over its edge beyond the picture's own, pasted and composed."""
    prepared = clips.prepared(picture, voice, EDGE_RATIO)
    frame = next(clips.spoken(prepared).frames())
    off = np.clip(frame.astype(np.int16) + TINT, 0, 255).astype(np.uint8)
    source, still = Kept([off]), StillFrames(prepared.original)
    box = place_of(prepared, source, still)
    composed = next(CompositeFrames(source, still, box).frames())
    x1, y1, x2, y2 = box
    pasted = prepared.original.copy()
    pasted[y1:y2, x1:x2] = cv2.resize(off, (x2 - x1, y2 - y1), interpolation=cv2.INTER_AREA)
    own = edge_step(prepared.original, box)
    return {"seam": [edge_step(pasted, box) - own, edge_step(composed, box) - own], "box": list(box)}


def edge_step(frame: Frame, box: tuple[int, int, int, int]) -> float:
    """Mean step over those edges of the box that lie inside the picture, in levels."""
    x1, y1, x2, y2 = box
    f = frame.astype(np.float32)
    steps = []
    for at, size, axis in (
        (x1, frame.shape[1], 1),
        (x2, frame.shape[1], 1),
        (y1, frame.shape[0], 0),
        (y2, frame.shape[0], 0),
    ):
        if 0 < at < size:
            along = f[y1:y2] if axis else f[:, x1:x2]
            steps.append(np.abs(np.take(along, at, axis) - np.take(along, at - 1, axis)).mean())
    return float(np.mean(steps)) if steps else 0.0


def loudness(voice: Path) -> dict[str, Any]:
    """How far the mouth shapes (0..1) of quiet copies are from the recording's, at most, without and with it."""
    speech = speech_for_models(read_sound(voice))
    as_recorded = integrated_loudness(speech, MODEL_RATE)
    frames = int(len(speech) / MODEL_RATE * FPS)
    usual = mouth_shapes(speech, FPS, frames)

    def changed(heard: NDArray[np.float32]) -> float:
        return float(np.abs(mouth_shapes(heard, FPS, frames) - usual).max())

    result: dict[str, Any] = {
        "recorded_lufs": as_recorded,
        "as_recorded": changed(at_usual_loudness(speech, MODEL_RATE)),
    }
    for lufs in (-45, -65):
        quiet = np.asarray(speech * np.float32(10 ** ((lufs - as_recorded) / 20)), np.float32)
        result[f"at {lufs}"] = [changed(quiet), changed(at_usual_loudness(quiet, MODEL_RATE))]
    return result


def speed(clips: Clips) -> dict[str, Any]:
    """Frames a second of each stage, the frames in memory already; and the time of the processor."""
    prepared, clip = clips.clip("close_up.png", VOICES[2])
    assert prepared.face is not None
    frames = list(clip.frames(0, 100))
    kept = Kept(frames)
    large = np.asarray(cv2.resize(frames[0], (1920, 1080)))
    stages: dict[str, FrameSource] = {
        **{f"smoothing_{method}": smooth(kept, method, FPS, prepared.face) for method in METHODS},
        **{
            f"interpolation_2x_{way.name}": RetimedFrames(kept, FPS, 2 * FPS, way)
            for way in ways_between(clips, kept.height, kept.width)
        },
        "composite_into_1920x1080": CompositeFrames(kept, StillFrames(large), (700, 300, 1212, 812)),
    }
    result: dict[str, Any] = {}
    for name, source in stages.items():
        result[name] = timed(lambda source=source: sum(1 for _ in source.frames()))  # type: ignore[misc]
    if not shows_a_face(mouth_openings(kept.frames())):
        return {**result, "silence_gate": NO_FACE, "sync_analysis": NO_FACE}
    gate = ClosedMouthFrames(kept, prepared.face, np.ones(kept.count, np.float32), 0.0)
    result["silence_gate"] = timed(lambda: sum(1 for _ in gate.frames()))
    result["sync_analysis"] = timed(lambda: len(mouth_openings(kept.frames())))
    return result


def timed(work: Any) -> dict[str, float]:
    """The best of three."""
    best, busy = np.inf, np.inf
    for _ in range(3):
        started, cpu = time.perf_counter(), time.process_time()
        count = work()
        best = min(best, (time.perf_counter() - started) / count)
        busy = min(busy, (time.process_time() - cpu) / count)
    return {"frames_per_s": 1 / best, "processor_ms_per_frame": busy * 1000}


def each(stage: Callable[[str, Path], Any], pairs: Sequence[tuple[str, Path]]) -> dict[str, Any]:
    found = {}
    for picture, voice in pairs:
        name = f"{Path(picture).stem} x {voice.stem}"
        found[name] = stage(picture, voice)
        log.info("  %s", name)
    return found


def lip_sync_of_all(clips: Clips) -> dict[str, Any]:
    found = each(partial(lip_sync, clips), [(picture, voice) for picture in PICTURES for voice in VOICES])
    cases = [case for clip in found.values() if clip != NO_FACE for case in clip.items()]
    return {
        "cases": len(cases),
        "sure": sum(c["sure"] for _, c in cases),
        "found_within_10_ms": sum(abs(c["found_ms"] - float(planted)) <= 10 and c["sure"] for planted, c in cases),
        "found_beside_own_within_10_ms": sum(
            abs(c["found_beside_own_ms"] - float(planted)) <= 10 and c["sure"] for planted, c in cases
        ),
        "corrected_within_20_ms": sum(abs(c["left_ms"]) <= 20 for _, c in cases),
        "clips": found,
    }


STAGES: dict[str, Callable[[Clips], Any]] = {
    "speed": speed,
    "loudness": lambda _: {voice.stem: loudness(voice) for voice in VOICES},  # of the models' input, not of a clip
    "composite": lambda clips: each(partial(composite, clips), OWN),
    "interpolation": lambda clips: each(partial(interpolation, clips), OWN),
    "silence": lambda clips: each(partial(silence, clips), [(picture, VOICES[3]) for picture in PICTURES]),
    "smoothing": lambda clips: each(partial(smoothing, clips), OWN),
    "lip_sync": lip_sync_of_all,
}


def measured(clips: Clips, stages: Sequence[str]) -> dict[str, Any]:
    """The engine, its weights and settings, and what each stage was measured to do."""
    report: dict[str, Any] = {
        "engine": clips.engine,
        "weights": dict(clips.weights),
        "steps": clips.steps if clips.engine == "sonic" else None,
        "size": clips.size,
        "seconds": clips.seconds or "all",
        "margin": "whole picture" if clips.margin is None else clips.margin,
    }
    for name in stages:
        started = time.perf_counter()
        log.info("%s", name)
        report[name] = STAGES[name](clips)
        # Sonic takes long without a graphics card: what was measured is said at once, for a run that is ended early.
        found = json.dumps(report[name], ensure_ascii=False)
        log.info("%s took %.0f s: %s", name, time.perf_counter() - started, found)
    return report


def as_table(report: dict[str, Any]) -> str:
    """The report as Markdown: what was measured, before and after; a figure that is one of the two stands behind."""
    weights = "".join(f"- `{name}` sha256 `{digest}`\n" for name, digest in report["weights"].items())
    names = ("steps", "size", "seconds", "margin")
    settings = ", ".join(f"{name} {report[name]}" for name in names if report[name] is not None)
    lines = [f"Engine {report['engine']}, {settings}.\n\n{weights}", "| what | before | after |", "|---|---|---|"]
    for name in (name for name in STAGES if name in report):
        lines += [f"| {' / '.join(path)} | {before} | {after} |" for path, before, after in rows((name,), report[name])]
    return "\n".join(lines) + "\n"


def rows(path: tuple[str, ...], found: Any) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Every figure below a place of the report, with the way to it."""
    if isinstance(found, dict):
        for name, value in found.items():
            yield from rows((*path, name), value)
    elif isinstance(found, list) and len(found) == 2:
        yield path, told(found[0]), told(found[1])
    else:
        yield path, "", told(found)


def told(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def draw(path: Path, clips: Clips) -> None:
    """Rows of before and after: a mouth that hangs open in silence, a crop whose colours are off. Of draft."""
    prepared = clips.prepared("close_up.png", VOICES[3])
    assert prepared.face is not None
    hanging = open_in_silence(prepared)
    shut = silence_curve(prepared.speech, FPS, hanging.count)
    closed = ClosedMouthFrames(hanging, prepared.face, shut, 0.0)
    moments = [int(i) for i in np.flatnonzero(shut >= 0.99)[:: max(1, int((shut >= 0.99).sum() // 4))][:4]]
    left, _, right, bottom = (max(0, int(value)) for value in prepared.face.box)
    face = np.s_[bottom - (right - left) : bottom, left:right]
    rows = [[next(clip.frames(i, i + 1))[face] for i in moments] for clip in (hanging, closed)]
    small = clips.prepared("eileen_collins.png", VOICES[0], EDGE_RATIO)
    clip = render_draft(small, InferenceOptions(fps=FPS))
    off = [np.clip(f.astype(np.int16) + 2 * TINT, 0, 255).astype(np.uint8) for f in clip.frames(40, 44)]
    source, still = Kept(off), StillFrames(small.original)
    x1, y1, x2, y2 = box = place_of(small, source, still)
    pasted = []
    for frame in off:
        whole = small.original.copy()
        whole[y1:y2, x1:x2] = cv2.resize(frame, (x2 - x1, y2 - y1), interpolation=cv2.INTER_AREA)
        pasted.append(whole)
    rows += [pasted, list(CompositeFrames(source, still, box).frames())]
    labels = ("open in silence", "closed", "pasted", "composed")
    tiles = []
    for label, row in zip(labels, rows, strict=True):
        line = [cv2.resize(frame, (224, 224), interpolation=cv2.INTER_AREA) for frame in row]
        for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(line[0], label, (6, 216), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, width, cv2.LINE_AA)
        tiles.append(np.hstack(line))
    cv2.imwrite(str(path), cv2.cvtColor(np.vstack(tiles), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sheet", type=Path, help="draw before and after of the draft engine into this picture")
    parser.add_argument("--table", action="store_true", help="print a Markdown table in place of JSON")
    parser.add_argument(
        "--only", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE", help=", ".join(STAGES)
    )
    parser.add_argument(
        "--models", type=Path, help="Sonic's clips, with the files in this folder; else the draft engine's"
    )
    usual = InferenceOptions()
    parser.add_argument(
        "--steps", type=int, default=usual.inference_steps, help="denoising steps of Sonic (default: %(default)s)"
    )
    parser.add_argument("--size", type=int, default=512, help="short side in pixels (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="of each recording that are spoken (default: 0, all of it)"
    )
    parser.add_argument(
        "--margin", type=float, metavar="RATIO", help="cut pictures to the face with this margin (default: whole ones)"
    )
    parser.add_argument(
        "--rife", type=Path, metavar="FILE", help="RIFE's flownet.pkl: interpolation is measured with it, too"
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    try:
        clips = clips_of(
            arguments.models, arguments.steps, arguments.size, arguments.seconds, arguments.rife, arguments.margin
        )
        report = measured(clips, arguments.only)
        if arguments.sheet:
            draw(arguments.sheet, clips)
    except SonicError as error:
        parser.exit(1, f"{error}\n")
    text = as_table(report) if arguments.table else json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
