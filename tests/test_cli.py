"""The command sonic-queue against a real queue, without any ComfyUI: what it says, and its exit status."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.database.redis_connection import connect_sync
from comfyui_sonic.queue_bridge.job import new_job_id

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "batch"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(redis_url: str) -> Run:
    """Runs the command on a queue of its own."""
    variables = {"SONIC_QUEUE_URL": redis_url, "SONIC_QUEUE_QUEUE": f"cli-{new_job_id()}"}

    def call(*arguments: str | Path, **changed: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "comfyui_sonic.queue_bridge.cli", *map(str, arguments)]
        environment = {**os.environ, **variables, **changed}
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, timeout=60)

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "orders"
    place.mkdir()
    for name in ("anna", "安娜"):
        shutil.copyfile(EXAMPLES / "close_up.png", place / f"{name}.png")
        shutil.copyfile(EXAMPLES / "close_up.mp3", place / f"{name}.mp3")
    (place / "lonely.wav").write_bytes(b"")
    return place


def test_submitting_says_first_what_is_left_out_and_twice_makes_no_second_job(run: Run, folder: Path) -> None:
    first = run("submit", folder, "--no-wait", "--json", "--resolution", "768", "--priority", "priority")
    assert first.returncode == 0, first.stderr
    assert "left out: lonely.wav: No picture has this name" in first.stderr
    told = json.loads(first.stdout)
    assert [(job["name"], job["state"], job["found"]) for job in told["jobs"]] == [
        ("anna", "queued", "made"),
        ("安娜", "queued", "made"),
    ]
    assert told["jobs"][0]["output"] == (folder / "anna.mp4").as_uri()
    second = json.loads(run("submit", folder, "--no-wait", "--json", "--resolution", "768").stdout)
    assert [job["task_id"] for job in second["jobs"]] == [job["task_id"] for job in told["jobs"]]
    assert {job["found"] for job in second["jobs"]} == {"known"}
    status = json.loads(run("status", "--json").stdout)
    assert (status["queued"], status["waiting"]["priority"], status["instances"]) == (2, {"768": 2}, [])


def test_other_parameters_are_another_job(run: Run, folder: Path) -> None:
    ids = set()
    for setting in ((), ("--set", "seed=0"), ("--engine", "sonic"), ("--output", folder / "out")):
        told = json.loads(run("submit", folder, "--no-wait", "--json", *setting).stdout)
        ids |= {job["task_id"] for job in told["jobs"]}
    assert len(ids) == 8
    assert (folder / "out").is_dir()
    waiting = json.loads(run("status", "--json").stdout)["waiting"]["pending"]
    assert waiting == {"512": 6, "512-sonic": 2}


def test_a_consent_id_is_kept_with_every_job_and_another_one_is_another_job(run: Run, folder: Path) -> None:
    ids = set()
    for setting in ((), ("--consent-id", "a 1"), ("--consent-id", "a 2"), ("--consent-id", "a 1")):
        told = json.loads(run("submit", folder, "--no-wait", "--json", *setting).stdout)
        assert {job["consent_id"] for job in told["jobs"]} == {setting[1] if setting else ""}
        ids |= {job["task_id"] for job in told["jobs"]}
    assert len(ids) == 6
    assert "consent: a 2" in run("status", told_for(run, "a 2")).stdout


def told_for(run: Run, consent_id: str) -> str:
    jobs = json.loads(run("list", "--json").stdout)
    return str(next(job["task_id"] for job in jobs if job["consent_id"] == consent_id))


def test_a_video_that_is_newer_than_its_material_is_there_already_unless_asked_again(run: Run, folder: Path) -> None:
    (folder / "anna.mp4").write_bytes(b"made by hand")
    told = json.loads(run("submit", folder, "--no-wait", "--json").stdout)
    assert {job.get("name", "-"): job["found"] for job in told["jobs"]} == {"-": "there", "安娜": "made"}
    again = json.loads(run("submit", folder, "--no-wait", "--json", "--again").stdout)
    assert [job["found"] for job in again["jobs"]] == ["made", "known"]


def test_status_and_list_show_people_what_programs_get(run: Run, folder: Path) -> None:
    task_id = json.loads(run("submit", folder, "--no-wait", "--json").stdout)["jobs"][1]["task_id"]
    assert "2 queued, 0 running" in run("status").stdout
    assert "No ComfyUI takes jobs from this queue now." in run("status").stdout
    shown = run("status", task_id).stdout
    assert shown.startswith(f"{task_id}  queued  0 %")
    assert "安娜" in run("list").stdout
    listed = json.loads(run("list", "--json", "--state", "queued", "--limit", "1").stdout)
    assert [job["name"] for job in listed] == ["anna"]
    assert json.loads(run("list", "--json", "--state", "failed").stdout) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("status", "tsk_unknown"), "id: there is no job 'tsk_unknown' in this queue, or it is no longer kept."),
        (("watch", "tsk_unknown"), "id: there is no job 'tsk_unknown' in this queue"),
        (("submit", "{folder}/gone"), "{folder}/gone"),
        (("submit", "{folder}", "--set", "seed"), "--set: 'seed' is not NAME=VALUE."),
        (("submit", "{folder}", "--consent-id", "x" * 201), "consent_id: takes up to 200 characters"),
        (("submit", "{empty}"), "source: there is nothing to make a video of in '{empty}'."),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_status_1(
    run: Run, folder: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"folder": str(folder), "empty": str(tmp_path / "empty")}
    result = run(*(argument.format(**places) for argument in arguments))
    assert result.returncode == 1
    assert words.format(**places) in result.stderr
    assert "Traceback" not in result.stderr
    as_json = run(*(argument.format(**places) for argument in arguments), "--json")
    assert words.format(**places) in json.loads(as_json.stdout)["error"]


def test_a_refused_parameter_leaves_the_order_out_with_its_reason(run: Run, folder: Path) -> None:
    result = run("submit", folder, "--no-wait", "--resolution", "500")
    assert result.returncode == 1
    assert "left out: anna.mp3: config.resolution: 500 is not a multiple of 64." in result.stdout


def test_a_manifest_sets_parameters_line_by_line(run: Run, folder: Path) -> None:
    manifest = folder / "orders.csv"
    manifest.write_text(
        "image,audio,output,resolution,priority\nanna.png,anna.mp3,vip/anna.mp4,1024,priority\nanna.png,安娜.mp3,,,\n",
        encoding="utf-8",
    )
    told = json.loads(run("submit", manifest, "--no-wait", "--json").stdout)
    assert [(job["priority"], job["config"]) for job in told["jobs"]] == [
        ("priority", {"resolution": 1024}),
        ("normal", {}),
    ]
    assert told["jobs"][0]["output"] == (folder / "vip" / "anna.mp4").as_uri()
    waiting = json.loads(run("status", "--json").stdout)["waiting"]
    assert waiting == {"priority": {"1024": 1}, "pending": {"512": 1}}


def test_a_bad_line_queues_nothing_and_is_named(run: Run, folder: Path) -> None:
    manifest = folder / "orders.jsonl"
    manifest.write_text('{"image": "anna.png", "audio": "anna.mp3"}\n{"image": "../x.png", "audio": "anna.mp3"}\n')
    result = run("submit", manifest, "--no-wait")
    assert result.returncode == 1
    assert "line 2" in result.stderr
    assert json.loads(run("status", "--json").stdout)["queued"] == 0


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://:top-secret@127.0.0.1:1/0", "Nothing answers at redis://:***@127.0.0.1:1/0"),
        ("http://:top-secret@host", "it has to start with redis://, rediss:// or unix://"),
    ],
)
def test_a_queue_that_cannot_be_reached_is_one_sentence_without_the_password(run: Run, url: str, words: str) -> None:
    result = run("status", SONIC_QUEUE_URL=url)
    assert result.returncode == 1
    assert words in result.stderr
    assert "top-secret" not in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


def test_without_a_queue_the_command_says_how_to_name_one(run: Run) -> None:
    result = run("status", SONIC_QUEUE_URL="", REDIS_URL="")
    assert result.returncode == 1
    assert result.stderr == "--url: no queue is named; give its Redis server, or set SONIC_QUEUE_URL.\n"


def test_a_wrong_argument_is_status_2(run: Run) -> None:
    assert run("fly").returncode == 2
    assert run("list", "--state", "flying").returncode == 2


def test_ctrl_c_ends_the_wait_and_leaves_the_jobs(run: Run, folder: Path, redis_url: str) -> None:
    queue = f"cli-{new_job_id()}"
    variables = {"SONIC_QUEUE_URL": redis_url, "SONIC_QUEUE_QUEUE": queue}
    command = [sys.executable, "-m", "comfyui_sonic.queue_bridge.cli", "submit", str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, env=os.environ | variables, **pipes)
    assert process.stdout
    assert process.stderr
    while "2 queued" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert "What is in the queue stays there." in process.stderr.read()
    assert json.loads(run("status", "--json", SONIC_QUEUE_QUEUE=queue).stdout)["queued"] == 2


def test_serve_redis_serves_until_it_is_told_to_end_and_keeps_its_data(run: Run, tmp_path: Path) -> None:
    options = ["--data", "q", "--port", "0", "--json"]
    command = [sys.executable, "-m", "comfyui_sonic.queue_bridge.cli", "serve-redis", *options]
    for expected in (None, "kept"):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        assert process.stdout
        told = json.loads(process.stdout.readline())
        assert run("status", SONIC_QUEUE_URL=told["url"]).returncode == 0
        with connect_sync(told["url"]) as client:
            assert client.get("key") == expected
            client.set("key", "kept")
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 130


def test_the_module_of_a_checkout_is_the_same_command() -> None:
    shown = subprocess.run([sys.executable, "-m", "queue_bridge", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0
    for command in ("submit", "status", "list", "watch", "serve-redis"):
        assert command in shown.stdout


def test_a_watched_folder_is_submitted_as_its_files_arrive(run: Run, tmp_path: Path, redis_url: str) -> None:
    inbox, queue = tmp_path / "inbox", f"cli-{new_job_id()}"
    inbox.mkdir()
    variables = {"SONIC_QUEUE_URL": redis_url, "SONIC_QUEUE_QUEUE": queue}
    command = [sys.executable, "-m", "comfyui_sonic.queue_bridge.cli", "submit", str(inbox), "--watch"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | variables)
    assert process.stdout
    try:
        assert process.stdout.readline().startswith("Watching ")
        for number in range(2):
            shutil.copyfile(EXAMPLES / "close_up.png", inbox / f"{number}.png")
            shutil.copyfile(EXAMPLES / "close_up.mp3", inbox / f"{number}.mp3")
            assert process.stdout.readline() == "1 queued.\n"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    assert json.loads(run("status", "--json", SONIC_QUEUE_QUEUE=queue).stdout)["queued"] == 2


def test_a_command_loads_neither_torch_nor_what_makes_videos() -> None:
    asked = "import sys, comfyui_sonic.command; print({'torch', 'cv2', 'numpy', 'scipy'} & set(sys.modules) or 'none')"
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "none"
