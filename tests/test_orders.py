"""A folder, a manifest or a ZIP becomes a list of orders."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.errors import ArchiveError, ManifestError, PairingError
from comfyui_sonic.queue_bridge.intake.orders import Order, Orders, read_orders
from comfyui_sonic.queue_bridge.intake.pairing import LeftOut, comparable
from hypothesis import given
from hypothesis import strategies as st

UNNAMED = "No line of the manifest names it."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "batch", "a.png", "a.wav", "b.png", "b.wav")


def folder_of(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def written(place: Path, text: str) -> Path:
    place.write_text(text, encoding="utf-8")
    return place


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder))


def videos(orders: Orders) -> dict[str, str]:
    """Each video's path with its recording's, both below the root, where the video lies there."""
    return {
        order.output.relative_to(order.root).as_posix(): order.voice.relative_to(order.root).as_posix()
        for order in orders.orders
    }


def refusal(source: Path, output: Path | None = None, error: type[PairingError] = PairingError) -> str:
    with pytest.raises(error) as caught:
        read_orders(source, output)
    assert type(caught.value) is error
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_becomes_an_order_for_every_pair(folder: Path) -> None:
    folder_of(folder, "lonely.jpg", "c.d.png", "c.d.wav")
    first, _, third = read_orders(folder).orders
    expected = Order("a", folder / "a.png", folder / "a.wav", folder / "a.mp4", {}, None, None, folder)
    assert first == expected
    assert third.output == folder / "c.d.mp4"
    assert read_orders(folder).left_out == (
        LeftOut(folder / "lonely.jpg", "No recording has this name or begins with it."),
    )


def test_with_an_output_folder_the_videos_lie_there(folder: Path, tmp_path: Path) -> None:
    (order, _) = read_orders(folder, tmp_path / "not" / "yet").orders
    assert order.output == tmp_path / "not" / "yet" / "a.mp4"
    assert not (tmp_path / "not").exists()


def test_all_paths_are_absolute_and_the_same_from_wherever_they_are_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    expected = read_orders(folder, tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "link out").symlink_to("out")
    for source in ("batch", "./batch/../batch", "link"):
        for output in ("out", "batch/../out", "link out"):
            assert read_orders(Path(source), Path(output)) == expected


def test_an_empty_folder_has_no_orders(tmp_path: Path) -> None:
    assert read_orders(tmp_path) == Orders((), ())


def test_a_manifest_becomes_an_order_for_every_line(folder: Path) -> None:
    manifest = written(
        folder / "jobs.csv",
        "image,audio,output,priority,workflow,seed\na.png,b.wav,x/y.mp4,priority,other,7\nb.png,a.wav\n",
    )
    first, second = read_orders(manifest).orders
    assert first == Order(
        "x/y", folder / "a.png", folder / "b.wav", folder / "x" / "y.mp4", {"seed": 7}, "priority", "other", folder
    )
    assert second == Order("a", folder / "b.png", folder / "a.wav", folder / "a.mp4", {}, None, None, folder)
    assert read_orders(manifest).left_out == ()


def test_a_line_of_a_manifest_may_name_a_consent(folder: Path) -> None:
    written(folder / "jobs.csv", "image,audio,consent_id\na.png,b.wav,file 7\nb.png,a.wav,\n")
    written(folder / "jobs.jsonl", '{"image": "a.png", "audio": "b.wav", "consent_id": "file 7"}')
    assert [order.consent_id for order in read_orders(folder / "jobs.csv").orders] == ["file 7", ""]
    assert [order.consent_id for order in read_orders(folder / "jobs.jsonl").orders] == ["file 7"]
    assert read_orders(folder / "jobs.csv").orders[0].config == {}


def test_a_recording_in_a_folder_gets_its_video_beside_it_or_in_the_same_folder_of_the_output(
    tmp_path: Path,
) -> None:
    folder = folder_of(tmp_path / "batch", "a.png", "one/hello.wav", "two/hello.wav")
    manifest = written(folder / "jobs.csv", "image,audio\na.png,one/hello.wav\na.png,two/hello.wav")
    assert videos(read_orders(manifest)) == {"one/hello.mp4": "one/hello.wav", "two/hello.mp4": "two/hello.wav"}
    outputs = [order.output for order in read_orders(manifest, tmp_path / "out").orders]
    assert outputs == [tmp_path / "out" / "one" / "hello.mp4", tmp_path / "out" / "two" / "hello.mp4"]


@pytest.mark.parametrize("name", ["manifest.csv", "Manifest.CSV", "manifest.jsonl"])
def test_a_manifest_in_a_folder_decides_and_says_what_it_does_not_name(tmp_path: Path, name: str) -> None:
    folder = folder_of(
        tmp_path / "batch", "a.png", "a.wav", "b.wav", "v/c.wav", "v/d.wav", "v/n.txt", "w/e.wav", ".x.wav"
    )
    text = "image,audio\na.png,b.wav\na.png,v/c.wav"
    if name.endswith("l"):
        text = '{"image": "a.png", "audio": "b.wav"}\n{"image": "a.png", "audio": "v/c.wav"}'
    written(folder / name, text)
    orders = read_orders(folder)
    assert videos(orders) == {"b.mp4": "b.wav", "v/c.mp4": "v/c.wav"}
    assert orders.left_out == (LeftOut(folder / "a.wav", UNNAMED), LeftOut(folder / "v" / "d.wav", UNNAMED))


def test_a_manifest_of_another_name_does_not_decide(folder: Path) -> None:
    written(folder / "jobs.csv", "image,audio\na.png,b.wav")
    assert videos(read_orders(folder)) == {"a.mp4": "a.wav", "b.mp4": "b.wav"}


def test_two_manifests_in_a_folder_are_refused(folder: Path) -> None:
    folder_of(folder, "manifest.csv", "manifest.jsonl")
    assert refusal(folder) == f"The folder '{folder}' holds 'manifest.csv' and 'manifest.jsonl'; keep one of them."


def test_a_manifest_that_is_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    written(tmp_path / "secret.csv", "image,audio\na.png,a.wav")
    (folder / "manifest.csv").symlink_to("../secret.csv")
    assert refusal(folder) == f"'{folder / 'manifest.csv'}' is a link out of the folder; put the file itself there."


def test_a_wrong_manifest_refuses_the_folder(folder: Path) -> None:
    manifest = written(folder / "manifest.csv", "image,audio\na.png,a.wav\ngone.png,b.wav")
    expected = f"The manifest '{manifest}' is wrong in line 3: there is no file 'gone.png'."
    assert refusal(folder, error=ManifestError) == expected


def test_a_zip_is_read_as_the_folder_that_is_in_it(folder: Path) -> None:
    archive = zipped(folder)
    orders = read_orders(archive)
    root = orders.orders[0].root
    assert root.parent == archive.parent
    assert root.name.startswith("batch-")
    assert videos(orders) == {"a.mp4": "a.wav", "b.mp4": "b.wav"}
    (root / "a.mp4").touch()
    assert read_orders(archive) == orders


def test_a_manifest_in_a_zip_decides(folder: Path) -> None:
    written(folder / "manifest.csv", "image,audio,output\na.png,b.wav,x.mp4")
    orders = read_orders(zipped(folder), folder / "out")
    assert [order.output for order in orders.orders] == [folder / "out" / "x.mp4"]
    assert [item.path.name for item in orders.left_out] == ["a.wav", "b.png"]


def test_a_hostile_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.ZIP", "w") as opened:
        opened.writestr("../a.png", b"")
    assert "climbs out of the folder" in refusal(tmp_path / "a.ZIP", error=ArchiveError)


def test_a_source_that_is_nothing_of_the_kind_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.wav"):
        expected = f"'{folder / name}' is neither a folder nor a .csv, .jsonl or .zip file."
        assert refusal(folder / name) == expected
    for name in ("gone", "gone.csv", "gone.jsonl", "gone.zip"):
        assert refusal(tmp_path / name) == f"'{tmp_path / name}' cannot be read: No such file or directory."
    assert re.search(r"cannot be read: .*embedded null (byte|character)", refusal(Path("a\0b")))


@pytest.mark.skipif(os.name != "posix", reason="such files exist on POSIX only")
@pytest.mark.parametrize("suffix", [".csv", ".zip"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"a{suffix}")
    assert "is neither a folder nor" in refusal(tmp_path / f"a{suffix}")


def test_an_output_that_is_no_folder_is_refused(folder: Path) -> None:
    expected = f"The video '{folder / 'a.png' / 'a.mp4'}' cannot be written, since '{folder / 'a.png'}' is no folder."
    assert refusal(folder, folder / "a.png") == expected
    below = folder / "a.png" / "deep"
    expected = f"The video '{below / 'a.mp4'}' cannot be written, since '{folder / 'a.png'}' is no folder."
    assert refusal(folder, below) == expected
    (folder / "circle").symlink_to("circle")
    assert "circle" in refusal(folder, folder / "circle")


def test_a_folder_in_the_place_of_a_video_is_refused(folder: Path) -> None:
    (folder / "b.mp4").mkdir()
    assert refusal(folder) == f"The video '{folder / 'b.mp4'}' cannot be written, since that is a folder."


def test_a_name_that_the_file_system_does_not_take_is_refused(folder: Path) -> None:
    assert refusal(folder, folder / ("x" * 300)).endswith(": File name too long.")


def test_a_video_does_not_leave_its_folder_through_a_link(folder: Path, tmp_path: Path) -> None:
    (folder / "away").symlink_to(tmp_path)
    manifest = written(folder / "jobs.csv", "image,audio,output\na.png,a.wav,away/x.mp4")
    expected = f"The video '{folder / 'away' / 'x.mp4'}' would land outside '{folder}', through a link on the way."
    assert refusal(manifest) == expected
    assert len(read_orders(manifest, tmp_path / "out").orders) == 1


def test_two_orders_for_one_video_are_refused_by_the_names_of_both(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")
    manifest = written(folder / "jobs.csv", "image,audio,output\na.png,a.wav,real/x.mp4\na.png,b.wav,link/X.mp4")
    assert refusal(manifest) == (
        f"'{folder / 'a.wav'}' and '{folder / 'b.wav'}' would both become the video '{folder / 'link' / 'X.mp4'}'."
    )


@given(
    st.sets(
        st.sampled_from([f"{s}.{e}" for s in ("a", "a_b", "A", "é", "e\u0301", "c") for e in ("png", "wav", "mp3")])
    )
)
def test_no_two_orders_of_a_folder_have_one_output(names: set[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = folder_of(Path(name), *names)
        outputs = [comparable(str(order.output)) for order in read_orders(folder).orders]
    assert len(set(outputs)) == len(outputs)
