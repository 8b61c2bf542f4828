"""Text into HTML: escaping, numbers for people, tables.

Invariants: every text of a model or an input goes through `text`; what it returns is inert and shows what would be
invisible: control characters, marks that turn the direction of reading, halves of surrogate pairs.
"""

from __future__ import annotations

import html
import math
import unicodedata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DASH: Final = "–"  # noqa: RUF001  of ranges, and where there is nothing
TIMES: Final = "×"  # noqa: RUF001
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_KEPT: Final = frozenset("\n\t\u200c\u200d")  # joiners are part of how Persian, Hindi and emoji are written
_LONGEST_ESCAPE: Final = 6  # &quot;
_SECOND: Final = 1.0
_TEN: Final = 10
_MINUTE: Final = 60
_HOUR: Final = 3600
_THOUSAND: Final = 1_000
_MILLION: Final = 1_000_000


def text(raw: str, most: int = 800) -> str:
    """A stranger's text as inert HTML, cut where it would take more than `most` signs of the page."""
    if len(raw) * _LONGEST_ESCAPE <= most and raw.isprintable():
        return html.escape(raw)
    parts = []
    for sign in raw:
        shown = _sign(sign)
        most -= len(shown)
        if most < 0:
            parts.append("…")
            break
        parts.append(shown)
    return "".join(parts)


def sentence(raw: str) -> str:
    """A stranger's text that begins a sentence."""
    return text(raw[:1].upper() + raw[1:])


def _sign(sign: str) -> str:
    if sign not in _KEPT and unicodedata.category(sign) in _HIDDEN:
        return f'<i class="hidden-sign">U+{ord(sign):04X}</i>'
    return html.escape(sign)


def plain(raw: str) -> str:
    """A stranger's text for an attribute or an SVG title, where no element can stand."""
    shown = (f"[U+{ord(c):04X}]" if unicodedata.category(c) in _HIDDEN and c not in _KEPT else c for c in raw)
    return html.escape("".join(shown))


def level(name: str) -> str:
    """The class of a check's level; one that this version does not know looks as a note."""
    return name if name in {"error", "warn", "info"} else "info"


def count(value: float | None) -> str:
    """A whole number with its thousands apart; None reads "unknown"."""
    return "unknown" if value is None else f"{value:,.0f}"


def short(value: float) -> str:
    """A number in as few signs as an axis has room for."""
    for unit, sign in ((_MILLION, "M"), (_THOUSAND, "k")):
        if value >= unit:
            return f"{value / unit:.{0 if value >= _TEN * unit else 1}f}".removesuffix(".0") + sign
    return f"{value:.4g}"


def share(part: float, whole: float) -> str:
    """A part in per cent; a part that is not all never reads 100 %, nor one that is there 0 %."""
    if not whole:
        return DASH
    percent = 100 * part / whole
    if 0 < percent < 0.1:  # noqa: PLR2004
        return "< 0.1 %"
    if 99.9 < percent < 100:  # noqa: PLR2004
        return "> 99.9 %"
    return f"{percent:.0f} %" if part in (0, whole) else f"{percent:.1f} %"


def seconds(value: float | None) -> str:
    """A duration with three digits that matter, from milliseconds to hours."""
    if value is None:
        return DASH
    if value < _SECOND / _TEN:
        return f"{value * 1000:.0f} ms"
    if value < 2 * _MINUTE:
        return f"{value:.{2 if value < _TEN else 1}f} s"
    if value < 2 * _HOUR:
        return f"{int(value // _MINUTE)} min {int(value % _MINUTE)} s"
    return f"{int(value // _HOUR)} h {int(value % _HOUR // _MINUTE)} min"


def factor(value: float | None) -> str:
    """How many times as much."""
    if value is None or not math.isfinite(value):
        return "unknown"
    return f"{value:.{1 if value >= _TEN else 2}f}{TIMES}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str, texts: int = 1) -> str:
    """A table of cells that are HTML already.

    Args:
        heads: Of the columns.
        rows: Cells.
        caption: What it holds, for those who hear it.
        texts: So many first columns are words and stand at the left; the others are numbers.
    """
    head = "".join(f'<th scope="col"{_side(n, texts)}>{cell}</th>' for n, cell in enumerate(heads))
    body = "".join(f"<tr>{_cells(row, texts)}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(caption)}"><table>'
        f"<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cells(row: Sequence[str], texts: int) -> str:
    first = f'<th scope="row"{_side(0, texts)}>{row[0]}</th>'
    return first + "".join(f"<td{_side(n, texts)}>{cell}</td>" for n, cell in enumerate(row[1:], 1))


def _side(column: int, texts: int) -> str:
    return "" if column < texts else ' class="n"'
