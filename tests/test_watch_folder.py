"""A folder into which files arrive."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.errors import PairingError
from comfyui_sonic.queue_bridge.intake.watch_folder import FolderWatch


def put(folder: Path, name: str, content: bytes = b"x", age_ns: int = 0) -> Path:
    path = folder / name
    path.write_bytes(content)
    os.utime(path, ns=(10**18 + age_ns, 10**18 + age_ns))
    return path


def names(watch: FolderWatch) -> list[str]:
    return [order.name for order in watch.settled()]


def test_an_order_counts_once_its_files_have_stopped_growing(tmp_path: Path) -> None:
    watch = FolderWatch(tmp_path)
    put(tmp_path, "a.png")
    put(tmp_path, "a.wav", b"begins")
    assert names(watch) == []
    put(tmp_path, "a.wav", b"begins and goes on", age_ns=1)
    assert names(watch) == [], "it still grew"
    assert names(watch) == ["a"]
    assert names(watch) == [], "once is enough"


def test_a_recording_that_arrives_before_its_picture_waits_for_it(tmp_path: Path) -> None:
    watch = FolderWatch(tmp_path)
    put(tmp_path, "a.wav")
    assert names(watch) == names(watch) == []
    put(tmp_path, "a.png")
    assert names(watch) == []
    assert names(watch) == ["a"]


def test_a_file_that_is_replaced_is_a_new_order(tmp_path: Path) -> None:
    watch = FolderWatch(tmp_path)
    put(tmp_path, "a.png")
    put(tmp_path, "a.wav")
    names(watch)
    assert names(watch) == ["a"]
    put(tmp_path, "a.wav", b"another", age_ns=5)
    assert names(watch) == []
    assert names(watch) == ["a"]


def test_a_folder_that_vanishes_is_one_sentence(tmp_path: Path) -> None:
    watch = FolderWatch(tmp_path / "inbox")
    with pytest.raises(PairingError, match="inbox"):
        watch.settled()
