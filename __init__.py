"""Sonic for ComfyUI: a portrait and a recording become a video of that person speaking.

Nothing of ours is imported at module level: ComfyUI names this module by its path, pytest by its package, and both
must work.
"""

WEB_DIRECTORY = "./web/comfyui"


async def comfy_entrypoint():  # type: ignore[no-untyped-def]  # ComfyExtension exists only inside ComfyUI
    """Called once by ComfyUI's loader."""
    from .nodes.engines import available_engines
    from .nodes.extension import SonicExtension
    from .nodes.graph_folder import serve_graphs
    from .nodes.material import CHECKS
    from .queue_bridge.attach import attach
    from .queue_bridge.gateway.serve_tab import serve_tab
    from .sonic.quality import report_of

    attach(available_engines, CHECKS, report_of)
    serve_graphs()
    serve_tab()
    return SonicExtension()
