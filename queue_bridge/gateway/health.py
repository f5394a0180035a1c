"""Whether this process lives, and whether it can take tasks."""

from __future__ import annotations

import asyncio
import os

from aiohttp import web

from .context import Asked
from .problem import Problem


async def healthz(request: web.Request, asked: Asked) -> web.Response:
    return web.json_response({"status": "ok"})


async def readyz(request: web.Request, asked: Asked) -> web.Response:
    """Raises Problem, or QueueUnavailable, when the queue or the folder of uploads cannot be written."""
    gateway = asked.gateway
    await gateway.store.check_writable()
    uploads = gateway.places.uploads
    if not await asyncio.to_thread(os.access, uploads, os.W_OK):
        raise Problem("unavailable", "The folder of uploads cannot be written.", {"Retry-After": "10"})
    return web.json_response({"status": "ready"})
