"""The graphs in workflows/ are served to the browser's list of templates (Workflow > Browse Templates)."""

from __future__ import annotations

import logging
from pathlib import Path

log = logging.getLogger("sonic")

GRAPHS = Path(__file__).parent.parent / "workflows"  # with links as they are: ComfyUI names a pack by its own folder


def serve_graphs() -> None:
    """Called while ComfyUI loads the pack, before it adds routes of its own.

    ComfyUI lists the graphs of every folder that may hold some, but of one pack serves the first such folder only; of
    ours that would be examples/, so that every graph were listed and none could be opened.
    """
    try:
        from server import PromptServer

        PromptServer.instance.app.router.add_static(f"/api/workflow_templates/{GRAPHS.parent.name}", GRAPHS)
    except (ImportError, AttributeError, ValueError) as error:  # no server, as in scripts that use nodes alone
        log.debug("the graphs are not served: %s", error)
