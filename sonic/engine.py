"""Which engine makes the frames, why, and the calls that load it and make them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .denoising import OnDenoising, OnPreview, not_told
from .errors import EngineUnavailable, MissingWeights
from .frames import FrameSource
from .interruption import Check, no_check
from .options import EngineName, InferenceOptions, Precision
from .prepared import PreparedData

if TYPE_CHECKING:
    from .native.networks import SonicNetworks


@dataclass(frozen=True)
class EngineChoice:
    """name: the engine that runs; reason: one sentence on why it and not another."""

    name: Literal["sonic", "draft"]
    reason: str


def engine_of(metadata: Mapping[str, str]) -> str:
    """The engine that made a video, as its metadata say; '' for one of others."""
    try:
        return str(json.loads(metadata.get("sonic", "{}")).get("engine", ""))
    except (ValueError, AttributeError):
        return ""


def misfit() -> str:
    """Why Sonic does not run in this version of ComfyUI, as a sentence, or '' when it does."""
    try:
        from .native.fit import misfit as native_misfit

        reason = native_misfit()
    except (ImportError, AttributeError) as error:  # a name that we build on is no longer where it was
        reason = str(error)
        if isinstance(error, ImportError) and error.path:
            reason = reason.removesuffix(f" ({error.path})")  # it goes into the video, which is published
    return reason and (
        f"The engine 'sonic' does not fit this version of ComfyUI ({reason}); choose 'draft' or update this package."
    )


def choose_engine(
    requested: EngineName, missing: Sequence[Path], connected: bool = False, unfit: str = ""
) -> EngineChoice:
    """The engine for a request.

    missing: the files that Sonic lacks (checkpoints.missing_sonic_files); connected: whether its networks are handed
    over, so that no file is needed; unfit: what ``misfit`` says. Raises MissingWeights or EngineUnavailable when Sonic
    was asked for by name and cannot be had; 'auto' takes draft then and says why.
    """
    if requested == "draft":
        return EngineChoice("draft", "The engine 'draft' was asked for.")
    if connected:
        return EngineChoice("sonic", "The connected Sonic model makes the frames.")
    if requested == "sonic":
        if missing:
            raise MissingWeights("sonic", missing)
        if unfit:
            raise EngineUnavailable(unfit)
        return EngineChoice("sonic", "The engine 'sonic' was asked for.")
    if missing:
        count = f"{len(missing)} file{'s' if len(missing) > 1 else ''} of Sonic"
        # This goes into the video, which is published: no folder of this machine is in it.
        first = f"the first being {missing[0].name}; 'sonic-queue models' says where they belong"
        return EngineChoice("draft", f"'auto' chose draft because {count} are not there, {first}.")
    if unfit:
        return EngineChoice("draft", f"'auto' chose draft. {unfit}")
    return EngineChoice("sonic", "'auto' chose sonic because all its files are there.")


def runnable_engines(missing: Sequence[Path], unfit: str = "") -> tuple[EngineName, ...]:
    """The engines that a request may name with success; the arguments are those of ``choose_engine``."""
    return ("draft",) if missing or unfit else ("draft", "sonic")


def load_sonic(files: Mapping[str, Path], precision: Precision = "auto", check: Check = no_check) -> SonicNetworks:
    """Sonic's networks from their files by part (checkpoints.sonic_files). Raises BadWeights or EngineUnavailable.

    check: called again and again; what it raises ends the loading.
    """
    if unfit := misfit():
        raise EngineUnavailable(unfit)
    from .native.networks import load_networks

    return load_networks(files, precision, check)


def render(
    prepared: PreparedData,
    options: InferenceOptions,
    choice: EngineChoice,
    networks: SonicNetworks | None = None,
    check: Check = no_check,
    on_denoising: OnDenoising = not_told,
    on_preview: OnPreview = not_told,
) -> FrameSource:
    """The frames of a clip, round(seconds * fps) of them, made when they are read.

    networks: those of `load_sonic`, for the engine sonic alone, which does most of its work at once: ``check`` is
    called before each piece of it, ``on_denoising`` says how far it is, ``on_preview`` shows a frame, small and
    unfinished. What they raise ends it.
    """
    if choice.name == "draft":
        from .draft.render import render_draft  # torch is loaded only when frames are wanted

        return render_draft(prepared, options)
    if networks is None:
        raise EngineUnavailable(
            "The engine 'sonic' was chosen, but its networks are not loaded; call load_sonic first."
        )
    from .native.pipeline import render_sonic

    return render_sonic(prepared, options, networks, check, on_denoising, on_preview)
