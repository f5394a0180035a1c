"""Spans for OpenTelemetry, where its extra is installed and a collector is named; else the context is only passed on.

The only file that knows OpenTelemetry. It leaves the process's own tracer provider alone, as other node packs may have
set one. Spans are sent by a thread out of a queue of fixed length: nobody waits for a collector, and what there is no
room for is dropped.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, cast

from .config import Settings
from .job import valid_traceparent
from .web_address import safe_address

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Span as OpenTelemetrySpan

log = logging.getLogger("sonic.tracing")

VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")  # the first one there counts
SERVICE = "OTEL_SERVICE_NAME"
EXPORTER_LOG = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
SDK = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
QUEUED_MAX, AT_ONCE_MAX = 2048, 512  # spans, of some two KB each
SEND_S, CLOSE_S = 5.0, 2.0

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Attributes = Mapping[str, str | int | float | bool]
PARENT_VARIABLE = "TRACEPARENT"  # by which the commands of a script belong to its trace, as OpenTelemetry has it


class Span(Protocol):
    """Something that takes time. traceparent: its place in its trace, for whoever goes on with it; '' for none."""

    @property
    def traceparent(self) -> str: ...

    def end(self, failed: str = "", attributes: Attributes | None = None, at_s: float | None = None) -> None:
        """It is over. failed: the kind of failure, '' for none. at_s: when, in seconds since 1970; now by default."""


class Tracing(Protocol):
    """Where spans go. is_on: whether they go anywhere."""

    is_on: bool

    def start(
        self,
        name: str,
        parent: str = "",
        kind: Kind = "internal",
        attributes: Attributes | None = None,
        at_s: float | None = None,
    ) -> Span:
        """A span below ``parent`` (a traceparent), or of a new trace. at_s: when it began; now by default."""

    def close(self) -> None:
        """Send what is left, within two seconds."""


class PassedOn:
    """The span of those who make none: whoever goes on does so below its parent."""

    def __init__(self, parent: str) -> None:
        self.traceparent = valid_traceparent(parent)

    def end(self, failed: str = "", attributes: Attributes | None = None, at_s: float | None = None) -> None:
        pass


class NoTracing:
    """Makes no spans."""

    is_on = False

    def start(
        self,
        name: str,
        parent: str = "",
        kind: Kind = "internal",
        attributes: Attributes | None = None,
        at_s: float | None = None,
    ) -> Span:
        return PassedOn(parent)

    def close(self) -> None:
        pass


def tracing_for(
    settings: Settings, service: str, instance: str = "", environment: Mapping[str, str] | None = None
) -> Tracing:
    """Tracing as the settings, else OpenTelemetry's own variables, say; a line in the log tells which.

    service, instance: what this process is called, unless these variables name it.
    """
    environment = os.environ if environment is None else environment
    endpoint = settings.tracing_endpoint or next((environment[name] for name in VARIABLES if environment.get(name)), "")
    disabled = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not endpoint or disabled or environment.get("OTEL_TRACES_EXPORTER", "") == "none":
        log.info("traces: off")
        return NoTracing()
    if not all(map(_is_installed, SDK)):
        log.warning(
            "traces: off, though %s is to get them: OpenTelemetry is not installed here; "
            "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http",
            safe_address(endpoint),
        )
        return NoTracing()
    named = SERVICE in environment or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    names = {} if named else {"service.name": service}
    names |= {"service.instance.id": instance} if instance else {}
    found = OpenTelemetryTracing(settings.tracing_endpoint, safe_address(endpoint), names)
    log.info("traces: to %s", safe_address(endpoint))
    return found


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even what it is below
        return False


class OpenTelemetryTracing:
    """Sends spans to a collector. endpoint: '' for what OpenTelemetry's variables say; shown: the same for people."""

    is_on = True

    def __init__(self, endpoint: str, shown: str, names: Mapping[str, str]) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None)
        # At the end of the process a provider would wait for its collector for half a minute.
        self._provider = TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)
        delay_ms = float(os.environ.get("OTEL_BSP_SCHEDULE_DELAY") or SEND_S * 1000)
        processor = BatchSpanProcessor(
            cast("SpanExporter", _Exporter(exporter, shown)),
            QUEUED_MAX,
            schedule_delay_millis=delay_ms,
            max_export_batch_size=AT_ONCE_MAX,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("sonic-queue")
        self._closing = threading.Event()
        # Started now, as an ending interpreter starts no thread any more.
        self._closer = threading.Thread(target=_close_after, args=(self._closing, self._provider), daemon=True)
        self._closer.start()

    def start(
        self,
        name: str,
        parent: str = "",
        kind: Kind = "internal",
        attributes: Attributes | None = None,
        at_s: float | None = None,
    ) -> Span:
        from opentelemetry.trace import SpanKind

        began_ns = None if at_s is None else round(at_s * 1e9)
        kind_here = SpanKind[kind.upper()]
        return _Span(self._tracer.start_span(name, _context_of(parent), kind_here, attributes, start_time=began_ns))

    def close(self) -> None:
        self._closing.set()
        self._closer.join(CLOSE_S)


class _Span:
    def __init__(self, span: OpenTelemetrySpan) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def end(self, failed: str = "", attributes: Attributes | None = None, at_s: float | None = None) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attributes(attributes or {})
        if failed:
            self._span.set_attribute("error.type", failed)
            self._span.set_status(Status(StatusCode.ERROR, failed))
        self._span.end(None if at_s is None else round(at_s * 1e9))


def _close_after(closing: threading.Event, provider: TracerProvider) -> None:
    closing.wait()
    provider.shutdown()


def _context_of(parent: str) -> Context:
    """An empty context, or one with this parent; never that of other code in this process."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    valid = valid_traceparent(parent)
    if not valid:
        return Context()
    _, trace_id, span_id, flags = valid.split("-")
    there = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    return set_span_in_context(NonRecordingSpan(there), Context())


class _Exporter:
    """Sends by another exporter, and says once that its collector is away, and once that it is back."""

    def __init__(self, exporter: SpanExporter, shown: str) -> None:
        self._exporter = exporter
        self._shown = shown
        self._is_away = False
        self._mine = threading.local()
        logging.getLogger(EXPORTER_LOG).addFilter(self._is_not_mine)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        from opentelemetry.sdk.trace.export import SpanExportResult

        with self._said_by_us():
            result = self._exporter.export(spans)
        is_away = result is not SpanExportResult.SUCCESS
        if is_away and not self._is_away:
            log.warning("traces: %s does not take them; they are dropped until it does", self._shown)
        elif self._is_away and not is_away:
            log.info("traces: %s takes them again", self._shown)
        self._is_away = is_away
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
        logging.getLogger(EXPORTER_LOG).removeFilter(self._is_not_mine)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True

    @contextlib.contextmanager
    def _said_by_us(self) -> Iterator[None]:
        """What the exporter logs at every try meanwhile is ours to say."""
        self._mine.is_busy = True
        try:
            yield
        finally:
            self._mine.is_busy = False

    def _is_not_mine(self, record: logging.LogRecord) -> bool:
        return not getattr(self._mine, "is_busy", False)
