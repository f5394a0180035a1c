"""One trace from a request, through real ComfyUI servers, to the webhook of its result."""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict

import pytest
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.tracing import tracing_for

from .bridge_fixture import TEMPLATES, Bridge
from .collector import Collector
from .gateway_fixture import GatewayHands, gateway_hands
from .webhook_receiver import receiving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry is not installed.")


def settings(bridge: Bridge) -> dict[str, object]:
    places = {"gateway_folder": str(bridge.orders / "gateway"), "templates": (TEMPLATES,)}
    return {
        "queue": bridge.settings.queue,
        "lease_s": 6.0,
        "heartbeat_s": 1.0,
        "private_hosts": ("127.0.0.1",),
    } | places


async def ended(hands: GatewayHands, task_id: str) -> str:
    async with asyncio.timeout(60):
        while (state := (await hands.get(f"/v1/tasks/{task_id}")).json["state"]) not in ("completed", "failed"):
            await asyncio.sleep(0.1)
    return str(state)


async def test_every_attempt_is_a_span_of_the_requests_trace_and_no_secret_is_in_one(
    bridge: Bridge, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in collector.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop-gateway")
    tracing, trace = tracing_for(Settings(), "gateway"), secrets.token_hex(16)
    async with (
        receiving() as receiver,
        gateway_hands(bridge.settings.url, bridge.orders, instance="", tracing=tracing, **settings(bridge)) as hands,
    ):
        fields = {
            "image": f"{collector.address}/a.png?signature=s3cret",
            "audio": f"{collector.address}/a.wav?signature=s3cret",
            "callback": receiver.url("/told/s3cret") + "?key=s3cret",
            "workflow": "save_after_failures",
            "config": {"tally": str(bridge.orders / "traced"), "failures": 1, "message": "s3cret"},
        }
        header = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
        task_id = (await hands.post(fields, headers=header)).json["task_id"]
        assert await ended(hands, task_id) == "completed"
        (told,) = await receiver.until(1)
        spans = await asyncio.to_thread(collector.of_trace, trace, 11)
    tracing.close()
    by_name = defaultdict(list)
    for span in spans:
        by_name[span.name].append(span)
    assert {name: len(found) for name, found in by_name.items()} == {
        "submit": 1, "wait": 1, "attempt": 2, "fetch": 2, "run": 2, "publish": 1, "commit": 1, "webhook": 1,
    }  # fmt: skip
    (submit,), (webhook,), (first, second) = by_name["submit"], by_name["webhook"], by_name["attempt"]
    assert (submit.parent, submit.service["service.name"]) == ("00f067aa0ba902b7", "shop-gateway")
    assert {one.parent for one in (*by_name["wait"], first, second, webhook)} == {submit.id}
    assert [one.attributes["sonic.attempt"] for one in (first, second)] == [1, 2]
    assert [one.attributes["sonic.outcome"] for one in (first, second)] == ["failed, may pass", "completed"]
    assert [one.attributes.get("error.type") for one in (first, second)] == ["may pass", None]
    assert [one.failed for one in by_name["run"]] == [True, False]
    assert [one.name for one in spans if one.parent == second.id] == ["fetch", "run", "publish", "commit"]
    assert {one.attributes["sonic.task_id"] for one in (first, second)} == {task_id}
    assert {one.service["service.name"] for one in (first, second, webhook)} == {"sonic-instance"}
    assert {one.service["service.instance.id"] for one in (first, second)} <= set(bridge.instances)
    assert told.headers["traceparent"] == f"00-{trace}-{webhook.id}-01", "the receiver can go on with it"
    assert webhook.attributes["http.response.status_code"] == 200
    assert "s3cret" not in repr(spans)


async def test_jobs_are_made_while_the_collector_is_away(bridge: Bridge, collector: Collector) -> None:
    async with gateway_hands(bridge.settings.url, bridge.orders, instance="", **settings(bridge)) as hands:
        fields = {**hands.task(), "workflow": "save_after_failures", "config": {"tally": str(bridge.orders / "away")}}
        header = {"traceparent": f"00-{secrets.token_hex(16)}-00f067aa0ba902b7-01"}
        with collector.away():
            tasks = [(await hands.post(fields, headers=header)).json["task_id"] for _ in range(4)]
            assert [await ended(hands, one) for one in tasks] == ["completed"] * 4
        for name, instance in bridge.instances.items():
            assert f"traces: to {collector.address}/" in instance.log_file.read_text(encoding="utf-8"), name
