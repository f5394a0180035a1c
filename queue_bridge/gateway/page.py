"""The gateway's own page: the files of web/panel, as they are, under a policy that lets them load nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from aiohttp import web

Serve = Callable[[web.Request], Awaitable[web.Response]]
FOLDER = Path(__file__).resolve().parent.parent.parent / "web" / "panel"
TYPES: Mapping[str, str] = MappingProxyType(
    {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
)
POLICY = "; ".join(
    (
        *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' blob:"),
        *("media-src 'self' blob:", "connect-src 'self'", "base-uri 'none'", "form-action 'none'"),
        *("frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'"),
    )
)
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": POLICY,
        "Cache-Control": "no-cache",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    }
)


def page_files(folder: Path = FOLDER) -> dict[str, tuple[bytes, str]]:
    """Every file of the page by its name, with its type; read once, so that no request names a path."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return {one.name: (one.read_bytes(), TYPES[one.suffix]) for one in found if one.suffix in TYPES}


def file_routes(folder: Path, below: str) -> list[tuple[str, Serve]]:
    """The address ``below`` of each file of a folder, and what answers there."""
    return [(f"{below}/{name}", _serving(*file)) for name, file in page_files(folder).items()]


def page_routes() -> list[tuple[str, Serve]]:
    """Addresses and what answers there. They need no key: what is in these files is no secret."""
    routes = file_routes(FOLDER, "/panel")
    index = next((serve for address, serve in routes if address == "/panel/index.html"), None)
    return routes + ([(address, index) for address in ("/", "/panel/")] if index else [])


def _serving(content: bytes, kind: str) -> Serve:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    async def serve(request: web.Request) -> web.Response:
        headers = {**HEADERS, "ETag": tag}
        if request.headers.get("If-None-Match", "").removeprefix("W/") == tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=content, content_type=kind, charset="utf-8", headers=headers)

    return serve
