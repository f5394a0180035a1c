"""ComfyUI's modules in this process, and the recorded numbers of the published Sonic."""

from __future__ import annotations

import json
import logging
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from comfyui_sonic.bench.sonic_models import as_open_clip
from comfyui_sonic.queue_bridge.servers.launch_comfyui import make_torchaudio_importable, make_torchvision_importable
from comfyui_sonic.sonic.audio_encoder import WhisperEncoder
from comfyui_sonic.sonic.conditioning import AudioProjection, MotionBucketPredictor
from comfyui_sonic.sonic.postprocess.interpolation import FrameInterpolation
from safetensors.torch import load_file, save_file

log = logging.getLogger("tests.recorded")

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="session")
def comfy(comfyui_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The package ``comfy`` of the ComfyUI under test, set to the CPU as ``--cpu`` does; with --card on the card."""
    card = bool(request.config.getoption("--card"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small networks gain nothing from more, and lose much where others use the cores
    make_torchvision_importable()
    make_torchaudio_importable()
    sys.path.append(str(comfyui_path))  # at the end: its "tests" and "utils" must not hide anybody's
    try:
        import comfy.cli_args  # reads no command line unless main.py asks it to

        comfy.cli_args.args.cpu = not card
        comfy.cli_args.args.use_pytorch_cross_attention = True
        import comfy.model_management

        assert (comfy.model_management.get_torch_device().type != "cpu") == card
        torch.backends.cudnn.allow_tf32 = False  # ten bits of a number's 23: too few to be held against recordings
        yield sys.modules["comfy"]
    finally:
        sys.path.remove(str(comfyui_path))
        torch.set_num_threads(threads)


def weight(seed: int, file: str, key: str, shape: list[int]) -> torch.Tensor:
    """One weight of the recorded networks: anybody can make it again from its name."""
    source = np.random.default_rng([seed, zlib.crc32(f"{file}/{key}".encode())])
    values = source.standard_normal(shape, dtype=np.float32)
    if key.endswith("mix_factor"):
        pass
    elif len(shape) == 1:
        values = 1 + np.float32(0.1) * values if "norm" in key and key.endswith("weight") else np.float32(0.05) * values
    else:
        values = values / np.float32(np.sqrt(np.prod(shape[1:])))
        if file == "rife":
            values = values * np.float32(0.5)
    return torch.from_numpy(np.asarray(values, np.float32))


def sinusoids(length: int, channels: int) -> torch.Tensor:
    """Whisper's positions, (length, channels): sines, then cosines, of rates from 1 down to 1/10000 per step."""
    rates = np.exp(-np.log(10000.0) / (channels // 2 - 1) * np.arange(channels // 2))
    angles = np.arange(length)[:, None] * rates[None]
    return torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32))


class Recorded:
    """A folder of recorded numbers: ``config`` (golden.json), tensors by name, weights by the rule of their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: dict[str, Any] = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
        self._tensors: dict[str, torch.Tensor] = {}
        for path in sorted(folder.glob("*.safetensors")):
            self._tensors.update(load_file(path))

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def weights(self, file: str) -> dict[str, torch.Tensor]:
        made = {key: weight(self.config["seed"], file, key, shape) for key, shape in self.config["keys"][file].items()}
        if file == "whisper_encoder":
            made["embed_positions.weight"] = sinusoids(1500, self.config["whisper"]["d_model"])
        return made

    def sparse(self, pixels: torch.Tensor) -> torch.Tensor:
        """Those pixels of (..., height, width) that are kept of what is only compared."""
        step = self.config.get("pixel_step", 1)
        return pixels[..., ::step, ::step]

    @property
    def long_spans(self) -> dict[str, list[list[int]]]:
        """Ranges of mel frames, padded states and frames of tokens that are kept of the long sound."""
        first = {"mel": [[2950, 3050]], "hidden": [[1490, 1520]], "tokens": [[370, 380]]}  # if golden.json is silent
        return dict(self.config.get("long_spans", first))

    @property
    def head_channels(self) -> int:
        unet = self.config["unet"]
        return int(unet["block_out_channels"][0] // unet["num_attention_heads"][0])


def recorded_folders(config: pytest.Config) -> list[Path]:
    named: list[Path] | None = config.getoption("--recorded")
    return named or [DATA / "golden", DATA / "golden_other"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What is held against recorded numbers runs with every folder; other tests need any network and take the first."""
    if "recorded" in metafunc.fixturenames and metafunc.definition.get_closest_marker("every_recorded_folder"):
        folders = recorded_folders(metafunc.config)
        metafunc.parametrize("recorded", folders, indirect=True, scope="session", ids=[path.name for path in folders])


@pytest.fixture(scope="session")
def recorded(request: pytest.FixtureRequest) -> Recorded:
    folder: Path = getattr(request, "param", None) or recorded_folders(request.config)[0]
    if not (folder / "golden.json").is_file():
        pytest.fail(f"There are no recorded numbers in '{folder}' (golden.json).")
    return Recorded(folder)


@pytest.fixture(scope="session")
def native(comfy: Any) -> SimpleNamespace:
    """The modules of sonic/native, which cannot be imported without ComfyUI."""
    from comfyui_sonic.sonic.native import (
        autoencoder,
        guider,
        image_encoder,
        keys,
        model,
        network,
        shapes,
        stoppable,
        stoppable_operations,
    )

    return SimpleNamespace(
        autoencoder=autoencoder,
        guider=guider,
        image_encoder=image_encoder,
        keys=keys,
        model=model,
        network=network,
        shapes=shapes,
        stoppable=stoppable,
        stoppable_operations=stoppable_operations,
    )


@pytest.fixture(scope="session")
def unet(native: SimpleNamespace, recorded: Recorded) -> Any:
    """ComfyUI's ModelPatcher over the recorded UNet."""
    return native.model.load_unet(recorded.weights("unet"), "unet.pth", torch.float32, recorded.head_channels)


@pytest.fixture(scope="session")
def relative_rms() -> Callable[[torch.Tensor, torch.Tensor], float]:
    """RMS of the difference over the standard deviation of what was recorded."""

    def measure(found: torch.Tensor, expected: torch.Tensor) -> float:
        assert found.shape == expected.shape, f"{tuple(found.shape)} instead of {tuple(expected.shape)}"
        found, expected = found.cpu(), expected.cpu()
        difference = (found.double() - expected.double()).square().mean().sqrt()
        value = float(difference / expected.double().std())
        log.info("relative RMS %.1e", value)  # seen with --log-cli-level=INFO
        return value

    return measure


@pytest.fixture(scope="session")
def image_encoder(native: SimpleNamespace, recorded: Recorded) -> Any:
    heads = recorded.config["clip_vision"]["num_attention_heads"]
    return native.image_encoder.ImageEncoder(recorded.weights("clip_vision"), "clip", torch.float32, heads)


@pytest.fixture(scope="session")
def autoencoder(native: SimpleNamespace, recorded: Recorded) -> Any:
    return native.autoencoder.Autoencoder(recorded.weights("vae"), "vae", torch.float32)


@pytest.fixture(scope="session")
def networks(unet: Any, image_encoder: Any, autoencoder: Any, recorded: Recorded) -> Any:
    """All recorded networks, as SONIC_MODEL carries them."""
    from comfyui_sonic.sonic.native.managed import Managed
    from comfyui_sonic.sonic.native.networks import SonicNetworks

    heads = recorded.config["whisper"]["encoder_attention_heads"]
    whisper = {f"encoder.{key}": value for key, value in recorded.weights("whisper_encoder").items()}
    return SonicNetworks(
        unet,
        image_encoder,
        autoencoder,
        Managed(WhisperEncoder.of_weights(whisper, "whisper", heads)),
        Managed(AudioProjection.of_weights(recorded.weights("audio2token"), "audio2token")),
        Managed(MotionBucketPredictor.of_weights(recorded.weights("audio2bucket"), "audio2bucket")),
        Managed(FrameInterpolation.of_weights(recorded.weights("rife"), "rife")),
    )


def _for_heads_of_64(key: str, shape: list[int]) -> list[int]:
    """The shape of a UNet weight when every width is doubled but that of what comes from outside."""
    wide = [2 * size if position < 2 else size for position, size in enumerate(shape)]
    if key.endswith("mix_factor") or key == "conv_out.bias":
        return shape
    if key == "conv_out.weight":
        wide[0] = shape[0]
    if key == "conv_in.weight" or key == "add_embedding.linear_1.weight" or "attn2.to_k." in key:
        wide[1] = shape[1]
    if "attn2.to_v." in key or "attn2.processor." in key:
        wide[1] = shape[1]
    return wide


@pytest.fixture(scope="session")
def write_sonic_files(native: SimpleNamespace, recorded: Recorded, autoencoder: Any) -> Callable[[Path], None]:
    """Writes small files of the published names and layouts into a ``models`` folder."""

    def write(models: Path) -> None:
        sonic, checkpoints = models / "sonic", models / "checkpoints"
        for folder in (sonic / "whisper-tiny", sonic / "RIFE", checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        seed = recorded.config["seed"]
        shapes = recorded.config["keys"]["unet"]
        unet = {key: weight(seed, "unet", key, _for_heads_of_64(key, shape)) for key, shape in shapes.items()}
        torch.save(unet, sonic / "unet.pth")
        torch.save(recorded.weights("audio2token"), sonic / "audio2token.pth")
        torch.save(recorded.weights("audio2bucket"), sonic / "audio2bucket.pth")
        rife = {f"module.{key}": value for key, value in recorded.weights("rife").items()}
        torch.save(rife, sonic / "RIFE" / "flownet.pkl", _use_new_zipfile_serialization=False)
        whisper = {f"model.encoder.{key}": value for key, value in recorded.weights("whisper_encoder").items()}
        save_file(whisper | {"model.decoder.x": torch.zeros(1)}, sonic / "whisper-tiny" / "model.safetensors")
        svd = as_open_clip(recorded.weights("clip_vision"), native.image_encoder.PREFIX)
        prefix = native.autoencoder.PREFIX
        svd |= {prefix + key: value.contiguous() for key, value in autoencoder.loaded().state_dict().items()}
        svd["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(4)
        save_file(svd, checkpoints / "svd_xt.safetensors")

    return write
