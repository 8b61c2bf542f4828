"""The benches' arithmetic and tables: pure functions over what was measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Run:
    """One client's run, as its parent and the upstream saw it.

    Attributes:
        answered: Rows with the right answer in the output.
        cpu_s: Of the whole process and what it waited for, start-up included.
        start_s: From the start of the process to its first request; None when none came.
        span_s: From the first request to the last reply, as the upstream saw them.
        served: Requests that got a good reply; `refused` those that got a 429.
        upstream_cpu_s: What the upstream itself used.
        queued_s: How long the client was ready to run and others had its core.
        problem: Why it is no result; empty when it is one.
    """

    client: str
    rows: int
    answered: int = 0
    cpu_s: float = 0.0
    peak_rss_kib: int = 0
    start_s: float | None = None
    span_s: float = 0.0
    served: int = 0
    refused: int = 0
    violations: int = 0
    max_in_flight: int = 0
    upstream_cpu_s: float = 0.0
    queued_s: float = 0.0
    problem: str = ""
    windows: dict[str, dict[str, float]] = field(default_factory=dict)


def said(run: Run) -> str:
    """A run in a few words, to watch a bench by."""
    busy = f", waited {run.queued_s:.1f} s for its core" if run.queued_s > run.span_s / 20 else ""
    return run.problem or f"{run.span_s:.1f} s{busy}, CPU {run.cpu_s:.1f} s"


def cpu_ms_a_row(full: Run, few: Run) -> float:
    """CPU of one more row: the difference of two runs, so that start-up does not count."""
    return 1000 * (full.cpu_s - few.cpu_s) / (full.rows - few.rows)


def start_cpu_s(full: Run, few: Run) -> float:
    """CPU before the first row: what is left of the short run without its rows."""
    return few.cpu_s - few.rows * cpu_ms_a_row(full, few) / 1000


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """How many times ours theirs is: the median over the rounds, each against its own round."""
    return median(their / our for their, our in zip(theirs, ours, strict=True))


def share_of_ideal(run: Run, latency_s: float, open_requests: int) -> float:
    """How near a run came to the time that two requests a row take when all slots are always in use."""
    return run.answered * 2 * latency_s / open_requests / run.span_s


def share_of_allowed(run: Run, per_minute: float) -> float:
    """How much of what the limit allowed in its time went into answered rows, two requests each."""
    return run.answered * 2 / (per_minute / 60 * run.span_s)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is also readable as it stands; numbers to the right."""
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]) + " |"

    rule = "| " + " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]) + " |"
    return "\n".join([line(head), rule, *map(line, rows)])
