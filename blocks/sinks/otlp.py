"""Spans over the wire: OTLP/HTTP, through the OpenTelemetry SDK's exporter."""

import logging
from collections.abc import Mapping, Sequence
from typing import final
from urllib.parse import urlsplit, urlunsplit

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from pydantic import JsonValue

from swarmc.contracts.graphs import TraceSpan

TIMEOUT_S = 5.0
_TRACES_PATH = "/v1/traces"
_MOST_INT = 2**63 - 1
_MOST_NS = 2**64 - 1
_SCOPE = InstrumentationScope("swarmc")
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


@final
class OtlpReceiver:
    """A collector, or a backend that speaks OTLP/HTTP.

    Args:
        endpoint: Its address; `/v1/traces` is added to one without a path.
        headers: Sent with every request, such as `Authorization`.
        service_name: What the receiver is to call us.
    """

    def __init__(self, endpoint: str, headers: Mapping[str, str], service_name: str) -> None:
        self._exporter = exporter(endpoint, headers)
        self._resource = resource(service_name)

    def export(self, spans: Sequence[TraceSpan]) -> bool:
        """Whether the receiver took them, tried again for `TIMEOUT_S` seconds where it was busy."""
        ready = [readable(span, self._resource) for span in spans]
        return self._exporter.export(ready) is SpanExportResult.SUCCESS

    def close(self) -> None:
        """Send nothing more."""
        self._exporter.shutdown()


def exporter(endpoint: str, headers: Mapping[str, str]) -> OTLPSpanExporter:
    """The SDK's exporter to an endpoint."""
    # It tells of every batch that fails, for hours; the sink tells once, and counts.
    logging.getLogger(OTLPSpanExporter.__module__).setLevel(logging.CRITICAL)
    parts = urlsplit(endpoint)
    path = parts.path if parts.path.strip("/") else _TRACES_PATH
    return OTLPSpanExporter(
        endpoint=urlunsplit(parts._replace(path=path)),
        headers=dict(headers),
        timeout=TIMEOUT_S,
        compression=Compression.Gzip,
    )


def resource(service_name: str) -> Resource:
    """Who we are, with what `OTEL_RESOURCE_ATTRIBUTES` adds."""
    return Resource.create({SERVICE_NAME: service_name})


def readable(span: TraceSpan, of: Resource) -> ReadableSpan:
    """The span as the SDK's exporters take it, with its own ids and times."""
    trace_id = int(span.trace_id, 16)
    return ReadableSpan(
        name=span.name,
        context=_context(trace_id, span.span_id),
        parent=_context(trace_id, span.parent_span_id) if span.parent_span_id else None,
        resource=of,
        attributes=_attributes(span.attributes),
        events=[Event(one.name, _attributes(one.attributes), _ns(one.time_unix_nano)) for one in span.events],
        links=[Link(_context(int(link.trace_id, 16), link.span_id)) for link in span.links],
        kind=SpanKind[span.kind],
        status=Status(StatusCode[span.status.code], span.status.message or None),
        start_time=_ns(span.start_time_unix_nano),
        end_time=_ns(span.end_time_unix_nano),
        instrumentation_scope=_SCOPE,
    )


def _context(trace_id: int, span_id: str) -> SpanContext:
    return SpanContext(trace_id, int(span_id, 16), is_remote=False, trace_flags=_SAMPLED)


def _attributes(attributes: Mapping[str, JsonValue]) -> dict[str, str | bool | int | float]:
    """One number or text that the wire cannot hold would cost its whole batch."""
    return {name: _fit(value) for name, value in attributes.items()}


def _fit(value: JsonValue) -> str | bool | int | float:
    if isinstance(value, str | bool | float):
        return value
    return value if isinstance(value, int) and -_MOST_INT <= value <= _MOST_INT else str(value)


def _ns(unix_ns: int) -> int:
    return min(max(unix_ns, 0), _MOST_NS)
