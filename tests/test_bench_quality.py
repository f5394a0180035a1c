"""The table of what post-processing does: any engine's clips, also those in which no face is to be seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from comfyui_sonic.bench.clips import VOICES, Clips, clips_of, digests
from comfyui_sonic.bench.quality import NO_FACE, as_table, shows_a_face, silence
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


def test_the_table_names_engine_weights_and_settings_and_has_a_line_for_every_figure() -> None:
    report = {
        "engine": "sonic",
        "weights": {"sonic/unet.pth": "ab12"},
        "steps": 3,
        "size": 256,
        "seconds": 2.0,
        "smoothing": {"a x b": {"light": {"strobe_std": [2.0, 0.25], "mouth_amplitude_kept": NO_FACE}}},
        "lip_sync": {"cases": 0, "clips": {"a x b": NO_FACE}},
    }
    lines = as_table(report).splitlines()
    assert lines[0] == "Engine sonic, steps 3, size 256, seconds 2.0."
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
