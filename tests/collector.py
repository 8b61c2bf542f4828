"""An OpenTelemetry collector on loopback that keeps what it is sent, or refuses, or hangs, as a test needs it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint, ResourceMetrics
    from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan

Value = str | int | float | bool | list[str]


@dataclass
class Span:
    """A span as the collector understood it; `children` in the order they began."""

    name: str
    kind: int
    status: int
    start: int
    end: int
    attributes: dict[str, Value]
    ids: tuple[bytes, bytes, bytes]
    children: list[Span] = field(default_factory=list)


class Collector:
    """Listens while the block lasts.

    Args:
        statuses: What the requests for traces get in turn, the last one for ever; 0: no answer at all.

    Attributes:
        bodies: All that came, as path and body.
        headers: Those of each request, in lower case.
    """

    def __init__(self, *statuses: int) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        self.headers: list[dict[str, str]] = []
        self._statuses = list(statuses or (200,))
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                status = 200
                if self.path.endswith("/v1/traces"):
                    status = collector._statuses.pop(0) if len(collector._statuses) > 1 else collector._statuses[0]
                if status == 0:
                    collector._released.wait()
                    return
                if status == 200:
                    collector.bodies.append((self.path, body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def records(self) -> list[Span]:
        """The root spans with all below them, by the line of the input; a span that came twice counts once."""
        found: dict[tuple[bytes, bytes], Span] = {}
        for path, body in self.bodies:
            if path.endswith("/v1/traces"):
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    spans = [span for scope in resource.scope_spans for span in scope.spans]
                    found |= {(span.trace_id, span.span_id): _span(span) for span in spans}
        for span in sorted(found.values(), key=lambda span: (span.start, span.ids[1])):
            if span.ids[2]:
                found[span.ids[0], span.ids[2]].children.append(span)
        roots = [span for span in found.values() if not span.ids[2]]
        return sorted(roots, key=lambda span: int(str(span.attributes["s2a.line"])))

    def points(self, metric: str) -> list[tuple[dict[str, Value], HistogramDataPoint]]:
        """The histogram points of the last request for metrics: attributes and numbers."""
        last = [body for path, body in self.bodies if path.endswith("/v1/metrics")][-1]
        found: Iterable[ResourceMetrics] = ExportMetricsServiceRequest.FromString(last).resource_metrics
        return [
            (_attributes(point.attributes), point)
            for resource in found
            for scope in resource.scope_metrics
            for each in scope.metrics
            if each.name == metric
            for point in each.histogram.data_points
        ]


def _span(span: WireSpan) -> Span:
    return Span(
        span.name,
        span.kind,
        span.status.code,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _attributes(span.attributes),
        (span.trace_id, span.span_id, span.parent_span_id),
    )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Value]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Value:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [each.string_value for each in value.array_value.values]
    found: Value = getattr(value, str(kind))
    return found
