"""Numbers that are none, precisions that a processor lacks, and sizes at the ends of what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfyui_sonic.sonic import windows
from comfyui_sonic.sonic.checkpoints import sonic_files
from comfyui_sonic.sonic.denoising import Denoising
from comfyui_sonic.sonic.engine import load_sonic
from comfyui_sonic.sonic.errors import BadInput, NotFinite
from comfyui_sonic.sonic.options import InferenceOptions
from comfyui_sonic.sonic.portrait import resize

from .test_pipeline import prepared_for

pytestmark = pytest.mark.slow


@pytest.fixture
def render(comfy: Any) -> Any:
    from comfyui_sonic.sonic.native.pipeline import render_sonic

    return render_sonic


@pytest.fixture
def poisoned() -> Iterator[Any]:
    """Makes a weight of a layer no number for the length of a test."""
    kept: list[tuple[Any, torch.Tensor]] = []

    def poison(layer: Any) -> None:
        kept.append((layer, layer.weight.data.clone()))
        layer.weight.data.flatten()[0] = float("nan")

    yield poison
    for layer, value in kept:
        layer.weight.data.copy_(value)  # on a card it is another tensor by now


def test_no_numbers_from_the_network_are_seen_after_the_first_step(render: Any, networks: Any, poisoned: Any) -> None:
    poisoned(networks.unet.model.diffusion_model.out[2])
    seen: list[Denoising] = []
    with pytest.raises(NotFinite) as caught:
        render(prepared_for(0.3), InferenceOptions(inference_steps=5), networks, on_denoising=seen.append)
    assert [at.step for at in seen] == [0]
    assert str(caught.value).startswith("In step 1 the video network gives infinities or no numbers (NaN); ")
    assert "damaged" in str(caught.value)


def test_no_numbers_from_the_decoder_are_named(render: Any, networks: Any, poisoned: Any) -> None:
    clip = render(prepared_for(0.3), InferenceOptions(inference_steps=1), networks)
    poisoned(networks.autoencoder.loaded().decoder.conv_in)
    with pytest.raises(NotFinite, match="The decoder gives infinities"):
        next(clip.frames())


def test_an_overflow_in_half_precision_is_told_with_the_dtype_to_take(comfy: Any) -> None:
    assert "choose the dtype fp32 or bf16" in str(NotFinite.of("The decoder", torch.float16))


def test_a_conditioning_that_is_not_sonics_is_named(unet: Any) -> None:
    with pytest.raises(BadInput, match="connect the ones that Sonic Conditioning gives"):
        unet.model.extra_conds(noise=torch.zeros(3, 4, 8, 8), cross_attn=torch.zeros(1, 77, 768))


@pytest.fixture(scope="module")
def files(write_sonic_files: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    models = tmp_path_factory.mktemp("models")
    write_sonic_files(models)
    return sonic_files({"sonic": [models / "sonic"], "checkpoints": [models / "checkpoints"]})


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_processor_without_half_precision_stores_in_it_and_computes_in_float32(
    precision: Any, files: dict[str, Path], render: Any, comfy: Any
) -> None:
    from comfyui_sonic.sonic.native.pipeline import computing_dtype

    if comfy.model_management.get_torch_device().type != "cpu":
        pytest.skip("a card computes in it")
    networks = load_sonic(files, precision)
    assert networks.unet.model.get_dtype() != computing_dtype(networks.unet) == torch.float32
    options = InferenceOptions(inference_steps=1)
    half = np.stack(list(render(prepared_for(0.2), options, networks).frames())).astype(int)
    whole = np.stack(list(render(prepared_for(0.2), options, load_sonic(files, "fp32")).frames())).astype(int)
    assert half.shape == whole.shape
    assert np.abs(half - whole).mean() < 12  # of 255: the same picture, by networks of random weights


def test_weights_of_mixed_dtypes_become_one(files: dict[str, Path], tmp_path: Path, render: Any) -> None:
    stored = torch.load(files["unet"], weights_only=True)
    kinds = (torch.float16, torch.float32, torch.bfloat16, torch.float64)
    torch.save({key: value.to(kinds[at % 4]) for at, (key, value) in enumerate(stored.items())}, tmp_path / "unet.pth")
    networks = load_sonic({**files, "unet": tmp_path / "unet.pth"}, "fp32")
    assert {weight.dtype for weight in networks.unet.model.diffusion_model.parameters()} == {torch.float32}
    assert len(list(render(prepared_for(0.1), InferenceOptions(inference_steps=1), networks).frames())) == 2


@pytest.mark.parametrize(("width", "height"), [(64, 64), (1536, 640), (64, 192)])
def test_a_single_frame_of_any_size_is_made(
    width: int, height: int, render: Any, networks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfyui_sonic.sonic.native import context

    if width > 1000:  # a frame comes up once in the window, not 25 times, which would take a processor minutes
        monkeypatch.setattr(context, "context_windows", lambda frames, step: windows.context_windows(frames, step, 1))
    small = prepared_for(0.08)
    prepared = replace(small, picture=resize(small.picture, (width, height)), crop_box=(0, 0, width, height))
    clip = render(prepared, InferenceOptions(inference_steps=1, fps=12.5), networks)
    frames = list(clip.frames())
    assert [frame.shape for frame in frames] == [(height, width, 3)]
    assert frames[0].std() > 0


def test_an_interrupt_ends_a_call_of_the_network_in_its_middle(
    render: Any, networks: Any, comfy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    management = comfy.model_management
    layers = [0, 0]

    def interrupt(*_: Any) -> None:
        management.interrupt_current_processing(True)

    def count(at: int) -> Callable[..., None]:
        def add(*_: Any) -> None:
            layers[at] += 1

        return add

    network = networks.unet.model.diffusion_model
    hooks = [
        network.input_blocks[1][0].register_forward_hook(count(0)),
        network.input_blocks[2][0].register_forward_pre_hook(interrupt),
        network.input_blocks[3][0].register_forward_pre_hook(count(1)),
    ]
    try:
        with pytest.raises(management.InterruptProcessingException):
            render(prepared_for(0.2), InferenceOptions(inference_steps=1), networks)
    finally:
        management.interrupt_current_processing(False)
        for hook in hooks:
            hook.remove()
    assert layers[0] == 1 and layers[1] == 0
    assert len(list(render(prepared_for(0.1), InferenceOptions(inference_steps=1), networks).frames())) == 2
