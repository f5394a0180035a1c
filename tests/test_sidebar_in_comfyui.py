"""The sidebar tab in ComfyUI's own frontend: real servers with the bridge on a real queue, in a real browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from comfyui_sonic.queue_bridge.servers.instance import Instance
from comfyui_sonic.queue_bridge.states import State

from .bridge_fixture import ROOT, Bridge, BridgeQueue
from .browser_fixture import Page, new_page
from .test_panel import CONTRAST, NAMED, material

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
TAB = ".sonic-queue"
IS_DARK = "document.body.classList.contains('dark-theme') || getComputedStyle(document.body).colorScheme === 'dark'"
BUTTON = '.sonic-queue-tab-button, [data-testid="sonic-queue-tab-button"]'  # of earlier and of later pages
LOAD_S = 60.0
RUN_S = 90.0


@pytest.fixture
async def queue(bridge: Bridge) -> AsyncIterator[BridgeQueue]:
    async with bridge.queue() as opened:
        yield opened


@pytest.fixture
def server(bridge: Bridge) -> Instance:
    """One of the two, with the examples as its inputs."""
    server = bridge.instances["gpu-1"]
    for file in (ROOT / "examples" / "batch").iterdir():
        shutil.copyfile(file, server.input_directory / file.name)
    return server


@pytest.fixture
async def page(browser: str) -> AsyncIterator[Page]:
    """A page in which nothing of ours goes wrong, whatever ComfyUI's own scripts complain of."""
    async with new_page(browser) as page:
        yield page
        assert [one for one in page.troubles if "sonic/queue" in one or "comfyui_sonic" in one] == []


async def open_tab(page: Page, server: Instance, **settings: Any) -> None:
    """ComfyUI as a person finds it who has used it before, with the tab open."""
    known = {"Comfy.TutorialCompleted": True, "Comfy.Locale": "en", "Comfy.ColorPalette": "dark", **settings}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{server.address}/api/settings", json=known) as answer,
    ):
        assert answer.status == 200
    await page.open(f"http://{server.address}")
    await page.wait(f"!!document.querySelector('{BUTTON}') && !!window.app?.graph", LOAD_S)
    await page.wait("!document.querySelector('.p-blockui-mask, .p-dialog-mask')")
    await page.click(BUTTON)
    await page.wait(f"!!document.querySelector('{TAB} h2')")


async def load_draft(page: Page) -> None:
    """The draft's graph, as it comes with the pack, but small."""
    graph = json.loads((ROOT / "workflows" / "quick_draft.json").read_text(encoding="utf-8"))
    for node in graph["nodes"]:
        if node["type"] == "SONIC_PreData":
            node["widgets_values"][:2] = [0.5, 256]
    await page.js(f"window.app.loadGraphData({json.dumps(graph)}).then(() => 1)")


def row(name: str, more: str = "") -> str:
    found = f"[...document.querySelectorAll('{TAB} .row')].find((one) => one.innerText.includes({json.dumps(name)}))"
    return f"{found}?{more}" if more else f"!!{found}"


async def test_a_graph_runs_here_and_in_the_queue_and_its_video_goes_on_the_canvas(
    page: Page, server: Instance, queue: BridgeQueue
) -> None:
    await open_tab(page, server)
    await load_draft(page)
    await page.js(
        "(() => { window.seen = []; window.app.api.addEventListener('progress', ({ detail }) =>"
        " window.seen.push(detail.value / detail.max)); })()"
    )
    await page.button("Run")
    video = "document.querySelector('.video-preview video, .comfy-img-preview video, video')"
    await page.wait(f"{video}?.readyState >= 2", RUN_S)
    assert await page.js(f"{video}.duration") == pytest.approx(0.5, abs=0.1)
    assert await page.js("window.seen.length") > 0

    await page.button("Submit this graph", TAB)
    await page.sees("are in the queue", TAB)
    await page.wait(row("eileen_collins_welcome", ".querySelector('progress')?.value > 0"), RUN_S)
    await page.wait(row("eileen_collins_welcome", ".innerText.includes('Completed')"), RUN_S)
    await page.wait(row("eileen_collins_welcome", ".querySelector('img').naturalWidth > 0"))
    ended = await queue.view.jobs(await queue.view.ids([State.COMPLETED], 100))
    record = next(
        one for one in ended.values() if "eileen_collins_welcome" in one.spec.name
    )  # beside other tests' jobs
    assert record.result is not None
    assert (record.result["resolution"], record.result["report"]["engine"]) == (256, "draft")

    await page.button("Play: eileen_collins_welcome", TAB)
    shown = f"document.querySelector('{TAB} dialog video')"
    await page.wait(f"{shown}?.readyState >= 2")
    assert await page.js(f"{shown}.duration") == pytest.approx(0.5, abs=0.1)
    box = f"document.querySelector('{TAB} dialog').getBoundingClientRect()"
    assert await page.js(
        f"(({{ x, y, right, bottom }}) => x >= 0 && y >= 0 && right <= innerWidth && bottom <= innerHeight)({box})"
    )
    await page.button("Put it on the canvas", TAB)
    await page.sees("is on the canvas", TAB)
    name = await page.js("window.app.graph.nodes.find((one) => one.type === 'LoadVideo').widgets[0].value")
    assert (server.input_directory / name).stat().st_size == Path(
        record.spec.output.removeprefix("file://")
    ).stat().st_size
    prompt = await page.js("window.app.graphToPrompt().then(({ output }) => output)")
    assert [one["inputs"]["file"] for one in prompt.values() if one["class_type"] == "LoadVideo"] == [name]


async def test_a_folder_is_dropped_and_its_jobs_are_cancelled_and_started_again(
    page: Page, server: Instance, queue: BridgeQueue, tmp_path: Path
) -> None:
    folder = tmp_path / "pairs"
    material(folder, "dora.png", "dora_hello.wav", "emil.png", "emil.wav", "nobody.wav")
    for name in ("gpu-1", "gpu-2"):
        await queue.store.drain(name, 600.0)
    try:
        await open_tab(page, server)
        await page.sees("Live", TAB)
        await page.drop([folder], 180, 300)
        await page.sees("2 videos will be made", f"{TAB} dialog")
        await page.sees("nobody.wav No picture", f"{TAB} dialog")
        await page.wait(f"!!document.querySelector('{TAB} dialog [name=resolution]')")
        for name, value in (("resolution", 256), ("engine", "draft"), ("duration", 0.5)):
            await page.js(f"document.querySelector('{TAB} dialog [name={name}]').value = '{value}'")
        await page.button("Submit", f"{TAB} dialog")
        await page.button("Show them", f"{TAB} dialog")
        await page.wait(row("dora_hello", ".innerText.includes('Waiting')"))
        await page.button("Cancel: emil", TAB)
        await page.sees("emil is cancelled.", TAB)
        await page.wait(row("emil", ".innerText.includes('Cancelled')"))
    finally:
        for name in ("gpu-1", "gpu-2"):
            await queue.store.undrain(name)
    await page.button("Start again: emil", TAB)
    await page.sees("emil starts again.", TAB)
    for name in ("dora_hello", "emil"):
        await page.wait(row(name, ".innerText.includes('Completed')"), RUN_S)


async def test_the_tab_speaks_chinese_and_everybody_can_use_it_in_light_and_dark(
    page: Page, server: Instance, queue: BridgeQueue, bridge: Bridge
) -> None:
    folder = bridge.orders / "sidebar"
    folder.mkdir()
    failed = await queue.submit(folder, "fails", message="The card was taken away.", failures=9)
    await queue.ended(failed)
    await open_tab(page, server, **{"Comfy.Locale": "zh"})
    for text in ("Sonic 队列", "实时", "提交当前工作流", "新建视频", "失败", "重新开始"):
        await page.sees(text, TAB)
    assert await page.js(f"document.querySelector('{BUTTON}').ariaLabel") == "Sonic 队列"
    assert await page.js("import('/api/sonic/queue/page/panel/text.js').then((text) => text.unevenTexts())") == []
    for palette in ("dark", "light"):
        await page.js(f"window.app.extensionManager.setting.set('Comfy.ColorPalette', '{palette}').then(() => 1)")
        await page.wait(f"({IS_DARK}) === {json.dumps(palette == 'dark')}")
        poor = CONTRAST.replace("'body *'", f"'{TAB} *'")
        assert await page.js(poor) == [], palette
    ours = await page.js(
        f"[...document.querySelectorAll('{TAB} :is(button, input, select, a)')].map((one) => one.innerText)"
    )
    spoken = await page.spoken()
    assert (
        len(ours) > 3
        and [one for one in spoken if one["role"] in NAMED & {"progressbar", "combobox"} and not one["name"]] == []
    )
    # the keyboard reaches a job, opens it and comes back; the graph behind hears nothing of it
    await load_draft(page)
    nodes = await page.js("window.app.graph.nodes.length")
    await page.js("window.app.canvas.selectItems()")
    await page.js(row("fails", ".querySelector('.name').focus()"))
    await page.press("Delete", 46)
    await page.press("Enter", 13)
    await page.sees("The card was taken away.", f"{TAB} dialog")
    await page.press("Escape", 27)
    await page.wait(f"!document.querySelector('{TAB} dialog')")
    assert await page.js("document.activeElement.textContent") == "fails"
    assert await page.js("window.app.graph.nodes.length") == nodes
    # closed, the tab asks for nothing more
    await page.click(BUTTON)
    await page.wait(f"!document.querySelector('{TAB}')")
    asked = len([one for one in page.requests if "/sonic/queue/" in one])
    await queue.ended(await queue.submit(folder, "passes"))
    assert len([one for one in page.requests if "/sonic/queue/" in one]) == asked


async def test_without_a_bridge_the_tab_says_how_to_turn_it_on(page: Page, comfyui: Instance) -> None:
    await open_tab(page, comfyui)
    await page.sees("set the environment variable SONIC_QUEUE_URL to its address", TAB)
    assert await page.js(f"document.querySelectorAll('{TAB} button').length") == 0
