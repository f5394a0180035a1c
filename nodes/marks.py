"""What the operator of this ComfyUI has set for the marks of AI-made content: read from the environment, here only."""

from __future__ import annotations

import os
from pathlib import Path

from ..sonic.content_credentials import Signing
from ..sonic.visible_label import OWN_FONT

PRODUCER = "SONIC_AIGC_PRODUCER"
FONT = "SONIC_MARK_FONT"
CERTIFICATE = "SONIC_C2PA_CERTIFICATE"
KEY = "SONIC_C2PA_KEY"
ALGORITHM = "SONIC_C2PA_ALGORITHM"
TIMESTAMPS = "SONIC_C2PA_TIMESTAMPS"


def producer_or_set(producer: str = "") -> str:
    """The producer that a node names, else the operator's, else ''."""
    return producer.strip() or os.environ.get(PRODUCER, "").strip()


def label_font() -> Path:
    return _path(FONT) or OWN_FONT


def signing() -> Signing:
    """For Content Credentials; what is not set is None in it."""
    algorithm = os.environ.get(ALGORITHM, "") or "es256"
    return Signing(_path(CERTIFICATE), _path(KEY), algorithm, os.environ.get(TIMESTAMPS, ""))


def _path(name: str) -> Path | None:
    text = os.environ.get(name, "")
    return Path(text) if text else None
