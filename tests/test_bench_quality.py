"""The table of what post-processing does: any engine's clips, also those in which no face is to be seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from comfyui_sonic.bench.clips import OWN, VOICES, Clips, Kept, clips_of, digests
from comfyui_sonic.bench.quality import NO_FACE, as_table, lip_sync, shows_a_face, silence
from comfyui_sonic.sonic.draft.render import render_draft
from comfyui_sonic.sonic.errors import MissingWeights
from comfyui_sonic.sonic.frames import Frame, FrameSource, frame_count
from comfyui_sonic.sonic.options import InferenceOptions
from comfyui_sonic.sonic.prepared import PreparedData


class Grey:
    """Frames in which nobody is."""

    def __init__(self, prepared: PreparedData, options: InferenceOptions) -> None:
        self.count = frame_count(prepared.seconds, options.fps)
        self.height, self.width = prepared.picture.shape[:2]

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        for _ in range(self.count)[start:stop]:
            yield np.full((self.height, self.width, 3), 127, np.uint8)


def faceless(prepared: PreparedData, options: InferenceOptions) -> FrameSource:
    return Grey(prepared, options)


@pytest.mark.slow
def test_a_clip_without_a_face_has_that_for_a_figure_and_nothing_fails() -> None:
    clips = Clips("sonic", {"unet.pth": "ab12"}, faceless, steps=3, size=256, seconds=0.4)
    assert silence(clips, "close_up.png", VOICES[3]) == NO_FACE


def three_frames_late(prepared: PreparedData, options: InferenceOptions) -> FrameSource:
    frames = list(render_draft(prepared, options).frames())
    return Kept(frames[:1] * 3 + frames[:-3])


@pytest.mark.slow
def test_a_planted_offset_is_told_beside_the_engines_own() -> None:
    clips = Clips("draft", {}, three_frames_late, steps=1, size=256, seconds=4.0, margin=0.5)
    found = lip_sync(clips, "close_up.png", VOICES[2])
    assert isinstance(found, dict)
    for planted_ms, case in found.items():
        assert case["found_beside_own_ms"] == pytest.approx(float(planted_ms), abs=10)
        assert case["found_ms"] == pytest.approx(float(planted_ms) + 120, abs=20)


def test_a_margin_cuts_the_pictures_to_the_face() -> None:
    cut, whole = (
        Clips("draft", {}, faceless, 1, 256, 0.5, margin=m).clip(OWN[0][0], OWN[0][1])[0] for m in (0.5, None)
    )
    (x1, y1, x2, y2), (width, height) = cut.crop_box, cut.original_size
    assert x2 - x1 < 0.75 * width and y2 - y1 < 0.75 * height
    assert whole.crop_box[2] - whole.crop_box[0] == width or whole.crop_box[3] - whole.crop_box[1] == height


def test_the_table_names_engine_weights_and_settings_and_has_a_line_for_every_figure() -> None:
    report = {
        "engine": "sonic",
        "weights": {"sonic/unet.pth": "ab12"},
        "steps": 3,
        "size": 256,
        "seconds": 2.0,
        "margin": 0.5,
        "smoothing": {"a x b": {"light": {"strobe_std": [2.0, 0.25], "mouth_amplitude_kept": NO_FACE}}},
        "lip_sync": {"cases": 0, "clips": {"a x b": NO_FACE}},
    }
    lines = as_table(report).splitlines()
    assert lines[0] == "Engine sonic, steps 3, size 256, seconds 2.0, margin 0.5."
    assert "- `sonic/unet.pth` sha256 `ab12`" in lines
    assert "| smoothing / a x b / light / strobe_std | 2 | 0.25 |" in lines
    assert f"| smoothing / a x b / light / mouth_amplitude_kept |  | {NO_FACE} |" in lines
    assert f"| lip_sync / clips / a x b |  | {NO_FACE} |" in lines


def test_weights_are_known_by_their_digest_and_missing_ones_are_named(tmp_path: Path) -> None:
    (tmp_path / "sonic").mkdir()
    (tmp_path / "sonic" / "unet.pth").write_bytes(b"weights")
    found = digests([tmp_path / "sonic" / "unet.pth"], tmp_path)
    assert found == {"sonic/unet.pth": hashlib.sha256(b"weights").hexdigest()}
    with pytest.raises(MissingWeights, match="audio2token"):
        clips_of(tmp_path, 25, 512, 0.0)
    assert list(clips_of(None, 25, 512, 0.0).weights) == ["mouth.safetensors"]


def test_a_face_that_is_seen_in_one_frame_is_seen() -> None:
    assert shows_a_face(np.array([np.nan, 0.1], np.float32))
    assert not shows_a_face(np.array([np.nan, np.nan], np.float32))
