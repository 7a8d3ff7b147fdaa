"""A small OTLP/HTTP receiver in a process of its own: keeps the spans that it is sent and gives them as JSON."""

import asyncio
import gzip
import sys
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


def value(found: Any) -> Any:
    kind = found.WhichOneof("value")
    return [value(one) for one in found.array_value.values] if kind == "array_value" else getattr(found, kind)


def table(attributes: Any) -> dict[str, Any]:
    return {one.key: value(one.value) for one in attributes}


def shown(span: Any, service: str, scope: str) -> dict[str, Any]:
    """One span, with ids in hex and enumerations by name."""
    return {
        "service": service,
        "scope": scope,
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_span_id": span.parent_span_id.hex() or None,
        "name": span.name,
        "kind": Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        "start_ns": span.start_time_unix_nano,
        "end_ns": span.end_time_unix_nano,
        "attributes": table(span.attributes),
        "status": Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        "message": span.status.message,
        "events": [[event.name, event.time_unix_nano, table(event.attributes)] for event in span.events],
        "links": [link.span_id.hex() for link in span.links],
    }


class Receiver:
    """Answers with `status` after `delay_s` seconds, and keeps what it accepts."""

    def __init__(self, status: int, delay_s: float) -> None:
        self._status = status
        self._delay_s = delay_s
        self._spans: list[dict[str, Any]] = []
        self._seen: list[dict[str, str]] = []

    async def take(self, request: web.Request) -> web.Response:
        self._seen.append({name.lower(): text for name, text in request.headers.items()})
        body = await request.read()
        await asyncio.sleep(self._delay_s)
        if self._status != 200:
            return web.Response(status=self._status)
        zipped = body[:2] == b"\x1f\x8b"
        sent = ExportTraceServiceRequest.FromString(gzip.decompress(body) if zipped else body)
        for resource in sent.resource_spans:
            service = str(table(resource.resource.attributes)["service.name"])
            for scope in resource.scope_spans:
                self._spans += [shown(span, service, scope.scope.name) for span in scope.spans]
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )

    async def tell(self, _: web.Request) -> web.Response:
        return web.json_response({"spans": self._spans, "headers": self._seen})


async def serve(status: int, delay_s: float) -> None:
    receiver = Receiver(status, delay_s)
    app = web.Application(client_max_size=64 * 1024**2)
    app.add_routes([web.post("/v1/traces", receiver.take), web.get("/seen", receiver.tell)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
