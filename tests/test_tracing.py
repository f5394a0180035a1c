"""Traces go to a real collector, cost nobody time, and are passed on where none are made."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import sys
import time
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.cli import main
from comfyui_sonic.queue_bridge.config import Settings, load_settings
from comfyui_sonic.queue_bridge.errors import ConfigError
from comfyui_sonic.queue_bridge.job import new_job_id, valid_traceparent
from comfyui_sonic.queue_bridge.tracing import Tracing, tracing_for

from .collector import Collector
from .gateway_fixture import gateway_hands

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry is not installed.")
LOG = "sonic.tracing"


def trace_of_its_own() -> tuple[str, str]:
    """The id of a new trace, and a traceparent in it."""
    trace = new_job_id().encode().hex()[-32:]
    return trace, f"00-{trace}-00f067aa0ba902b7-01"


@pytest.fixture
def soon(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Collector:
    """The collector, for this process as well."""
    for name, value in collector.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.3")
    return collector


@pytest.fixture
def tracing(soon: Collector) -> Tracing:
    return tracing_for(Settings(), "test", "here")


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", True),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", True),
        ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", False),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", False),
        ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", False),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", False),
        ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", False),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n", False),
        ("", False),
    ],
)
def test_a_traceparent_is_passed_on_or_nothing_is(text: str, valid: bool) -> None:
    assert valid_traceparent(text) == (text if valid else "")


def test_a_later_version_is_read_as_what_is_known_of_it() -> None:
    known = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert valid_traceparent(f"01-{known}-more") == f"00-{known}"


def test_without_a_collector_nothing_is_made_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, traceparent = trace_of_its_own()
    with caplog.at_level(logging.INFO, LOG):
        off = tracing_for(Settings(), "test", environment={})
    assert [one.message for one in caplog.records] == ["traces: off"]
    assert not off.is_on
    assert off.start("anything", traceparent).traceparent == traceparent
    assert off.start("anything", "nonsense").traceparent == ""


def test_a_collector_without_opentelemetry_is_a_warning_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in [one for one in sys.modules if one.startswith("opentelemetry.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    settings = Settings(tracing_endpoint="http://me:secret@collector.example:4318")
    assert not tracing_for(settings, "test", environment={}).is_on
    (said,) = caplog.records
    assert said.levelno == logging.WARNING
    assert "pip install opentelemetry-sdk" in said.message
    assert "secret" not in said.message


def test_a_collectors_address_is_checked() -> None:
    with pytest.raises(ConfigError, match="TRACING_ENDPOINT: is no address such as"):
        load_settings({"SONIC_QUEUE_TRACING_ENDPOINT": "collector:4318"})


def test_spans_arrive_with_their_names_and_places(soon: Collector, caplog: pytest.LogCaptureFixture) -> None:
    from opentelemetry import trace

    before = trace.get_tracer_provider()
    with caplog.at_level(logging.INFO, LOG):
        tracing = tracing_for(Settings(tracing_endpoint=soon.address), "test", "here", {})
    assert [one.message for one in caplog.records] == [f"traces: to {soon.address}/"]
    trace_id, traceparent = trace_of_its_own()
    outer = tracing.start("outer", traceparent, "server", {"sonic.attempt": 2})
    tracing.start("inner", outer.traceparent, at_s=1000.0).end("out of memory", at_s=1001.5)
    outer.end()
    inner, outer_there = soon.of_trace(trace_id, 2)
    assert outer_there.parent == traceparent.split("-")[2]
    assert outer_there.attributes == {"sonic.attempt": 2}
    assert (inner.parent, inner.failed, outer_there.failed) == (outer_there.id, True, False)
    assert inner.ended_s - inner.began_s == pytest.approx(1.5)
    assert (inner.service["service.name"], inner.service["service.instance.id"]) == ("test", "here")
    assert trace.get_tracer_provider() is before, "that of the process is not touched"
    tracing.close()


def test_a_trace_that_is_not_recorded_is_passed_on_and_not_sent(soon: Collector, tracing: Tracing) -> None:
    unrecorded, traceparent = trace_of_its_own()
    span = tracing.start("unrecorded", f"{traceparent[:-2]}00")
    span.end()
    recorded, traceparent = trace_of_its_own()
    tracing.start("recorded", traceparent).end()
    assert (span.traceparent.split("-")[1], span.traceparent[-2:]) == (unrecorded, "00")
    soon.of_trace(recorded, 1)
    assert not [one for one in soon.spans if one.trace == unrecorded]
    tracing.close()


def test_a_collector_that_is_away_holds_nobody_up_and_is_told_of_once(
    soon: Collector, tracing: Tracing, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with soon.away():
        began = time.monotonic()
        for _ in range(5000):
            tracing.start("lost").end()
        assert time.monotonic() - began < 2.0
        deadline = time.monotonic() + 10
        while not [one for one in caplog.records if one.name == LOG]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    deadline = time.monotonic() + 10
    while not [one for one in caplog.records if "takes them again" in one.message]:
        tracing.start("found").end()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    said = [one.message for one in caplog.records if one.name == LOG]
    assert said == [
        f"traces: {soon.address}/ does not take them; they are dropped until it does",
        f"traces: {soon.address}/ takes them again",
    ]
    assert not [one for one in caplog.records if "export" in one.name]
    tracing.close()


def test_an_end_waits_two_seconds_at_most_for_a_collector_that_is_away(
    soon: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "30")
    tracing = tracing_for(Settings(), "test")
    with soon.away():
        tracing.start("lost").end()
        began = time.monotonic()
        tracing.close()
        assert time.monotonic() - began < 3.0


@pytest.mark.parametrize("is_on", [False, True])
async def test_the_gateway_takes_the_context_of_a_request_into_its_jobs(
    redis_url: str, tmp_path: Path, soon: Collector, is_on: bool
) -> None:
    trace_id, traceparent = trace_of_its_own()
    tracing = tracing_for(Settings(), "gateway") if is_on else None
    async with gateway_hands(redis_url, tmp_path, tracing=tracing) as hands:
        headers = {"traceparent": traceparent, "Idempotency-Key": "one"}
        first = (await hands.post(headers=headers)).json
        batch = (await hands.post({"tasks": [hands.task()]}, "/v1/batches", headers={"traceparent": traceparent})).json
        _, another = trace_of_its_own()
        again = (await hands.post(headers={**headers, "traceparent": another})).json
        assert (again["task_id"], again["repeated"]) == (first["task_id"], True), "the trace is no part of a request"
        refused = await hands.post({"image": ""}, headers={"traceparent": traceparent})
        assert refused.status == 422
        for task_id in (first["task_id"], batch["task_ids"][0]):
            record = await hands.view.job(task_id)
            assert record
            assert record.spec.traceparent.startswith(f"00-{trace_id}-")
            assert (record.spec.traceparent == traceparent) is not is_on
        job = await hands.complete()
        record = await hands.view.job(job.task_id)
        assert record
        assert record.spec.traceparent == job.spec.traceparent, "also of a job that has ended"
        nothing = await hands.view.job(await hands.submit())
        assert nothing
        assert bool(nothing.spec.traceparent) is is_on
        assert (await hands.post(hands.task(traceparent=traceparent))).status == 422
    if tracing:
        spans = await asyncio.to_thread(soon.of_trace, trace_id, 3)
        assert [(one.name, one.attributes["http.route"]) for one in spans] == [
            ("submit", "/v1/tasks"), ("submit", "/v1/batches"), ("submit", "/v1/tasks")
        ]  # fmt: skip
        assert [one.attributes["http.response.status_code"] for one in spans] == [202, 202, 422]
        assert [one.attributes.get("error.type") for one in spans] == [None, None, "invalid"]
        tracing.close()


@pytest.mark.parametrize("is_on", [False, True])
def test_a_command_in_a_traced_script_belongs_to_its_trace(
    redis_url: str,
    tmp_path: Path,
    soon: Collector,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_on: bool,
) -> None:
    trace_id, traceparent = trace_of_its_own()
    for name in ("a.png", "a.wav"):
        (tmp_path / name).write_bytes(b"not looked into")
    monkeypatch.setenv("TRACEPARENT", traceparent)
    monkeypatch.setenv("SONIC_QUEUE_QUEUE", f"traces-{new_job_id()}")
    if not is_on:
        monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    assert main(["submit", str(tmp_path), "--no-wait", "--json", "--url", redis_url]) == 0
    capsys.readouterr()
    assert main(["list", "--json", "--url", redis_url]) == 0
    (job,) = json.loads(capsys.readouterr().out)
    assert job["traceparent"].split("-")[1] == trace_id
    if is_on:
        (span,) = soon.of_trace(trace_id, 1)
        assert (span.name, span.service["service.name"]) == ("submit", "sonic-submit")
        assert job["traceparent"].split("-")[2] == span.id


def test_a_job_without_a_trace_keeps_nothing_of_one() -> None:
    from comfyui_sonic.queue_bridge.job import JobSpec

    spec = JobSpec("tsk_1", "file:///a.png", "file:///a.wav", "file:///a.mp4")
    assert "traceparent" not in spec.asked()
    _, traceparent = trace_of_its_own()
    assert dataclasses.replace(spec, traceparent=traceparent).asked()["traceparent"] == traceparent
