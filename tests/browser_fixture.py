"""A headless Chromium and hands for one page in it, over the protocol of its own tools: it needs no driver."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
QUIET = ("background-networking", "component-update", "sync", "extensions", "gpu", "quic", "dev-shm-usage")
START_S = 20.0
WAIT_S = 15.0


def find_chromium() -> str | None:
    """CHROMIUM, or one on the path."""
    named = os.environ.get("CHROMIUM")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def chromium(program: str) -> Iterator[str]:
    """A browser for the time of the block; the address at which it is told what to do."""
    with tempfile.TemporaryDirectory(prefix="sonic-browser-", ignore_cleanup_errors=True) as folder:
        options = ["--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars", "--mute-audio", "--lang=en-US"]
        options += [f"--disable-{name}" for name in QUIET]
        options += ["--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield _address(Path(folder) / "DevToolsActivePort", process)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(file: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the browser ended with {process.returncode}")
        with contextlib.suppress(OSError, ValueError):
            port, path = file.read_text(encoding="utf-8").split()
            return f"ws://127.0.0.1:{port}{path}"
        time.sleep(0.02)
    raise RuntimeError("the browser does not start")


@dataclass
class Page:
    """One page in a profile of its own. troubles: what it has complained of, errors of scripts and of its policy."""

    socket: aiohttp.ClientWebSocketResponse
    session: str = ""
    troubles: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _asked: dict[int, asyncio.Future[Any]] = field(default_factory=dict)

    async def listen(self) -> None:
        async for message in self.socket:
            said = json.loads(message.data)
            if waiting := self._asked.pop(said.get("id", 0), None):
                if waiting.done():
                    continue
                if "error" in said:
                    waiting.set_exception(RuntimeError(said["error"]["message"]))
                else:
                    waiting.set_result(said["result"])
            else:
                self._heard(said.get("method", ""), said.get("params", {}))

    def _heard(self, method: str, said: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.troubles.append(json.dumps(said["exceptionDetails"].get("exception", said))[:600])
        elif method == "Runtime.consoleAPICalled" and said["type"] == "error":
            self.troubles.append(json.dumps([one.get("value", one.get("description")) for one in said["args"]]))
        elif method == "Log.entryAdded" and said["entry"]["source"] in ("security", "violation", "javascript"):
            self.troubles.append(said["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])

    async def call(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        where = {"sessionId": self.session} if self.session else {}
        await self.socket.send_json({"id": number, "method": method, "params": parameters, **where})
        async with asyncio.timeout(WAIT_S + 5):
            return await self._asked[number]

    async def open(self, address: str) -> None:
        await self.call("Page.navigate", url=address)

    async def js(self, expression: str) -> Any:
        """The value of an expression, awaited when it is a promise."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(json.dumps(answer["exceptionDetails"])[:1500])
        return answer["result"].get("value")

    async def wait(self, expression: str, timeout_s: float = WAIT_S) -> Any:
        """The value of an expression as soon as it is true; fails with what the page shows when it never is."""
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(RuntimeError):  # between two pages
                if found := await self.js(expression):
                    return found
            if time.monotonic() > deadline:
                shown = await self.js("document.body.innerText.replaceAll(/\\n+/g, ' | ')")
                raise AssertionError(f"never true: {expression}\n{shown[:1500]}\n{self.troubles}")
            await asyncio.sleep(0.03)

    async def sees(self, text: str, within: str = "body", timeout_s: float = WAIT_S) -> None:
        """Wait until a text is shown."""
        where = f"document.querySelector({json.dumps(within)})?.innerText"
        await self.wait(f"{where}?.includes({json.dumps(text)})", timeout_s)

    async def click(self, selector: str) -> None:
        """As a person does: in the middle of what is seen there."""
        await self._click(f"document.querySelector({json.dumps(selector)})")

    async def button(self, name: str, within: str = "body") -> None:
        """Click the button that is called so."""
        all_of_them = f"document.querySelector({json.dumps(within)})?.querySelectorAll('button, a.button') ?? []"
        called = f"[one.textContent.trim(), one.ariaLabel].includes({json.dumps(name)})"
        await self._click(f"[...({all_of_them})].find((one) => one.checkVisibility() && !one.disabled && {called})")

    async def _click(self, found: str) -> None:
        async with self.pressed(found):
            pass

    @contextlib.asynccontextmanager
    async def pressed(self, found: str) -> AsyncIterator[None]:
        """Hold the mouse down on an element for the time of the block.

        found: an expression of the element, looked for anew until it is seen, since a page that is live makes others
        in its place.
        """
        where = (
            f"(() => {{ const one = {found}; if (!one?.checkVisibility()) return null;"
            "one.scrollIntoView({block: 'nearest'}); const box = one.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        before, at = None, await self.wait(where)
        while at != before:  # it may move while the page is laid out
            await asyncio.sleep(0.03)
            before, at = at, await self.wait(where)
        mouse = {"x": at[0], "y": at[1], "button": "left", "clickCount": 1}
        await self.call("Input.dispatchMouseEvent", type="mousePressed", **mouse)
        yield
        await self.call("Input.dispatchMouseEvent", type="mouseReleased", **mouse)

    async def type(self, text: str) -> None:
        await self.call("Input.insertText", text=text)

    async def press(self, key: str, code: int) -> None:
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    async def drop(self, files: Sequence[Path], x: int = 300, y: int = 300) -> None:
        """Drop files, or folders, onto a point of the page."""
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            await self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    async def size(self, width: int, height: int, scale: float = 1) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )

    async def prefers(self, *, language: str = "en-US", dark: bool = False) -> None:
        agent = (await self.call("Browser.getVersion"))["userAgent"]
        await self.call("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=language)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def picture(self, kind: str = "png", **options: Any) -> bytes:
        """What is seen."""
        answer = await self.call("Page.captureScreenshot", format=kind, **options)
        return base64.b64decode(answer["data"])

    async def spoken(self) -> list[dict[str, Any]]:
        """Every element that a screen reader is told of: role, name and properties."""
        nodes = (await self.call("Accessibility.getFullAXTree"))["nodes"]
        return [
            {
                "role": one["role"]["value"],
                "name": one.get("name", {}).get("value", ""),
                **{each["name"]: each["value"].get("value") for each in one.get("properties", ())},
            }
            for one in nodes
            if not one.get("ignored") and "role" in one
        ]


@contextlib.asynccontextmanager
async def new_page(address: str) -> AsyncIterator[Page]:
    """A page of the browser at this address, in a fresh profile."""
    async with aiohttp.ClientSession() as client, client.ws_connect(address, max_msg_size=0) as socket:
        page = Page(socket)
        listening = asyncio.create_task(page.listen())
        try:
            context = (await page.call("Target.createBrowserContext"))["browserContextId"]
            made = await page.call("Target.createTarget", url="about:blank", browserContextId=context)
            attached = await page.call("Target.attachToTarget", targetId=made["targetId"], flatten=True)
            page.session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
                await page.call(f"{domain}.enable")
            await page.prefers()
            await page.size(1280, 900)
            yield page
            page.session = ""
            await page.call("Target.disposeBrowserContext", browserContextId=context)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
