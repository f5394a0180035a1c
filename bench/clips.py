"""The clips that post-processing is measured on: example portraits that an engine makes speak example voices."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from comfyui_sonic.queue_bridge.servers.launch_comfyui import make_torchaudio_importable, make_torchvision_importable
from comfyui_sonic.sonic.audio import read_sound
from comfyui_sonic.sonic.checkpoints import missing_sonic_files, read_weights, sonic_files
from comfyui_sonic.sonic.draft.mouth_shapes import WEIGHTS as MOUTH_WEIGHTS
from comfyui_sonic.sonic.draft.render import render_draft
from comfyui_sonic.sonic.engine import choose_engine, load_sonic, render
from comfyui_sonic.sonic.errors import MissingWeights
from comfyui_sonic.sonic.frames import Frame, FrameSource
from comfyui_sonic.sonic.options import InferenceOptions, PrepareOptions
from comfyui_sonic.sonic.portrait import read_picture
from comfyui_sonic.sonic.postprocess.interpolation import FrameInterpolation
from comfyui_sonic.sonic.prepare import prepare
from comfyui_sonic.sonic.prepared import PreparedData

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "batch"
PICTURES = ("eileen_collins.png", "close_up.png", "painted_anna.png")
VOICES = (
    EXAMPLES / "eileen_collins_welcome.wav",
    EXAMPLES / "eileen_collins_问候.wav",
    EXAMPLES / "close_up.mp3",
    EXAMPLES / "painted_anna.wav",
    ROOT / "tests" / "data" / "voice.wav",
)
OWN = (("eileen_collins.png", VOICES[0]), ("close_up.png", VOICES[2]), ("painted_anna.png", VOICES[3]))
FPS = 25.0
Make = Callable[[PreparedData, InferenceOptions], FrameSource]


class Kept:
    """Frames in memory as a FrameSource, so that only the stage that is measured takes time."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.count = len(frames)
        self.height, self.width = frames[0].shape[:2]
        self._frames = frames

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        for frame in self._frames[start:stop]:
            yield frame.copy()


@dataclass(frozen=True)
class Clips:
    """An engine with its settings. weights: SHA-256 by file name; seconds: of each recording, 0 = all of it.

    rife: RIFE's network, to be measured beside optical flow. margin: around the face, to which pictures are cut, or
    None for whole ones.
    """

    engine: str
    weights: Mapping[str, str]
    make: Make
    steps: int
    size: int
    seconds: float
    rife: FrameInterpolation | None = None
    margin: float | None = None
    _made: dict[tuple[str, Path], FrameSource] = field(default_factory=dict, repr=False)

    def prepared(self, picture: str, voice: Path, crop_ratio: float | None = None) -> PreparedData:
        """crop_ratio: the margin around the face, to which the picture is cut; None for the whole picture."""
        options = PrepareOptions(duration_s=self.seconds, min_resolution=self.size)
        if crop_ratio is not None:
            options = PrepareOptions(self.seconds, self.size, crop_ratio, crop="crop to face")
        return prepare(read_picture(EXAMPLES / picture), read_sound(voice), options)

    def clip(self, picture: str, voice: Path) -> tuple[PreparedData, FrameSource]:
        """The picture speaks; made once, as several stages want the same and Sonic does most of its work then."""
        prepared = self.prepared(picture, voice, self.margin)
        key = picture, voice
        if key not in self._made:
            self._made[key] = self.spoken(prepared)
        return prepared, self._made[key]

    def spoken(self, prepared: PreparedData, motion_scale: float = 1.05) -> FrameSource:
        return self.make(prepared, InferenceOptions(self.steps, motion_scale=motion_scale, fps=FPS))


def clips_of(
    models: Path | None,
    steps: int,
    size: int,
    seconds: float,
    rife: Path | None = None,
    margin: float | None = None,
) -> Clips:
    """The draft engine's, or Sonic's with the files in a ComfyUI's ``models`` folder (on PYTHONPATH: ComfyUI itself).

    Raises MissingWeights, BadWeights, EngineUnavailable.
    """
    network, of_rife = (interpolation_of(rife), digests([rife])) if rife else (None, {})
    if models is None:
        return Clips("draft", digests([MOUTH_WEIGHTS]) | of_rife, render_draft, steps, size, seconds, network, margin)
    folders = {name: [models / name] for name in ("sonic", "checkpoints")}
    files = sonic_files(folders)
    if missing := missing_sonic_files(folders):
        raise MissingWeights("sonic", missing)
    import torch

    make_torchvision_importable()
    make_torchaudio_importable()
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()  # as ComfyUI's own --cpu
    networks = load_sonic(files)
    choice = choose_engine("sonic", (), connected=True)

    def make(prepared: PreparedData, options: InferenceOptions) -> FrameSource:
        return render(prepared, options, choice, networks)

    return Clips("sonic", digests(files.values(), models) | of_rife, make, steps, size, seconds, network, margin)


def interpolation_of(file: Path) -> FrameInterpolation:
    """RIFE's network. Raises BadWeights."""
    weights = {key: value.float() for key, value in read_weights(file).items()}
    return FrameInterpolation.of_weights(weights, str(file))


def digests(files: Iterable[Path], folder: Path | None = None) -> dict[str, str]:
    """SHA-256 of files by their name, or by their path within a folder."""
    found = {}
    for path in files:
        with path.open("rb") as file:
            name = path.name if folder is None else path.relative_to(folder).as_posix()
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
