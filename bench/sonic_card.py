"""The engine sonic on a graphics card: seconds, memory beside its estimate, and how long an interrupt takes, as JSON.

    python -m bench.sonic_models MODELS            (once, where the published files are not at hand)
    python -m bench.sonic_card MODELS [--sizes 512 768 1024] [--dtypes auto] [--rooms 0] [--seconds 2] [--steps 1]

Each size goes the way of a real clip, stage by stage. 'beside_gb' is the most that tensors took beside the weights that
lay on the card, 'reserved_gb' all that torch had taken, 'estimate_gb' what a clip is admitted by. --rooms leaves so
many GB of the card free, as a smaller card would have, with one row each: another process takes the rest; 0 is all.
--published also times a call of the network in the published arrangement beside ours.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .comfyui_here import import_comfyui

import_comfyui(card=True)

import comfy.model_management as management  # noqa: E402
import torch  # noqa: E402
from comfyui_sonic.sonic.audio import read_sound  # noqa: E402
from comfyui_sonic.sonic.checkpoints import sonic_files  # noqa: E402
from comfyui_sonic.sonic.errors import NotEnoughMemory  # noqa: E402
from comfyui_sonic.sonic.memory import memory_need  # noqa: E402
from comfyui_sonic.sonic.native.guider import denoise  # noqa: E402
from comfyui_sonic.sonic.native.networks import SonicNetworks, load_networks  # noqa: E402
from comfyui_sonic.sonic.native.pipeline import (  # noqa: E402
    clip_of,
    computing_dtype,
    condition,
    initial_noise,
    make_sure_of_memory,
)
from comfyui_sonic.sonic.options import PrepareOptions  # noqa: E402
from comfyui_sonic.sonic.portrait import read_picture  # noqa: E402
from comfyui_sonic.sonic.prepare import prepare  # noqa: E402
from comfyui_sonic.sonic.prepared import PreparedData  # noqa: E402
from comfyui_sonic.sonic.windows import CONTEXT_LENGTH, window_count  # noqa: E402

from .sonic_network import ALL_BRANCHES, REAL, call, make_network  # noqa: E402

ROOT = Path(__file__).parents[1]
GB = 1e9
PRESSES = 3

_HOLD = """
import sys, torch
torch.zeros(1, device="cuda")
rest = torch.cuda.mem_get_info()[0] - int(float(sys.argv[1]) * 1e9)
held = torch.empty(max(0, rest), dtype=torch.uint8, device="cuda")
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def only(room_gb: float) -> Iterator[None]:
    """So much of the card is free for this process, beside what it already has."""
    torch.zeros(1, device="cuda")
    if not room_gb:
        yield
        return
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(room_gb)], **pipes) as other:  # type: ignore[call-overload]
        try:
            assert other.stdout.readline().strip() == b"held"
            yield
        finally:
            other.stdin.close()


def prepared_clip(size: int, seconds: float) -> PreparedData:
    picture = read_picture(ROOT / "examples" / "batch" / "eileen_collins.png")
    side = min(picture.shape[:2])
    sound = read_sound(ROOT / "tests" / "data" / "golden" / "long.wav")
    return prepare(picture[:side, :side], sound, PrepareOptions(duration_s=seconds, min_resolution=size))


class Stage:
    """What one piece of work took of the card."""

    def __init__(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self._began = time.perf_counter()

    def ended(self, need: int | None = None) -> dict[str, Any]:
        torch.cuda.synchronize()
        seconds = time.perf_counter() - self._began
        weights = sum(int(patcher.loaded_size()) for patcher in management.loaded_models() if patcher)
        found = {
            "seconds": round(seconds, 3),
            "beside_gb": round((torch.cuda.max_memory_allocated() - weights) / GB, 2),
            "reserved_gb": round(torch.cuda.max_memory_reserved() / GB, 2),
            "weights_gb": round(weights / GB, 2),
        }
        return found if need is None else found | {"estimate_gb": round(need / GB, 2)}


def clip(networks: SonicNetworks, size: int, seconds: float, steps: int, *, press: bool) -> dict[str, Any]:
    """One clip, twice: the first time libraries choose their kernels. press: also interrupt it."""
    prepared = prepared_clip(size, seconds)
    dtype = computing_dtype(networks.unet)
    found: dict[str, Any] = {"size": size, "dtype": str(dtype).removeprefix("torch.")}
    try:
        make_sure_of_memory(prepared, networks)
    except NotEnoughMemory as error:
        return found | {"refused": str(error)}
    found["free_gb"] = round(management.get_free_memory() / GB, 2)
    need = memory_need(size, size, round(seconds * 12.5), dtype.itemsize, networks.autoencoder.dtype.itemsize)
    rows: list[int] = []
    hook = networks.unet.model.diffusion_model.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    try:
        found |= _stages(networks, prepared, need, steps, rows, press=press)
    except torch.cuda.OutOfMemoryError as error:
        found["out_of_memory"] = str(error).splitlines()[0]
    finally:
        hook.remove()
    return found


def _stages(
    networks: SonicNetworks, prepared: PreparedData, need: Any, steps: int, rows: list[int], *, press: bool
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    height, width = prepared.picture.shape[:2]
    stage = Stage()
    conditioning = condition(prepared, networks)
    found["prepared"] = stage.ended(need.encoding)
    noise = initial_noise(1, len(conditioning.tokens), height, width)
    latents = []
    for _ in range(2):
        rows.clear()
        stage = Stage()
        latents.append(denoise(networks.unet, conditioning, noise, steps))
        found["denoised"] = stage.ended(need.denoising + need.clip)
    windows = steps * window_count(len(noise))
    found["window_seconds"] = round(found["denoised"]["seconds"] / windows, 3)
    found["branches_together"] = sorted({count // CONTEXT_LENGTH for count in rows})
    found["same_twice"] = bool(torch.equal(latents[0], latents[1]))
    for _ in range(2):
        stage = Stage()
        frames = sum(1 for _ in clip_of(latents[0], prepared, 25.0, networks).frames())
        found["decoded"] = stage.ended(need.decoding)
    found["frames_per_second_decoded"] = round(frames / found["decoded"]["seconds"], 1)
    found["admitted_by_gb"] = round(need.peak / GB, 2)
    if not press:
        return found
    found["interrupted"] = {
        "denoising": pressed(lambda: denoise(networks.unet, conditioning, noise, steps)),
        "decoding": pressed(lambda: list(clip_of(latents[0], prepared, 25.0, networks, _look).frames())),
    }
    return found


def _look() -> None:
    management.throw_exception_if_processing_interrupted()


def pressed(work: Callable[[], object]) -> dict[str, float]:
    """The longest times from 'interrupt' until the work ends, and until the card is free, over moments of a run."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    whole = time.perf_counter() - began
    ended_s, free_s = [], []
    for press in range(PRESSES):
        at: list[float] = []

        def button(at: list[float] = at) -> None:
            at.append(time.perf_counter())
            management.interrupt_current_processing()

        timer = threading.Timer(whole * (press + 0.5) / PRESSES, button)
        timer.start()
        try:
            work()
        except management.InterruptProcessingException:
            ended_s.append(time.perf_counter() - at[0])
            torch.cuda.synchronize()
            free_s.append(time.perf_counter() - at[0])
        finally:
            timer.cancel()
            timer.join()
            management.interrupt_current_processing(False)
    if not ended_s:
        return {"presses": 0}
    return {"presses": len(ended_s), "work_ended_s": round(max(ended_s), 3), "card_free_s": round(max(free_s), 3)}


def arrangements(size: int) -> dict[str, Any]:
    """Milliseconds of a call of the network in three branches, ours and as published, in half precision."""
    found: dict[str, Any] = {"size": size}
    outputs = {}
    for arrangement in ("ours", "published"):
        torch.cuda.empty_cache()
        torch.manual_seed(0)
        network = make_network(REAL, arrangement, "cuda", torch.float16).requires_grad_(False)  # type: ignore[arg-type]
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        times = []
        for _ in range(6):
            started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            started.record()
            outputs[arrangement] = call(network, REAL, size, size, CONTEXT_LENGTH, ALL_BRANCHES).float()
            ended.record()
            torch.cuda.synchronize()
            times.append(started.elapsed_time(ended))
        found[f"{arrangement}_ms"] = round(statistics.median(times[1:]), 1)
        found[f"{arrangement}_gb"] = round((torch.cuda.max_memory_allocated() - before) / GB, 2)
        del network
    found["ratio"] = round(found["ours_ms"] / found["published_ms"], 3)
    difference = outputs["ours"] - outputs["published"]
    found["relative_rms"] = float(difference.square().mean().sqrt() / outputs["published"].std())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 768, 1024], help="sides of square pictures")
    parser.add_argument("--dtypes", nargs="+", default=["auto"], choices=["auto", "fp16", "bf16", "fp32"])
    parser.add_argument("--rooms", type=float, nargs="+", default=[0.0], metavar="GB", help="what is left free")
    parser.add_argument("--seconds", type=float, default=2.0, help="of the clip (default: 2)")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--published", action="store_true", help="compare a call with the published arrangement")
    arguments = parser.parse_args()
    files = sonic_files({kind: [arguments.models / kind] for kind in ("sonic", "checkpoints")})
    report: dict[str, Any] = {"card": torch.cuda.get_device_name(), "torch": torch.__version__, "clips": []}
    for dtype in arguments.dtypes:
        networks = load_networks(files, dtype)
        for room in arguments.rooms:
            management.unload_all_models()
            management.soft_empty_cache(True)
            with only(room):
                for size in arguments.sizes:
                    found = clip(networks, size, arguments.seconds, arguments.steps, press=not room)
                    report["clips"].append({"room_gb": room, **found})
                    sys.stderr.write(json.dumps(report["clips"][-1]) + "\n")
        management.unload_all_models()
        del networks
    if arguments.published:
        management.soft_empty_cache(True)
        report["arrangements"] = [arrangements(size) for size in arguments.sizes]
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
