"""A job in few bytes: what goes in comes out, and nothing else is taken for it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from comfyui_sonic.queue_bridge.errors import BadJob
from comfyui_sonic.queue_bridge.job import JobRecord
from comfyui_sonic.queue_bridge.packed import FORMAT, QUICK_FORMAT, packed, quickly_packed, short_key, unpacked
from comfyui_sonic.queue_bridge.queue.keys import BUCKET
from hypothesis import given
from hypothesis import strategies as st

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), VALUES, max_size=8).filter(lambda found: not _has_surrogates(found)))
def test_what_is_packed_is_unpacked(document: dict[str, object]) -> None:
    assert unpacked(packed(document)) == unpacked(quickly_packed(document)) == document


def _has_surrogates(value: object) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in repr(value))


def test_a_job_takes_a_third_of_its_json() -> None:
    folder = "file:///mnt/nas-03/customers/nordlicht/2026/11/winter"
    said = {"inference_steps": 25, "dynamic_scale": 1.1, "motion_scale": 1.05, "expand_ratio": 0.18, "crop": False}
    document = {
        "image": f"{folder}/portraits/anna-0042.png",
        "audio": f"{folder}/recordings/anna-0042.wav",
        "output": f"{folder}/videos/anna-0042.mp4",
        "config": {**said, "seed": 72589, "fps": 25, "resolution": 512},
    }
    assert len(packed(document)) < 120 and len(quickly_packed(document)) < 140


def test_plain_json_is_read_as_it_is() -> None:
    assert unpacked(b'{"image": "a"}') == {"image": "a"}


@pytest.mark.parametrize("data", [b"", b"{", FORMAT, FORMAT + b"\xff\xff\xff", QUICK_FORMAT, b"\x02abc", b"\x03abc"])
def test_what_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        unpacked(data)


def test_a_few_bytes_cannot_become_gigabytes() -> None:
    for pack in (packed, quickly_packed):
        with pytest.raises(ValueError):
            unpacked(pack({"x": "y" * 5_000_000}))


def test_threads_pack_side_by_side() -> None:
    documents = [{"name": f"{number} " * 200} for number in range(400)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(unpacked, threads.map(quickly_packed, documents))) == documents


def test_keys_of_any_length_become_twelve_letters_and_stay_different() -> None:
    keys = {short_key(f"key {number}") for number in range(10_000)}
    assert {len(key) for key in keys} == {12}
    assert len(keys) == 10_000
    assert len({key[:BUCKET] for key in keys}) == 1024
    assert short_key("声音" * 1000) == short_key("声音" * 1000)


@pytest.mark.parametrize("piece", ["\x01abc", "[1]", "", "{"])
def test_a_record_whose_pieces_are_no_job_says_so(piece: str) -> None:
    with pytest.raises(BadJob, match=r"^job: "):
        JobRecord.from_hash({"state": "queued", "lane": "512", "0": piece}, "id")
