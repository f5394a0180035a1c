"""Runs the published Sonic with small networks of known weights and writes down what each stage gives.

    python -m bench.record_sonic --published CHECKOUT --like tests/data/golden/golden.json --out DIR [what differs ...]

``pytest tests/sonic/test_recorded_numbers.py --recorded DIR`` reads the folder. Nothing of this package is imported,
and nothing of the published code is in here: its own functions and classes are called. They want an environment of
their own (docs/sonic.md). What is not given is taken from ``--like``; ``--against DIR`` compares with another folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import wave
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

log = logging.getLogger("record_sonic")

Tensors = dict[str, torch.Tensor]

TIMESTEP = 1.2345  # of the single calls of the network
BUCKETS = (18.3, 21.7)
TOKEN_CLIP, TOKEN_STRIDE = 10, 4  # states that one frame hears, states from frame to frame
CHUNK_STATES, CHUNK_MEL, CHUNK_FRAMES = 1500, 3000, 375  # of 30 s
KEPT_HIDDEN, KEPT_LONG_TOKENS, STORED_EVERY = 40, 2, 3
DECODED_FRAMES, DECODE_CHUNK = 10, 8
MOST_UNITS = 10000
MOST_SIDE = 4000  # of a drawn size
TENSORS = "golden.safetensors"


def weight(seed: int, file: str, key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """One weight by the rule of its name (the README of the recorded folder)."""
    values = np.random.default_rng([seed, zlib.crc32(f"{file}/{key}".encode())]).standard_normal(
        shape, dtype=np.float32
    )
    if key.endswith("mix_factor"):
        return torch.from_numpy(values)
    if len(shape) == 1:
        scale = "norm" in key and key.endswith("weight")
        return torch.from_numpy(1 + np.float32(0.1) * values if scale else np.float32(0.05) * values)
    values = values / np.float32(np.sqrt(np.prod(shape[1:])))
    return torch.from_numpy(values * np.float32(0.5) if file == "rife" else values)


def rms(found: torch.Tensor, expected: torch.Tensor) -> float:
    """RMS of the difference over the standard deviation of what is expected."""
    difference = (found.double() - expected.double()).square().mean().sqrt()
    return float(difference / expected.double().std())


class Published:
    """The published code with small networks; ``keys`` are their weights' names and shapes by file."""

    def __init__(self, checkout: Path, config: Mapping[str, Any], seed: int) -> None:
        if not (checkout / "sonic.py").is_file():
            raise SystemExit(f"'{checkout}' is no checkout of the published code: it has no sonic.py.")
        sys.path.insert(0, str(checkout))  # before this folder, which has a package of the name "sonic"
        import src.dataset.test_preprocess as preprocess
        from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler
        from src.utils.mask_processer import IPAdapterMaskProcessor
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, WhisperConfig, WhisperFeatureExtractor
        from transformers import WhisperModel as Whisper

        import sonic

        self.keys: dict[str, dict[str, list[int]]] = {}
        self._seed = seed
        self.code: ModuleType = sonic
        self.preprocess: ModuleType = preprocess
        self.reduced = IPAdapterMaskProcessor.downsample
        self.features = WhisperFeatureExtractor()
        self.settings = sonic.Sonic.config
        unet = sonic.UNetSpatioTemporalConditionModel(**config["unet"])
        sonic.add_ip_adapters(unet, [config["audio2token"]["context_tokens"]], [self.settings.ip_audio_scale])
        self.unet = self._filled("unet", unet)
        vae = self._filled("vae", AutoencoderKLTemporalDecoder(**config["vae"]))
        self.clip = self._filled(
            "clip_vision", CLIPVisionModelWithProjection(CLIPVisionConfig(**config["clip_vision"]))
        )
        self.whisper = Whisper(WhisperConfig(**config["whisper"])).eval()
        self._filled("whisper_encoder", self.whisper.encoder, without="embed_positions.weight")
        self.audio2token = self._filled("audio2token", sonic.AudioProjModel(**config["audio2token"]))
        self.audio2bucket = self._filled("audio2bucket", sonic.Audio2bucketModel(**config["audio2bucket"]))
        self.rife = sonic.RIFEModel(device="cpu")
        self._filled("rife", self.rife.flownet)
        scheduler = EulerDiscreteScheduler.from_config(config["scheduler"])
        self.pipe = sonic.SonicPipeline(unet=unet, image_encoder=self.clip, vae=vae, scheduler=scheduler)

    def _filled(self, file: str, network: Any, without: str = "") -> Any:
        state = network.state_dict()
        self.keys[file] = {key: list(value.shape) for key, value in state.items() if key != without}
        state |= {key: weight(self._seed, file, key, tuple(shape)) for key, shape in self.keys[file].items()}
        network.load_state_dict(state, strict=True)
        return network.eval()

    def prepared(self, picture: Path, sound: Path, box: list[float], res: int) -> dict[str, Any]:
        """What the published code makes of one picture, whose face is in ``box`` (x, y, w, h), and one sound."""

        def face(*_: Any, **__: Any) -> tuple[list[Any], list[float], list[Any]]:
            return [], [1.0], [box]

        found = self.preprocess.image_audio_to_tensor(
            face, self.features, str(picture), str(sound), limit=MOST_UNITS, image_size=res, area=self.settings.area
        )
        return dict(found)

    def heard(self, data: Mapping[str, Any]) -> SimpleNamespace:
        """Stage 2: ``hidden`` with its padding, ``tokens``, ``silent``, ``buckets`` of every frame."""
        clips: list[torch.Tensor] = []
        given: list[Any] = []

        def pipe(*arguments: Any, **_: Any) -> SimpleNamespace:
            given.extend(arguments)
            return SimpleNamespace(frames=torch.zeros(1))

        pipe.device = torch.device("cpu")  # type: ignore[attr-defined]
        hook = self.audio2token.register_forward_pre_hook(lambda _, inputs: clips.append(inputs[0][0, 0]))
        height, width = data["ref_img"].shape[-2:]
        networks = self.whisper, self.audio2token, self.audio2bucket, self.clip
        self.code.test(pipe, self.settings, *networks, width, height, dict(data))
        hook.remove()
        spoken = clips[::2]  # every frame's own clip, then the clip of zeros
        tail = spoken[-1][TOKEN_STRIDE:]
        hidden = torch.cat([clip[:TOKEN_STRIDE] for clip in spoken] + [tail])
        return SimpleNamespace(hidden=hidden, tokens=given[3], silent=given[4], buckets=given[5])

    def denoised(
        self, data: Mapping[str, Any], heard: Any, noise: torch.Tensor, steps: int, scale: float
    ) -> torch.Tensor:
        """The latents of the whole denoising, (1, F, 4, h, w), as the decoder gets them."""
        settings = self.settings
        rows = [frame % len(heard.tokens) for frame in range(noise.shape[1])]
        height, width = data["ref_img"].shape[-2:]
        return self.pipe(
            data["ref_img"][None],
            data["clip_images"][None],
            data["face_mask"][None],
            [heard.tokens[row] for row in rows],
            [heard.silent[row] for row in rows],
            [heard.buckets[row] for row in rows],
            height=height,
            width=width,
            num_frames=len(rows),
            motion_bucket_scale=scale,
            fps=settings.fps,
            noise_aug_strength=settings.noise_aug_strength,
            min_guidance_scale1=settings.min_appearance_guidance_scale,
            max_guidance_scale1=settings.max_appearance_guidance_scale,
            min_guidance_scale2=settings.audio_guidance_scale,
            max_guidance_scale2=settings.audio_guidance_scale,
            overlap=settings.overlap,
            shift_offset=settings.shift_offset,
            frames_per_batch=settings.n_sample_frames,
            num_inference_steps=steps,
            i2i_noise_strength=settings.i2i_noise_strength,
            latents=noise.clone(),
            output_type="latent",
        ).frames

    def one_call(self, sample: torch.Tensor, audio: torch.Tensor, mask: torch.Tensor, embeds: torch.Tensor) -> Any:
        """Three branches of the network at once: the first without a picture."""
        branches, frames = sample.shape[:2]
        ids = torch.tensor([[self.settings.fps, *BUCKETS]] * branches)
        context = torch.cat([torch.zeros_like(embeds), *[embeds] * (branches - 1)])
        out = self.unet(
            sample,
            torch.tensor(TIMESTEP),
            encoder_hidden_states=(context[:, None].repeat_interleave(frames, 0), [audio.flatten(0, 1)]),
            added_time_ids=ids,
            cross_attention_kwargs={"ip_adapter_masks": [mask]},
        ).sample
        return ids, out

    def decoded(self, latents: torch.Tensor) -> torch.Tensor:
        frames = self.pipe.decode_latents(latents, latents.shape[1], DECODE_CHUNK)
        return (frames * 0.5 + 0.5).clamp(0, 1)


def spans_of(chunks: int) -> dict[str, list[list[int]]]:
    """What is kept of a long sound: around each border of 30 s."""
    borders = range(1, chunks)
    return {
        "mel": [[CHUNK_MEL * border - 50, CHUNK_MEL * border + 50] for border in borders],
        "hidden": [[CHUNK_STATES * border - 10, CHUNK_STATES * border + 20] for border in borders],
        "tokens": [[CHUNK_FRAMES * border - 5, CHUNK_FRAMES * border + 5] for border in borders],
    }


def drawn_crops(count: int, source: random.Random) -> list[dict[str, Any]]:
    """Faces of any place and shape in pictures of any shape."""
    cases = []
    for _ in range(count):
        width, height = source.randint(200, 2000), source.randint(200, 2000)
        left, top = (source.randint(0, 4 * (side - 60)) / 4 for side in (width, height))
        right, bottom = source.randint(int(left) + 40, width), source.randint(int(top) + 40, height) - 0.5
        box = [left, top, right, bottom]
        ratio = source.choice((0.1, 0.15, 0.18, 0.2, 0.5, 1.0))
        cases.append({"bbox": box, "expand_ratio": ratio, "width": width, "height": height})
    return cases


def cropped(published: Published, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for case in cases:
        crop = published.preprocess.process_bbox(case["bbox"], case["expand_ratio"], case["height"], case["width"])
        case["crop"] = [int(side) for side in crop]
    return cases


def drawn_sizes(count: int, source: random.Random) -> list[dict[str, Any]]:
    cases = []
    for _ in range(count):
        width, height = source.randint(64, 1400), source.randint(64, 1400)
        highest = min(800, MOST_SIDE * min(width, height) // max(width, height))
        cases.append({"width": width, "height": height, "min_resolution": source.randint(64, highest)})
    return cases


def resized(published: Published, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        sound, picture = Path(folder) / "short.wav", Path(folder) / "blank.png"
        with wave.open(str(sound), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(bytes(32000))
        for case in cases:
            Image.new("RGB", (case["width"], case["height"])).save(picture, compress_level=0)
            found = published.prepared(picture, sound, [0, 0, 9, 9], case["min_resolution"])
            case["out_height"], case["out_width"] = (int(side) for side in found["ref_img"].shape[-2:])
    return cases


def record(published: Published, options: argparse.Namespace, config: dict[str, Any]) -> Tensors:
    """Every stage in its order; adds to ``config`` what the folder's golden.json says besides its settings."""
    kept: Tensors = {}
    every, few = options.pixel_step, options.tokens
    # Picture
    data = published.prepared(options.portrait, options.speech, config["bbox_xywh"], config["res"])
    kept["ref_img"] = data["ref_img"][:, ::every, ::every]
    kept["face_mask"] = data["face_mask"] if every == 1 else data["face_mask"][:1]
    kept["clip_images"] = data["clip_images"][:, ::every, ::every]
    embeds = kept["image_embeds"] = published.clip(data["clip_images"][None]).image_embeds
    mask = data["face_mask"][:1]
    height, width = mask.shape[-2:]
    for name, factor in (("mask_down_latent", 8), ("mask_down_latent4", 32)):
        kept[name] = published.reduced(mask, 1, (height // factor) * (width // factor), 1)
    kept["ref_mean"] = published.pipe.vae.encode(data["ref_img"][None]).latent_dist.mean
    # Speech
    long = published.prepared(options.portrait, options.long, config["bbox_xywh"], config["res"])
    chunks = long["audio_feature"].shape[-1] // CHUNK_MEL
    config["long_spans"] = spans = spans_of(chunks)
    for prefix, spoken in (("", data), ("long_", long)):
        log.info("%d units of speech", spoken["audio_len"])
        heard = published.heard(spoken)
        kept[f"{prefix}audio_tokens"] = torch.stack(heard.tokens[: KEPT_LONG_TOKENS if prefix else few])
        kept[f"{prefix}audio_uncond_token"] = heard.silent[0]
        kept[f"{prefix}audio_buckets"] = torch.stack(heard.buckets)
        about = {"audio_len": spoken["audio_len"], "mel_frames": spoken["audio_feature"].shape[-1]}
        if prefix:
            config["long"] = about
        else:
            config |= about
        config[f"{prefix}audio_latent_frames"] = len(heard.tokens)
        if prefix and chunks > 1:
            tokens = torch.stack(heard.tokens)
            kept["long_mel_boundary"] = torch.cat([long["audio_feature"][:, a:b] for a, b in spans["mel"]], dim=1)
            kept["long_audio_hidden"] = torch.cat([heard.hidden[a:b] for a, b in spans["hidden"]])
            kept["long_tokens_boundary"] = torch.cat([tokens[a:b] for a, b in spans["tokens"]])
        elif not prefix:
            said = heard
            kept["audio_feature_3s"] = data["audio_feature"][:, : options.mel]
            kept["audio_hidden"] = heard.hidden[:KEPT_HIDDEN]
    # Network
    torch.manual_seed(options.seed)
    channels, tokens_of_one = published.unet.config.in_channels, kept["audio_tokens"].shape[1:]
    for name, (frames, tall, wide) in (("square", options.square), ("wide", options.wide)):
        kept[f"unet_{name}_sample"] = torch.randn(3, frames, channels, tall // 8, wide // 8)
        kept[f"unet_{name}_audio"] = torch.randn(3, frames, *tokens_of_one)
        same = (tall, wide) == (height, width)
        resized_mask = mask[None] if same else torch.nn.functional.interpolate(mask[None], (tall, wide))
        kept[f"unet_{name}_mask"] = resized_mask
        kept[f"unet_{name}_ids"], kept[f"unet_{name}_out"] = published.one_call(
            kept[f"unet_{name}_sample"], kept[f"unet_{name}_audio"], resized_mask, embeds
        )
        config[f"unet_{name}_timestep"] = TIMESTEP
    # Video
    for frames in config["frames"]:
        log.info("denoising of %d frames", frames)
        torch.manual_seed(options.seed + frames)
        noise = kept[f"loop{frames}_noise"] = torch.randn(1, frames, 4, height // 8, width // 8)
        kept[f"loop{frames}_latents"] = published.denoised(data, said, noise, config["steps"], config["dynamic_scale"])
    scheduler = published.pipe.scheduler
    config["timesteps"], config["sigmas"] = scheduler.timesteps.tolist(), scheduler.sigmas.tolist()
    enough = min((count for count in config["frames"] if count > DECODE_CHUNK), default=max(config["frames"]))
    kept["decode_in"] = kept[f"loop{enough}_latents"][:, :DECODED_FRAMES].clone()
    video = published.decoded(kept["decode_in"])
    kept["decoded_01"] = video[:, :, ::STORED_EVERY, ::every, ::every]
    for name, frame in (("rife_a", 0), ("rife_b", 1)):
        kept[name] = torch.nn.functional.interpolate(video[:, :, frame], tuple(options.interpolated))
    kept["rife_mid"] = published.rife.inference(kept["rife_a"], kept["rife_b"]).clamp(0, 1)
    return kept


def compare(found: Tensors, config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Each tensor's relative RMS against the folder's; what of golden.json differs."""
    other: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        other |= load_file(path)
    told = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    config = json.loads(json.dumps(config))
    differences = {name: rms(found[name], other[name]) for name in sorted(other) if name in found}
    return {
        "relative_rms": differences,
        "worst": max(differences.values()),
        "missing": sorted(set(other) - set(found)),
        "more": sorted(set(found) - set(other)),
        "golden_json_differs": sorted(key for key in told if told[key] != config.get(key)),
    }


def options_of(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", type=Path, required=True, metavar="DIR", help="a checkout of the published code")
    parser.add_argument("--like", type=Path, required=True, metavar="FILE", help="golden.json: networks and defaults")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, help="of weights and noise; another one also draws other boxes and sizes")
    parser.add_argument("--portrait", type=Path, help="a picture, whose face is in --box")
    parser.add_argument("--box", type=float, nargs=4, metavar=("X", "Y", "W", "H"))
    parser.add_argument("--res", type=int, help="the shorter side")
    parser.add_argument("--speech", type=Path, help="a WAV file")
    parser.add_argument("--long", type=Path, help="a WAV file of more than 30 s")
    parser.add_argument("--frames", type=int, nargs="+", help="lengths of the clips that are denoised")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--dynamic-scale", type=float)
    size = ("FRAMES", "HEIGHT", "WIDTH")
    parser.add_argument("--square", type=int, nargs=3, metavar=size, default=[25, 128, 128], help="one call, in pixels")
    parser.add_argument("--wide", type=int, nargs=3, metavar=size, default=[8, 64, 192], help="another call")
    parser.add_argument("--interpolated", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), default=[128, 160])
    parser.add_argument("--mel", type=int, default=400, help="mel frames of the speech to keep")
    parser.add_argument("--tokens", type=int, default=8, help="frames of the speech whose tokens are kept")
    parser.add_argument("--pixel-step", type=int, default=1, help="keep every such pixel of what is only compared")
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="compare with this folder and print the differences"
    )
    options = parser.parse_args(argv)
    beside = options.like.parent
    for name, file in (("portrait", "portrait.png"), ("speech", "speech.wav"), ("long", "long.wav")):
        if getattr(options, name) is None:
            setattr(options, name, beside / file)
        if not getattr(options, name).is_file():
            parser.error(f"there is no file '{getattr(options, name)}'; name one with --{name}")
    return options


def main(argv: list[str] | None = None) -> None:
    options = options_of(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(2)
    like = json.loads(options.like.read_text(encoding="utf-8"))
    drawn = options.seed is not None and options.seed != like["seed"]
    options.seed = like["seed"] if options.seed is None else options.seed
    networks = ("unet", "vae", "clip_vision", "whisper", "audio2token", "audio2bucket", "scheduler")
    config: dict[str, Any] = {"seed": options.seed} | {name: like[name] for name in networks}
    for name, default in (("steps", None), ("frames", None), ("res", None), ("dynamic_scale", 1.1)):
        given = getattr(options, name)
        config[name] = given if given is not None else like.get(name, default)
    config["bbox_xywh"] = options.box or like["bbox_xywh"]
    with Image.open(options.portrait) as picture:
        config["image_size_wh"] = list(picture.size)
    with torch.inference_mode():
        published = Published(options.published.resolve(), config, options.seed)
        config["fps"] = float(published.settings.fps)
        config["pixel_step"] = options.pixel_step
        source = random.Random(options.seed)
        crops = drawn_crops(len(like["crops"]), source) if drawn else like["crops"]
        config["crops"] = cropped(published, [dict(case) for case in crops])
        sizes = drawn_sizes(len(like["resized"]), source) if drawn else like["resized"]
        config["resized"] = resized(published, [dict(case) for case in sizes])
        tensors = record(published, options, config)
    config["keys"] = published.keys
    options.out.mkdir(parents=True, exist_ok=True)
    save_file({name: value.float().contiguous().clone() for name, value in tensors.items()}, options.out / TENSORS)
    (options.out / "golden.json").write_text(json.dumps(config, separators=(",", ":")), encoding="utf-8")
    for given, name in ((options.portrait, "portrait.png"), (options.speech, "speech.wav"), (options.long, "long.wav")):
        if given.resolve() != (options.out / name).resolve():
            shutil.copyfile(given, options.out / name)
    log.info("written to %s", options.out)
    if options.against:
        sys.stdout.write(json.dumps(compare(tensors, config, options.against), indent=2) + "\n")


if __name__ == "__main__":
    main()
