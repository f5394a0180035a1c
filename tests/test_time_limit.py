"""How long a prompt may take, and how long a recording is taken to be for that."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.execution.time_limit import START_S, time_limit_s
from comfyui_sonic.queue_bridge.places.sound_length import sound_length_s
from hypothesis import given
from hypothesis import strategies as st

VOICE = Path(__file__).parent / "data" / "voice.wav"
EXAMPLES = Path(__file__).parent.parent / "examples" / "batch"


def limit(video_s: float = 10.0, **values: object) -> float:
    return time_limit_s(video_s, {"resolution": 512, "inference_steps": 25, "engine": "sonic"} | values)


def test_longer_larger_and_finer_videos_may_take_longer_and_steps_are_nothing_to_the_draft_engine() -> None:
    assert limit(20.0) > limit(10.0)
    assert limit(resolution=1024) > 3 * limit(resolution=512)
    assert limit(inference_steps=100) > 3 * limit(inference_steps=25)
    assert limit(engine="draft") < limit(engine="auto") == limit(engine="sonic")
    assert limit(engine="draft", inference_steps=100) == limit(engine="draft")


def test_a_fixed_limit_replaces_it_and_a_scale_stretches_it() -> None:
    assert time_limit_s(10.0, {}, fixed_s=7.0, scale=3.0) == 7.0
    assert time_limit_s(10.0, {}, scale=3.0) == pytest.approx(3 * time_limit_s(10.0, {}))


@given(
    video_s=st.floats(-1, 1e5),
    values=st.dictionaries(
        st.sampled_from(["resolution", "inference_steps", "engine"]),
        st.one_of(st.integers(-5, 5000), st.sampled_from(["draft", "", None, True])),
    ),
)
def test_whatever_a_template_sets_there_is_time_to_begin(video_s: float, values: dict[str, object]) -> None:
    assert time_limit_s(video_s, values) >= START_S


def test_a_recording_is_as_long_as_its_header_says_and_an_unreadable_one_is_taken_for_long(tmp_path: Path) -> None:
    import wave

    with wave.open(str(VOICE)) as sound:
        seconds = sound.getnframes() / sound.getframerate()
    assert sound_length_s(VOICE) == pytest.approx(seconds)
    unreadable = tmp_path / "voice.xyz"
    unreadable.write_bytes(b"x" * 40_000)
    assert sound_length_s(unreadable) == 10.0
    assert sound_length_s(tmp_path / "not there.wav") == 0.0
    compressed = tmp_path / "without a suffix"
    shutil.copyfile(EXAMPLES / "close_up.mp3", compressed)
    assert 1.0 < sound_length_s(compressed) < 60.0
