"""Opening a recording or a video to look into it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import av

if TYPE_CHECKING:
    from av.container import InputContainer

# From PyAV 19 on a tag that is not UTF-8 is always let through; before, a file with such a tag could not be opened.
_LENIENT: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}


def open_media(path: Path) -> InputContainer:
    """A file of any format, told by its content; tags in another encoding do no harm. Raises av.FFmpegError."""
    opened: InputContainer = av.open(str(path), **_LENIENT)
    return opened
