"""The engine sonic on a graphics card gives what it gives on a processor; run with --card on a machine that has one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_sonic.sonic.audio import read_sound, speech_for_models
from comfyui_sonic.sonic.options import InferenceOptions
from comfyui_sonic.sonic.portrait import read_picture, resize
from comfyui_sonic.sonic.schedule import latent_frames

from .test_pipeline import prepared_for

Measure = Callable[[torch.Tensor, torch.Tensor], float]
FRAMES = 10


@pytest.fixture(autouse=True, scope="module")
def card(request: pytest.FixtureRequest) -> torch.device:
    if not request.config.getoption("--card"):
        pytest.skip("--card was not given")
    device: torch.device = request.getfixturevalue("comfy").model_management.get_torch_device()
    return device


@pytest.fixture
def conditioning(recorded: Any, native: Any) -> Any:
    rows = torch.arange(FRAMES) % len(recorded["audio_tokens"])
    return native.guider.Conditioning(
        recorded["ref_mean"],
        recorded["image_embeds"],
        recorded["audio_tokens"][rows],
        recorded["audio_uncond_token"],
        recorded["audio_buckets"].flatten(1)[rows],
        native.network.FaceMask(recorded["face_mask"][0]),
    )


@pytest.fixture
def noise(recorded: Any) -> torch.Tensor:
    return next(recorded[f"loop{count}_noise"][0, :FRAMES] for count in recorded.config["frames"] if count >= FRAMES)


def test_every_network_works_there(networks: Any, card: torch.device) -> None:
    assert networks.unet.load_device.type == card.type
    assert networks.autoencoder.device.type == card.type
    for network in (networks.speech_encoder, networks.audio_projection, networks.interpolation):
        assert next(network.loaded().parameters()).device.type == card.type


def test_only_networks_of_comfyuis_layers_are_left_in_main_memory_when_none_may_lie_on_the_card(
    networks: Any, comfy: Any, card: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    management = comfy.model_management
    management.unload_all_models()
    monkeypatch.setattr(management, "vram_state", management.VRAMState.NO_VRAM)  # as by ComfyUI's --novram
    whole = (networks.speech_encoder, networks.audio_projection, networks.motion_buckets, networks.interpolation)
    for network in (*whole, networks.autoencoder):
        weights = network.loaded().state_dict().values()
        assert {weight.device.type for weight in weights} == {card.type}
    assert {weight.device.type for weight in networks.image_encoder.loaded().state_dict().values()} == {"cpu"}


def test_speech_is_heard_the_same(recorded: Any, networks: Any, relative_rms: Measure) -> None:
    from dataclasses import replace

    from comfyui_sonic.sonic.native.pipeline import listen

    speech = speech_for_models(read_sound(recorded.folder / "speech.wav"))
    found = listen(replace(prepared_for(0.2), speech=speech), networks, recorded["image_embeds"])
    assert len(found.tokens) == latent_frames(len(speech))
    assert relative_rms(found.tokens[: len(recorded["audio_tokens"])], recorded["audio_tokens"]) <= 1e-4
    assert relative_rms(found.silent_tokens, recorded["audio_uncond_token"]) <= 1e-4
    assert relative_rms(found.buckets, recorded["audio_buckets"].flatten(1)) <= 1e-4


def test_frames_between_frames_are_the_same(
    recorded: Any, networks: Any, card: torch.device, relative_rms: Measure
) -> None:
    network = networks.interpolation.loaded()
    with torch.inference_mode():
        found = network(recorded["rife_a"].to(card), recorded["rife_b"].to(card))
    assert relative_rms(found, recorded["rife_mid"]) <= 1e-4


@pytest.mark.parametrize(("dtype", "within"), [(torch.float16, 2e-2), (torch.bfloat16, 1e-1)])
def test_half_precision_stays_near_float32(
    dtype: torch.dtype,
    within: float,
    native: Any,
    recorded: Any,
    unet: Any,
    conditioning: Any,
    noise: Any,
    relative_rms: Measure,
) -> None:
    half = native.model.load_unet(recorded.weights("unet"), "unet.pth", dtype, recorded.head_channels)
    assert half.model.manual_cast_dtype is None  # it computes in it
    found = native.guider.denoise(half, conditioning, noise, 2)
    assert relative_rms(found, native.guider.denoise(unet, conditioning, noise, 2)) <= within


def test_the_autoencoder_in_half_precision_stays_near_float32(
    native: Any, recorded: Any, autoencoder: Any, relative_rms: Measure
) -> None:
    half = native.autoencoder.Autoencoder(recorded.weights("vae"), "vae", torch.float16)
    latents = recorded["decode_in"][0] / native.autoencoder.LATENT_SCALE
    assert relative_rms(half.decode(latents), autoencoder.decode(latents)) <= 2e-2
    picture = resize(read_picture(recorded.folder / "portrait.png"), (128, 128))
    assert relative_rms(half.encode(picture), autoencoder.encode(picture)) <= 2e-2


def test_what_comfyui_finds_best_for_the_card_is_half_precision(native: Any, recorded: Any) -> None:
    best = native.model.load_unet(recorded.weights("unet"), "unet.pth", None, recorded.head_channels)
    assert best.model.get_dtype() in (torch.float16, torch.bfloat16)


def test_the_same_seed_gives_the_same_video(networks: Any) -> None:
    from comfyui_sonic.sonic.native.pipeline import render_sonic

    options = InferenceOptions(inference_steps=2, seed=4)
    first, second = (list(render_sonic(prepared_for(0.4), options, networks).frames()) for _ in range(2))
    assert len(first) == 10
    assert all((one == other).all() for one, other in zip(first, second, strict=True))


@pytest.fixture
def compiled(unet: Any) -> Iterator[Any]:
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    patcher = unet.clone()
    block = "diffusion_model.input_blocks.1.1"
    keys = [f"{block}.transformer_blocks.0", f"{block}.time_stack.0"]
    set_torch_compile_wrapper(model=patcher, backend="inductor", keys=keys)
    yield patcher
    torch._dynamo.reset()


def test_blocks_that_inductor_has_compiled_give_the_same(
    compiled: Any, unet: Any, native: Any, conditioning: Any, noise: Any, relative_rms: Measure
) -> None:
    expected = native.guider.denoise(unet, conditioning, noise, 2)
    assert relative_rms(native.guider.denoise(compiled, conditioning, noise, 2), expected) <= 1e-4


def test_weights_that_comfyui_has_let_go_come_back(
    networks: Any, comfy: Any, native: Any, conditioning: Any, noise: Any
) -> None:
    expected = native.guider.denoise(networks.unet, conditioning, noise, 1)
    comfy.model_management.unload_all_models()
    assert networks.unet.loaded_size() == 0
    assert torch.equal(native.guider.denoise(networks.unet, conditioning, noise, 1), expected)


def test_files_are_loaded_onto_the_card_in_the_precision_that_is_asked_for(
    tmp_path: Path, write_sonic_files: Callable[[Path], None]
) -> None:
    from comfyui_sonic.sonic.checkpoints import sonic_files
    from comfyui_sonic.sonic.native.networks import load_networks
    from comfyui_sonic.sonic.native.pipeline import computing_dtype

    write_sonic_files(tmp_path)
    files = sonic_files({kind: [tmp_path / kind] for kind in ("sonic", "checkpoints")})
    for precision, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)):
        networks = load_networks(files, precision)
        assert computing_dtype(networks.unet) == networks.autoencoder.dtype == dtype
