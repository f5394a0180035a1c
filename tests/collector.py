"""A real receiver of traces: OTLP over HTTP, read by OpenTelemetry's own description of it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SEND_MS = 100


@dataclass(frozen=True)
class Received:
    """One span as it arrived. parent: the id of the span above it, or ''. Times in seconds since 1970."""

    name: str
    trace: str
    id: str
    parent: str
    service: dict[str, Any]
    attributes: dict[str, Any]
    began_s: float
    ended_s: float
    failed: bool


@dataclass
class Collector:
    """Listens at ``address``; any GET is answered with a few bytes, so that it may be the place of a job's input."""

    port: int = 0
    spans: list[Received] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """What a process has to know to send its spans here, soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.address, "OTEL_BSP_SCHEDULE_DELAY": str(SEND_MS)}

    def open(self) -> None:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(b"not looked into")

            def do_POST(self) -> None:
                collector.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(b"")

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Nobody listens at the address meanwhile."""
        self.close()
        try:
            yield
        finally:
            self.open()

    def take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        found = _read(body)
        with self._changed:
            self.spans += found
            self._changed.notify_all()

    def of_trace(self, trace: str, count: int, timeout_s: float = 20.0) -> list[Received]:
        """The spans of one trace, as soon as there are so many; not in the event loop."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while len(found := [one for one in self.spans if one.trace == trace]) < count:
                left_s = deadline - time.monotonic()
                assert left_s > 0, f"only {[one.name for one in found]} arrived"
                self._changed.wait(left_s)
        return sorted(found, key=lambda one: one.began_s)


def _read(body: bytes) -> list[Received]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    found = []
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _plain(resource.resource.attributes)
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
            times = (span.start_time_unix_nano / 1e9, span.end_time_unix_nano / 1e9)
            failed = span.status.code == span.status.STATUS_CODE_ERROR
            found.append(Received(span.name, *ids, service, _plain(span.attributes), *times, failed))
    return found


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in attributes}


def run_collector() -> Iterator[Collector]:
    collector = Collector()
    collector.open()
    yield collector
    collector.close()
