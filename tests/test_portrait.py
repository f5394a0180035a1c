"""Every kind of picture people have is read as it looks, or refused with one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_sonic.sonic.errors import BadPortrait
from comfyui_sonic.sonic.portrait import (
    LONGEST_SIDE,
    crop_to_face,
    face_mask,
    picture_from_floats,
    prepared_size,
    read_picture,
    resize,
)
from PIL import Image

DATA = Path(__file__).parent / "data"


def gradient(width: int, height: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Red grows to the right, green downwards."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, width)
    picture[..., 1] = np.linspace(0, 255, height)[:, None]
    return picture


@pytest.mark.parametrize("name", ["a b.png", "照片.bmp", "🙂.tiff", "no extension", "png named.jpg"])
def test_a_picture_is_read_whatever_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    format_ = {".bmp": "BMP", ".tiff": "TIFF"}.get(path.suffix, "PNG")
    Image.fromarray(gradient(40, 30)).save(path, format_)
    np.testing.assert_array_equal(read_picture(path), gradient(40, 30))


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0] = (200, 100, 0, 255)
    rgba[1] = (200, 100, 0, 0)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture[0, 0].tolist() == [200, 100, 0]
    assert picture[1, 0].tolist() == [255, 255, 255]


def test_transparency_of_a_palette_is_laid_over_white(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 250, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "a.png", transparency=0)
    picture = read_picture(tmp_path / "a.png")
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert picture[0, 1].tolist() == [250, 0, 0]


@pytest.mark.parametrize(
    ("suffix", "dtype", "white"), [("png", np.uint16, 65535), ("tiff", np.int32, 65535), ("tiff", np.float32, 1.0)]
)
def test_deep_grey_keeps_its_shades(tmp_path: Path, suffix: str, dtype: Any, white: float) -> None:
    grey = (np.linspace(0, 1, 256)[None].repeat(8, 0) * white).astype(dtype)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(grey).save(path)
    picture = read_picture(path)
    np.testing.assert_allclose(picture[0, :, 0], np.arange(256), atol=1)
    assert (picture[..., 0] == picture[..., 2]).all()


@pytest.mark.parametrize("mode", ["L", "1", "LA", "CMYK", "YCbCr", "P"])
def test_every_other_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    source = Image.fromarray(gradient(64, 48)).convert(mode)
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    source.save(path)
    picture = read_picture(path)
    assert picture.shape == (48, 64, 3) and picture.dtype == np.uint8
    assert picture[40:, 50:].mean() > picture[:8, :14].mean() + 60


@pytest.mark.parametrize(("orientation", "shape"), [(1, (30, 40)), (3, (30, 40)), (6, (40, 30)), (8, (40, 30))])
def test_a_picture_turned_by_exif_stands_upright(tmp_path: Path, orientation: int, shape: tuple[int, int]) -> None:
    picture = np.zeros((30, 40, 3), np.uint8)
    picture[:6] = 255  # the sky, as the sensor saw it
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / "a.jpg", exif=exif, quality=95)
    upright = read_picture(tmp_path / "a.jpg")
    assert upright.shape[:2] == shape
    sides = {1: upright[:3], 3: upright[-3:], 6: upright[:, -3:], 8: upright[:, :3]}
    assert sides[orientation].mean() > 240


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_picture_20_000_pixels_wide_is_reduced_while_it_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"wide.{suffix}"
    Image.fromarray(gradient(20_000, 500)).save(path)
    picture = read_picture(path)
    assert picture.shape[1] <= LONGEST_SIDE
    assert picture.shape[1] / picture.shape[0] == pytest.approx(40, rel=0.02)
    np.testing.assert_allclose(picture[50, :, 0], np.linspace(0, 255, picture.shape[1]), atol=3)


def test_deep_grey_20_000_pixels_wide_is_reduced_too(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 20_000)[None].repeat(50, 0).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    np.testing.assert_allclose(picture[5, :, 0], np.linspace(0, 255, picture.shape[1]), atol=2)


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_text_file_named_jpg_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(BadPortrait, match=r"'notes 中文\.jpg' is not a picture"):
        read_picture(_write(tmp_path / "notes 中文.jpg", b"Dear diary"))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadPortrait, match=r"'a\.png' is an empty file"):
        read_picture(_write(tmp_path / "a.png", b""))


@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
def test_a_picture_that_is_cut_off_is_refused(tmp_path: Path, format_: str) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "whole", format_)
    half = (tmp_path / "whole").read_bytes()[: (tmp_path / "whole").stat().st_size // 2]
    with pytest.raises(BadPortrait, match="damaged or cut off"):
        read_picture(_write(tmp_path / "half.jpg", half))


def test_a_picture_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadPortrait, match=r"'anna\.png' is not there"):
        read_picture(tmp_path / "anna.png")


def test_a_picture_with_more_pixels_than_are_safe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(gradient(40, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadPortrait, match="more pixels than are safe"):
        read_picture(tmp_path / "a.png")


def test_floats_become_a_picture() -> None:
    floats = gradient(20, 10).astype(np.float32) / 255
    np.testing.assert_array_equal(picture_from_floats(floats), gradient(20, 10))
    np.testing.assert_array_equal(picture_from_floats(floats[..., :1])[..., 2], gradient(20, 10)[..., 0])
    assert picture_from_floats(floats * 3 - 1).min() == 0


def test_transparent_floats_are_laid_over_white() -> None:
    assert picture_from_floats(np.zeros((2, 2, 4), np.float32)).min() == 255


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 2), (0, 4, 3)])
def test_floats_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadPortrait, match="shape"):
        picture_from_floats(np.zeros(shape, np.float32))


def test_floats_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(BadPortrait, match="no numbers"):
        picture_from_floats(np.full((4, 4, 3), np.nan, np.float32))


@pytest.mark.parametrize("case", json.loads((DATA / "face_crops.json").read_text()))
def test_the_crop_to_the_face_equals_the_published_one(case: dict[str, Any]) -> None:
    assert list(crop_to_face(case["bbox"], case["expand_ratio"], case["width"], case["height"])) == case["crop"]


@pytest.mark.parametrize("case", json.loads((DATA / "prepared_sizes.json").read_text()))
def test_the_prepared_size_equals_the_published_one(case: dict[str, int]) -> None:
    size = prepared_size(case["width"], case["height"], case["min_resolution"])
    assert size == (case["out_width"], case["out_height"])


def test_a_prepared_picture_that_would_be_too_long_is_refused_with_both_sizes() -> None:
    with pytest.raises(BadPortrait, match="20000 x 1000 pixels would become 10240 x 512"):
        prepared_size(20_000, 1000, 512)


def test_a_picture_of_the_right_size_is_left_alone_and_another_is_resized_by_lanczos() -> None:
    picture = gradient(128, 64)
    assert resize(picture, (128, 64)) is picture
    expected = np.array(Image.fromarray(picture).resize((192, 128), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(resize(picture, (192, 128)), expected)


def test_the_face_mask_is_a_tenth_larger_than_the_box_and_stays_in_the_picture() -> None:
    mask = face_mask((100, 40, 200, 140), 256, 256)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert (columns[0], columns[-1] + 1, rows[0], rows[-1] + 1) == (95, 205, 35, 145)
    assert set(np.unique(mask)) == {0, 255}
    assert face_mask((-50, -50, 40, 40), 64, 64)[0, 0] == 255
    assert face_mask((-90, -90, -40, -40), 64, 64).max() == 0
