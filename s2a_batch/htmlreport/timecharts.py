"""The run over time as charts: records, latencies, waits and faults, on one axis that leaves out the pauses.

Pure functions of a reading. Invariant: nothing is drawn where nothing was measured; a pause is marked as a break.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal

from s2a_batch.htmlreport import htmltext
from s2a_batch.htmlreport.charts import WIDE, Frame, figure, legend, px, ticks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from s2a_batch.htmlreport.readings import BinReading, CourseReading

_LEAST_GAP: Final = 4
_GAP_SHARE: Final = 0.08
_BREAK: Final = 2.0
_LABELS: Final = 60
_DAY_S: Final = 86_400
_MINUTE_S: Final = 60
Ending = Literal["answered", "rewritten", "failed"]
Event = Literal["rate_limited", "errors", "outage"]
_ENDINGS: Final[tuple[Ending, ...]] = ("answered", "rewritten", "failed")
_EVENTS: Final[tuple[tuple[Event, str], ...]] = (
    ("rate_limited", "told to wait"),
    ("errors", "other errors"),
    ("outage", "outage"),
)
_ROW_PX: Final = 16
_TOUCHING: Final = 0.01


@dataclass(frozen=True, slots=True)
class Axis:
    """Time from left to right, in bins; a long time without events takes the room of two.

    Attributes:
        places: Where each bin begins.
        breaks: Where something was left out.
        width_s: Of a bin.
    """

    bins: Sequence[BinReading]
    places: list[float]
    breaks: list[float]
    width_s: int

    @property
    def units(self) -> float:
        """How many bins wide it is."""
        return self.places[-1] + 1 if self.places else 1

    def frame(self, width: int, height: int, high: float) -> Frame:
        """The room of a drawing over this axis."""
        return Frame(width, height, self.units, high)

    def foot(self, frame: Frame) -> str:
        """Times below the drawing, and its breaks."""
        rows = [
            f'<line class="break" x1="{px(frame.x(place))}" x2="{px(frame.x(place))}" y1="12" y2="{px(frame.foot)}"/>'
            for place in self.breaks
        ]
        step = max(1, len(self.bins) // (10 if frame.width == WIDE else 4))
        shown = [(place, self.clock(found["at"])) for place, found in zip(self.places, self.bins, strict=True)]
        return "".join(rows) + frame.below(shown[::step])

    def clock(self, at: int) -> str:
        """A moment, as finely as the axis needs it."""
        span = self.bins[-1]["at"] - self.bins[0]["at"]
        form = ("" if span < _DAY_S else "%d %b ") + ("%H:%M:%S" if self.width_s < _MINUTE_S else "%H:%M")
        return datetime.fromtimestamp(at, UTC).strftime(form)


def axis_of(course: CourseReading) -> Axis:
    """The axis on which all charts over time are drawn."""
    bins, width_s = course["bins"], course["width_s"]
    longest = max(_LEAST_GAP, _GAP_SHARE * len(bins))
    places, breaks = [0.0] if bins else [], []
    for before, after in pairwise(bins):
        apart = (after["at"] - before["at"]) / width_s
        if apart - 1 > longest:
            breaks.append(places[-1] + 1 + (_BREAK - 1) / 2)
            apart = _BREAK
        places.append(places[-1] + apart)
    return Axis(bins, places, breaks, width_s)


def charts(course: CourseReading, stages: Sequence[str]) -> str:
    """All charts over time; none without a request."""
    axis = axis_of(course)
    if not axis.bins:
        return ""
    latencies = "".join(_latency(axis, stage) for stage in stages)
    return _records(axis) + latencies + _waits(axis)


def _records(axis: Axis) -> str:
    shown = [kind for kind in _ENDINGS if any(found[kind] for found in axis.bins)]
    factor = _MINUTE_S / axis.width_s
    sums = [found["answered"] + found["rewritten"] + found["failed"] for found in axis.bins]

    def draw(width: int) -> tuple[int, str]:
        scale = ticks(max(sums) * factor)
        height = 220 if width == WIDE else 190
        frame = axis.frame(width, height, scale[-1])
        parts = [frame.grid(scale, htmltext.short)]
        for place, found in zip(axis.places, axis.bins, strict=True):
            low = 0
            for kind in shown:
                n = found[kind]
                told = f"{axis.clock(found['at'])}: {n} {kind}"
                parts += [frame.column(place, (low * factor, (low + n) * factor), f"fill {kind}", told)] if n else []
                low += n
        return height, "".join(parts) + axis.foot(frame)

    most = htmltext.count(max(sums) * factor)
    told = f"Each column is {_span(axis.width_s)}; at best {most} records a minute. Times are UTC."
    rows = [[axis.clock(b["at"]), *(htmltext.count(b[k]) for k in shown)] for b in _thinned(axis)]
    numbers = htmltext.table(["from", *shown], rows, caption="Records brought to their end, by time")
    key = legend((f"fill {kind}", kind) for kind in shown)
    return figure("throughput", "Records a minute", told, draw, numbers).replace("</h3>", "</h3>" + key, 1)


def _latency(axis: Axis, stage: str) -> str:
    found = [b["latency_s"].get(stage) for b in axis.bins]
    known = [pair for pair in found if pair is not None]
    if not known:
        return ""

    def draw(width: int) -> tuple[int, str]:
        scale = ticks(max(p99 for _, _, p99 in known))
        height = 190 if width == WIDE else 170
        frame = axis.frame(width, height, scale[-1])
        places = [(place, found_) for place, found_ in zip(axis.places, found, strict=True) if found_ is not None]
        band = "".join(_box(frame, place, *p[:2]) for place, p in places)
        median, rare = (_steps(frame, [(place, p[n]) for place, p in places]) for n in (0, 2))
        parts = f'<path class="soft {stage}" d="{band}"/><path class="thin {stage}" d="{rare}"/>'
        parts += f'<path class="line {stage}" d="{median}"/>'
        return height, frame.grid(scale, lambda v: f"{v:g} s") + parts + axis.foot(frame)

    told = "The line is the median, the band goes up to the 95th percentile, the thin line is the 99th."
    rows = [
        [axis.clock(b["at"]), *(htmltext.seconds(v) for v in b["latency_s"][stage])]
        for b in _thinned(axis)
        if stage in b["latency_s"]
    ]
    numbers = htmltext.table(["from", "p50", "p95", "p99"], rows, caption=f"Latency of the {stage} stage, by time")
    return figure(f"latency-{stage}", f"Latency: {stage}", told, draw, numbers)


def _box(frame: Frame, place: float, low: float, high: float) -> str:
    left, right, foot, top = (px(v) for v in (frame.x(place), frame.x(place + 1), frame.y(low), frame.y(high)))
    return f"M{left} {foot}V{top}H{right}V{foot}z"


def _steps(frame: Frame, values: Sequence[tuple[float, float]]) -> str:
    """A line of steps, one bin wide each, interrupted where bins are missing."""
    parts, before = [], None
    for place, value in values:
        joined = before is not None and abs(place - before - 1) < _TOUCHING
        start = f"V{px(frame.y(value))}" if joined else f"M{px(frame.x(place))} {px(frame.y(value))}"
        parts.append(f"{start}H{px(frame.x(place + 1))}")
        before = place
    return "".join(parts)


def _waits(axis: Axis) -> str:
    waits = [b["waited_mean_s"] or 0.0 for b in axis.bins]
    events = [(name, told) for name, told in _EVENTS if any(b[name] for b in axis.bins)]

    def draw(width: int) -> tuple[int, str]:
        scale = ticks(max(waits) or 1.0)
        upper = 180 if width == WIDE else 160
        frame = axis.frame(width, upper, scale[-1])
        parts = [frame.grid(scale, lambda v: f"{v:g} s")]
        for place, found, wait in zip(axis.places, axis.bins, waits, strict=True):
            if wait:
                told = f"{axis.clock(found['at'])}: {htmltext.seconds(wait)}"
                parts.append(frame.column(place, (0, wait), "fill wait", told))
        strips = "".join(_strip(axis, frame, upper + n * _ROW_PX * 2, *event) for n, event in enumerate(events))
        return upper + len(events) * _ROW_PX * 2, "".join(parts) + axis.foot(frame) + strips

    told = "How long a request waited before it was sent, on average: for limits, for others' requests, for a backoff."
    if events:
        told += " Below: when requests were refused or failed; darker is more."
    rows = [
        [axis.clock(b["at"]), htmltext.seconds(b["waited_mean_s"]), *(str(b[name]) for name, _ in events)]
        for b in _thinned(axis)
    ]
    heads = ["from", "mean wait", *(told for _, told in events)]
    return figure("waiting", "Waiting, refusals, outages", told, draw, htmltext.table(heads, rows, caption="By time"))


def _strip(axis: Axis, frame: Frame, top: int, name: Event, told: str) -> str:
    """One row of marks: when something happened, and how often."""
    most = max(b[name] for b in axis.bins)
    parts = [f'<text class="tick" x="{px(frame.x(0))}" y="{top + 11}">{told}</text>']
    y = top + _ROW_PX
    for place, found in zip(axis.places, axis.bins, strict=True):
        n = found[name]
        if n:
            x, end = frame.x(place), frame.x(place + 1)
            shade = 0.35 + 0.65 * n / most
            parts.append(
                f'<rect class="fill {name}" x="{px(x)}" y="{y}" width="{px(max(end - x, 2))}" height="9" '
                f'fill-opacity="{shade:.2f}"><title>{axis.clock(found["at"])}: {n}</title></rect>'
            )
    line = f'<line class="rule" x1="{px(frame.x(0))}" x2="{frame.right}" y1="{y + 11}" y2="{y + 11}"/>'
    return line + "".join(parts)


def _thinned(axis: Axis) -> Iterator[BinReading]:
    """The bins that a table shows: all, or evenly some."""
    step = -(-len(axis.bins) // _LABELS)
    return (found for n, found in enumerate(axis.bins) if n % step == 0)


def _span(seconds: int) -> str:
    return f"{seconds} s" if seconds < 2 * _MINUTE_S else htmltext.seconds(seconds)
