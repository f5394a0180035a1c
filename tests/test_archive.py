"""A ZIP becomes a folder beside it, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import shutil
import stat
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.errors import ArchiveError
from comfyui_sonic.queue_bridge.intake import archive as archive_module
from comfyui_sonic.queue_bridge.intake.archive import Limits, unpack
from hypothesis import given
from hypothesis import strategies as st

PAIR = {"a.png": b"picture", "a.wav": b"sound"}


def zip_of(
    place: Path, files: Mapping[str, bytes] = PAIR, *, change: Callable[[zipfile.ZipInfo], None] | None = None
) -> Path:
    """A deflated ZIP of files by name; names get into it as they are. change: does something to every entry."""
    with warnings.catch_warnings(), zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as opened:
        warnings.simplefilter("ignore")  # about two entries of one name
        for name, content in files.items():
            info = zipfile.ZipInfo("x")
            info.filename = name
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            if change:
                change(info)
            with opened.open(info, "w") as entry:
                entry.write(content)
    return place


def everything(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its content, None for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


def refusal(archive: Path, limits: Limits | None = None) -> str:
    """The sentence with which a ZIP is refused; nothing must have been left behind."""
    before = everything(archive.parent)
    with pytest.raises(ArchiveError) as caught:
        unpack(archive, limits or Limits())
    assert everything(archive.parent) == before
    sentence = str(caught.value)
    assert sentence.startswith(f"'{archive}' ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence.removeprefix(f"'{archive}' ")


def test_a_zip_becomes_a_folder_named_after_it_and_its_content(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "my batch.zip", {**PAIR, "声音/b.wav": b"", "空/": b""})
    folder = unpack(archive)
    assert folder == tmp_path / f"my batch-{hashlib.sha256(archive.read_bytes()).hexdigest()[:8]}"
    assert everything(folder) == {**PAIR, "声音": None, "声音/b.wav": b"", "空": None}
    assert {path.name for path in tmp_path.iterdir()} == {archive.name, folder.name}


def test_what_is_unpacked_can_be_read_by_the_same_people_as_any_other_file(tmp_path: Path) -> None:
    folder = unpack(zip_of(tmp_path / "a.zip"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other.txt").touch()
    assert folder.stat().st_mode == (tmp_path / "other").stat().st_mode
    assert (folder / "a.png").stat().st_mode == (tmp_path / "other.txt").stat().st_mode


def test_a_second_call_takes_the_finished_folder(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip")
    folder = unpack(archive)
    (folder / "a.mp4").write_bytes(b"video")
    assert unpack(archive) == folder
    assert (folder / "a.mp4").read_bytes() == b"video"


def test_another_zip_of_the_same_name_gets_another_folder(tmp_path: Path) -> None:
    first = unpack(zip_of(tmp_path / "a.zip"))
    second = unpack(zip_of(tmp_path / "a.zip", {"b.png": b"other"}))
    assert first != second
    assert everything(first) == PAIR


def test_a_zip_of_one_folder_is_read_inside_it(tmp_path: Path) -> None:
    files = {"batch/a.png": b"1", "batch/a.wav": b"2", "__MACOSX/batch/._a.png": b"junk", ".DS_Store": b"junk"}
    folder = unpack(zip_of(tmp_path / "a.zip", files))
    assert folder.name == "batch"
    assert everything(folder) == {"a.png": b"1", "a.wav": b"2"}
    (folder.parent / ".DS_Store").touch()  # Finder makes one as soon as somebody looks
    assert unpack(tmp_path / "a.zip") == folder


def test_what_macos_adds_is_passed_over(tmp_path: Path) -> None:
    junk = {"__MACOSX/": b"", "__MACOSX/._a.png": b"x", "._a.wav": b"x", ".DS_Store": b"x", "b/.DS_Store": b"x"}
    assert everything(unpack(zip_of(tmp_path / "a.zip", {**PAIR, **junk}))) == PAIR


def test_a_leading_dot_and_doubled_slashes_in_names_do_no_harm(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"./": b"", "./a.png": b"1", "b//c.png": b"2"})
    assert everything(unpack(archive)) == {"a.png": b"1", "b": None, "b/c.png": b"2"}


def test_names_without_the_utf8_flag_are_read_as_zipfile_reads_them(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"XX.png": b"1", "é.png": b"2"})
    archive.write_bytes(archive.read_bytes().replace(b"XX.png", b"\x82X.png"))  # é in code page 437
    assert set(everything(unpack(archive))) == {"éX.png", "é.png"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/x.png", "is an absolute path"),
        ("//host/share/x.png", "is an absolute path"),
        ("/", "is an absolute path"),
        ("C:/x.png", "is an absolute path"),
        ("c:x.png", "is an absolute path"),
        ("a/C:/x.png", "is an absolute path"),
        ("..\\x.png", "has a NUL or a backslash in its name"),
        ("\\\\host\\x.png", "has a NUL or a backslash in its name"),
        ("a.png\0.exe", "has a NUL or a backslash in its name"),
        ("../x.png", "climbs out of the folder"),
        ("a/../../x.png", "climbs out of the folder"),
        ("a/..", "climbs out of the folder"),
        ("__MACOSX/../../x", "climbs out of the folder"),
        ("", "has no name"),
    ],
)
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    archive = zip_of(tmp_path / "a.zip", {**PAIR, name: b"evil"})
    assert refusal(archive) == f"is refused: its entry {name!r} {reason}."


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_special_files_are_refused(tmp_path: Path, kind: int) -> None:
    def change(info: zipfile.ZipInfo) -> None:
        info.external_attr = (kind | 0o777) << 16

    archive = zip_of(tmp_path / "a.zip", {"a.png": b"/etc/passwd"}, change=change)
    assert refusal(archive) == "is refused: its entry 'a.png' is a link or another special file."


def changed(archive: Path, offset: int, layout: str, value: int) -> Path:
    """Change a field of the first entry in the table of contents, which is what readers of a ZIP go by."""
    content = bytearray(archive.read_bytes())
    struct.pack_into(layout, content, content.index(b"PK\x01\x02") + offset, value)
    archive.write_bytes(content)
    return archive


def test_an_encrypted_entry_is_refused(tmp_path: Path) -> None:
    archive = changed(zip_of(tmp_path / "a.zip"), 8, "<H", 0x1)
    assert refusal(archive) == "is refused: its entry 'a.png' is encrypted; pack it without a password."


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_method_that_cannot_be_read_in_small_pieces_is_refused(tmp_path: Path, method: int) -> None:
    def change(info: zipfile.ZipInfo) -> None:
        info.compress_type = method

    archive = zip_of(tmp_path / "a.zip", change=change)
    assert refusal(archive).endswith(f"is packed with a method that is not taken here ({method}); pack it by deflate.")


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {f"{number}.png": b"" for number in range(4)})
    assert refusal(archive, Limits(entries=3)) == "holds more than 3 entries; split it."
    assert len(everything(unpack(archive, Limits(entries=4)))) == 4


def test_a_table_of_contents_that_would_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    length = 3 << 20
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, length, 0, 0)  # it says there is one entry
    archive.write_bytes(bytes(length) + end)
    assert refusal(archive, Limits(entries=3)) == "holds more than 3 entries; split it."


def test_more_bytes_than_the_limit_are_refused(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"a.png": bytes(2 << 20), "b.png": bytes(1 << 20)})
    limits = Limits(unpacked_bytes=(3 << 20) - 1)
    assert refusal(archive, limits) == "holds 3.0 MiB unpacked and 3.0 MiB are the limit; split it."
    assert unpack(archive, Limits(unpacked_bytes=3 << 20)).is_dir()


def test_a_zip_that_grows_more_than_media_do_is_refused(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"a.png": bytes(1 << 20)})
    assert "-fold to 1.0 MiB, which pictures and recordings never do" in refusal(archive, Limits(ratio_from=1 << 19))
    assert unpack(archive, Limits(ratio_from=1 << 20)).is_dir()  # what is small may grow


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_entry_that_is_longer_than_it_says_is_refused(tmp_path: Path, method: int) -> None:
    def change(info: zipfile.ZipInfo) -> None:
        info.compress_type = method

    archive = zip_of(tmp_path / "a.zip", {"a.png": bytes(5000)}, change=change)
    changed(archive, 24, "<L", 10)
    assert refusal(archive) == "is refused: its entry 'a.png' is longer than its 10 bytes."


def test_an_entry_that_is_shorter_than_it_says_is_damaged(tmp_path: Path) -> None:
    archive = changed(zip_of(tmp_path / "a.zip", {"a.png": b"12345"}), 24, "<L", 10)
    assert refusal(archive) == "is damaged: its entry 'a.png' ends after 5 of 10 bytes."


@pytest.mark.parametrize("names", [("a.png", "A.PNG"), ("caf\u00e9.png", "cafe\u0301.png"), ("b/a.png", "./b/a.png")])
def test_two_files_of_one_name_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    assert "twice" in refusal(zip_of(tmp_path / "a.zip", dict.fromkeys(names, b"")))


@pytest.mark.parametrize("names", [("a", "a/b.png"), ("a/", "A"), ("a/b/c.png", "a/b")])
def test_a_name_that_is_both_a_file_and_a_folder_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    assert "both as a file and as a folder" in refusal(zip_of(tmp_path / "a.zip", dict.fromkeys(names, b"")))


@pytest.mark.parametrize("files", [{}, {"a/": b""}, {".DS_Store": b"x"}])
def test_a_zip_without_a_file_is_refused(tmp_path: Path, files: Mapping[str, bytes]) -> None:
    assert refusal(zip_of(tmp_path / "a.zip", files)) == "holds no file."


def test_what_is_no_zip_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    for content in (b"", b"no zip", b"PK\x05\x06", b"PK\x03\x04" + bytes(100)):
        archive.write_bytes(content)
        assert refusal(archive).startswith("is damaged or no ZIP (")


def test_a_zip_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    assert refusal(tmp_path / "gone.zip") == "could not be unpacked: No such file or directory."


def test_something_else_in_the_place_of_the_folder_is_left_alone(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip")
    folder = unpack(archive)
    folder.rename(tmp_path / "moved")
    folder.symlink_to("moved")
    assert refusal(archive) == f"is to be unpacked into '{folder}', which is no folder; remove that."
    folder.unlink()
    folder.touch()
    assert refusal(archive) == f"is to be unpacked into '{folder}', which is no folder; remove that."


def test_a_disk_without_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zip_of(tmp_path / "a.zip", {"a.png": bytes(3 << 20)})
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    assert refusal(archive) == "needs 3.0 MiB unpacked and there are 1.0 MiB free; make room for it."


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "could not be unpacked: the disk is full."),
        (OSError(errno.EIO, "Input/output error"), "could not be unpacked: Input/output error."),
    ],
)
def test_a_disk_that_fails_midway_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, sentence: str
) -> None:
    archive = zip_of(tmp_path / "a.zip")
    _fail_at_the_second_file(monkeypatch, error)
    assert refusal(archive) == sentence


def test_ctrl_c_midway_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zip_of(tmp_path / "a.zip")
    _fail_at_the_second_file(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        unpack(archive)
    assert list(tmp_path.iterdir()) == [archive]


def _fail_at_the_second_file(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    write = archive_module._write

    def failing(archive: Path, opened: zipfile.ZipFile, entry: archive_module._Entry, place: Path) -> None:
        if place.parent.joinpath("a.png").exists():
            raise error
        write(archive, opened, entry, place)

    monkeypatch.setattr(archive_module, "_write", failing)


def test_the_first_of_two_processes_wins_and_the_second_takes_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zip_of(tmp_path / "a.zip")
    put = archive_module._put

    def late(content: Path, target: Path) -> None:
        monkeypatch.undo()
        assert unpack(archive) == target  # the other process, just before us
        put(content, target)

    monkeypatch.setattr(archive_module, "_put", late)
    assert everything(unpack(archive)) == PAIR
    assert len(list(tmp_path.iterdir())) == 2


STRANGE = st.lists(
    st.sampled_from(
        ["..", ".", "/", "\\", "\0", "C:", "~", "a", "A", "é", "e\u0301", " ", "\n", "._", "__MACOSX", "CON"]
    ),
    max_size=6,
).map("".join) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(st.dictionaries(STRANGE, st.just(b"evil"), min_size=1, max_size=4))
def test_no_name_however_strange_makes_a_file_outside_the_folder(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as top:
        inbox = Path(top) / "deep" / "inbox"
        inbox.mkdir(parents=True)
        archive = zip_of(inbox / "a.zip", files)
        before = everything(Path(top))
        try:
            unpack(archive)
        except ArchiveError:
            assert everything(Path(top)) == before
            return
        target = next(path for path in inbox.iterdir() if path != archive)
        inside = everything(target)
        below = target.relative_to(top).as_posix()
        assert everything(Path(top)) == {**before, below: None, **{f"{below}/{name}": inside[name] for name in inside}}
        assert b"evil" in inside.values()


@given(st.data())
def test_a_damaged_zip_is_unpacked_or_refused_with_a_sentence(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = zip_of(Path(folder) / "a.zip", {"a.png": bytes(100), "ä/b.wav": b"sound"})
        content = bytearray(archive.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        archive.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
        try:
            unpack(archive)
        except ArchiveError:
            assert list(Path(folder).iterdir()) == [archive]
