"""A job's files: what may be named, what is copied, and a video that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.errors import BadJob, FileUnreachable
from comfyui_sonic.queue_bridge.job import JobSpec
from comfyui_sonic.queue_bridge.places.job_files import JobFiles

as_user = pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "orders"
    folder.mkdir()
    (folder / "anna 安娜.png").write_bytes(b"picture")
    (folder / "anna.wav").write_bytes(b"sound")
    return folder


@pytest.fixture
def files(tmp_path: Path, root: Path) -> JobFiles:
    return JobFiles([root], tmp_path / "comfyui" / "input", tmp_path / "comfyui" / "output")


def spec_in(root: Path, **changed: str) -> JobSpec:
    fields = {
        "task_id": "tsk_1",
        "image": (root / "anna 安娜.png").as_uri(),
        "audio": (root / "anna.wav").as_uri(),
        "output": (root / "videos" / "anna.mp4").as_uri(),
    }
    return JobSpec.parse(fields | changed)


def fetched(files: JobFiles, spec: JobSpec, token: int) -> tuple[str, ...]:
    inputs = (("image", spec.image), ("audio", spec.audio))
    return tuple(files.copy_input(spec, token, field, uri) for field, uri in inputs)


def produced_in(tmp_path: Path, content: bytes = b"video") -> Path:
    path = tmp_path / "comfyui" / "output" / "made.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_inputs_are_copied_under_their_own_names(files: JobFiles, root: Path) -> None:
    image, audio = fetched(files, spec_in(root), 1)
    own = files.folders.name("tsk_1", 1)
    assert (image, audio) == (f"{own}/image/anna 安娜.png", f"{own}/audio/anna.wav")
    assert (files.input_directory / image).read_bytes() == b"picture"
    files.folders.remove("tsk_1", 1)
    assert not (files.input_directory / "sonic" / "tsk_1").exists()


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("file:///etc/passwd", "image: '/etc/passwd' lies outside the folders that this instance may use"),
        ("{root}/../secret.png", "lies outside the folders"),
        ("{root}/%2e%2e/secret.png", "lies outside the folders"),
        ("{root}/link.png", "lies outside the folders"),
        ("ftp://127.0.0.1/a.png", "image: 'ftp' is no kind of address that is taken here; use file:///..., https://"),
        ("anna.png", "image: 'anna.png' is no kind of address"),
        ("file://elsewhere/a.png", "image: the file is on another computer ('elsewhere')"),
        ("{root}/a%00.png", "image: the file's name holds characters"),
        ("{root}/a.png?b", "image: the file's name holds characters"),
        ("{root}/gone.png", "image: the file '{folder}/gone.png' is not there."),
    ],
)
def test_a_file_that_a_job_may_not_name_is_one_sentence(
    files: JobFiles, root: Path, tmp_path: Path, uri: str, words: str
) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(BadJob) as raised:
        fetched(files, spec_in(root, image=uri.format(root=root.as_uri())), 1)
    assert words.format(folder=root) in str(raised.value)


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_links_in_a_circle_are_one_sentence(files: JobFiles, root: Path) -> None:
    (root / "circle").symlink_to("circle")
    with pytest.raises((BadJob, FileUnreachable), match=r"^image: .*circle.* (leads nowhere|cannot be r)"):
        fetched(files, spec_in(root, image=(root / "circle" / "a.png").as_uri()), 1)


def test_a_folder_that_is_away_may_come_back(files: JobFiles, root: Path) -> None:
    spec = spec_in(root)
    shutil.rmtree(root)
    with pytest.raises(FileUnreachable, match=r"^image: the folder '.*' cannot be reached\.$"):
        fetched(files, spec, 1)


def test_a_video_appears_only_when_it_is_published(files: JobFiles, root: Path, tmp_path: Path) -> None:
    spec = spec_in(root)
    staged = files.stage(produced_in(tmp_path), spec, 1)
    assert list((root / "videos").glob("*.mp4")) == []
    assert files.publish(staged)
    assert (root / "videos" / "anna.mp4").read_bytes() == b"video"
    assert [path.name for path in (root / "videos").iterdir()] == ["anna.mp4"]


def test_publishing_again_changes_nothing(files: JobFiles, root: Path, tmp_path: Path) -> None:
    staged = files.stage(produced_in(tmp_path), spec_in(root), 1)
    assert files.publish(staged)
    assert files.publish(staged)
    (root / "videos" / "anna.mp4").write_bytes(b"other")
    assert not files.publish(staged), "another file of the same size is not this video"


def test_a_start_that_lost_its_lease_leaves_nothing_and_publishes_nothing(
    files: JobFiles, root: Path, tmp_path: Path
) -> None:
    spec = spec_in(root)
    late = files.stage(produced_in(tmp_path, b"late"), spec, 1)
    winner = files.stage(produced_in(tmp_path, b"winner"), spec, 2)
    assert files.publish(winner)
    assert not Path(late["staged"]).exists()
    assert not files.publish(late)
    assert (root / "videos" / "anna.mp4").read_bytes() == b"winner"


def test_a_place_that_cannot_be_written_is_said_before_anything_is_computed(files: JobFiles, root: Path) -> None:
    (root / "videos").write_bytes(b"a file where a folder belongs")
    with pytest.raises(FileUnreachable, match=r"^'.*anna\.mp4' cannot be written: "):
        files.check_output(spec_in(root))


def test_a_root_that_is_away_is_not_made_anew(files: JobFiles, root: Path) -> None:
    shutil.rmtree(root)
    with pytest.raises(FileUnreachable, match=r"the folder '.*orders' cannot be reached\.$"):
        files.check_output(spec_in(root))
    assert not root.exists()


@as_user
def test_a_folder_without_permission_is_one_sentence(files: JobFiles, root: Path) -> None:
    (root / "videos").mkdir(mode=0o500)
    with pytest.raises(FileUnreachable, match="allows no new files"):
        files.check_output(spec_in(root))


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("{root}/a.avi", "does not end with .mp4"),
        ("file:///usr/a.mp4", "lies outside"),
        ("{root}/d.mp4", "is a folder"),
    ],
)
def test_a_wrong_place_is_the_jobs_fault(files: JobFiles, root: Path, output: str, words: str) -> None:
    (root / "d.mp4").mkdir()
    with pytest.raises(BadJob, match=words):
        files.check_output(spec_in(root, output=output.format(root=root.as_uri())))


def test_what_a_start_laid_in_vain_goes_and_the_others_stay(files: JobFiles, root: Path, tmp_path: Path) -> None:
    spec = spec_in(root)
    first, second = (files.stage(produced_in(tmp_path), spec, token) for token in (1, 12))
    files.discard(spec, 1)
    assert (Path(first["staged"]).exists(), Path(second["staged"]).exists()) == (False, True)
    assert not files.publish(first), "it has to be made again"
    files.discard(spec)
    assert list((root / "videos").iterdir()) == []
    files.discard(spec_in(root, output="file:///etc/anna.mp4"))
