"""Which picture goes with which recording."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.errors import PairingError
from comfyui_sonic.queue_bridge.intake.pairing import pair_folder
from hypothesis import given
from hypothesis import strategies as st


def folder_of(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).touch()
    return tmp_path


def pairs(folder: Path) -> dict[str, tuple[str, str]]:
    return {pair.name: (pair.portrait.name, pair.voice.name) for pair in pair_folder(folder).pairs}


def left_out(folder: Path) -> dict[str, str]:
    return {item.path.name: item.reason for item in pair_folder(folder).left_out}


def test_files_of_the_same_name_pair(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.jpg", "a.wav", "b.png", "b.mp3")
    assert pairs(folder) == {"a": ("a.jpg", "a.wav"), "b": ("b.png", "b.mp3")}
    assert left_out(folder) == {}


def test_one_portrait_speaks_every_recording_that_begins_with_its_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "anna.png", "anna_hello.wav", "anna-bye.wav", "anna 3.ogg", "bob.png", "bob.wav")
    assert pairs(folder) == {
        "anna_hello": ("anna.png", "anna_hello.wav"),
        "anna-bye": ("anna.png", "anna-bye.wav"),
        "anna 3": ("anna.png", "anna 3.ogg"),
        "bob": ("bob.png", "bob.wav"),
    }


def test_the_longest_beginning_wins(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "anna.png", "anna_maria.png", "anna_maria_hello.wav", "anna_hello.wav")
    assert pairs(folder)["anna_maria_hello"] == ("anna_maria.png", "anna_maria_hello.wav")
    assert pairs(folder)["anna_hello"] == ("anna.png", "anna_hello.wav")


def test_a_name_that_merely_starts_with_the_same_letters_is_another_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "ann.png", "bob.png", "anna.wav", "bob.wav")
    assert pairs(folder) == {"bob": ("bob.png", "bob.wav")}
    assert set(left_out(folder)) == {"ann.png", "anna.wav"}


def test_a_single_picture_speaks_every_recording(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "me.png", "one.wav", "two.mp3", "me_three.wav")
    assert {name: portrait for name, (portrait, _) in pairs(folder).items()} == {
        "one": "me.png",
        "two": "me.png",
        "me_three": "me.png",
    }


def test_what_stays_alone_is_named_with_its_reason(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.png", "a.wav", "lonely.jpg", "silent.wav", "table.xlsx", "noname")
    (folder / "below").mkdir()
    assert left_out(folder) == {
        "below": "It is a folder; only files directly in the given folder are read.",
        "lonely.jpg": "No recording has this name or begins with it.",
        "noname": "'noname' is no picture or sound that is known here.",
        "silent.wav": "No picture has this name or the beginning of it.",
        "table.xlsx": "'.xlsx' is no picture or sound that is known here.",
    }


def test_hidden_files_and_notes_are_passed_over(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.png", "a.wav", ".DS_Store", "README.md", "licence.txt", "Thumbs.db", "a.mp4")
    assert list(pairs(folder)) == ["a"]
    assert left_out(folder) == {}


def test_two_pictures_or_two_recordings_of_one_name_are_no_guess(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.jpg", "a.png", "b.png", "b.wav", "b.mp3", "c.png", "c.wav")
    assert list(pairs(folder)) == ["c"]
    reasons = left_out(folder)
    assert (
        reasons["a.jpg"] == reasons["a.png"] == "'a.jpg' and 'a.png' are pictures of the same name; keep one of them."
    )
    assert reasons["b.wav"] == "'b.mp3' and 'b.wav' are recordings of the same name; keep one of them."


@pytest.mark.parametrize("name", ["two words", "声音 测试", "🎤 mic", "a.b.c", "quote's", "percent%20", "-dash", "é"])
def test_unusual_names_pair(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path, f"{name}.png", f"{name}.wav")
    assert pairs(folder) == {name: (f"{name}.png", f"{name}.wav")}


def test_case_and_the_encoding_of_accents_do_not_matter(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "Anna.PNG", "anna.WAV", "caf\u00e9.png", "cafe\u0301.wav")
    assert len(pairs(folder)) == 2
    assert left_out(folder) == {}


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "secret.png"
    outside.touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").symlink_to(outside)
    (folder / "b.png").symlink_to("../secret.png")
    (folder / "c.png").symlink_to("nowhere.png")
    (folder / "d.png").symlink_to("d.png")
    folder_of(folder, "a.wav", "real.png", "real.wav")
    (folder / "linked.wav").symlink_to("real.wav")
    reasons = left_out(folder)
    assert reasons["a.png"] == reasons["b.png"] == "It is a link out of the folder; put the file itself here."
    assert reasons["c.png"] == reasons["d.png"] == "It is a link that leads nowhere."
    assert pairs(folder)["real"] == ("real.png", "real.wav")


def test_a_folder_that_is_itself_a_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    folder_of(tmp_path / "real", "a.png", "a.wav")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert list(pairs(tmp_path / "link")) == ["a"]


@pytest.mark.skipif(os.name != "posix", reason="such names exist on POSIX only")
def test_names_that_cannot_be_shown_and_files_that_are_none_are_left_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "line\nbreak.png", "a.wav")
    (tmp_path / os.fsdecode(b"\xff.wav")).touch()
    os.mkfifo(tmp_path / "pipe.png")
    reasons = left_out(folder)
    assert reasons["line\nbreak.png"] == reasons[os.fsdecode(b"\xff.wav")]
    assert reasons["pipe.png"] == "It is not an ordinary file."


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PairingError, match=r"^The folder '.*gone' cannot be read: No such file or directory\.$"):
        pair_folder(tmp_path / "gone")


@given(st.sets(st.sampled_from([f"{s}.{e}" for s in ("a", "a_b", "a_b_c", "B", "d") for e in ("png", "jpg", "wav")])))
def test_every_file_is_either_in_a_pair_or_left_out_and_no_video_is_made_twice(names: set[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = folder_of(Path(name), *names)
        pairing = pair_folder(folder)
    in_pairs = {path.name for pair in pairing.pairs for path in (pair.portrait, pair.voice)}
    alone = [item.path.name for item in pairing.left_out]
    assert in_pairs.isdisjoint(alone)
    assert in_pairs.union(alone) == names
    videos = [pair.name.casefold() for pair in pairing.pairs]
    assert len(set(videos)) == len(videos)
