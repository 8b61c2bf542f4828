"""Charts as inline SVG, drawn twice: for a desk and for a phone, of which the page shows the one that fits.

Pure functions. Invariants: colours come from the page's style by class, so that dark and print work; every chart has a
title, a description and its numbers as a table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from s2a_batch.htmlreport import htmltext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

WIDE: Final = 880
NARROW: Final = 340
_LEFT: Final = 46
_RIGHT: Final = 10
_TOP: Final = 12
_BOTTOM: Final = 26
_LABEL_PX: Final = 7  # about the width of one sign


@dataclass(frozen=True, slots=True)
class Frame:
    """The room of one drawing, in px, and its two scales.

    Attributes:
        units: So many bins or places lie side by side.
        low: The value at the foot.
        high: The value at the head.
        log: Equal factors are equally far apart.
    """

    width: int
    height: int
    units: float
    high: float
    low: float = 0.0
    log: bool = False

    @property
    def foot(self) -> float:
        """Where the lowest value lies."""
        return self.height - _BOTTOM

    @property
    def right(self) -> int:
        """Where the drawing ends."""
        return self.width - _RIGHT

    def x(self, unit: float) -> float:
        """Where a place lies."""
        return _LEFT + (self.width - _LEFT - _RIGHT) * unit / max(self.units, 1e-9)

    def y(self, value: float) -> float:
        """How high a value lies."""
        if self.log:
            part = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / max(self.high - self.low, 1e-12)
        return self.foot - (self.foot - _TOP) * min(1.0, part)

    def grid(self, ticks: Iterable[float], label: Callable[[float], str]) -> str:
        """Lines across, with their values at the left."""
        rows = []
        for tick in ticks:
            y = px(self.y(tick))
            rows.append(f'<line class="rule" x1="{_LEFT}" x2="{self.right}" y1="{y}" y2="{y}"/>')
            rows.append(f'<text class="tick end" x="{_LEFT - 6}" y="{px(self.y(tick) + 4)}">{label(tick)}</text>')
        return "".join(rows)

    def below(self, places: Iterable[tuple[float, str]]) -> str:
        """Labels under the drawing, each at its place, as many as fit."""
        rows, free = [], 0.0
        for unit, label in places:
            half = len(label) * _LABEL_PX / 2
            x = min(max(self.x(unit), half), self.width - half)
            if x - half >= free:
                rows.append(f'<text class="tick mid" x="{px(x)}" y="{self.height - 8}">{label}</text>')
                free = x + half + _LABEL_PX
        return "".join(rows)

    def column(self, unit: float, values: tuple[float, float], kind: str, told: str) -> str:
        """A bar of one unit from one value to another."""
        x, width = self.x(unit), self.x(unit + 1) - self.x(unit)
        top, height = self.y(values[1]), self.y(values[0]) - self.y(values[1])
        gap = min(1.0, width * 0.15)
        return (
            f'<rect class="{kind}" x="{px(x + gap / 2)}" y="{px(top)}" width="{px(max(width - gap, 0.5))}" '
            f'height="{px(max(height, 0.5))}"><title>{told}</title></rect>'
        )


def px(value: float) -> str:
    """A coordinate without needless digits."""
    return f"{value:.1f}".removesuffix(".0")


def ticks(high: float, wanted: int = 4) -> list[float]:
    """Round values from 0 to at least `high`: 1, 2 or 5 times a power of ten apart."""
    if high <= 0:
        return [0.0, 1.0]
    rough = high / wanted
    power = 10 ** math.floor(math.log10(rough))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough * 0.999)
    return [step * n for n in range(math.ceil(high / step - 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round values within two bounds, for a scale of factors: 1, 2, 5, 10, .."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    return [value for power in powers for n in (1, 2, 5) if low <= (value := n * 10.0**power) <= high * 1.0001]


def figure(name: str, title: str, told: str, draw: Callable[[int], tuple[int, str]], numbers: str) -> str:
    """A chart with its numbers.

    Args:
        name: Unique on the page.
        title: What it shows.
        told: The finding in a sentence: shown below it, and read aloud.
        draw: From a width to the height and the SVG's content.
        numbers: The same as a table.
    """
    drawings = "".join(_svg(f"{name}-{kind}", kind, title, told, width, draw) for kind, width in _SIZES)
    return (
        f'<figure id="{name}"><h3>{title}</h3>{drawings}<figcaption>{told}</figcaption>'
        f"<details><summary>As a table</summary>{numbers}</details></figure>"
    )


_SIZES: Final = (("wide", WIDE), ("narrow", NARROW))


def _svg(ident: str, kind: str, title: str, told: str, width: int, draw: Callable[[int], tuple[int, str]]) -> str:  # noqa: PLR0913, PLR0917  one drawing's parts
    height, body = draw(width)
    return (
        f'<svg class="{kind}" role="img" viewBox="0 0 {width} {height}" aria-labelledby="{ident}-t {ident}-d">'
        f'<title id="{ident}-t">{title}</title><desc id="{ident}-d">{told}</desc>{body}</svg>'
    )


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """What the colours mean: class and name of each."""
    return '<p class="legend">' + "".join(f'<span class="key {kind}">{name}</span>' for kind, name in entries) + "</p>"


def bars(values: Sequence[tuple[str, float, str]], high: float, kind: str) -> Callable[[int], tuple[int, str]]:
    """Columns side by side: (label, height, what is told) each; labels that do not fit are left out."""

    def draw(width: int) -> tuple[int, str]:
        height = 200 if width == WIDE else 170
        scale = ticks(high)
        frame = Frame(width, height, len(values), scale[-1])
        found = [frame.column(n, (0, v), kind, told) for n, (_, v, told) in enumerate(values) if v]
        labels = frame.below((n, label) for n, (label, _, _) in enumerate(values) if label)
        return height, frame.grid(scale, htmltext.short) + "".join(found) + labels

    return draw


def dots(
    places: Sequence[str], series: Sequence[tuple[str, Sequence[float | None]]], band: tuple[float, float], told: str
) -> Callable[[int], tuple[int, str]]:
    """Points over named places on a scale of factors, joined by lines, before a band that is told."""
    values = [value for _, row in series for value in row if value]
    low, high = min([*values, 1.0]) / 1.05, max([*values, band[1]]) * 1.15

    def draw(width: int) -> tuple[int, str]:
        height = 280 if width == WIDE else 250
        frame = Frame(width, height, len(places), high, low, log=True)
        top, foot = frame.y(band[1]), frame.y(band[0])
        parts = [
            f'<rect class="band" x="{_LEFT}" y="{px(top)}" width="{frame.right - _LEFT}" height="{px(foot - top)}"/>',
            f'<text class="tick end" x="{frame.right - 6}" y="{px(top + 15)}">{told}</text>',
            frame.grid(log_ticks(low, high), lambda v: f"{v:g}{htmltext.TIMES}"),
            *(_joined(frame, kind, row) for kind, row in series),
            frame.below((n + 0.5, place) for n, place in enumerate(places)),
        ]
        return height, "".join(parts)

    return draw


def _joined(frame: Frame, kind: str, row: Sequence[float | None]) -> str:
    found = [(frame.x(n + 0.5), frame.y(value), value) for n, value in enumerate(row) if value]
    line = " ".join(f"{px(x)},{px(y)}" for x, y, _ in found)
    points = "".join(
        f'<circle class="{kind}" cx="{px(x)}" cy="{px(y)}" r="4"><title>{htmltext.factor(v)}</title></circle>'
        for x, y, v in found
    )
    return f'<polyline class="line {kind}" points="{line}"/>{points}'
