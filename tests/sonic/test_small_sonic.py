"""The small Sonic that benches look at: its files are the engine's, and it is taught what the engine then does."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfyui_sonic.sonic.checkpoints import missing_sonic_files, sonic_files
from comfyui_sonic.sonic.schedule import SIGMA_MAX

SIZE, SECONDS = 256, 0.6
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small(comfy: Any, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Taught for a moment only."""
    from comfyui_sonic.bench.small_sonic import autoencoder, files, lessons, network
    from comfyui_sonic.sonic.native.image_encoder import ImageEncoder
    from comfyui_sonic.sonic.native.networks import load_networks

    models = tmp_path_factory.mktemp("models")
    taught = list(itertools.islice(lessons.lessons(SIZE, SECONDS), 2))
    autoencoding = autoencoder.taught_autoencoder(taught, 3, 0)
    whisper, clip = files.random_whisper(0), files.random_image_encoder(0)
    embeds = ImageEncoder(clip, "clip").encode(taught[0].prepared.picture)
    heard = network.Heard.of(taught[0], autoencoding, whisper, embeds)
    unet, projection = network.taught_network([heard], 3, 0)
    files.write_files(models, unet, projection, whisper, clip, autoencoding, None)
    folders = {name: [models / name] for name in ("sonic", "checkpoints")}
    assert missing_sonic_files(folders) == []
    networks = load_networks(sonic_files(folders))
    return SimpleNamespace(lesson=taught[0], heard=heard, networks=networks, unet=unet, network=network)


def test_the_engine_is_told_what_the_small_network_was_taught_with(small: SimpleNamespace, relative_rms: Any) -> None:
    from comfyui_sonic.sonic.native.pipeline import condition

    told = condition(small.lesson.prepared, small.networks)
    heard = small.heard
    assert relative_rms(told.picture_latents[0], heard.picture) < 1e-4
    assert relative_rms(told.picture_embeds, heard.embeds) < 1e-4
    assert torch.equal(told.mask.pixels, heard.mask)
    with torch.no_grad():
        tokens = small.networks.audio_projection.loaded()(heard.states)
    assert relative_rms(told.tokens, tokens) < 1e-4
    assert torch.equal(told.buckets, torch.full((len(heard.target), 2), 16.0))


def test_the_engine_predicts_what_the_small_network_was_taught_to(small: SimpleNamespace, relative_rms: Any) -> None:
    from comfyui_sonic.sonic.native.autoencoder import LATENT_SCALE
    from comfyui_sonic.sonic.native.guider import denoise
    from comfyui_sonic.sonic.native.keys import published_unet_key
    from comfyui_sonic.sonic.native.pipeline import condition

    told = condition(small.lesson.prepared, small.networks)
    height, width = small.heard.target.shape[-2:]
    noise = torch.randn(small.heard.target.shape, generator=torch.Generator().manual_seed(0))
    denoised = denoise(small.networks.unet, told, noise, steps=1) * LATENT_SCALE
    noisy = told.start() * LATENT_SCALE + SIGMA_MAX * noise
    root = (SIGMA_MAX**2 + 1) ** 0.5
    learning = small.network.without_time(small.network.random_network(1))
    learning.load_state_dict({name: small.unet[published_unet_key(name)] for name in learning.state_dict()})
    with torch.no_grad():
        parts = small.network.guided(
            learning,
            noisy / root,
            SIGMA_MAX,
            small.heard,
            (slice(0, height), slice(0, width)),
            (told.silent_tokens[None], told.tokens),
            torch.tensor([12.5, 16.0, 16.0]),
        )
    expected = noisy / root**2 - sum(parts) * (SIGMA_MAX / root)
    assert relative_rms(denoised, expected) < 2e-2  # the noise that is taken out is 700, and what is left is small
