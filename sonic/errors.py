"""Every error a person can meet, each with one sentence that says what is wrong, where, and what to do.

SonicError
├── BadInput            the caller's material or settings are at fault; trying again changes nothing
│   ├── BadPortrait     the picture cannot be read or used
│   │   └── NoFace      the picture is fine, but no face was found in it
│   ├── BadSound        the sound cannot be read, is empty, too short or silent
│   ├── BadVideo        the video cannot be read, or holds no pictures
│   └── BadSetting      a number or a name is outside what is allowed
├── BadGraph            a saved workflow cannot be read, or has nothing to convert
├── MissingWeights      an engine was asked for whose files are not there
├── BadWeights          a weight file cannot be read, or holds another network than it should
├── EngineUnavailable   an engine was asked for that this version cannot run
├── NotEnoughMemory     a clip, or all its frames at once, needs more memory than there is
├── NotFinite           a network gave something else than numbers
└── CannotWrite         the result could not be written where it belongs
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class SonicError(Exception):
    """Base of everything this package raises on purpose; ``str(error)`` is the sentence for a person."""


class BadInput(SonicError):
    """Raised when the material or the settings are at fault, so that a retry cannot help."""


class BadPortrait(BadInput):
    """Raised when a picture cannot be read or used."""


class NoFace(BadPortrait):
    """Raised when no face (or not the asked-for face) is in the picture."""


class BadSound(BadInput):
    """Raised when a sound cannot be read, is empty, too short or silent."""


class BadVideo(BadInput):
    """Raised when a video cannot be read, or holds no pictures."""


class BadSetting(BadInput):
    """Raised when a setting is outside what is allowed; ``name`` is the setting."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name


class BadGraph(SonicError):
    """Raised when a saved workflow cannot be read, or has no node that could be converted."""


class MissingWeights(SonicError):
    """Raised when an engine's (or another method's) files are not there; ``missing`` lists them."""

    def __init__(self, engine: str, missing: Sequence[Path], kind: str = "engine", without: str = "draft") -> None:
        self.engine = engine
        self.missing = tuple(missing)
        listing = ", ".join(str(path) for path in missing)
        super().__init__(
            f"The {kind} '{engine}' needs files that are not there: {listing}. "
            f"Put them there, or choose the {kind} '{without}', which needs none."
        )


class BadWeights(SonicError):
    """Raised when a weight file cannot be read or does not fit its network.

    missing, extra, misshapen: every key that is not there, not known, or of another shape, by its name in the file.
    """

    def __init__(
        self,
        message: str,
        missing: Sequence[str] = (),
        extra: Sequence[str] = (),
        misshapen: Sequence[str] = (),
    ) -> None:
        self.missing, self.extra, self.misshapen = tuple(missing), tuple(extra), tuple(misshapen)
        super().__init__(message)


class EngineUnavailable(SonicError):
    """Raised when an engine was asked for that this version cannot run, though its files are there."""


class NotEnoughMemory(SonicError):
    """Raised when a clip of this size, or all its frames at once, need more memory than there is."""


class NotFinite(SonicError):
    """Raised when a network's result holds infinities or no numbers at all, as half precision gives on overflow."""

    @classmethod
    def of(cls, what: str, dtype: object) -> NotFinite:
        """what: the network, at the beginning of a sentence; dtype: of its numbers."""
        kind = str(dtype).removeprefix("torch.")
        if kind == "float32":
            advice = "its file is damaged or of another model: check it with 'sonic-queue models'"
        else:
            advice = f"{kind} does not hold them on this machine: choose the dtype fp32 or bf16 in Sonic Loader"
        return cls(f"{what} gives infinities or no numbers (NaN); {advice}.")


class CannotWrite(SonicError):
    """Raised when a result cannot be written where it belongs."""
