"""The implicit mark: in the file's metadata it says that the video is made by AI, by whom, and which one it is.

The key and its fields are those of GB 45438-2025, appendix E, which China's Measures for Labelling AI-Generated and
Synthetic Content (in force since 2025-09-01) rest on. docs/labelling.md says what it does and what it does not.
"""

from __future__ import annotations

import json
import unicodedata
import uuid
from collections.abc import Mapping
from typing import Any

from .errors import BadSetting

KEY = "AIGC"
IS_MADE_BY_AI = "1"
DEFAULT_PRODUCER = "Sonic for ComfyUI"  # for who has not said who they are
LONGEST_PRODUCER = 200
FIELDS = (
    "Label",
    "ContentProducer",
    "ProduceID",
    "ReservedCode1",
    "ContentPropagator",
    "PropagateID",
    "ReservedCode2",
)


def aigc_mark(producer: str = "", metadata: Mapping[str, str] | None = None) -> dict[str, str]:
    """The metadata entry for a new video, or for another file of the one whose ``metadata`` is given.

    producer: name or code of who answers for it; '' for nobody that is known. A mark that is there keeps its number
    and its fields; only a producer that nobody has named yet is filled in. Raises BadSetting.
    """
    check_producer(producer)
    fields = read_mark(metadata or {})
    if fields is None:
        fields = {**dict.fromkeys(FIELDS, ""), "Label": IS_MADE_BY_AI, "ProduceID": uuid.uuid4().hex}
    if fields.get("ContentProducer") in (None, "", DEFAULT_PRODUCER):
        fields["ContentProducer"] = producer or DEFAULT_PRODUCER
    return {KEY: json.dumps(fields, ensure_ascii=False, separators=(",", ":"))}


def read_mark(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The fields of the mark that a video carries; None when there is none that can be read."""
    try:
        fields = json.loads(metadata.get(KEY, ""))
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and fields.get("Label") else None


def check_producer(producer: str) -> None:
    """Raises BadSetting."""
    if len(producer) > LONGEST_PRODUCER or any(unicodedata.category(letter).startswith("C") for letter in producer):
        raise BadSetting("producer", f"takes up to {LONGEST_PRODUCER} characters, and none that cannot be seen.")
