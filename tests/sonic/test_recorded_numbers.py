"""Every stage against recorded numbers of the published inference; other folders of them are named by --recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from comfyui_sonic.sonic.audio import read_sound, speech_for_models
from comfyui_sonic.sonic.audio_encoder import WhisperEncoder, chunks_of, encode_speech, log_mel
from comfyui_sonic.sonic.conditioning import (
    TOKEN_LEAD,
    AudioProjection,
    MotionBucketPredictor,
    SpeechConditioning,
    condition_on_speech,
)
from comfyui_sonic.sonic.frames import Frame
from comfyui_sonic.sonic.portrait import crop_to_face, face_mask, prepared_size, read_picture, resize
from comfyui_sonic.sonic.postprocess.interpolation import FrameInterpolation
from comfyui_sonic.sonic.schedule import audio_units, karras_sigmas, latent_frames
from numpy.typing import NDArray

pytestmark = pytest.mark.every_recorded_folder

Measure = Callable[[torch.Tensor, torch.Tensor], float]


# Picture


@pytest.fixture(scope="module")
def picture(recorded: Any) -> Frame:
    portrait = read_picture(recorded.folder / "portrait.png")
    height, width = portrait.shape[:2]
    return resize(portrait, prepared_size(width, height, recorded.config["res"]))


def test_sizes_and_crops(recorded: Any) -> None:
    for case in recorded.config["resized"]:
        found = prepared_size(case["width"], case["height"], case["min_resolution"])
        assert found == (case["out_width"], case["out_height"]), case
    for case in recorded.config["crops"]:
        found = crop_to_face(tuple(case["bbox"]), case["expand_ratio"], case["width"], case["height"])
        assert list(found) == case["crop"], case


def test_picture_and_face_mask(recorded: Any, picture: Frame, native: Any) -> None:
    assert torch.equal(recorded.sparse(native.autoencoder.signed(picture)[0]), recorded["ref_img"])
    x, y, w, h = recorded.config["bbox_xywh"]
    width, height = recorded.config["image_size_wh"]
    mask = face_mask((x, y, x + w, y + h), width, height)
    scaled = resize(np.repeat(mask[..., None], 3, axis=2), (picture.shape[1], picture.shape[0]))
    found = torch.from_numpy(scaled).permute(2, 0, 1).float() / 255
    assert torch.equal(found, recorded["face_mask"].expand_as(found))  # of which one channel may be kept
    reduced = native.network.FaceMask(found[0])
    for name, factor in (("mask_down_latent", 8), ("mask_down_latent4", 32)):
        grid = found.shape[1] // factor, found.shape[2] // factor
        torch.testing.assert_close(reduced.at(*grid, found), recorded[name], rtol=0, atol=1e-6)


def test_image_encoder(recorded: Any, picture: Frame, native: Any, image_encoder: Any, relative_rms: Measure) -> None:
    seen = native.image_encoder.normalised(resize(picture, (image_encoder.side, image_encoder.side)))
    torch.testing.assert_close(recorded.sparse(seen[0]), recorded["clip_images"], rtol=0, atol=1e-6)
    assert relative_rms(image_encoder.encode(picture), recorded["image_embeds"]) <= 1e-5


def test_autoencoder_encodes(recorded: Any, picture: Frame, autoencoder: Any, relative_rms: Measure) -> None:
    assert relative_rms(autoencoder.encode(picture), recorded["ref_mean"]) <= 1e-4


# Speech


@pytest.fixture(scope="module")
def speech(recorded: Any) -> NDArray[np.float32]:
    return speech_for_models(read_sound(recorded.folder / "speech.wav"))


@pytest.fixture(scope="module")
def long_speech(recorded: Any) -> NDArray[np.float32]:
    return speech_for_models(read_sound(recorded.folder / "long.wav"))


@pytest.fixture(scope="module")
def hear(recorded: Any) -> Callable[[NDArray[np.float32]], torch.Tensor]:
    heads = recorded.config["whisper"]["encoder_attention_heads"]
    weights = {f"model.encoder.{key}": value for key, value in recorded.weights("whisper_encoder").items()}
    encoder = WhisperEncoder.of_weights(weights, "whisper", heads)
    return lambda speech: encode_speech(encoder, speech, 2 * audio_units(len(speech)))


@pytest.fixture(scope="module")
def condition(recorded: Any) -> Callable[[torch.Tensor, int], SpeechConditioning]:
    projection = AudioProjection.of_weights(recorded.weights("audio2token"), "audio2token")
    predictor = MotionBucketPredictor.of_weights(recorded.weights("audio2bucket"), "audio2bucket")
    embeds = recorded["image_embeds"]
    return lambda states, frames: condition_on_speech(projection, predictor, states, embeds, frames)


def mel_of(speech: NDArray[np.float32]) -> torch.Tensor:
    return torch.cat([log_mel(chunk) for chunk in chunks_of(speech)], dim=1)


def test_lengths(recorded: Any, speech: NDArray[np.float32], long_speech: NDArray[np.float32]) -> None:
    config = recorded.config
    assert audio_units(len(speech)) == config["audio_len"]
    assert latent_frames(len(speech)) == config["audio_latent_frames"]
    assert audio_units(len(long_speech)) == config["long"]["audio_len"]
    assert latent_frames(len(long_speech)) == config["long_audio_latent_frames"]
    assert mel_of(speech).shape[1] == config["mel_frames"]
    assert mel_of(long_speech).shape[1] == config["long"]["mel_frames"]


def test_log_mel(recorded: Any, speech: NDArray[np.float32], long_speech: NDArray[np.float32]) -> None:
    expected = recorded["audio_feature_3s"]
    torch.testing.assert_close(mel_of(speech)[:, : expected.shape[1]], expected, rtol=0, atol=1e-4)
    if "long_mel_boundary" in recorded:  # as in all of these folders whose long sound is longer than 30 s
        mel = mel_of(long_speech)
        found = torch.cat([mel[:, start:end] for start, end in recorded.long_spans["mel"]], dim=1)
        torch.testing.assert_close(found, recorded["long_mel_boundary"], rtol=0, atol=1e-4)


def test_speech_conditioning(
    recorded: Any, speech: NDArray[np.float32], hear: Any, condition: Any, relative_rms: Measure
) -> None:
    states = hear(speech)
    expected = recorded["audio_hidden"]
    assert relative_rms(states[: len(expected) - TOKEN_LEAD], expected[TOKEN_LEAD:]) <= 1e-4
    found = condition(states, latent_frames(len(speech)))
    assert relative_rms(found.tokens[: len(recorded["audio_tokens"])], recorded["audio_tokens"]) <= 1e-4
    assert relative_rms(found.silent_tokens, recorded["audio_uncond_token"]) <= 1e-4
    assert relative_rms(found.buckets, recorded["audio_buckets"].flatten(1)) <= 1e-4


def test_speech_conditioning_across_the_borders_of_30_s(
    recorded: Any, long_speech: NDArray[np.float32], hear: Any, condition: Any, relative_rms: Measure
) -> None:
    states = hear(long_speech)
    found = condition(states, latent_frames(len(long_speech)))
    if "long_audio_hidden" in recorded:
        spans = recorded.long_spans["hidden"]
        around = torch.cat([states[start - TOKEN_LEAD : end - TOKEN_LEAD] for start, end in spans])
        assert relative_rms(around, recorded["long_audio_hidden"]) <= 1e-4
    if "long_tokens_boundary" in recorded:
        tokens = torch.cat([found.tokens[start:end] for start, end in recorded.long_spans["tokens"]])
        assert relative_rms(tokens, recorded["long_tokens_boundary"]) <= 1e-4
    assert relative_rms(found.buckets, recorded["long_audio_buckets"].flatten(1)) <= 1e-4
    first = recorded["long_audio_tokens"]
    assert relative_rms(found.tokens[: len(first)], first) <= 1e-4


# Video


def test_the_noise_falls_as_recorded(recorded: Any, unet: Any) -> None:
    config = recorded.config
    sigmas = torch.tensor(karras_sigmas(config["steps"]), dtype=torch.float64).float()
    assert sigmas.tolist() == config["sigmas"]
    told = unet.model.model_sampling.timestep(sigmas[:-1])
    # torch's logarithm itself differs by a unit in the last place between one number and several at once
    assert told.tolist() == pytest.approx(config["timesteps"], rel=1.2e-7)


@pytest.mark.parametrize("shape", ["square", "wide"])
def test_one_call_of_the_network(
    shape: str, recorded: Any, native: Any, unet: Any, comfy: Any, relative_rms: Measure
) -> None:
    sample, audio = recorded[f"unet_{shape}_sample"], recorded[f"unet_{shape}_audio"]
    branches, frames = sample.shape[:2]
    embeds = recorded["image_embeds"]
    context = torch.cat([torch.zeros_like(embeds), *[embeds] * (branches - 1)])[:, None]
    comfy.model_management.load_models_gpu([unet])
    model, device = unet.model, unet.load_device
    ids = torch.cat([model.time_ids(float(row[0]), row[1:]) for row in recorded[f"unet_{shape}_ids"]])
    mask = native.network.FaceMask(recorded[f"unet_{shape}_mask"][0, 0])
    with torch.inference_mode():
        found = model.diffusion_model(
            sample.flatten(0, 1).to(device),
            torch.full((branches * frames,), recorded.config[f"unet_{shape}_timestep"], device=device),
            context=context.repeat_interleave(frames, dim=0).to(device),
            y=ids.repeat_interleave(frames, dim=0).to(device),
            num_video_frames=frames,
            sonic_tokens=audio.flatten(0, 1).to(device),
            sonic_mask=mask,
        )
    assert relative_rms(found.unflatten(0, (branches, frames)), recorded[f"unet_{shape}_out"]) <= 2e-5


@pytest.mark.slow  # a minute of denoising
def test_denoising(
    recorded: Any,
    speech: NDArray[np.float32],
    hear: Any,
    condition: Any,
    native: Any,
    unet: Any,
    relative_rms: Measure,
    subtests: pytest.Subtests,
) -> None:
    spoken = condition(hear(speech), latent_frames(len(speech)))
    dynamic_scale = recorded.config.get("dynamic_scale", 1.1)  # if golden.json is silent
    for frames in recorded.config["frames"]:
        with subtests.test(frames=frames):
            rows = torch.arange(frames) % len(spoken.tokens)
            conditioning = native.guider.Conditioning(
                picture_latents=recorded["ref_mean"],
                picture_embeds=recorded["image_embeds"],
                tokens=spoken.tokens[rows],
                silent_tokens=spoken.silent_tokens,
                buckets=spoken.buckets[rows] * dynamic_scale,
                mask=native.network.FaceMask(recorded["face_mask"][0]),
            )
            noise = recorded[f"loop{frames}_noise"][0]
            found = native.guider.denoise(unet, conditioning, noise, recorded.config["steps"])
            scaled = found * native.autoencoder.LATENT_SCALE
            assert relative_rms(scaled, recorded[f"loop{frames}_latents"][0]) <= 1e-3


def test_autoencoder_decodes_in_chunks_of_eight(
    recorded: Any, native: Any, autoencoder: Any, relative_rms: Measure
) -> None:
    latents = recorded["decode_in"][0] / native.autoencoder.LATENT_SCALE
    found = recorded.sparse(autoencoder.decode(latents)[::3])
    assert relative_rms(found.transpose(0, 1)[None], recorded["decoded_01"]) <= 1e-4


def test_interpolation(recorded: Any, relative_rms: Measure) -> None:
    network = FrameInterpolation.of_weights(
        {f"module.{key}": value for key, value in recorded.weights("rife").items()}, "flownet.pkl"
    )
    with torch.inference_mode():
        found = network(recorded["rife_a"], recorded["rife_b"])
    assert relative_rms(found, recorded["rife_mid"]) <= 1e-4
