"""Sonic from files of the published names and layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_sonic.sonic.checkpoints import sonic_files
from comfyui_sonic.sonic.engine import load_sonic
from comfyui_sonic.sonic.errors import BadWeights
from comfyui_sonic.sonic.model_files import convert
from comfyui_sonic.sonic.postprocess.interpolation import FrameInterpolation

pytestmark = pytest.mark.slow

Files = dict[str, Path]


@pytest.fixture(scope="module")
def files(write_sonic_files: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory) -> Files:
    models = tmp_path_factory.mktemp("models")
    write_sonic_files(models)
    return sonic_files({"sonic": [models / "sonic"], "checkpoints": [models / "checkpoints"]})


def test_every_network_is_what_its_file_holds(files: Files, recorded: Any, autoencoder: Any) -> None:
    networks = load_sonic(files, "fp32")
    assert networks.unet.model.get_dtype() == torch.float32
    assert networks.unet.model.diffusion_model.num_head_channels == 64
    stored = torch.load(files["unet"], weights_only=True)
    own = networks.unet.model.diffusion_model.state_dict()
    key = "input_blocks.1.1.time_stack.0.attn2.to_k_ip.weight"
    published = "down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn2.processor.to_k_ip.0.weight"
    assert torch.equal(own[key].cpu(), stored[published])
    latents = recorded["decode_in"][0, :2]
    assert torch.equal(networks.autoencoder.decode(latents), autoencoder.decode(latents))
    vision, expected = networks.image_encoder.loaded().state_dict(), recorded.weights("clip_vision")
    assert vision.keys() == expected.keys()
    assert all(torch.equal(vision[key].cpu(), expected[key]) for key in vision)
    whisper = networks.speech_encoder.loaded().state_dict()
    assert torch.equal(whisper["conv1.weight"].cpu(), recorded.weights("whisper_encoder")["conv1.weight"])


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_the_precision_is_that_of_the_large_networks_only(files: Files, precision: Any, dtype: torch.dtype) -> None:
    networks = load_sonic(files, precision)
    assert networks.unet.model.get_dtype() == dtype
    assert networks.autoencoder.dtype == dtype
    assert networks.interpolation.loaded().block0.conv0[0][0].weight.dtype == torch.float32
    assert networks.audio_projection.loaded().proj1.weight.dtype == torch.float32


def test_a_file_in_half_precision_gives_small_networks_in_float32(files: Files, tmp_path: Path) -> None:
    half = {key: value.half() for key, value in torch.load(files["audio_projection"], weights_only=True).items()}
    torch.save(half, tmp_path / "audio2token.pth")
    networks = load_sonic({**files, "audio_projection": tmp_path / "audio2token.pth"}, "fp32")
    assert networks.audio_projection.loaded().proj1.weight.dtype == torch.float32


def test_converted_files_make_the_same_networks_in_half_precision(files: Files, tmp_path: Path) -> None:
    parts = ("unet", "audio_projection", "motion_buckets", "interpolation")
    converted = load_sonic({**files, **{part: convert(files[part], tmp_path).target for part in parts}}, "fp16")
    published = load_sonic(files, "fp16")
    for part in parts:
        pair = [getattr(networks, part) for networks in (converted, published)]
        made, wanted = (one.model.diffusion_model if part == "unet" else one.loaded() for one in pair)
        assert made.state_dict().keys() == wanted.state_dict().keys()
        assert all(torch.equal(value, wanted.state_dict()[key]) for key, value in made.state_dict().items()), part


@pytest.mark.parametrize(
    "part", ["unet", "audio_projection", "motion_buckets", "speech_encoder", "interpolation", "svd"]
)
def test_a_file_of_another_network_is_named(files: Files, part: str) -> None:
    other = files["audio_projection" if part != "audio_projection" else "motion_buckets"]
    with pytest.raises(BadWeights) as caught:
        load_sonic({**files, part: other}, "fp32")
    assert str(other) in str(caught.value)


def test_the_teacher_of_the_interpolation_is_left_out(recorded: Any) -> None:
    weights = recorded.weights("rife")
    assert any(key.startswith("block_tea.") for key in weights)
    network = FrameInterpolation.of_weights(weights, "flownet.pkl")
    assert not any(key.startswith("block_tea.") for key in network.state_dict())
    del weights["block2.conv2.2.bias"]
    with pytest.raises(BadWeights, match=r"1 missing: block2\.conv2\.2\.bias"):
        FrameInterpolation.of_weights(weights, "flownet.pkl")


def test_this_comfyui_has_what_sonic_is_built_on_and_a_change_would_be_named(
    native: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfyui_sonic.sonic import engine
    from comfyui_sonic.sonic.native import fit

    assert engine.misfit() == ""

    def renamed(x: object, context: object) -> None:
        """As it might look in some later version."""

    monkeypatch.setattr(fit, "_RELIED_ON", ((renamed, ("x", "context", "mask")),))
    assert engine.misfit() == (
        "The engine 'sonic' does not fit this version of ComfyUI (test_this_comfyui_has_what_sonic_is_built_on_and_a_"
        "change_would_be_named.<locals>.renamed takes no 'mask' any more); choose 'draft' or update this package."
    )
