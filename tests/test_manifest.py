"""What a CSV or JSONL manifest says, and what is wrong with it."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.errors import ManifestError
from comfyui_sonic.queue_bridge.intake.manifest import Entry, Scalar, read_manifest
from hypothesis import given
from hypothesis import strategies as st

OK = '{"image": "a.png", "audio": "a.wav"}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "voices").mkdir(parents=True)
    for name in ("a.png", "a.wav", "b.wav", "voices/c.wav", "两 #1.png", "note.txt"):
        (folder / name).touch()
    return folder


def read(folder: Path, text: str | bytes, suffix: str = ".jsonl") -> tuple[Entry, ...]:
    manifest = folder / f"jobs{suffix}"
    manifest.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(manifest)


def problem(folder: Path, text: str | bytes, suffix: str = ".jsonl") -> str:
    """The sentence with which a manifest is refused, from the line's number on."""
    with pytest.raises(ManifestError) as caught:
        read(folder, text, suffix)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence.removeprefix(f"The manifest '{folder / f'jobs{suffix}'}' ").removeprefix("is wrong in ")


def csv_problem(folder: Path, *lines: str) -> str:
    return problem(folder, "\n".join(lines), ".csv")


def value_problem(folder: Path, **fields: object) -> str:
    """What is wrong with a line of JSONL that differs from a good one in these fields."""
    return problem(folder, json.dumps({"image": "a.png", "audio": "a.wav"} | fields)).removeprefix("line 1: ")


# --- CSV -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_csv_is_read_whatever_program_wrote_it(folder: Path, encoding: str, delimiter: str, end: str) -> None:
    rows = [
        ["Image", "AUDIO", "output", "priority", "workflow", "steps", "label"],
        ["a.png", "a.wav", "", "", "", "", ""],
        ["", "", "", "", "", "", ""],
        ["两 #1.png", "voices/c.wav", "day 1/hello.mp4", "priority", "sonic", "25", "x"],
    ]
    text = end.join(delimiter.join(row) for row in rows)
    assert read(folder, text.encode(encoding), ".csv") == (
        Entry(2, "a", folder / "a.png", folder / "a.wav", {}, None, None),
        Entry(
            4,
            "day 1/hello",
            folder / "两 #1.png",
            folder / "voices" / "c.wav",
            {"steps": 25, "label": "x"},
            "priority",
            "sonic",
        ),
    )


def test_a_video_is_named_after_its_recording_with_its_folder(folder: Path) -> None:
    assert [entry.name for entry in read(folder, "image,audio\na.png,voices/c.wav\na.png,./b.wav", ".csv")] == [
        "voices/c",
        "b",
    ]


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("25", 25),
        ("-3", -3),
        ("0", 0),
        ("18446744073709551615", 18446744073709551615),
        ("0.18", 0.18),
        (".5", 0.5),
        ("1e-3", 0.001),
        ("true", True),
        ("FALSE", False),
        ("sonic", "sonic"),
        ("007", "007"),
        ("nan", "nan"),
        ("1e999", "1e999"),
        ("0,18", "0,18"),
        ("９", "９"),
        ("1_000", "1_000"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_a_cell_becomes_what_it_looks_like(folder: Path, cell: str, value: Scalar) -> None:
    (entry,) = read(folder, f'image,audio,x\na.png,a.wav,"{cell}"', ".csv")
    assert entry.config == {"x": value}
    assert type(entry.config["x"]) is type(value)


def test_quotes_protect_commas_and_line_ends_and_the_line_numbers_stay_right(folder: Path) -> None:
    text = 'image,audio,note\na.png,a.wav,"one, ""two""\nthree"\na.png,gone.wav,'
    assert csv_problem(folder, text) == "line 4: there is no file 'gone.wav'."
    (entry,) = read(folder, text.rpartition("\n")[0], ".csv")
    assert entry.config == {"note": 'one, "two"\nthree'}


def test_a_blank_before_a_quotation_mark_belongs_to_neither_cell(folder: Path) -> None:
    (entry,) = read(folder, 'image, audio, note\n"a.png", "a.wav", "one, two"', ".csv")
    assert entry.config == {"note": "one, two"}


def test_a_csv_without_its_columns_is_refused(folder: Path) -> None:
    assert csv_problem(folder, "image,sound", "a.png,a.wav") == "line 1: the header has no column 'audio'."
    assert csv_problem(folder, "", "a.png,a.wav") == "line 2: the header has no column 'image'."
    assert csv_problem(folder, "image,audio,x,x", "") == "line 1: the header has the column 'x' twice."


def test_cells_that_belong_to_no_column_are_refused(folder: Path) -> None:
    expected = "line 2: it has 3 cells and the header 2; put cells with commas into quotes."
    assert csv_problem(folder, "image,audio", "a.png,a.wav,x") == expected
    assert csv_problem(folder, "image,audio,", "a.png,a.wav,x") == "line 2: 'x' is in a column without a name."
    assert len(read(folder, "image,audio,,x\na.png,a.wav", ".csv")) == 1  # left out at the end is not given


@pytest.mark.parametrize("line", ['"a.png,a.wav', '"a.png"x,a.wav', f"a.png,{'x' * 200_000}"])
def test_broken_csv_is_refused_where_it_breaks(folder: Path, line: str) -> None:
    assert csv_problem(folder, "image,audio", "a.png,a.wav", line, "", "x").startswith("line 3: it is broken CSV (")


# --- JSONL -----------------------------------------------------------------------------------------------------------


def test_a_jsonl_is_read_with_comments_and_blank_lines(folder: Path) -> None:
    lines = [
        "\ufeff# a comment",
        '{"image": "a.png", "audio": "a.wav", "seed": 4, "config": {"scale": 1.5, "smooth": true, "text": "a\u2028b"}}',
        "  \t\r",
        " # {broken",
        '{"image_url": null, "image": "a.png", "audio": "b.wav", "output": "x.MP4", "priority": "Normal", '
        '"config": null, "workflow": null, "size": null}',
    ]
    assert read(folder, "\n".join(lines)) == (
        Entry(
            2,
            "a",
            folder / "a.png",
            folder / "a.wav",
            {"seed": 4, "scale": 1.5, "smooth": True, "text": "a\u2028b"},
            None,
            None,
        ),
        Entry(5, "x", folder / "a.png", folder / "b.wav", {}, "normal", None),
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"image": "a.png"', "it is broken JSON (Expecting ',' delimiter at character 18)"),
        ("image,audio", "it is broken JSON (Expecting value at character 1)"),
        ('["a.png", "a.wav"]', 'it is no object; write {"image": "a.png", "audio": "a.wav"}'),
        ('{"image": "a.png", "image": "b.png"}', "it has 'image' twice"),
        ('{"x": NaN}', "NaN is no number that can be used"),
        ('{"x": -Infinity}', "-Infinity is no number that can be used"),
        ('{"x": 1e999}', "'x' has to be a number, a text, true or false"),
        ('{"x": ' + "9" * 5000 + "}", "it is JSON that is too long or too deep"),
        ('{"x": ' + "[" * 100_000, "it is JSON that is too long or too deep"),
        ('{"x": [1]}', "'x' has to be a number, a text, true or false"),
        ('{"config": {"x": {}}}', "'x' has to be a number, a text, true or false"),
        ('{"config": [1]}', "'config' is no object"),
        ('{"x": 1, "config": {"x": 1}}', "'x' is both in 'config' and beside it; keep one of them"),
        ('{"config": {"image": "a.png"}}', "'image' belongs beside 'config', not into it"),
        ('{"image": 1}', "'image' is 1, and a text is needed"),
        ('{"output": {"a": 1}}', "'output' is {\"a\": 1}, and a text is needed"),
        ('{"priority": true}', "'priority' is true, and a text is needed"),
    ],
)
def test_a_line_of_json_that_means_nothing_is_refused(folder: Path, line: str, expected: str) -> None:
    assert problem(folder, f"{OK}\n{line}") == f"line 2: {expected}."


# --- both ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"image": ""}, "'image' is missing"),
        ({"audio": None}, "'audio' is missing"),
        ({"image": "gone.png"}, "there is no file 'gone.png'"),
        ({"image": "a.wav"}, "'a.wav' is no picture that is known here"),
        ({"audio": "note.txt"}, "'note.txt' is no sound that is known here"),
        ({"audio": "voices"}, "'voices' is not an ordinary file"),
        ({"audio": "."}, "'.' is not an ordinary file"),
        ({"image": "/etc/passwd"}, "'/etc/passwd' is an absolute path; write it as seen from the folder"),
        ({"image": "C:/a.png"}, "'C:/a.png' is an absolute path; write it as seen from the folder"),
        ({"image": "../a.png"}, "'../a.png' climbs out of the folder"),
        ({"image": "voices/../a.png"}, "'voices/../a.png' climbs out of the folder"),
        ({"audio": "voices\\c.wav"}, "'voices\\c.wav' has a backslash; write '/' between folders"),
        ({"image": "a\x00.png"}, "'a\\x00.png' holds characters that cannot be shown"),
        ({"image": "\ud800.png"}, "'\\ud800.png' holds characters that cannot be shown"),
        ({"image": "x" * 300 + ".png"}, f"there is no file '{'x' * 300}.png'"),
        ({"image_url": "file:///a.png"}, "it has both 'image' and 'image_url'; keep one of them"),
        ({"priority": "urgent"}, "'urgent' is no priority; write priority or normal"),
        ({"workflow": "../x"}, "'../x' is no name of a workflow (letters, digits, '_' and '-')"),
        ({"output": "x"}, "the output 'x' is no name that ends in .mp4"),
        ({"output": ".mp4"}, "the output '.mp4' is no name that ends in .mp4"),
        ({"output": "x/.mp4"}, "the output 'x/.mp4' is no name that ends in .mp4"),
        ({"output": "x.mp4/"}, "the output 'x.mp4/' is no name that ends in .mp4"),
        ({"output": "../x.mp4"}, "'../x.mp4' climbs out of the folder"),
        ({"output": "/x.mp4"}, "'/x.mp4' is an absolute path; write it as seen from the folder"),
        ({"output": "x\n.mp4"}, "'x\\n.mp4' holds characters that cannot be shown"),
        ({"output": "长" * 70 + ".mp4"}, f"the output '{'长' * 70}.mp4' is longer than file systems allow"),
        ({"": 1}, "the parameter '' has a name that cannot be used"),
        ({"a\nb": 1}, "the parameter 'a\\nb' has a name that cannot be used"),
        ({"x": "\x00"}, "the parameter 'x' holds characters that are none"),
        ({"x": "\udfff"}, "the parameter 'x' holds characters that are none"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(folder: Path, fields: dict[str, object], expected: str) -> None:
    assert value_problem(folder, **fields) == f"{expected}."


def test_a_file_uri_inside_the_folder_is_a_path(folder: Path, tmp_path: Path) -> None:
    uri = (folder / "两 #1.png").as_uri()
    (tmp_path / "link").symlink_to(folder)
    through_link = f"file://localhost{tmp_path}/link/a.wav"
    for fields in ({"image_url": uri, "audio_url": through_link}, {"image": uri, "audio": through_link}):
        (entry,) = read(folder, json.dumps(fields))
        assert (entry.portrait, entry.voice, entry.name) == (folder / "两 #1.png", folder / "a.wav", "a")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("https://x.example/a.png", "is no file; only files in the manifest's folder are taken"),
        ("s3://bucket/a.png", "is no file; only files in the manifest's folder are taken"),
        ("data:image/png;base64,AAAA", "is no file; only files in the manifest's folder are taken"),
        ("file://host/a.png", "is no URI of a file here; write file:///folder/name, with %23 for # and %3F for ?"),
        ("file:a.png", "is no URI of a file here; write file:///folder/name, with %23 for # and %3F for ?"),
        ("file:///a.png?x", "is no URI of a file here; write file:///folder/name, with %23 for # and %3F for ?"),
        ("file:///a/%2e%2e/a.png", "climbs out of a folder or holds characters that cannot be shown"),
        ("file:///a%00.png", "climbs out of a folder or holds characters that cannot be shown"),
        ("file:///%ff.png", "is no URI"),
        ("file://[/a.png", "is no URI"),
        ("a.png", "is no file: URI; give a path as 'image'"),
    ],
)
def test_other_uris_are_refused(folder: Path, uri: str, expected: str) -> None:
    assert value_problem(folder, image=None, image_url=uri) == f"'{uri}' {expected}."


def test_what_lies_outside_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out.png").touch()
    (folder / "link.png").symlink_to("../out.png")
    (folder / "out").symlink_to("..")
    (folder / "circle.png").symlink_to("circle.png")
    uri = (tmp_path / "out.png").as_uri()
    for name in ("link.png", "out/out.png", uri):
        expected = f"'{name}' is not inside the manifest's folder; put the file there."
        assert value_problem(folder, image=name) == expected
    assert value_problem(folder, image="circle.png") == "there is no file 'circle.png'."


def test_a_file_is_found_whatever_its_case_and_the_encoding_of_its_accents(folder: Path) -> None:
    for name in ("cafe\u0301.png", "Two/Voice.WAV", "b.WAV", "B.wav"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (entry,) = read(folder, '{"image": "CAF\u00c9.png", "audio": "two/voice.wav"}')
    assert (entry.portrait, entry.voice) == (folder / "cafe\u0301.png", folder / "Two" / "Voice.WAV")
    assert entry.name == "Two/Voice"
    (entry,) = read(folder, '{"image": "a.png", "audio": "B.wav"}')
    assert entry.voice == folder / "B.wav"
    assert value_problem(folder, audio="B.WAV") == "there is no file 'B.WAV'."  # three are like it, which is no choice


def test_a_link_inside_the_folder_is_taken_by_its_own_name(folder: Path) -> None:
    (folder / "link.wav").symlink_to("a.wav")
    (entry,) = read(folder, '{"image": "a.png", "audio": "link.wav"}')
    assert (entry.name, entry.voice) == ("link", folder / "link.wav")


def test_two_lines_that_make_one_video_are_refused(folder: Path) -> None:
    lines = [OK, '{"image": "a.png", "audio": "b.wav", "output": "A.mp4"}']
    assert problem(folder, "\n".join(lines)) == "line 2: it makes 'A.mp4' and so does line 1; name another 'output'."


def test_the_first_wrong_line_is_named_and_the_others_are_counted(folder: Path) -> None:
    wrong = ["{", OK, "[]", '{"image": "a.png"}']
    assert problem(folder, "\n".join(wrong[:1])).startswith("line 1: ")
    assert problem(folder, "\n".join(wrong[:3])).endswith("at character 2) (1 more line is wrong as well).")
    assert problem(folder, "\n".join(wrong)).endswith("at character 2) (2 more lines are wrong as well).")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_what_is_no_utf8_text_is_refused(folder: Path, suffix: str) -> None:
    text = "image,audio\nä.png,a.wav\n\0"
    expected = "line 2: it is not UTF-8; save the file as UTF-8 (1 more line is wrong as well)."
    assert problem(folder, text.encode("latin-1"), suffix) == expected
    assert problem(folder, text, suffix) == "line 3: it holds a NUL byte; save the file as plain UTF-8 text."
    assert problem(folder, text.encode("utf-16"), suffix).startswith("line 1: it is not UTF-8")


@pytest.mark.parametrize(
    ("text", "suffix"), [("", ".csv"), ("image,audio\n,\n", ".csv"), ("", ".jsonl"), ("#", ".jsonl")]
)
def test_an_empty_manifest_is_refused(folder: Path, text: str, suffix: str) -> None:
    assert problem(folder, text, suffix) == "names no video; give it a line for each."


def test_a_manifest_that_cannot_be_read_is_one_sentence(folder: Path) -> None:
    for name, reason in (
        ("gone.csv", "cannot be read: No such file or directory"),
        ("voices", "is not an ordinary file"),
    ):
        with pytest.raises(ManifestError) as caught:
            read_manifest(folder / name)
        assert str(caught.value) == f"The manifest '{folder / name}' {reason}."


def test_a_manifest_of_unreasonable_size_is_not_read(folder: Path) -> None:
    manifest = folder / "jobs.csv"
    with manifest.open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(ManifestError, match=r"is larger than 64 MiB; split it\.$"):
        read_manifest(manifest)


@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode(errors="replace")))
def test_any_bytes_are_a_manifest_or_one_sentence(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        for suffix in (".csv", ".jsonl"):
            for start in (b"", b"image,audio,x\n", b'{"image": "'):
                file = Path(name) / f"jobs{suffix}"
                file.write_bytes(start + content)
                with pytest.raises(ManifestError):
                    read_manifest(file)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1, max_size=4))
def test_a_text_that_a_csv_writer_wrote_comes_back(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        for file in ("a.png", "a.wav"):
            (Path(name) / file).touch()
        manifest = Path(name) / "jobs.csv"
        with manifest.open("w", encoding="utf-8", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["image", "audio", "output", "text"])
            for number, text in enumerate(texts):
                writer.writerow(["a.png", "a.wav", f"{number}.mp4", f"t:{text}"])
        assert [entry.config["text"] for entry in read_manifest(manifest)] == [f"t:{text}".strip() for text in texts]


@pytest.mark.skipif(os.name != "posix", reason="such files exist on POSIX only")
def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "jobs.csv")
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(ManifestError, match="is not an ordinary file"):
        read_manifest(folder / "jobs.csv")
    assert value_problem(folder, image="pipe.png") == "'pipe.png' is not an ordinary file."
