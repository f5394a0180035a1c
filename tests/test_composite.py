"""A clip of a crop goes back into the whole picture without a seam, whatever the sizes are."""

from __future__ import annotations

import numpy as np
import pytest
from comfyui_sonic.sonic.errors import BadPortrait
from comfyui_sonic.sonic.frames import Frame, StillFrames
from comfyui_sonic.sonic.portrait import resize
from comfyui_sonic.sonic.postprocess.composite import CompositeFrames, place_of
from comfyui_sonic.sonic.prepared import Box, PreparedData, Sound

from .clips import Clip, Endless, peak_of, textured


def prepared_crop(original: Frame, box: Box, side: int = 64) -> PreparedData:
    x1, y1, x2, y2 = box
    picture = resize(np.ascontiguousarray(original[y1:y2, x1:x2]), (side, side))
    sound = Sound(np.zeros((1, 16000), np.float32), 16000)
    size = original.shape[1], original.shape[0]
    return PreparedData(picture, None, sound, sound.waveform[0], size, box, original)


def composite(prepared: PreparedData, frames: np.ndarray, background: Clip | None = None) -> CompositeFrames:
    behind = background or StillFrames(prepared.original)
    clip = Clip(frames)
    return CompositeFrames(clip, behind, place_of(prepared, clip, behind))


def seam(frame: Frame, box: Box) -> float:
    """The mean step over the four edges of a box, in levels."""
    x1, y1, x2, y2 = box
    f = frame.astype(float)
    steps = [
        f[y1:y2, x1] - f[y1:y2, x1 - 1],
        f[y1:y2, x2] - f[y1:y2, x2 - 1],
        f[y1, x1:x2] - f[y1 - 1, x1:x2],
        f[y2, x1:x2] - f[y2 - 1, x1:x2],
    ]
    return float(np.mean([np.abs(step).mean() for step in steps]))


def test_unchanged_frames_give_the_picture_back() -> None:
    original = textured(120, 160)
    box = (40, 30, 104, 94)
    prepared = prepared_crop(original, box)
    out = list(composite(prepared, np.repeat(prepared.picture[None], 3, axis=0)).frames())
    assert len(out) == 3
    np.testing.assert_allclose(out[0], original, atol=1)


def test_a_shift_of_colours_leaves_neither_a_seam_nor_another_colour() -> None:
    original = textured(240, 320)
    box = (80, 50, 208, 178)
    prepared = prepared_crop(original, box, side=128)
    off = np.clip(prepared.picture.astype(int) + np.array([8, -5, 4]), 0, 255).astype(np.uint8)
    (out,) = composite(prepared, off[None]).frames()
    pasted = original.copy()
    pasted[50:178, 80:208] = off
    assert seam(pasted, box) > seam(original, box) + 2
    assert seam(out, box) < seam(original, box) + 0.3
    np.testing.assert_allclose(out, original, atol=2)


def test_the_face_that_moves_is_what_the_frames_show() -> None:
    original = textured(200, 200)
    box = (40, 40, 168, 168)
    prepared = prepared_crop(original, box, side=128)
    moved = prepared.picture.copy()
    moved[40:90, 40:90] = 255 - moved[40:90, 40:90]
    (out,) = composite(prepared, moved[None]).frames()
    np.testing.assert_array_equal(out[80:130, 80:130], moved[40:90, 40:90])
    np.testing.assert_array_equal(out[:40], original[:40])


def test_what_moves_through_the_soft_edge_does_not_change_the_colours() -> None:
    original = textured(200, 200)
    box = (40, 40, 168, 168)
    prepared = prepared_crop(original, box, side=128)
    moved = prepared.picture.copy()
    moved[:20, 30:90] = 255
    (out,) = composite(prepared, moved[None]).frames()
    np.testing.assert_array_equal(out[100:150, 100:150], original[100:150, 100:150])


@pytest.mark.parametrize("box", [(0, 0, 64, 64), (96, 56, 160, 120), (0, 30, 64, 94)], ids=["corner", "other", "left"])
def test_where_the_crop_ends_at_the_pictures_edge_it_is_not_faded(box: Box) -> None:
    original = textured(120, 160)
    prepared = prepared_crop(original, box)
    marked = prepared.picture.copy()
    marked[24:40] = 255 - marked[24:40]
    (out,) = composite(prepared, marked[None]).frames()
    row = box[1] + 32
    edge_column = 0 if box[0] == 0 else 159
    expected = marked[32, 0 if box[0] == 0 else -1]
    np.testing.assert_allclose(out[row, edge_column].astype(int), expected, atol=1)


def test_the_whole_picture_keeps_its_own_resolution_and_odd_size() -> None:
    original = textured(121, 97)
    prepared = prepared_crop(original, (0, 0, 97, 121))
    frames = np.repeat(resize(original, (64, 80))[None], 2, axis=0)
    clip, still = Clip(frames), StillFrames(original)
    prepared_whole = PreparedData(
        frames[0], None, prepared.sound, prepared.speech, (97, 121), (0, 0, 97, 121), original
    )
    out = list(CompositeFrames(clip, still, place_of(prepared_whole, clip, still)).frames())
    assert [frame.shape for frame in out] == [(121, 97, 3)] * 2
    assert np.abs(out[0].astype(int) - original).mean() < 3


def test_a_picture_smaller_than_the_frames_stays_small() -> None:
    original = textured(50, 60)
    prepared = prepared_crop(original, (10, 5, 41, 36), side=128)
    (out,) = composite(prepared, prepared.picture[None]).frames()
    assert out.shape == (50, 60, 3)
    np.testing.assert_allclose(out, original, atol=6)


def test_frames_that_were_upscaled_fit_and_others_are_refused_in_a_sentence() -> None:
    original = textured(120, 160)
    prepared = prepared_crop(original, (40, 30, 104, 94))
    (out,) = composite(prepared, resize(prepared.picture, (256, 256))[None]).frames()
    np.testing.assert_allclose(out, original, atol=4)
    with pytest.raises(BadPortrait, match=r"64 x 32 pixels and the prepared picture 64 x 64, another shape"):
        composite(prepared, np.zeros((1, 32, 64, 3), np.uint8))


def test_a_background_clip_goes_along_and_holds_its_last_frame() -> None:
    original = np.full((100, 100, 3), 90, np.uint8)
    prepared = prepared_crop(original, (30, 30, 70, 70))
    backgrounds = np.stack([np.full((100, 100, 3), value, np.uint8) for value in (80, 90, 100)])
    frames = np.repeat(prepared.picture[None], 5, axis=0)
    source = composite(prepared, frames, Clip(backgrounds))
    assert [int(frame[0, 0, 0]) for frame in source.frames()] == [80, 90, 100, 100, 100]
    assert [int(frame[50, 50, 0]) for frame in source.frames()] == [80, 90, 100, 100, 100]
    assert [int(frame[0, 0, 0]) for frame in source.frames(1, 4)] == [90, 100, 100]
    assert [int(frame[0, 0, 0]) for frame in source.frames(4)] == [100]
    assert list(source.frames(3, 3)) == []


@pytest.mark.parametrize(
    ("size", "expected"),
    [((320, 240), (80, 60, 208, 188)), ((81, 60), (20, 15, 52, 47)), ((200, 120), (58, 30, 122, 94))],
)
def test_in_a_background_of_any_size_the_crop_keeps_its_shape(size: tuple[int, int], expected: Box) -> None:
    prepared = prepared_crop(textured(120, 160), (40, 30, 104, 94))
    width, height = size
    behind = StillFrames(textured(height, width))
    assert place_of(prepared, Clip(prepared.picture[None]), behind) == expected


def test_the_colours_of_a_wholly_other_background_are_not_taken_over() -> None:
    prepared = prepared_crop(textured(120, 160), (40, 30, 104, 94))
    other = Clip(np.full((1, 120, 160, 3), 250, np.uint8))
    (out,) = composite(prepared, prepared.picture[None], other).frames()
    np.testing.assert_array_equal(out[55:70, 65:80], prepared.picture[25:40, 25:40])


def test_memory_does_not_grow_with_the_clip() -> None:
    original = textured(240, 320)

    def peak(count: int) -> int:
        prepared = prepared_crop(original, (80, 50, 208, 178), side=128)
        clip, still = Endless(prepared.picture, count), StillFrames(original)
        return peak_of(CompositeFrames(clip, still, place_of(prepared, clip, still)))

    peak(10)
    assert peak(150) < peak(30) + 200_000
