"""Puts the routes of the sidebar tab into the ComfyUI server that loads this pack, below ``/api/sonic/queue``.

They are there without a bridge, too, and say then how it is turned on. The queue is read over connections of their own,
so that no number of browsers holds up the server's jobs.
"""

from __future__ import annotations

import importlib
import logging
import os
from pathlib import Path
from typing import Any

from aiohttp import web

from ..config import Settings, load_settings
from ..database.redis_connection import connect
from ..errors import BadJob, BridgeError
from ..pipelines.templates import SHIPPED, load_templates
from ..places.storage import Storage
from ..queue.queue_view import QueueView
from ..queue.store import Store

log = logging.getLogger("sonic.serve_tab")

BELOW = "/api/sonic/queue"
FOLDER = "sonic_queue"  # below ComfyUI's output folder, where no folder is shared


def serve_tab() -> None:
    """Called while ComfyUI loads the pack, before it adds routes of its own and serves."""
    from .tab import off_app

    try:
        server = getattr(importlib.import_module("server").PromptServer, "instance", None)
    except ImportError:
        server = None
    if server is None:  # no server, as in scripts that use nodes alone
        return
    try:
        settings = load_settings()
        app = _app(settings) if settings.url else off_app("")
    except BridgeError as error:
        log.warning("The sidebar tab shows no queue. %s", error)
        app = off_app(str(error))
    server.app.add_subapp(BELOW, app)


def _app(settings: Settings) -> web.Application:
    from .places import Places
    from .tab import Folders, tab_app

    folder_paths = importlib.import_module("folder_paths")
    own_input, own_output = Path(folder_paths.get_input_directory()), Path(folder_paths.get_output_directory())
    store = Store(connect(settings.url, many=True), settings)
    view = QueueView(store.client, store.keys, settings.url)
    templates = load_templates((SHIPPED, *settings.templates))
    folder = Path(settings.gateway_folder) if settings.gateway_folder else own_output / FOLDER
    roots = settings.roots if settings.gateway_folder else (*settings.roots, own_output)
    places = Places(roots, folder, Storage(settings.places, settings.limits), settings.reach, settings.results)
    folders = Folders(own_input, lambda field, name: _file_of(folder_paths, field, name), bool(settings.gateway_folder))
    return tab_app(settings, store, view, templates, places, folders)


def _file_of(folder_paths: Any, field: str, name: str) -> Path:
    """The file that a node calls so, such as ``anna.png`` or ``anna.png [output]``, in one of ComfyUI's folders.

    Links in these folders are followed, as ComfyUI's own nodes follow them.
    """
    own = (folder_paths.get_input_directory, folder_paths.get_output_directory, folder_paths.get_temp_directory)
    path = Path(os.path.normpath(folder_paths.get_annotated_filepath(name))) if "\0" not in name else Path()
    if not any(path.is_relative_to(os.path.normpath(one())) for one in own):
        raise BadJob(field, f"'{name}' lies in none of ComfyUI's folders.")
    if not path.is_file():
        raise BadJob(field, f"the file '{name}' is not there.")
    return path
