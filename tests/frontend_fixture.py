"""ComfyUI's own page in a browser: open it in a language, put a graph into it, run it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import aiohttp

from .browser_fixture import Page

START_S = 60.0
READY = "window.app?.vueAppReady && window.app.graph?._nodes.length"  # its own first graph comes last


async def open_frontend(page: Page, address: str, language: str = "en") -> None:
    """Open the page of the ComfyUI at host:port, past its greeting. Settings are the server's, so they stay."""
    settings = {"Comfy.Locale": language, "Comfy.TutorialCompleted": True}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}/api/settings", json=settings) as answer,
    ):
        answer.raise_for_status()
    await page.size(1600, 1000)
    await page.open(f"http://{address}/")
    await page.wait(READY, START_S)


async def show_graph(page: Page, graph: Mapping[str, Any]) -> None:
    """Open a graph as the browser saves it, all of it in sight."""
    await page.js(f"window.app.loadGraphData({json.dumps(graph)})")
    await page.wait(f"window.app.graph._nodes.length === {len(graph['nodes'])}")


async def run_graph(page: Page) -> None:
    """Queue what is shown, as its button does."""
    assert await page.js("window.app.queuePrompt(0, 1)") is not False


def node(kind: str) -> str:
    """The expression of the node of a type."""
    return f"window.app.graph._nodes.find((one) => one.type === {json.dumps(kind)})"
