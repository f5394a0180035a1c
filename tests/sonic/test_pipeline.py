"""From prepared data to frames: how many, in what order, what a seed and a scale mean, and how it is ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfyui_sonic.sonic.audio import read_sound, speech_for_models, used_part
from comfyui_sonic.sonic.denoising import Denoising
from comfyui_sonic.sonic.frames import frame_count
from comfyui_sonic.sonic.options import InferenceOptions
from comfyui_sonic.sonic.portrait import read_picture, resize
from comfyui_sonic.sonic.postprocess.interpolation import between
from comfyui_sonic.sonic.prepared import Face, PreparedData

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
SIDE = 64


class Stopped(Exception):
    pass


def prepared_for(seconds: float) -> PreparedData:
    """A very small picture of a person and some speech."""
    picture = resize(read_picture(ROOT / "examples" / "batch" / "eileen_collins.png"), (SIDE, SIDE))
    sound, _ = used_part(read_sound(ROOT / "tests" / "data" / "voice.wav"), seconds)
    face = Face((20.0, 8.0, 40.0, 32.0), np.zeros((468, 3), np.float32), 1.0)
    return PreparedData(picture, face, sound, speech_for_models(sound), (512, 512), (0, 0, 512, 512), picture)


@pytest.fixture(scope="module")
def render(networks: Any) -> Any:
    from comfyui_sonic.sonic.native.pipeline import render_sonic

    def run(seconds: float = 1.0, *, prepared: PreparedData | None = None, **settings: Any) -> Any:
        callbacks = {name: settings.pop(name) for name in ("check", "on_denoising", "on_preview") if name in settings}
        options = InferenceOptions(**{"inference_steps": 1, **settings})
        return render_sonic(prepared or prepared_for(seconds), options, networks, **callbacks)

    return run


@pytest.mark.parametrize(
    ("seconds", "fps"), [(1.0, 25.0), (1.0, 12.5), (0.5, 30.0), (0.7, 23.976), (0.03, 25.0), (0.5, 60.0)]
)
def test_a_clip_has_as_many_frames_as_its_sound_lasts(render: Any, seconds: float, fps: float) -> None:
    clip = render(seconds, fps=fps)
    frames = list(clip.frames())
    assert len(frames) == clip.count == frame_count(prepared_for(seconds).seconds, fps)
    assert all(frame.shape == (SIDE, SIDE, 3) and frame.dtype == np.uint8 for frame in frames)
    assert (clip.height, clip.width) == (SIDE, SIDE)


def test_a_frame_is_the_same_however_the_clip_is_read(render: Any) -> None:
    clip = render(1.6)
    frames = list(clip.frames())
    for index in (39, 0, 17, 15, 16, 38):
        np.testing.assert_array_equal(next(clip.frames(index)), frames[index])
    np.testing.assert_array_equal(np.stack(list(clip.frames(10, 20))), np.stack(frames[10:20]))
    assert list(clip.frames(40)) == []


def test_the_rate_of_the_video_changes_nothing_but_how_often_the_clip_is_looked_at(render: Any) -> None:
    slow, fast = list(render(fps=12.5).frames()), list(render(fps=25.0).frames())
    np.testing.assert_array_equal(np.stack(slow), np.stack(fast[:24:2]))
    assert not np.array_equal(fast[0], fast[1])


def test_zero_is_a_seed_like_any_other(render: Any) -> None:
    zero, again, one = (np.stack(list(render(0.3, seed=seed).frames())) for seed in (0, 0, 1))
    np.testing.assert_array_equal(zero, again)
    assert not np.array_equal(zero, one)
    list(render(0.1, seed=2**64 - 1).frames())


def test_scales_act_on_the_motion_buckets(comfy: Any) -> None:
    from comfyui_sonic.sonic.native.pipeline import scaled_buckets

    buckets = torch.tensor([[10.0, 20.0]])
    assert scaled_buckets(buckets, 1.0, 1.0).tolist() == [[10.0, 20.0]]
    assert scaled_buckets(buckets, 1.5, 1.0).tolist() == [[15.0, 30.0]]
    assert scaled_buckets(buckets, 1.0, 0.5).tolist() == [[5.0, 20.0]]


def test_the_speech_and_its_scale_change_the_picture(render: Any, networks: Any) -> None:
    from comfyui_sonic.sonic.native.pipeline import render_sonic

    prepared = prepared_for(0.4)
    silent = replace(prepared, speech=np.zeros_like(prepared.speech))
    options = InferenceOptions(inference_steps=1)
    spoken, unheard, deaf, deaf_too = (
        np.stack(list(render_sonic(data, options, replace(networks, audio_scale=scale)).frames()))
        for data, scale in ((prepared, 1.0), (silent, 1.0), (prepared, 0.0), (prepared, 0.0))
    )
    assert not np.array_equal(spoken, unheard)
    assert not np.array_equal(spoken, deaf)
    np.testing.assert_array_equal(deaf, deaf_too)


def test_a_picture_without_a_face_is_moved_as_a_whole(render: Any, comfy: Any) -> None:
    from comfyui_sonic.sonic.native.pipeline import mask_of

    faceless = replace(prepared_for(0.2), face=None)
    assert mask_of(faceless).pixels.min() == 1
    assert len(list(render(prepared=faceless).frames())) == 5


def test_the_mask_is_drawn_in_the_pixels_of_the_original(comfy: Any) -> None:
    from comfyui_sonic.sonic.native.pipeline import mask_of

    mask = mask_of(prepared_for(0.2)).pixels
    assert mask.shape == (SIDE, SIDE)
    assert mask[20, 30] == 1 and mask[50, 50] == 0
    assert ((mask > 0) & (mask < 1)).any()  # its edges are soft, as it is resized with the picture


def test_progress_counts_every_window_of_every_step(render: Any) -> None:
    seen: list[Denoising] = []
    render(2.4, inference_steps=2, on_denoising=seen.append)  # 30 frames
    assert [(at.step, at.window) for at in seen] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert [at.done for at in seen] == [0, 1, 2, 3, 4]
    assert {(at.steps, at.windows, at.total) for at in seen} == {(2, 2, 4)}


def test_after_each_step_a_frame_is_shown_as_it_is_by_then(render: Any) -> None:
    shown: list[np.ndarray] = []
    render(0.8, inference_steps=3, on_preview=shown.append)
    assert [(picture.shape, picture.dtype) for picture in shown] == [((8, 8, 3), np.uint8)] * 3
    assert not np.array_equal(shown[0], shown[2])


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5])
def test_an_interrupt_ends_it_before_the_next_piece_of_work(render: Any, after: int) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise Stopped

    with pytest.raises(Stopped):
        list(render(0.3, inference_steps=1, check=check).frames())
    assert calls == after + 1


def test_the_networks_work_on_after_an_interrupt(render: Any) -> None:
    def stop(at: Denoising) -> None:
        if at.done == 1:
            raise Stopped

    before = np.stack(list(render(0.3, inference_steps=2).frames()))
    with pytest.raises(Stopped):
        render(0.3, inference_steps=2, on_denoising=stop)
    np.testing.assert_array_equal(np.stack(list(render(0.3, inference_steps=2).frames())), before)


def test_free_memory_does_not_change_a_picture(
    autoencoder: Any, recorded: Any, comfy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = recorded["decode_in"][0]
    plenty = autoencoder.decode(latents)
    monkeypatch.setattr(
        comfy.model_management, "get_free_memory", lambda *_, torch_free_too=False: (1, 1) if torch_free_too else 1
    )
    assert torch.equal(autoencoder.decode(latents), plenty)


def test_reading_a_clip_keeps_only_two_chunks_and_at_its_end_none(render: Any) -> None:
    clip = render(2.4)
    for _ in clip.frames():
        assert 0 < len(clip._chunks) <= 2
    assert not clip._chunks and not clip._made


def test_a_part_of_the_way_is_found_by_halving() -> None:
    def middle(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        made.append(float(before + after) / 2)
        return (before + after) / 2

    made: list[float] = []
    pictures = {0: torch.zeros(1), 8: torch.ones(1)}
    for part in range(9):
        assert between(middle, pictures, part).item() == part / 8
    assert sorted(made) == [part / 8 for part in range(1, 8)]  # none of them twice
