"""The official client of the Comfy API, through the gateway and a real ComfyUI server, to a downloaded MP4."""

from __future__ import annotations

import io
from typing import Any

import av
import pytest
from comfy_sdk import AsyncComfy, JobFailed
from comfy_sdk.events import OutputReady, Progress, StatusChange
from comfyui_sonic.queue_bridge.pipelines.templates import SHIPPED
from PIL import Image

from .bridge_fixture import RAW_NODES, ROOT, Bridge
from .gateway_fixture import gateway_hands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
EXAMPLES = ROOT / "examples" / "batch"


def gateway_of(bridge: Bridge, **more: Any) -> Any:
    settings = {"queue": bridge.settings.queue, "gateway_folder": str(bridge.orders / "gateway"), "lease_s": 6.0}
    return gateway_hands(bridge.settings.url, bridge.orders, instance="", heartbeat_s=1.0, **settings, **more)


async def test_the_shipped_workflow_goes_in_by_the_official_client_and_a_video_comes_out(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway_of(bridge) as hands:
        monkeypatch.setenv("COMFY_BASE_URL", hands.address)
        async with AsyncComfy() as client:
            workflow = client.workflows.from_file(SHIPPED / "portrait_speaks.json")
            workflow.set_input("portrait", "image", client.assets.from_file(EXAMPLES / "close_up.png"))
            workflow.set_input("voice", "audio", client.assets.from_file(EXAMPLES / "eileen_collins_welcome.wav"))
            for node, name, value in (("prepare", "min_resolution", 256), ("prepare", "duration", 0.5)):
                workflow.set_input(node, name, value)
            workflow.set_input("speak", "engine", "draft")
            job = await client.submit(workflow)
            seen = [event async for event in job.events()]
            await job.result()
            assert len({one.value for one in seen if isinstance(one, Progress)}) > 2
            assert "speak" in {one.current_node for one in seen if isinstance(one, Progress)}
            assert [one.status for one in seen if isinstance(one, StatusChange)][-1] == "succeeded"
            (output,) = job.get_outputs("save")
            assert [one.output.id for one in seen if isinstance(one, OutputReady)] == [output.id]
            video = await output.to_bytes()
        assert len(video) == output.size_bytes
        with av.open(io.BytesIO(video)) as container:
            frames = sum(1 for _ in container.decode(container.streams.video[0]))
            assert frames / float(container.streams.video[0].average_rate) == pytest.approx(0.5, abs=0.04)


async def test_a_prompt_of_allowed_nodes_runs_and_another_runs_nowhere(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 48), (0, 80, 255)).save(picture, "PNG")
    prompt = {
        "load": {"class_type": "LoadImage", "inputs": {"image": "x"}},
        "invert": {"class_type": "ImageInvert", "inputs": {"image": ["load", 0]}},
        "a": {"class_type": "SaveImage", "inputs": {"images": ["load", 0], "filename_prefix": "shop/same"}},
        "b": {"class_type": "SaveImage", "inputs": {"images": ["invert", 0], "filename_prefix": "shop/inverted"}},
    }
    # The gateway allows more than the servers do: what counts is what they allow.
    async with gateway_of(bridge, raw_nodes=(*RAW_NODES, "TEST_Misbehave")) as hands:
        monkeypatch.setenv("COMFY_BASE_URL", hands.address)
        async with AsyncComfy() as client:
            workflow = client.workflows.from_json(prompt)
            workflow.set_input("load", "image", client.assets.from_bytes(picture.getvalue(), filename="blue.png"))
            job = await client.run(workflow, timeout=60)
            assert {one.node_id: one.name.partition("_")[0] for one in job.outputs} == {"a": "same", "b": "inverted"}
            colours = {}
            for output in job.outputs:
                with Image.open(io.BytesIO(await output.to_bytes())) as found:
                    colours[output.node_id] = (found.size, found.getpixel((5, 5)))
            assert colours == {"a": ((64, 48), (0, 80, 255)), "b": ((64, 48), (255, 175, 0))}
            inputs = {"filename_prefix": "x", "tally": "", "how": "raise", "times": 0, "seconds": 0.0}
            graph = {"1": {"class_type": "TEST_Misbehave", "inputs": inputs}, "2": prompt["a"] | {"inputs": {}}}
            refused = client.workflows.from_json(graph)
            with pytest.raises(JobFailed, match="ended failed") as failed:
                await client.run(refused, timeout=60)
            assert failed.value.error.code == "invalid_input"
            assert "'TEST_Misbehave' is not allowed here" in failed.value.error.message
