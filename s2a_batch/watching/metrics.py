"""A run's counts as Prometheus' metrics.

Knows prometheus_client. Invariants: all labels but the job's name come from closed sets; what is not known has no
sample, never 0; a counter counts this execution, and begins at 0 with the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, get_args

import anyio
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from s2a_batch import __version__
from s2a_batch.errors import FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client.metrics_core import Metric

    from s2a_batch.live import Live
    from s2a_batch.records import Usage
    from s2a_batch.report import StageTally, Tally

PREFIX: Final = "s2a_batch_"
_Rows: TypeAlias = "Iterable[tuple[tuple[str, ...], float | None]]"


@dataclass(frozen=True, slots=True)
class Last:
    """How executions ended up to now; times are Unix seconds, None is not known.

    Attributes:
        success: When the last one ended that answered all.
        end: When the last one ended, however.
        status: Its exit status.
    """

    success: float | None = None
    end: float | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class State:
    """How the run stands apart from its counts."""

    running: bool = False
    seconds: float = 0.0
    cap: int | None = None
    rate_limited: bool = False
    down: bool = False
    paused: bool = False
    draining: bool = False

    @classmethod
    def of(cls, live: Live) -> State:
        """Of a run that goes on; only on its event loop."""
        now = anyio.current_time()
        return cls(
            running=True,
            seconds=now - live.started,
            cap=sum(limiter.cap for limiter in live.limiters) if live.limiters else None,
            rate_limited=any(limiter.paused_until > now and not limiter.down for limiter in live.limiters),
            down=any(limiter.down for limiter in live.limiters),
            paused=live.held_at is not None,
            draining=live.stopping is not None,
        )


def families(job: str, tally: Tally, state: State, started: float, last: Last) -> list[Metric]:
    """All metrics of a job's execution.

    Args:
        job: Its name, a label of all.
        tally: Its counts.
        state: How it stands.
        started: When it began, in Unix seconds.
        last: How it and those before it ended.
    """
    found = _Families(job)
    _add_records(found, tally)
    _add_stages(found, {"rewrite": tally.rewrite, "answer": tally.answer})
    found.gauge("running", "1 while the run goes.", state.running)
    found.gauge("open_requests_limit", "Most requests that may be open.", state.cap)
    found.gauge("rate_limit_pause", "1 while an account asks to wait.", state.rate_limited)
    found.gauge("endpoint_down", "1 while an endpoint is down for everyone.", state.down)
    found.gauge("paused", "1 while a person has it paused.", state.paused)
    found.gauge("draining", "1 while open requests finish and no new ones start.", state.draining)
    found.gauge("start_timestamp_seconds", "When this execution began.", started)
    found.gauge("duration_seconds", "How long it goes or went on.", state.seconds)
    found.gauge("last_success_timestamp_seconds", "When the last one ended that answered all.", last.success)
    found.gauge("last_end_timestamp_seconds", "When the last one ended, however.", last.end)
    found.gauge("last_exit_status", "Its exit status.", last.status)
    found.add(GaugeMetricFamily, "build_info", "The version that runs; always 1.", ("version",), [((__version__,), 1)])
    return found.metrics


class _Families:
    """Metrics of one job, in the order they were added; what has no sample is left out."""

    def __init__(self, job: str) -> None:
        self.metrics: list[Metric] = []
        self._job = job

    def gauge(self, name: str, text: str, value: float | None) -> None:
        self.add(GaugeMetricFamily, name, text, (), [((), value)])

    def counter(self, name: str, text: str, rows: _Rows, *labels: str) -> None:
        self.add(CounterMetricFamily, name, text, labels, rows)

    def add(
        self,
        kind: type[CounterMetricFamily | GaugeMetricFamily],
        name: str,
        text: str,
        labels: tuple[str, ...],
        rows: _Rows,
    ) -> None:
        family = kind(PREFIX + name, text, labels=("job", *labels))
        for values, value in rows:
            if value is not None:
                family.add_metric((self._job, *values), value)
        if family.samples:
            self.metrics.append(family)


def _add_records(found: _Families, tally: Tally) -> None:
    ends = [(("answered",), tally.answered), (("failed",), tally.failed), (("rewritten",), tally.rewritten)]
    found.counter("records", "Records that came to their end.", ends, "status")
    kinds = get_args(FailureKind)
    found.counter("failures", "Failed records by reason.", (((k,), tally.kinds.get(k, 0)) for k in kinds), "kind")
    found.counter("input_lines", "Non-blank input lines read.", [((), tally.lines)])
    found.gauge("records_done_before", "Records read that an earlier execution brought to their end.", tally.skipped)
    found.gauge("records_failed_before", "Of these: dead letters.", tally.failed_before)
    found.gauge("records_left", "About how many records are left to this execution.", tally.left())


def _add_stages(found: _Families, stages: Mapping[str, StageTally]) -> None:
    def counted(name: str, text: str, count: Callable[[StageTally], float | None]) -> None:
        found.counter(name, text, (((n,), count(stage)) for n, stage in stages.items()), "stage")

    counted("requests", "HTTP requests.", lambda s: s.requests)
    counted("request_seconds", "How long they were open, added up.", lambda s: s.seconds)
    counted("waiting_seconds", "How long they waited for limits and backoff, added up.", lambda s: s.waited_s)
    counted("retries", "Requests that followed a fault.", lambda s: s.retries)
    counted("rate_limited", "Requests refused with 429.", lambda s: s.rate_limited)
    counted("reasks", "Requests that told the model what was wrong.", lambda s: s.reasks)
    counted("cost_usd", "Cost in US dollars; none where it is not known.", lambda s: s.cost_usd if s.requests else 0)
    tokens = [((n, d), count or 0) for n, s in stages.items() for d, count in _directions(s.usage)]
    found.counter("tokens", "Tokens, as far as the server tells them.", tokens, "stage", "direction")
    opened = (((n,), s.open) for n, s in stages.items())
    found.add(GaugeMetricFamily, "open_requests", "Requests that are open.", ("stage",), opened)
    waiting = (((n,), s.waiting) for n, s in stages.items())
    found.add(GaugeMetricFamily, "waiting_requests", "Requests that wait their turn.", ("stage",), waiting)


def _directions(usage: Usage) -> tuple[tuple[str, int | None], ...]:
    return ("input", usage.input_tokens), ("output", usage.output_tokens)
