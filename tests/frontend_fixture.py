"""ComfyUI's own page in a browser: open it in a language, put a graph into it, run it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from .browser_fixture import Page

START_S = 60.0
OWN = {"Locale": "en"}  # in our browser, where nothing is set
READY = "window.app?.vueAppReady && window.app.graph?._nodes.length"  # its own first graph comes last


@contextlib.asynccontextmanager
async def settings(address: str, **values: Any) -> AsyncIterator[None]:
    """Settings of the page at host:port for the time of the block; names come after "Comfy."."""
    place = f"http://{address}/api/settings"
    async with aiohttp.ClientSession() as session:
        async with session.get(place) as answer:
            before = {f"Comfy.{name}": (await answer.json()).get(f"Comfy.{name}", OWN.get(name)) for name in values}
        try:
            async with session.post(place, json={f"Comfy.{name}": value for name, value in values.items()}) as answer:
                answer.raise_for_status()
            yield
        finally:
            await session.post(place, json=before)


async def open_frontend(page: Page, address: str) -> None:
    """Open the page of the ComfyUI at host:port."""
    await page.size(1600, 1000)
    await page.open(f"http://{address}/")
    await page.wait(READY, START_S)


async def show_graph(page: Page, graph: Mapping[str, Any]) -> None:
    """Open a graph as the browser saves it, all of it in sight."""
    await page.js(f"window.app.loadGraphData({json.dumps(graph)})")
    await page.wait(f"window.app.graph._nodes.length === {len(graph['nodes'])}")


async def run_graph(page: Page) -> None:
    """Queue what is shown, as its button does."""
    await page.js("window.app.queuePrompt(0, 1)")


def node(kind: str) -> str:
    """The expression of the node of a type."""
    return f"window.app.graph._nodes.find((one) => one.type === {json.dumps(kind)})"
