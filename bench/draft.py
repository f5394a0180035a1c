"""Measures the draft engine on the shipped examples and prints JSON: sync, phonemes, speed, memory, repeatability.

    python -m bench.draft [--sheets FOLDER] [--skip-speech]

Sync is read back from finished MP4s by the same face mesh that placed the warp; so besides the agreement with what was
intended, the opening is judged against things the mesh knows nothing of: the speech's loudness, known phonemes, planted
delays and the wrong sound.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import cv2
import numpy as np
import torch
from comfyui_sonic.sonic.audio import MODEL_RATE, read_sound
from comfyui_sonic.sonic.draft.performance import Performance
from comfyui_sonic.sonic.draft.render import DraftClip, render_draft
from comfyui_sonic.sonic.face_networks import WEIGHTS as FACE_WEIGHTS
from comfyui_sonic.sonic.frames import Frame
from comfyui_sonic.sonic.options import InferenceOptions, PrepareOptions
from comfyui_sonic.sonic.portrait import read_picture
from comfyui_sonic.sonic.postprocess.lip_sync import measure_sync, mouth_openings
from comfyui_sonic.sonic.prepare import prepare
from comfyui_sonic.sonic.prepared import PreparedData, Sound
from comfyui_sonic.sonic.video import write_mp4
from numpy.typing import NDArray
from torch.nn.functional import grid_sample

EXAMPLES = Path(__file__).parents[1] / "examples" / "batch"
PAIRS = (
    ("eileen_collins.png", "eileen_collins_welcome.wav"),
    ("eileen_collins.png", "eileen_collins_问候.wav"),
    ("close_up.png", "close_up.mp3"),
    ("painted_anna.png", "painted_anna.wav"),
)
PHOTOGRAPHS = ("eileen_collins.png", "close_up.png")
FPS = 25.0
FINE_HZ = 200
QUIET_DB, LOUD_PART = -35.0, 0.3  # below the loudest frame; the loudest share of the frames

Curve = NDArray[np.float64]


def frames_of(video: Path) -> Iterator[Frame]:
    with av.open(str(video)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def made(picture: str, voice: str, size: int = 512) -> PreparedData:
    return prepare(read_picture(EXAMPLES / picture), read_sound(EXAMPLES / voice), PrepareOptions(min_resolution=size))


def best_lag_ms(seen: Curve, meant: Curve, fps: float) -> float:
    """How much later ``seen`` is than ``meant``, in ms, searched within +-200 ms."""
    fine = np.arange(int(len(seen) / fps * FINE_HZ)) / FINE_HZ
    at = (np.arange(len(seen)) + 0.5) / fps
    a, b = np.interp(fine, at, seen), np.interp(fine, at, meant)
    reach = FINE_HZ // 5

    def r(lag: int) -> float:
        return float(np.corrcoef(a[max(lag, 0) : len(a) + min(lag, 0)], b[max(-lag, 0) : len(b) - max(lag, 0)])[0, 1])

    return max(range(-reach, reach + 1), key=r) / FINE_HZ * 1000


def loudness(speech: NDArray[np.float32], frames: int) -> Curve:
    """(frames,) RMS of each frame's time, 0..1 of the loudest."""
    edges = np.minimum((np.arange(frames + 1) / FPS * MODEL_RATE).astype(int), len(speech))
    rms = np.array(
        [np.sqrt(np.mean(np.square(speech[a:b], dtype=np.float64))) if b > a else 0.0 for a, b in pairwise(edges)]
    )
    return rms / max(rms.max(), 1e-9)


def rest_frame(clip: DraftClip) -> Frame:
    zero = np.zeros(1, np.float32)
    names = ("jaw", "wide", "round", "pressed", "teeth", "blink", "shift_u", "shift_v", "roll", "yaw", "pitch")
    return DraftClip(clip.picture, clip.geometry, Performance(closing=1.0, **dict.fromkeys(names, zero))).frame(0)


def sync(folder: Path) -> dict[str, Any]:
    """Each example made, written, read back and compared."""
    results = {}
    for picture, voice in PAIRS:
        prepared = made(picture, voice)
        clip = render_draft(prepared, InferenceOptions(fps=FPS))
        path = folder / f"{Path(voice).stem}.mp4"
        write_mp4(path, clip.frames(), FPS, prepared.sound)
        seen = mouth_openings(frames_of(path)).astype(np.float64)
        meant = np.array([clip.lip_gap(index) for index in range(clip.count)])
        energy = loudness(prepared.speech, clip.count)
        smooth = np.convolve(np.sqrt(energy), np.hanning(5) / np.hanning(5).sum(), mode="same")
        shifts = [float(np.corrcoef(seen, np.roll(smooth, s))[0, 1]) for s in range(12, clip.count - 12)]
        rest = float(mouth_openings([rest_frame(clip)])[0])
        quiet = energy < 10 ** (QUIET_DB / 20)
        loud = energy >= np.quantile(energy, 1 - LOUD_PART)
        opened = np.clip(seen - rest, 0, None)
        late = np.concatenate([np.repeat(seen[:1], 2), seen[:-2]])
        results[voice] = {
            "photograph": picture in PHOTOGRAPHS,
            "r_intended": float(np.corrcoef(seen, meant)[0, 1]),
            "lag_ms": best_lag_ms(seen, meant, FPS),
            "planted_80_ms_read_as_ms": best_lag_ms(late, meant, FPS),
            "r_loudness": float(np.corrcoef(seen, smooth)[0, 1]),
            "r_loudness_best_wrong_shift": max(shifts),
            "speech_estimate_ms": measure_sync(seen.astype(np.float32), FPS, prepared.speech).offset_s * 1000,
            "quiet_over_loud_opening": float(opened[quiet].mean() / opened[loud].mean()) if quiet.any() else None,
        }
    return results


def phonemes(folder: Path) -> dict[str, Any]:
    """Bilabials and open vowels of unseen synthetic voices, seen in finished videos."""
    from comfyui_sonic.bench.speech_gate import unseen_recordings  # needs espeakng-loader

    results = {}
    picture = read_picture(EXAMPLES / "close_up.png")
    for language, recordings in unseen_recordings().items():
        shut, opened, closed, vowels = [], [], 0, 0
        for number, recording in enumerate(recordings):
            sound = Sound(recording.speech[None], MODEL_RATE)
            prepared = prepare(picture, sound, PrepareOptions())
            clip = render_draft(prepared, InferenceOptions(fps=FPS))
            path = folder / f"{language}{number}.mp4"
            write_mp4(path, clip.frames(), FPS, prepared.sound)
            seen = mouth_openings(frames_of(path))
            rest = float(mouth_openings([rest_frame(clip)])[0])
            wide = float(np.quantile(seen, 0.9)) - rest
            for phoneme in recording.phonemes:
                first, last = int(phoneme.start * FPS), int(np.ceil(phoneme.stop * FPS))
                span = (seen[max(first - 1, 0) : last + 1] - rest) / wide
                if not len(span):
                    continue
                if phoneme.symbol[:1] in "mbp" and phoneme.symbol:
                    shut.append(float(span.min()))
                elif phoneme.symbol[:1] in "aɑæɐ" and phoneme.symbol:
                    opened.append(float(span.max()))
        closed, vowels = len(shut), len(opened)
        results[language] = {
            "bilabials": closed,
            "closed_part": float(np.mean(np.array(shut) < 0.25)),
            "open_vowels": vowels,
            "vowels_taken_for_closed_part": float(np.mean(np.array(opened) < 0.25)),
        }
    return results


def speed(folder: Path) -> dict[str, Any]:
    """Frames a second on one core, and ten seconds of video with every step."""
    result: dict[str, Any] = {}
    for size in (512, 1024):
        clip = render_draft(made("close_up.png", "close_up.mp3", size), InferenceOptions(fps=FPS))
        next(clip.frames())
        started, cpu = time.perf_counter(), time.process_time()
        count = sum(1 for _ in clip.frames())
        result[f"frames_per_s_{size}"] = count / (time.perf_counter() - started)
        result[f"cpu_ms_per_frame_{size}"] = (time.process_time() - cpu) / count * 1000
    started = time.perf_counter()
    sound = read_sound(EXAMPLES / "painted_anna.wav")
    sound = Sound(np.tile(sound.waveform, 2)[:, : sound.sample_rate * 10], sound.sample_rate)
    prepared = prepare(read_picture(EXAMPLES / "close_up.png"), sound, PrepareOptions())
    write_mp4(folder / "ten.mp4", render_draft(prepared, InferenceOptions(fps=FPS)).frames(), FPS, sound)
    result["ten_seconds_of_video_s"] = time.perf_counter() - started
    return result


def sampling() -> dict[str, float]:
    """The two ways to warp a 512 x 512 picture bicubically on one thread, milliseconds each."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (512, 512, 3), dtype=np.uint8)
    where = np.stack(np.meshgrid(np.arange(512), np.arange(512)), axis=-1) + rng.normal(0, 1, (512, 512, 2))
    where = where.astype(np.float32)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    grid = torch.from_numpy(where / np.float32(255.5) - 1)[None]
    ways: dict[str, Callable[[], object]] = {
        "cv2_remap_ms": lambda: cv2.remap(picture, where, None, cv2.INTER_CUBIC),
        "torch_grid_sample_ms": lambda: grid_sample(tensor, grid, "bicubic", "border", align_corners=True),
    }
    return {name: min(timeit.repeat(way, number=10, repeat=5)) * 100 for name, way in ways.items()}


def peak_mb(seconds: int) -> float:
    """Peak memory of a fresh process that makes a clip of this length."""
    code = f"from comfyui_sonic.bench.draft import make_clip; make_clip({seconds})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout)


def make_clip(seconds: int) -> None:
    sound = read_sound(EXAMPLES / "close_up.mp3")
    repeated = np.tile(sound.waveform, seconds // int(sound.seconds) + 1)[:, : sound.sample_rate * seconds]
    long = Sound(repeated, sound.sample_rate)
    prepared = prepare(read_picture(EXAMPLES / "close_up.png"), long, PrepareOptions(min_resolution=256))
    with tempfile.TemporaryDirectory() as folder:
        clip = render_draft(prepared, InferenceOptions(fps=FPS))
        write_mp4(Path(folder) / "clip.mp4", clip.frames(), FPS, long)
    sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def repeatability() -> dict[str, Any]:
    prepared = made("close_up.png", "close_up.mp3", 256)
    first, again, other = (render_draft(prepared, InferenceOptions(seed=seed, fps=FPS)) for seed in (1, 1, 2))
    still = render_draft(prepared, InferenceOptions(motion_scale=0.0, fps=FPS))
    geometry, picture = still.geometry, still.picture
    high, wide = picture.shape[:2]
    pixels = np.stack(np.meshgrid(np.arange(wide), np.arange(high)), axis=-1).reshape(-1, 2).astype(np.float64)
    outside = (geometry.oval_distance(geometry.to_local(pixels)) > 1.55).reshape(high, wide)
    return {
        "same_seed_same_frames": all(np.array_equal(a, b) for a, b in zip(first.frames(), again.frames(), strict=True)),
        "other_seed_other_frames": not np.array_equal(first.frame(40), other.frame(40)),
        "pixels_outside_the_face_changed_without_motion": int(
            max((f[outside] != picture[outside]).sum() for f in still.frames())
        ),
        "pixels_outside_the_face": int(outside.sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sheets", type=Path, help="draw contact sheets of every example into this folder")
    parser.add_argument(
        "--skip-speech", action="store_true", help="leave out what needs espeak-ng, flite and real recordings"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    weights = sum(path.stat().st_size for path in (FACE_WEIGHTS, FACE_WEIGHTS.parent / "draft" / "mouth.safetensors"))
    report: dict[str, Any] = {"weights_bytes": weights}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report["speed"] = speed(folder)
        report["sampling"] = sampling()
        report["sync"] = sync(folder)
        if not arguments.skip_speech:
            from comfyui_sonic.bench.speech_gate import measure

            report["phonemes"] = phonemes(folder)
            report["speech"] = measure()
    report["peak_memory_mb"] = {f"{seconds} s": peak_mb(seconds) for seconds in (10, 120)}
    report["repeatability"] = repeatability()
    if arguments.sheets:
        from .contact_sheet import draw_all

        draw_all(arguments.sheets)
    sys.stdout.write(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
