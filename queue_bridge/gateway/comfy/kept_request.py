"""What a client sent as a workflow, kept beside the files of its job: to be shown again, and to name its nodes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..places import Places

WORKFLOW_FILE = "workflow.json"


@dataclass(frozen=True)
class KeptRequest:
    """workflow: as it came. nodes: the template's nodes -> those of the workflow."""

    workflow: Mapping[str, Any]
    nodes: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        text = json.dumps({"workflow": self.workflow, "nodes": dict(self.nodes)}, ensure_ascii=False)
        (folder / WORKFLOW_FILE).write_text(text, encoding="utf-8", errors="surrogatepass")


def kept_request(places: Places, task_id: str) -> KeptRequest | None:
    """What is kept of the workflow behind a job; None for a job that came in another way."""
    try:
        text = (places.request_folder(task_id) / WORKFLOW_FILE).read_text(encoding="utf-8", errors="surrogatepass")
        return KeptRequest(**json.loads(text))
    except (OSError, ValueError, TypeError):
        return None
