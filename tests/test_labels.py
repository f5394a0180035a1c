"""The implicit mark says that a video is made by AI, by whom and which; the explicit one can be seen and read."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from comfyui_sonic.sonic.errors import BadSetting
from comfyui_sonic.sonic.frames import Frame
from comfyui_sonic.sonic.labels import DEFAULT_PRODUCER, FIELDS, aigc_mark, read_mark
from comfyui_sonic.sonic.video import copy_mp4, write_mp4
from comfyui_sonic.sonic.visible_label import CORNERS, OWN_FONT, VisibleLabel, labelled
from numpy.typing import NDArray
from PIL import ImageFont

BACKGROUNDS = {"black": 0, "grey": 128, "white": 255}
SIZES = [(512, 512), (288, 512), (720, 405), (97, 131)]


def clip(count: int, height: int = 96, width: int = 128, level: int = 90) -> Iterator[Frame]:
    for _ in range(count):
        yield np.full((height, width, 3), level, np.uint8)


def metadata_of(path: Path) -> dict[str, str]:
    with av.open(str(path)) as container:
        return dict(container.metadata)


# ---- implicit -------------------------------------------------------------------------------------------------------


def test_the_mark_has_every_field_of_the_standard_and_a_number_of_its_own(tmp_path: Path) -> None:
    numbers = set()
    for name in ("a.mp4", "b.mp4"):
        write_mp4(tmp_path / name, clip(2), 25, metadata=aigc_mark("某某公司 91310000MA1FL0000X"))
        fields = json.loads(metadata_of(tmp_path / name)["AIGC"])
        assert tuple(fields) == FIELDS
        assert (fields["Label"], fields["ContentProducer"]) == ("1", "某某公司 91310000MA1FL0000X")
        numbers.add(fields["ProduceID"])
    assert len(numbers) == 2 and all(len(number) == 32 for number in numbers)


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="needs ffprobe")
def test_ffprobe_shows_the_mark(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", clip(2), 25, metadata=aigc_mark("x"))
    command = ["ffprobe", "-v", "error", "-show_entries", "format_tags=AIGC", "-of", "json", str(tmp_path / "a.mp4")]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert json.loads(shown["format"]["tags"]["AIGC"])["ContentProducer"] == "x"


def test_a_copy_keeps_the_mark(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", clip(2), 25, metadata=aigc_mark("x"))
    copy_mp4(tmp_path / "a.mp4", tmp_path / "b.mp4", {"prompt": "{}"})
    assert metadata_of(tmp_path / "b.mp4")["AIGC"] == metadata_of(tmp_path / "a.mp4")["AIGC"]


def test_a_mark_that_is_there_keeps_its_number_and_whoever_it_names() -> None:
    unnamed = aigc_mark()
    assert json.loads(unnamed["AIGC"])["ContentProducer"] == DEFAULT_PRODUCER
    before, after = json.loads(unnamed["AIGC"]), json.loads(aigc_mark("us", unnamed)["AIGC"])
    assert after == {**before, "ContentProducer": "us"}
    assert aigc_mark("them", {"AIGC": json.dumps(after)}) == aigc_mark("", {"AIGC": json.dumps(after)})
    assert json.loads(aigc_mark("them", {"AIGC": json.dumps(after)})["AIGC"])["ContentProducer"] == "us"


@pytest.mark.parametrize("text", ["", "hello", "[1]", "{}"])
def test_what_is_no_mark_is_replaced(text: str) -> None:
    assert read_mark({"AIGC": text}) is None
    assert read_mark(aigc_mark("us", {"AIGC": text})) is not None


@pytest.mark.parametrize("producer", ["x" * 201, "a\nb", "a\u202eb"])
def test_a_producer_that_cannot_be_shown_is_refused(producer: str) -> None:
    with pytest.raises(BadSetting, match="producer: takes up to 200 characters"):
        aigc_mark(producer)


# ---- explicit -------------------------------------------------------------------------------------------------------


def decoded(path: Path) -> NDArray[np.int32]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)]).astype(np.int32)


def letters(frame: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Where white letters are on their darker plate."""
    return frame > 170


def height_of(mask: NDArray[np.bool_]) -> int:
    rows = np.flatnonzero(mask.any(axis=1))
    return int(rows[-1] - rows[0] + 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("text", ["AI生成", "AI generated", "人工智能生成"])
def test_the_letters_are_five_per_cent_of_the_shorter_side_in_the_decoded_video(
    tmp_path: Path, size: tuple[int, int], text: str
) -> None:
    if text != "AI生成" and size == (97, 131):
        pytest.skip("too long for so small a picture")
    height, width = size
    label = VisibleLabel(text, size=5.0, corner="top left")
    write_mp4(tmp_path / "a.mp4", labelled(clip(2, height, width, 20), label, 25), 25)
    mask = letters(decoded(tmp_path / "a.mp4")[1])
    columns = np.flatnonzero(mask.any(axis=0))
    wide = 0.04 if text.startswith("A") else 0.06
    first = mask[:, columns[0] : columns[0] + round(wide * min(size))]  # the A, or the first ideograph
    assert height_of(first) >= 0.05 * min(size)
    assert height_of(mask) <= 0.12 * min(size)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_text_can_be_read_on_any_background(tmp_path: Path, background: str) -> None:
    frames = labelled(clip(2, 256, 256, BACKGROUNDS[background]), VisibleLabel(corner="top left"), 25)
    write_mp4(tmp_path / "a.mp4", frames, 25)
    plate = decoded(tmp_path / "a.mp4")[1][10:40, 10:60]
    linear = (np.array([np.percentile(plate, 2), np.percentile(plate, 98)]) / 255) ** 2.2
    assert (linear[1] + 0.05) / (linear[0] + 0.05) > 4.5  # WCAG's measure of what can be read


@pytest.mark.parametrize("fps", [25.0, 29.97])
def test_the_text_is_gone_after_its_seconds_and_not_before(tmp_path: Path, fps: float) -> None:
    count = round(3.2 * fps)
    write_mp4(tmp_path / "a.mp4", labelled(clip(count), VisibleLabel(seconds=2.5, size=10), fps), fps)
    seen = [bool(letters(frame).any()) for frame in decoded(tmp_path / "a.mp4")]
    last = max(index for index, there in enumerate(seen) if there)
    assert all(seen[: last + 1])
    assert 2.5 <= (last + 1) / fps <= 2.5 + 1 / fps
    assert len(seen) == count


def test_a_label_of_0_seconds_stays_to_the_end_and_one_on_a_shorter_clip_as_well() -> None:
    for seconds in (0.0, 2.0):
        frames = list(labelled(clip(30), VisibleLabel(seconds=seconds), 25))
        assert all((frame == 255).any() for frame in frames) and len(frames) == 30


@pytest.mark.parametrize("corner", CORNERS)
def test_the_label_is_in_its_corner_and_nothing_else_changes(corner: str) -> None:
    (plain,) = clip(1, 200, 300)
    (marked,) = labelled([plain], VisibleLabel(corner=corner), 25)
    assert (plain == 90).all()
    rows, columns = np.nonzero((marked != plain).any(axis=2))
    assert (rows.max() < 100) if corner.startswith("top") else (rows.min() >= 100)
    assert (columns.max() < 150) if corner.endswith("left") else (columns.min() >= 150)


def test_a_font_without_the_characters_is_refused_and_they_are_named() -> None:
    with pytest.raises(BadSetting, match=r"mark_text: the font label\.otf has no é 龘;"):
        VisibleLabel("AI générée 龘")


def test_a_font_without_chinese_is_refused_for_a_chinese_text_and_taken_for_another(tmp_path: Path) -> None:
    latin = tmp_path / "latin.ttf"
    latin.write_bytes(ImageFont.load_default(16).font_bytes)
    with pytest.raises(BadSetting, match=r"mark_text: the font latin\.ttf has no 生 成; .* SONIC_MARK_FONT"):
        VisibleLabel("AI生成", font=latin)
    (marked,) = labelled(clip(1), VisibleLabel("AI generated", font=latin), 25)
    assert marked.max() > 180  # its letters are too thin to be wholly white in so small a picture


def test_another_font_is_taken_and_what_is_no_font_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.otf"
    shutil.copyfile(OWN_FONT, other)
    (marked,) = labelled(clip(1), VisibleLabel(font=other), 25)
    assert (marked == 255).any()
    other.write_bytes(b"hello")
    with pytest.raises(BadSetting, match=r"SONIC_MARK_FONT: '.*other\.otf' is no font file"):
        VisibleLabel(font=other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": " "}, "mark_text: takes 1 to 40 characters."),
        ({"text": "A\nI"}, "mark_text: holds a character that cannot be seen"),
        ({"seconds": 1.9}, "mark_seconds: 1.9 is not 2 or more; 0 is the whole clip."),
        ({"seconds": float("nan")}, "mark_seconds: nan is not 2 or more"),
        ({"seconds": float("inf")}, "mark_seconds: inf is not 2 or more"),
        ({"size": 4.9}, "mark_size: 4.9 is outside 5 to 25"),
        ({"corner": "middle"}, "mark_corner: 'middle' is none of top left"),
    ],
)
def test_a_mark_that_the_standard_does_not_allow_is_one_sentence(change: dict[str, object], words: str) -> None:
    with pytest.raises(BadSetting) as raised:
        VisibleLabel(**change)  # type: ignore[arg-type]
    assert str(raised.value).startswith(words)


def test_a_text_that_does_not_fit_into_the_picture_is_refused() -> None:
    with pytest.raises(BadSetting, match="choose a shorter text"):
        list(labelled(clip(1, 64, 64), VisibleLabel("AI generated, AI generated", size=10), 25))


def test_the_font_is_small_and_its_licence_lies_beside_it() -> None:
    assert OWN_FONT.stat().st_size < 60_000
    assert "SIL OPEN FONT LICENSE" in (OWN_FONT.parent / "OFL.txt").read_text(encoding="utf-8")
