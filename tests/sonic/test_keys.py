"""The published files fit ComfyUI's network key by key, and what does not fit is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_sonic.sonic.audio_encoder import WhisperEncoder
from comfyui_sonic.sonic.checkpoints import check_weights, read_weights
from comfyui_sonic.sonic.conditioning import AudioProjection, MotionBucketPredictor
from comfyui_sonic.sonic.errors import BadWeights
from comfyui_sonic.sonic.postprocess.interpolation import FrameInterpolation
from safetensors.torch import save_file

KEYS = Path(__file__).parent.parent / "data" / "golden" / "checkpoint_keys.json.gz"

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def published() -> State:
    """unet.pth at its real size, without values."""
    return real("unet.pth")


@pytest.fixture(scope="module")
def config(native: Any, published: State) -> Any:
    config = native.model.unet_config(published, "unet.pth")
    config.set_inference_dtype(torch.float16, None)
    return config


def test_every_key_of_the_published_unet_has_its_place(native: Any, config: Any, published: State) -> None:
    own = config.get_model({}, "", device="meta").diffusion_model.state_dict()
    assert len(own) == 1492
    assert sum(value.numel() for value in own.values()) == 1_575_741_162
    names = native.model.checked_names(config, published, "unet.pth")
    assert names.keys() == own.keys()
    assert set(names.values()) == published.keys()
    assert {key: own[key].shape for key in own} == {key: published[names[key]].shape for key in own}


def test_all_that_does_not_fit_is_listed(native: Any, config: Any, published: State) -> None:
    damaged = dict(published)
    del damaged["up_blocks.3.attentions.2.transformer_blocks.0.attn2.processor.to_k_ip.0.weight"]
    damaged["conv_in.bias"] = torch.empty(7, device="meta")
    damaged["optimizer.step"] = torch.empty(1, device="meta")
    with pytest.raises(BadWeights) as caught:
        native.model.checked_names(config, damaged, "unet.pth")
    error = caught.value
    assert error.missing == ("up_blocks.3.attentions.2.transformer_blocks.0.attn2.processor.to_k_ip.0.weight",)
    assert error.extra == ("optimizer.step",)
    assert error.misshapen == ("conv_in.bias [7] instead of [320]",)
    for key in (*error.missing, *error.extra, *error.misshapen):
        assert key in str(error)


def test_another_network_is_not_taken_for_sonic(native: Any) -> None:
    with pytest.raises(BadWeights, match=r"'other.pth' are not Sonic's UNet: conv_in.weight"):
        native.model.unet_config({"weight": torch.zeros(3)}, "other.pth")


def test_a_long_list_is_cut_in_the_sentence_but_not_in_the_error() -> None:
    expected = {f"layer.{index}": (1,) for index in range(20)}
    with pytest.raises(BadWeights, match=r"20 missing: .* and 12 more") as caught:
        check_weights("x.pth", expected, {})
    assert len(caught.value.missing) == 20


@pytest.mark.parametrize("name", ["new.pth", "legacy.pkl", "weights.safetensors"])
def test_weights_are_read_from_every_kind_of_file(name: str, tmp_path: Path) -> None:
    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.ones(2)}
    path = tmp_path / name
    if name.endswith(".safetensors"):
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name.startswith("new"))
    read = read_weights(path)
    assert read.keys() == state.keys()
    assert torch.equal(read["a.weight"], state["a.weight"])
    assert read_weights(path, ["b."]).keys() == {"b.bias"}


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("sprung"),))


@pytest.mark.parametrize("content", ["trap", "cut off", "text", "number", "not there"])
def test_a_file_that_is_no_weights_is_a_clear_error(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "unet.pth"
    if content == "trap":
        torch.save({"a": Trap()}, path)
    elif content == "cut off":
        torch.save({"a": torch.ones(1000)}, path)
        path.write_bytes(path.read_bytes()[:2000])
    elif content == "text":
        path.write_text("<html>not found</html>", encoding="utf-8")
    elif content == "number":
        torch.save({"epoch": 3}, path)
    with pytest.raises(BadWeights, match=r"unet\.pth' cannot be read"):
        read_weights(path)
    assert not (tmp_path / "sprung").exists()
    path.with_suffix(".safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(BadWeights, match=r"unet\.safetensors' cannot be read"):
        read_weights(path.with_suffix(".safetensors"))


def real(name: str) -> State:
    """A published file's weights at their real size, without values."""
    shapes = json.loads(gzip.decompress(KEYS.read_bytes()))[name]
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize(
    ("name", "kind", "parameters"),
    [
        ("audio2token.pth", AudioProjection, 54_300_672),
        ("audio2bucket.pth", MotionBucketPredictor, 21_762_050),
        ("whisper-tiny/model.safetensors", WhisperEncoder, 8_208_384),
        ("RIFE/flownet.pkl", FrameInterpolation, None),
    ],
)
def test_every_key_of_the_small_networks_has_its_place(name: str, kind: Any, parameters: int | None) -> None:
    weights = real(name)
    with torch.device("meta"):
        network = kind.of_weights(weights, name)
    if parameters is None:  # without the block that is used in training only
        parameters = sum(value.numel() for key, value in weights.items() if "block_tea." not in key)
    assert sum(value.numel() for value in network.parameters()) == parameters


def test_every_key_of_the_published_autoencoder_is_known(native: Any) -> None:
    module = native.autoencoder
    shapes = native.shapes.weight_shapes(lambda: module.network_of(128, [1, 2, 4, 4]))
    names = {key: native.keys.published_autoencoder_key(key) for key in shapes}
    assert len(set(names.values())) == len(names) == 374 - 2  # quant_conv becomes part of another
    assert sum(shape.numel() for shape in shapes.values()) == 97_742_847 - 72
    assert names["encoder.down.1.block.0.nin_shortcut.weight"] == "encoder.down_blocks.1.resnets.0.conv_shortcut.weight"
    assert names["decoder.up.1.block.0.nin_shortcut.bias"] == (
        "decoder.up_blocks.2.resnets.0.spatial_res_block.conv_shortcut.bias"
    )
    assert names["decoder.up.3.upsample.conv.weight"] == "decoder.up_blocks.0.upsamplers.0.conv.weight"
    assert names["decoder.conv_out.time_mix_conv.bias"] == "decoder.time_conv_out.bias"


def test_the_published_image_encoder_has_as_many_weights(native: Any) -> None:
    config = native.image_encoder.network_config(
        {
            "vision_model.embeddings.patch_embedding.weight": torch.empty(1280, 3, 14, 14, device="meta"),
            "vision_model.embeddings.position_embedding.weight": torch.empty(257, 1280, device="meta"),
            "vision_model.encoder.layers.31.mlp.fc1.weight": torch.empty(5120, 1280, device="meta"),
            "vision_model.encoder.layers.0.mlp.fc1.weight": torch.empty(5120, 1280, device="meta"),
            "visual_projection.weight": torch.empty(1024, 1280, device="meta"),
        }
    )
    assert config["image_size"] == 224 and config["num_hidden_layers"] == 32
    shapes = native.image_encoder.shapes_of(config)
    assert len(shapes) == 520
    assert sum(shape.numel() for shape in shapes.values()) == 632_076_800
