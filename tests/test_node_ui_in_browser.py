"""What a person sees of our nodes in ComfyUI's own page: the face, the engine, the help, the names in Chinese."""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from comfyui_sonic.queue_bridge.servers.instance import Instance

from .browser_fixture import Page, new_page
from .frontend_fixture import node, open_frontend, run_graph, settings, show_graph

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PORTRAIT = ROOT / "examples" / "batch" / "eileen_collins.png"
VOICE = ROOT / "tests" / "data" / "voice.wav"
TEXT_ON_NODE = ("$$node-text-preview", "sonic_report")  # the page's own field, or ours where it has none after a run


@pytest.fixture
async def page(comfyui: Instance, browser: str) -> AsyncIterator[Page]:
    async with settings(comfyui.address, TutorialCompleted=True), new_page(browser) as page:
        yield page


def quick_draft(comfyui: Instance) -> dict[str, Any]:
    """The graph of that name for half a second in small, with a portrait and a voice that are there."""
    name = uuid.uuid4().hex[:8]
    graph: dict[str, Any] = json.loads((ROOT / "workflows" / "quick_draft.json").read_text(encoding="utf-8"))
    values = {
        "SONIC_LoadPortrait": [f"{name}.png"],
        "SONIC_LoadVoice": [f"{name}.wav"],
        "SONIC_PreData": [0.4, 256, 0.18, "crop to face"],
    }
    shutil.copyfile(PORTRAIT, comfyui.input_directory / f"{name}.png")
    shutil.copyfile(VOICE, comfyui.input_directory / f"{name}.wav")
    for one in graph["nodes"]:
        given = values.get(one["type"], [])
        one["widgets_values"] = [*given, *one["widgets_values"][len(given) :]]
    return graph


def text_on(kind: str) -> str:
    named = f"{json.dumps(TEXT_ON_NODE)}.includes(one.name)"
    return f"({node(kind)}.widgets?.find((one) => {named})?.value ?? '')"


async def test_a_run_shows_the_face_the_engine_and_what_was_saved_and_help_opens(comfyui: Instance, page: Page) -> None:
    await open_frontend(page, comfyui.address)
    await show_graph(page, quick_draft(comfyui))
    await run_graph(page)
    await page.wait(f"{text_on('SONIC_SaveVideo')}.includes('.mp4')", 60)

    face = f"{node('SONIC_PreData')}.imgs?.[0]"
    await page.wait(f"{face}?.naturalWidth > 0")
    assert "filename=face_" in await page.js(f"{face}.src")
    # Green is the face's box and amber the crop's; the picture has neither.
    colours = await page.js(
        f"(() => {{ const one = {face}, canvas = new OffscreenCanvas(one.naturalWidth, one.naturalHeight);"
        "const pen = canvas.getContext('2d'); pen.drawImage(one, 0, 0);"
        "const data = pen.getImageData(0, 0, canvas.width, canvas.height).data; let green = 0, amber = 0;"
        "for (let at = 0; at < data.length; at += 4) { const [r, g, b] = data.subarray(at, at + 3);"
        "if (g > 180 && r < 110 && b < 160) green++; if (r > 220 && g > 160 && g < 220 && b < 110) amber++; }"
        "return [green, amber]; })()"
    )
    assert min(colours) > 100
    shown = await page.js(text_on("SONIC_PreData"))
    assert shown.startswith("256 x 256 pixels") and "Sonic 0.5 GB" in shown and "draft none" in shown
    assert (await page.js(text_on("SONIC_Inference"))).splitlines()[0].rstrip(".") == "Engine: draft"
    fields = "[...document.querySelectorAll('textarea')].map((one) => one.value).join(' ')"
    await page.wait(f"(document.body.innerText + {fields}).includes('Engine: draft')")  # for the eye, too
    assert (await page.js(text_on("SONIC_SaveVideo"))).splitlines()[-1].rstrip(".") == "Engine: draft"

    await open_help(page, "SONIC_PreData")
    await page.sees("What the node shows")
    assert [one for one in page.troubles if "/extensions/comfyui_sonic" in one] == []


async def open_help(page: Page, kind: str) -> None:
    """Select a node and click on the question mark above it."""
    await page.js(
        f"(() => {{ const one = {node(kind)}; app.canvas.selectNode(one); app.canvas.centerOnNode(one); }})()"
    )
    await page.click("[data-testid=info-button]")


async def tooltip_of(page: Page, kind: str, field: str) -> str:
    """What is said of a node's field when the mouse rests on it."""
    where = (
        f"(() => {{ const one = {node(kind)}, field = one.widgets.find((any) => any.name === '{field}');"
        "app.canvas.centerOnNode(one); app.canvas.draw(true, true);"
        "const at = app.canvas.ds.convertOffsetToCanvas([one.pos[0] + one.size[0] / 3, one.pos[1] + field.last_y + 8]);"
        "const box = app.canvas.canvas.getBoundingClientRect(); return [box.left + at[0], box.top + at[1]]; })()"
    )
    for _ in range(10):  # the first movements may come before the view has moved
        x, y = await page.js(where)
        for step in (3, 2, 1, 0):
            await page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x - step, y=y)
        with contextlib.suppress(AssertionError):
            return str(await page.wait("document.querySelector('.node-tooltip')?.innerText", 2))
    raise AssertionError("There is no tooltip.")


async def test_in_chinese_the_nodes_their_inputs_and_their_help_are_chinese(comfyui: Instance, page: Page) -> None:
    async with settings(comfyui.address, Locale="zh"):
        await open_frontend(page, comfyui.address)
        await show_graph(page, quick_draft(comfyui))
    made = "window.LiteGraph.createNode('SONIC_PreData')"
    assert await page.js(f"{made}.title") == "Sonic 准备数据"
    labels = ["时长", "短边分辨率", "扩展比例", "裁剪", "没有人脸时", "人脸编号"]
    assert await page.js(f"{made}.widgets.map((one) => one.label)") == labels
    assert await page.js(f"{made}.outputs[0].localized_name") == "准备好的数据"
    assert "0 表示全部" in await tooltip_of(page, "SONIC_PreData", "duration")
    await open_help(page, "SONIC_PreData")
    await page.sees("节点显示什么")
