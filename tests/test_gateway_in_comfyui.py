"""A task over HTTP, through a real ComfyUI server, to a downloaded MP4."""

from __future__ import annotations

import asyncio
import io

import aiohttp
import av
import pytest

from .bridge_fixture import ROOT, Bridge
from .gateway_fixture import events_of, gateway_hands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
EXAMPLES = ROOT / "examples" / "batch"


async def test_a_portrait_and_a_recording_go_in_and_a_video_comes_out(bridge: Bridge) -> None:
    settings = {"queue": bridge.settings.queue, "gateway_folder": str(bridge.orders / "gateway"), "lease_s": 6.0}
    async with gateway_hands(bridge.settings.url, bridge.orders, instance="", heartbeat_s=1.0, **settings) as hands:
        form = aiohttp.FormData()
        for name, file in (("image", "close_up.png"), ("audio", "eileen_collins_welcome.wav")):
            form.add_field(name, await asyncio.to_thread((EXAMPLES / file).read_bytes), filename=file)
        form.add_field("config", '{"resolution": 256, "engine": "draft", "duration": 0.5}')
        accepted = await hands.ask("POST", "/v1/tasks", data=form)
        assert accepted.status == 202, accepted.body
        path = accepted.headers["Location"]
        percents = []
        async with hands.session.get(f"{hands.address}{path}/events") as answer:
            async for told in events_of(answer, timeout_s=120):
                percents.append(float(told.data.get("percent") or 0))
                if told.kind == "end":
                    assert told.data["state"] == "completed", told.data["error"]
        assert len({one for one in percents if 0 < one < 100}) > 2
        video = await hands.get(f"{path}/result")
        assert (video.status, video.headers["Content-Type"]) == (200, "video/mp4")
        with av.open(io.BytesIO(video.body)) as container:
            frames = sum(1 for _ in container.decode(container.streams.video[0]))
            assert frames / float(container.streams.video[0].average_rate) == pytest.approx(0.5, abs=0.04)
        assert (await hands.get(path)).json["result"]["report"]["engine"] == "draft"
