"""Which engine makes the frames, why, and the call that makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .errors import EngineUnavailable, MissingWeights
from .frames import FrameSource
from .options import EngineName, InferenceOptions
from .prepared import PreparedData


@dataclass(frozen=True)
class EngineChoice:
    """name: the engine that runs; reason: one sentence on why it and not another."""

    name: Literal["draft"]
    reason: str


def choose_engine(requested: EngineName, missing: Sequence[Path]) -> EngineChoice:
    """The engine for a request; ``missing`` are the files that Sonic lacks (checkpoints.missing_sonic_files).

    Raises MissingWeights or EngineUnavailable when Sonic was asked for by name; 'auto' takes draft then and says why.
    """
    if requested == "draft":
        return EngineChoice("draft", "The engine 'draft' was asked for.")
    if requested == "sonic":
        if missing:
            raise MissingWeights("sonic", missing)
        raise EngineUnavailable(
            "The engine 'sonic' cannot run in this version, though all its files are there; "
            "choose 'draft' or update this package."
        )
    if missing:
        count = f"{len(missing)} file{'s' if len(missing) > 1 else ''} of Sonic"
        return EngineChoice("draft", f"'auto' chose draft because {count} are not there, the first being {missing[0]}.")
    return EngineChoice(
        "draft", "'auto' chose draft because this version cannot run Sonic yet, though its files are there."
    )


def runnable_engines(missing: Sequence[Path]) -> tuple[EngineName, ...]:
    """The engines that a request may name with success; ``missing`` as in ``choose_engine``."""
    try:
        choose_engine("sonic", missing)
    except (MissingWeights, EngineUnavailable):
        return ("draft",)
    return ("draft", "sonic")


def render(prepared: PreparedData, options: InferenceOptions, choice: EngineChoice) -> FrameSource:
    """The frames of a clip, round(seconds * fps) of them, made when they are read."""
    from .draft.render import render_draft  # torch is loaded only when frames are wanted

    return render_draft(prepared, options)
