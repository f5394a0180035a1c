"""The nodes inside a real ComfyUI server, through its /prompt, its websocket and its folders."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import av
import numpy as np
import psutil
import pytest
from comfyui_sonic.sonic.audio import read_sound, speech_for_models
from comfyui_sonic.sonic.checkpoints import SONIC_FILES
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PORTRAIT = ROOT / "examples" / "batch" / "eileen_collins.png"
VOICE = ROOT / "tests" / "data" / "voice.wav"

Graph = dict[str, dict[str, Any]]


@dataclass
class Outcome:
    """What a prompt left behind."""

    outputs: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    interrupted: bool = False
    progress: list[tuple[str, int, int]] = field(default_factory=list)
    previews: int = 0
    finished_at: float = 0.0


class Server:
    """A running ComfyUI as a client sees it."""

    def __init__(self, address: str, base_directory: Path, session: aiohttp.ClientSession) -> None:
        self.address = address if "://" in address else f"http://{address}"
        self.base = base_directory
        self._session = session

    def put(self, name: str, source: Path) -> str:
        shutil.copyfile(source, self.base / "input" / name)
        return name

    def videos(self) -> set[Path]:
        """Every video and every unfinished one in the output and temp folders."""
        found = [path for folder in ("output", "temp") for path in (self.base / folder).rglob("*")]
        return {path for path in found if path.suffix in (".mp4", ".part")}

    def saved(self, outcome: Outcome, node: str = "save") -> Path:
        entry = outcome.outputs[node]["images"][0]
        return self.base / "output" / entry["subfolder"] / entry["filename"]

    async def interrupt(self) -> None:
        async with self._session.post(f"{self.address}/interrupt", json={}) as answer:
            assert answer.status == 200

    async def run(
        self,
        graph: Graph,
        on_progress: Callable[[int], Any] | None = None,
        expect_valid: bool = True,
        extra: dict[str, Any] | None = None,
    ) -> Outcome:
        client, outcome = uuid.uuid4().hex, Outcome()
        async with self._session.ws_connect(f"{self.address}/ws?clientId={client}", max_msg_size=0) as socket:
            async with self._session.post(
                f"{self.address}/prompt", json={"prompt": graph, "client_id": client, "extra_data": extra or {}}
            ) as answer:
                body = await answer.json()
                if answer.status != 200:
                    assert not expect_valid, body
                    outcome.error = json.dumps(body, ensure_ascii=False)
                    return outcome
            prompt_id = body["prompt_id"]
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    outcome.previews += 1
                    continue
                event = json.loads(message.data)
                data = event["data"]
                if event["type"] == "progress":
                    outcome.progress.append((data["node"], data["value"], data["max"]))
                    if on_progress is not None:
                        await on_progress(data["value"])
                elif event["type"] == "execution_error":
                    outcome.error = data["exception_message"].strip()
                elif event["type"] == "execution_interrupted":
                    outcome.interrupted = True
                    outcome.finished_at = time.monotonic()
                elif event["type"] == "executing" and data["node"] is None:
                    break
        async with self._session.get(f"{self.address}/history/{prompt_id}") as answer:
            outcome.outputs = (await answer.json())[prompt_id]["outputs"]
        return outcome


@pytest.fixture
async def server(comfyui: Any) -> AsyncIterator[Server]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=280)) as session:
        yield Server(comfyui.address, Path(comfyui.base_directory), session)


def unique(name: str) -> str:
    return f"{uuid.uuid4().hex[:8]} {name}"


def readme_graph(image: str, audio: str, duration: float = 0.0) -> Graph:
    """The graph that must run with no other inputs given."""
    return {
        "image": {"class_type": "LoadImage", "inputs": {"image": image}},
        "audio": {"class_type": "LoadAudio", "inputs": {"audio": audio}},
        "prepare": {
            "class_type": "SONIC_PreData",
            "inputs": {
                "image": ["image", 0],
                "audio": ["audio", 0],
                "duration": duration,
                "min_resolution": 256,
                "expand_ratio": 0.18,
            },
        },
        "speak": {
            "class_type": "SONIC_Inference",
            "inputs": {
                "preprocessed_data": ["prepare", 0],
                "inference_steps": 25,
                "dynamic_scale": 1.1,
                "motion_scale": 1.05,
            },
        },
        "save": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["speak", 3], "filename_prefix": unique("spoken"), "format": "auto", "codec": "auto"},
        },
    }


def own_loaders(graph: Graph) -> Graph:
    graph["image"]["class_type"], graph["audio"]["class_type"] = "SONIC_LoadPortrait", "SONIC_LoadVoice"
    return graph


def decoded(path: Path) -> tuple[int, dict[str, str]]:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0)), dict(container.metadata)


async def test_the_graph_of_the_readme_gives_a_whole_video(server: Server) -> None:
    graph = readme_graph(server.put(unique("portrait.png"), PORTRAIT), server.put(unique("voice.wav"), VOICE))
    outcome = await server.run(graph)
    assert outcome.error == ""
    voice, video = read_sound(VOICE), server.saved(outcome)
    frames, metadata = decoded(video)
    assert frames == round(voice.seconds * 25)

    said, heard = speech_for_models(voice), speech_for_models(read_sound(video))
    assert len(said) <= len(heard) <= len(said) + 16000 * 0.06
    assert np.corrcoef(said, heard[: len(said)])[0, 1] > 0.99

    told = outcome.outputs["speak"]["sonic"][0]
    assert told["engine"] == "draft" and told["frames"] == frames and told["fps"] == 25.0
    assert told["seconds"] == pytest.approx(voice.seconds, abs=1e-3)
    assert "'auto' chose draft" in told["reason"] and told["notes"] == []
    assert outcome.outputs["speak"]["text"][0] == "Engine: draft"
    in_file = json.loads(metadata["sonic"])
    assert in_file["engine"] == "draft" and in_file["settings"]["seed"] == 72589
    assert json.loads(metadata["prompt"])["speak"]["class_type"] == "SONIC_Inference"


async def test_the_older_names_of_the_nodes_are_accepted(server: Server) -> None:
    graph = readme_graph(server.put(unique("portrait.png"), PORTRAIT), server.put(unique("voice.wav"), VOICE), 0.5)
    graph["prepare"]["class_type"], graph["speak"]["class_type"] = "Sonic_PreData", "Sonic_Inference"
    outcome = await server.run(graph)
    assert outcome.error == ""
    assert decoded(server.saved(outcome))[0] == 12


async def test_progress_is_told_for_every_frame_and_never_goes_back_and_previews_arrive(server: Server) -> None:
    graph = readme_graph(server.put(unique("portrait.png"), PORTRAIT), server.put(unique("voice.wav"), VOICE), 2.0)
    outcome = await server.run(graph)
    steps = [(value, most) for node, value, most in outcome.progress if node == "speak"]
    done = [value for value, _ in steps]
    assert {most for _, most in steps} == {50}
    assert done == sorted(done)
    assert done[-1] == 50
    assert len(set(done)) > 4  # newer servers leave out steps that come within a tenth of a second
    assert outcome.previews >= 1


@pytest.mark.alone
async def test_an_interrupt_ends_the_work_within_half_a_second_and_leaves_no_file(server: Server) -> None:
    long_voice = server.base / "input" / unique("long.wav")
    write_sound(long_voice, np.tile(read_sound(VOICE).waveform, (1, 20)), 22050)
    graph = readme_graph(server.put(unique("portrait.png"), PORTRAIT), long_voice.name)
    graph["prepare"]["inputs"]["min_resolution"] = 512
    before = server.videos()
    asked_at: list[float] = []

    async def stop_after_twenty(value: int) -> None:
        if value >= 20 and not asked_at:
            asked_at.append(time.monotonic())
            await server.interrupt()

    outcome = await server.run(graph, stop_after_twenty)
    assert outcome.interrupted
    assert outcome.finished_at - asked_at[0] < 0.5
    assert server.videos() <= before


async def test_sonic_without_its_files_names_each_of_them_and_its_folder(server: Server) -> None:
    graph = readme_graph(server.put(unique("portrait.png"), PORTRAIT), server.put(unique("voice.wav"), VOICE))
    graph["speak"]["inputs"]["engine"] = "sonic"
    before = server.videos()
    outcome = await server.run(graph)
    for file in SONIC_FILES:
        assert str(Path("models") / file.folder / file.names[0]) in outcome.error
    assert "choose the engine 'draft'" in outcome.error
    assert server.videos() <= before


async def test_the_same_seed_gives_the_same_pictures_and_another_one_others(server: Server) -> None:
    image, audio = server.put(unique("portrait.png"), PORTRAIT), server.put(unique("voice.wav"), VOICE)

    async def picture(seed: int) -> bytes:
        graph = readme_graph(image, audio, 2.0)
        graph["speak"]["inputs"]["seed"] = seed
        outcome = await server.run(graph)
        with av.open(str(server.saved(outcome))) as container:
            return b"".join(frame.to_ndarray().tobytes() for frame in container.decode(video=0))

    first = await picture(1)
    await picture(2)  # so that the third is made anew and not remembered
    assert await picture(1) == first
    assert await picture(2) != first


# ---- material of every kind -----------------------------------------------------------------------------------------


def write_sound(
    path: Path, waveform: np.ndarray[Any, Any], rate: int, codec: str = "pcm_f32le", kind: str = "wav"
) -> None:
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono" if len(waveform) == 1 else "stereo")
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(waveform, np.float32), format="fltp", layout=stream.layout.name
        )
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def at_rate(rate: int, channels: int, seconds: float) -> np.ndarray[Any, Any]:
    """The voice at another rate, played at the wrong speed: enough to be loud."""
    sound = read_sound(VOICE)
    samples = np.interp(
        np.arange(round(seconds * rate)) / rate,
        np.arange(sound.waveform.shape[1]) / sound.sample_rate,
        sound.waveform[0],
    )
    return np.repeat(samples[None].astype(np.float32), channels, axis=0)


def grey_16_bit(path: Path) -> None:
    grey = np.asarray(Image.open(PORTRAIT).convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(path, "PNG")


def turned_by_exif(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(PORTRAIT).convert("RGB").rotate(90, expand=True).save(path, "JPEG", exif=exif, quality=95)


def transparent(path: Path) -> None:
    picture = Image.open(PORTRAIT).convert("RGBA")
    alpha = Image.new("L", picture.size, 255)
    alpha.paste(0, (0, 0, 60, 60))
    picture.putalpha(alpha)
    picture.save(path, "PNG")


def wide_20_000(path: Path) -> None:
    picture = Image.new("RGB", (20_000, 4000), (90, 110, 130))
    picture.paste(Image.open(PORTRAIT).convert("RGB").resize((4000, 4000)), (8000, 0))
    picture.save(path, "JPEG")


def upside_down(path: Path) -> None:
    Image.open(PORTRAIT).convert("RGB").rotate(180).save(path, "PNG")


def three_people(path: Path) -> None:
    picture = Image.new("RGB", (1312, 512))
    one = Image.open(PORTRAIT).convert("RGB").resize((512, 512))
    for left, size in ((0, 512), (512, 400), (912, 400)):
        picture.paste(one.resize((size, size)), (left, 0))
    picture.save(path, "PNG")


def the_portrait(path: Path) -> None:
    shutil.copyfile(PORTRAIT, path)


def the_voice(path: Path) -> None:
    write_sound(path, read_sound(VOICE).waveform[:, :22050], 22050)


WORKING: dict[str, tuple[str, Callable[[Path], None], str, Callable[[Path], None]]] = {
    "16-bit grey": ("grey.png", grey_16_bit, "v.wav", the_voice),
    "turned by EXIF": ("turned.jpg", turned_by_exif, "v.wav", the_voice),
    "transparency": ("glass.png", transparent, "v.wav", the_voice),
    "20 000 pixels wide": ("wide.jpg", wide_20_000, "v.wav", the_voice),
    "three faces": ("three.png", three_people, "v.wav", the_voice),
    "names": ("a portrait 中文 🙂.png", the_portrait, "eine Stimme 声音 🎤.wav", the_voice),
    "stereo 8 kHz": (
        "p.png",
        the_portrait,
        "v.wav",
        lambda p: write_sound(p, at_rate(8000, 2, 1.0), 8000, "pcm_s16le"),
    ),
    "96 kHz float": ("p.png", the_portrait, "v.wav", lambda p: write_sound(p, at_rate(96000, 1, 1.0), 96000)),
    "0.1 s": ("p.png", the_portrait, "v.wav", lambda p: write_sound(p, at_rate(22050, 1, 1.0)[:, 6000:8205], 22050)),
    "MP3 with a wrong extension": (
        "p.png",
        the_portrait,
        "v.wav",
        lambda p: write_sound(p, at_rate(44100, 1, 1.0), 44100, "libmp3lame", "mp3"),
    ),
}


@pytest.mark.parametrize("case", WORKING)
async def test_material_of_this_kind_works(server: Server, case: str) -> None:
    picture, make_picture, sound, make_sound = WORKING[case]
    picture, sound = unique(picture), unique(sound)
    make_picture(server.base / "input" / picture)
    make_sound(server.base / "input" / sound)
    graph = own_loaders(readme_graph(picture, sound))
    graph["prepare"]["inputs"]["crop"] = "crop to face"
    outcome = await server.run(graph)
    assert outcome.error == ""
    seconds = read_sound(server.base / "input" / sound).seconds
    video = server.saved(outcome)
    assert decoded(video)[0] == round(seconds * 25)
    heard = read_sound(video).seconds
    assert seconds - 0.001 <= heard <= seconds + 0.04 + 1024 / 44100
    notes = outcome.outputs["speak"]["sonic"][0]["notes"]
    assert [note[:19] for note in notes] == (["3 faces were found;"] if case == "three faces" else [])


FAILING: dict[str, tuple[str, Callable[[Path], None], str, Callable[[Path], None], str]] = {
    "text named .jpg": ("notes.jpg", lambda p: p.write_text("hello") and None, "v.wav", the_voice, "is not a picture"),
    "0-byte picture": ("p.png", lambda p: p.touch(), "v.wav", the_voice, "is an empty file"),
    "0-byte WAV": ("p.png", the_portrait, "v.wav", lambda p: p.touch(), "is an empty file"),
    "text named .wav": (
        "p.png",
        the_portrait,
        "v.wav",
        lambda p: p.write_text("hello " * 99) and None,
        "is not a sound that can be read",
    ),
    "silence": (
        "p.png",
        the_portrait,
        "v.wav",
        lambda p: write_sound(p, np.zeros((1, 22050)), 22050),
        "The sound is silent (digital silence)",
    ),
    "no face": (
        "p.png",
        lambda p: Image.new("RGB", (512, 512), (90, 120, 160)).save(p),
        "v.wav",
        the_voice,
        "No face was found in the picture",
    ),
}


@pytest.mark.parametrize("case", FAILING)
async def test_material_of_this_kind_is_refused_in_one_sentence_and_leaves_no_file(server: Server, case: str) -> None:
    picture, make_picture, sound, make_sound, sentence = FAILING[case]
    picture, sound = unique(picture), unique(sound)
    make_picture(server.base / "input" / picture)
    make_sound(server.base / "input" / sound)
    before = server.videos()
    outcome = await server.run(own_loaders(readme_graph(picture, sound)))
    assert sentence in outcome.error
    assert "\n" not in outcome.error and "Traceback" not in outcome.error
    assert server.videos() <= before


async def test_an_upside_down_face_speaks_or_is_refused_in_a_sentence(server: Server) -> None:
    name = unique("down.png")
    upside_down(server.base / "input" / name)
    outcome = await server.run(own_loaders(readme_graph(name, server.put(unique("voice.wav"), VOICE), 0.5)))
    assert "No face was found" in outcome.error or decoded(server.saved(outcome))[0] == 12


@pytest.mark.parametrize("name", ["../secret.png", "nobody.png"])
async def test_a_file_outside_the_input_folder_or_not_there_is_refused_before_anything_runs(
    server: Server, name: str
) -> None:
    (server.base / "secret.png").write_bytes(PORTRAIT.read_bytes())
    graph = own_loaders(readme_graph(name, server.put(unique("voice.wav"), VOICE)))
    outcome = await server.run(graph, expect_valid=False)
    assert ("outside ComfyUI's input folder" if ".." in name else "is not in") in outcome.error


async def test_a_duration_longer_than_the_sound_is_corrected_and_said_so_in_the_result(server: Server) -> None:
    graph = readme_graph(server.put(unique("portrait.png"), PORTRAIT), server.put(unique("voice.wav"), VOICE), 100.0)
    outcome = await server.run(graph)
    assert decoded(server.saved(outcome))[0] == round(read_sound(VOICE).seconds * 25)
    assert "longer than the sound" in outcome.outputs["speak"]["sonic"][0]["notes"][0]
    assert any("longer than the sound" in line for line in outcome.outputs["speak"]["text"])


# ---- what other nodes do with our outputs ---------------------------------------------------------------------------


async def test_core_nodes_take_the_images_the_sound_and_the_rate(server: Server) -> None:
    graph = readme_graph(server.put(unique("portrait.png"), PORTRAIT), server.put(unique("voice.wav"), VOICE), 1.0)
    del graph["save"]
    images = ["speak", 0]
    graph |= {
        "preview": {"class_type": "PreviewImage", "inputs": {"images": images}},
        "some": {"class_type": "ImageFromBatch", "inputs": {"image": images, "batch_index": 3, "length": 4}},
        "scaled": {
            "class_type": "ImageScale",
            "inputs": {"image": images, "upscale_method": "area", "width": 64, "height": 64, "crop": "disabled"},
        },
        "saved": {"class_type": "SaveImage", "inputs": {"images": ["scaled", 0], "filename_prefix": unique("i")}},
        "shown": {"class_type": "PreviewImage", "inputs": {"images": ["some", 0]}},
        "joined": {
            "class_type": "CreateVideo",
            "inputs": {"images": images, "audio": ["speak", 1], "fps": ["speak", 2]},
        },
        "save": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["joined", 0], "filename_prefix": unique("j"), "format": "mp4", "codec": "h264"},
        },
        "parts": {"class_type": "GetVideoComponents", "inputs": {"video": ["speak", 3]}},
        "again": {"class_type": "PreviewImage", "inputs": {"images": ["parts", 0]}},
        "sound": {"class_type": "PreviewAudio", "inputs": {"audio": ["speak", 1]}},
    }
    outcome = await server.run(graph)
    assert outcome.error == ""
    counts = {node: len(outcome.outputs[node]["images"]) for node in ("preview", "saved", "shown", "again")}
    assert counts == {"preview": 25, "saved": 25, "shown": 4, "again": 25}
    assert decoded(server.saved(outcome))[0] == 25
    shown = server.base / "temp" / outcome.outputs["shown"]["images"][0]["filename"]
    previewed = server.base / "temp" / outcome.outputs["preview"]["images"][3]["filename"]
    assert np.array_equal(np.asarray(Image.open(shown)), np.asarray(Image.open(previewed)))


async def test_post_processing_smooths_and_reports_and_can_be_saved(server: Server) -> None:
    graph = readme_graph(server.put(unique("portrait.png"), PORTRAIT), server.put(unique("voice.wav"), VOICE), 2.5)
    graph["post"] = {
        "class_type": "SONIC_PostProcess",
        "inputs": {
            "images": ["speak", 0],
            "audio": ["speak", 1],
            "fps": ["speak", 2],
            "temporal_smoothing": True,
            "lip_sync_correction": True,
        },
    }
    graph["joined"] = {
        "class_type": "CreateVideo",
        "inputs": {"images": ["post", 0], "audio": ["post", 1], "fps": ["speak", 2]},
    }
    graph["save"]["inputs"]["video"] = ["joined", 0]
    outcome = await server.run(graph)
    assert outcome.error == ""
    assert decoded(server.saved(outcome))[0] == round(2.5 * 25)
    text = outcome.outputs["post"]["text"]
    assert "agree" in text[0] and "the mouth is spared" in text[1]


async def test_a_crop_is_laid_back_smoothed_and_brought_to_another_rate(server: Server) -> None:
    graph = readme_graph(server.put(unique("portrait.png"), PORTRAIT), server.put(unique("voice.wav"), VOICE), 2.2)
    graph["prepare"]["inputs"]["crop"] = "crop to face"
    graph["post"] = {
        "class_type": "SONIC_PostProcess",
        "inputs": {
            "images": ["speak", 0],
            "audio": ["speak", 1],
            "fps": ["speak", 2],
            "temporal_smoothing": True,
            "lip_sync_correction": True,
            "smoothing_method": "both",
            "manual_offset_ms": 100.0,
            "close_mouth_in_silence": True,
        },
    }
    graph["composed"] = {
        "class_type": "SONIC_Composite",
        "inputs": {"images": ["post", 0], "preprocessed_data": ["prepare", 0]},
    }
    graph["retimed"] = {
        "class_type": "SONIC_Interpolate",
        "inputs": {"images": ["composed", 0], "fps": ["speak", 2], "target_fps": 40.0},
    }
    graph["joined"] = {
        "class_type": "CreateVideo",
        "inputs": {"images": ["retimed", 0], "audio": ["post", 1], "fps": ["retimed", 1]},
    }
    graph["save"]["inputs"]["video"] = ["joined", 0]
    graph["composed_text"] = {"class_type": "PreviewImage", "inputs": {"images": ["composed", 0]}}
    outcome = await server.run(graph)
    assert outcome.error == ""
    video = server.saved(outcome)
    assert decoded(video)[0] == round(55 / 25 * 40)
    with av.open(str(video)) as container, Image.open(PORTRAIT) as portrait:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == portrait.size
    assert any("moved by" in line for line in outcome.outputs["post"]["text"])
    assert "optical flow (DIS)" in outcome.outputs["retimed"]["text"][0]
    assert "The picture has" in outcome.outputs["composed"]["text"][0]


async def test_frames_of_another_clip_and_a_missing_network_are_each_one_sentence(server: Server) -> None:
    graph = readme_graph(server.put(unique("portrait.png"), PORTRAIT), server.put(unique("voice.wav"), VOICE), 0.4)
    graph["wide"] = {
        "class_type": "ImageScale",
        "inputs": {"image": ["speak", 0], "upscale_method": "area", "width": 128, "height": 64, "crop": "disabled"},
    }
    graph["composed"] = {
        "class_type": "SONIC_Composite",
        "inputs": {"images": ["wide", 0], "preprocessed_data": ["prepare", 0]},
    }
    graph["shown"] = {"class_type": "PreviewImage", "inputs": {"images": ["composed", 0]}}
    outcome = await server.run(graph)
    assert "128 x 64 pixels and the prepared picture 256 x 256, another shape" in outcome.error
    graph["composed"] = {
        "class_type": "SONIC_Interpolate",
        "inputs": {"images": ["wide", 0], "fps": 25.0, "target_fps": 50.0, "method": "RIFE"},
    }
    outcome = await server.run(graph)
    assert "The method 'RIFE' needs files that are not there" in outcome.error
    assert "choose the method 'flow'" in outcome.error and "\n" not in outcome.error


async def test_a_video_that_nobody_holds_any_more_leaves_the_temp_folder(server: Server) -> None:
    image, audio = server.put(unique("portrait.png"), PORTRAIT), server.put(unique("voice.wav"), VOICE)
    for duration in (0.4, 0.5, 0.6):
        await server.run(readme_graph(image, audio, duration))
    async with asyncio.timeout(5):
        while len(list((server.base / "temp").glob("sonic_*"))) > 1:
            await asyncio.sleep(0.05)


async def test_minutes_of_sound_need_no_more_memory_than_their_sound(server: Server) -> None:
    once = read_sound(VOICE).waveform
    rate, seconds = 22050, 150
    minutes = np.tile(once, (1, -(-seconds * rate // once.shape[1])))[:, : seconds * rate]
    path = server.base / "input" / unique("minutes.wav")
    write_sound(path, minutes, rate, "pcm_s16le")
    graph = own_loaders(readme_graph(server.put(unique("portrait.png"), PORTRAIT), path.name))
    graph["speak"]["inputs"]["fps"] = 5.0
    process = server_process(server.address)
    highest = 0

    async def watch(value: int) -> None:
        nonlocal highest
        if value % 100 == 0:
            highest = max(highest, process.memory_info().rss)
        if value == 100:
            watched_from.append(process.memory_info().rss)

    watched_from: list[int] = []
    outcome = await server.run(graph, watch)
    assert outcome.error == ""
    assert decoded(server.saved(outcome))[0] == 750
    assert read_sound(server.saved(outcome)).seconds == pytest.approx(seconds, abs=0.1)
    assert highest - watched_from[0] < 150 * 2**20  # the frames as one tensor would be 590 MB


def server_process(address: str) -> psutil.Process:
    port = int(address.rsplit(":", 1)[1])
    return next(
        psutil.Process(c.pid)
        for c in psutil.net_connections("tcp")
        if c.pid and c.status == psutil.CONN_LISTEN and c.laddr.port == port
    )
