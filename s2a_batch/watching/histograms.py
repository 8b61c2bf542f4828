"""Durations and tokens of a run's requests as OpenTelemetry's histograms, by the GenAI semantic conventions.

Knows opentelemetry, of which nothing global is used. Invariants: a request is counted once; the number of series has a
bound, whatever names a server thinks up for its models.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

Value = str | int | float | bool | tuple[str, ...]
_MOST_SERIES: Final = 256
_DURATION: Final = "gen_ai.client.operation.duration"
_USAGE: Final = "gen_ai.client.token.usage"
_METRICS: Final = ((_DURATION, "GenAI operation duration.", "s"), (_USAGE, "Input and output tokens used.", "{token}"))
# The bounds that the conventions name.
_SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS: Final = tuple(float(4**n) for n in range(14))


class Histograms:
    """Counts requests.

    Args:
        job: The job's name.
        resource: Who counts.
        scope: By which package.
    """

    def __init__(self, job: str, resource: Resource, scope: InstrumentationScope) -> None:
        self._job = job
        self._resource = resource
        self._scope = scope
        self._began = time.time_ns()
        self._series: dict[tuple[str, tuple[tuple[str, Value], ...]], _Series] = {}

    def count(self, attributes: dict[str, Value], attempt: dict[str, Any]) -> None:
        """Count one request of a result line; the attributes are those of its endpoint and models."""
        labels = attributes | {"s2a.job": self._job}
        if len(self._series) >= _MOST_SERIES:
            labels.pop("gen_ai.response.model", None)
        usage = attempt["usage"] or {}
        for kind in ("input", "output"):
            if (tokens := usage.get(f"{kind}_tokens")) is not None:
                self._of(_USAGE, labels | {"gen_ai.token.type": kind}, _TOKENS).add(tokens)
        if attempt["error"] is not None:
            labels["error.type"] = attempt["error"]["kind"]
        self._of(_DURATION, labels, _SECONDS).add(attempt["seconds"])

    def encoded(self) -> bytes:
        """All so far, as the body of a request to /v1/metrics."""
        now = time.time_ns()
        points: dict[str, list[HistogramDataPoint]] = {}
        for (name, attributes), series in self._series.items():
            points.setdefault(name, []).append(series.point(dict(attributes), self._began, now))
        metrics = [
            Metric(name, text, unit, Histogram(points[name], AggregationTemporality.CUMULATIVE))
            for name, text, unit in _METRICS
            if name in points
        ]
        data = MetricsData([ResourceMetrics(self._resource, [ScopeMetrics(self._scope, metrics, "")], "")])
        return bytes(encode_metrics(data).SerializeToString())

    def _of(self, name: str, labels: dict[str, Value], bounds: tuple[float, ...]) -> _Series:
        key = (name, tuple(labels.items()))
        if (found := self._series.get(key)) is None:
            found = self._series[key] = _Series(bounds, [0] * (len(bounds) + 1))
        return found


@dataclass(slots=True)
class _Series:
    """One histogram; a bucket holds what is at most its bound."""

    bounds: tuple[float, ...]
    buckets: list[int]
    values: int = 0
    sum: float = 0.0
    least: float = float("inf")
    most: float = float("-inf")

    def add(self, value: float) -> None:
        self.values += 1
        self.sum += value
        self.least, self.most = min(self.least, value), max(self.most, value)
        self.buckets[bisect_left(self.bounds, value)] += 1

    def point(self, attributes: dict[str, Value], began: int, now: int) -> HistogramDataPoint:
        return HistogramDataPoint(
            attributes, began, now, self.values, self.sum, tuple(self.buckets), self.bounds, self.least, self.most
        )
