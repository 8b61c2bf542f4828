"""A comparison as one HTML file that needs no network, no script and no other file.

Invariants: the page loads nothing and runs nothing (its policy allows the one style sheet by its hash); every text of
an input or a model is escaped, what would be invisible in it is shown; it replaces nothing but a page of ours, at once
or not at all, and its owner alone may read it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
import unicodedata
from typing import TYPE_CHECKING, Final

from s2a_batch import linefiles
from s2a_batch.compare import wording
from s2a_batch.compare.scoring import text_of
from s2a_batch.errors import JobError, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from pydantic import JsonValue

    from s2a_batch.compare.comparison import Comparison, Pair, Turn
    from s2a_batch.compare.stats import Interval

HEAD: Final = "<!doctype html>\n<!-- written by s2a-batch compare -->\n"
_SHOWN_TURNS: Final = 100
_MOST_CHARS: Final = 400
_ROW: Final = 34
_LEFT: Final = 190
_WIDTH: Final = 720
_RIGHT: Final = 690
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_KEPT: Final = "\n\t\u200c\u200d"
_STYLE: Final = """
:root { --paper: #fbfaf6; --ink: #20262c; --soft: #5c6670; --rule: #d9d4c7; --mark: #2d6a93; --zero: #8a8577; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15181b; --ink: #e4e1d9; --soft: #9aa3ab; --rule: #353b41; --mark: #7fb5da; --zero: #8f969c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.2rem 4rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 ui-sans-serif, system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .6rem; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .8rem; }
p, li, figcaption, caption { max-width: 46rem; } figcaption, caption, .soft { color: var(--soft); font-size: .92rem; }
figure { margin: 0 0 1.6rem; } svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 13px; fill: var(--ink); } svg .soft { fill: var(--soft); font-size: 12px; }
.grid { stroke: var(--rule); } .zero { stroke: var(--zero); stroke-dasharray: 3 3; }
.bar { stroke: var(--mark); stroke-width: 2.5; } .dot { fill: var(--mark); } .first .dot { fill: var(--soft); }
.first .bar { stroke: var(--soft); }
.scroll { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; min-width: 100%; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { text-align: right; font-weight: 400; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child, .words td, .words th { text-align: left; }
.words td { white-space: pre-wrap; min-width: 9rem; }
thead th { color: var(--soft); } summary { cursor: pointer; padding: .3rem 0; }
@media (max-width: 40rem) { svg text, svg .soft { font-size: 17px; } }
:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; }
.hidden { font-size: .75em; color: var(--soft); border: 1px solid var(--rule); border-radius: 3px; }
"""


def page(found: Comparison) -> str:
    """The whole page."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        f'{HEAD}<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        f'content="{policy}"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f"<title>Arms compared</title><style>{_STYLE}</style></head><body><main><h1>Arms compared</h1>"
        f"<p>{_text(wording.headline(found))}</p>{_body(found)}</main></body></html>\n"
    )


def check_place(path: Path) -> None:
    """Raise `JobError` where a page would replace something else, or cannot be."""
    try:
        if path.is_dir() or not path.parent.is_dir():
            raise JobError(f"{path}: is no place for a file; choose another name with --html")
        if path.exists() and path.read_bytes()[: len(HEAD)] != HEAD.encode():
            raise JobError(f"{path}: there is a file that is no page of ours; choose another name with --html")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None


def write(path: Path, found: Comparison) -> None:
    """Put the page where it was asked for; `OutputError` when it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace", opener=linefiles.open_private) as file:
            file.write(page(found))
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None


def _body(found: Comparison) -> str:
    parts = []
    if found.with_gold:
        parts += ["<h2>How often each arm is right</h2>", _shares(found)]
        parts.append(_table(wording.RIGHT_HEADS, map(wording.right_row, found.arms), "Right answers by arm"))
    if found.with_gold and found.pairs:
        parts += [f"<h2>Against {_text(found.arms[0].name)}</h2>", _differences(found)]
        parts.append(_table(wording.PAIR_HEADS, map(wording.pair_row, found.pairs), "Differences by arm"))
    if found.with_gold and found.by is not None:
        parts += [f"<h2>By {_text(found.by)}</h2>", _table(*wording.group_table(found), "Right answers by group")]
    if found.agreements:
        parts += ["<h2>Agreement</h2>", _table(*wording.agreement_table(found), "Same answers of each two arms")]
    parts += ["<h2>What it took</h2>", _table(wording.USE_HEADS, wording.use_rows(found), "Requests and cost")]
    if turns := "".join(map(_turns, found.pairs)):
        parts += ["<h2>Records that turned</h2>", turns]
    notes = "".join(f"<li>{_text(note)}</li>" for note in wording.notes(found))
    return "".join([*parts, f"<h2>Notes</h2><ul>{notes}</ul>" if notes else ""])


def _shares(found: Comparison) -> str:
    points = [(wording.name_of(arm), arm.judged.share, wording.shown_interval(arm.judged)) for arm in found.arms]
    return _plot(points, 0.0, 1.0, wording.percent, "Share of right answers by arm, with 95 % intervals")


def _differences(found: Comparison) -> str:
    points = [(pair.arm, pair.difference, wording.shown_difference(pair)) for pair in found.pairs]
    ends = [abs(end) for _, _, i in points if i is not None for end in (i.low, i.high)]
    most = min(1.0, max([0.1, *(-(-round(10 * end, 6) // 1) / 10 for end in ends)]))
    title = f"Difference to {found.arms[0].name} in percentage points, with 95 % intervals"
    return _plot(points, -most, most, wording.points, title)


def _plot(
    points: Sequence[tuple[str, float | None, Interval | None]],
    low: float,
    high: float,
    told: Callable[[float | None], str],
    title: str,
) -> str:
    """Dots with intervals, one arm a row; the table after it holds the same figures."""

    def x(value: float) -> float:
        return round(_LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT), 1)

    bottom = 10 + _ROW * len(points)
    ticks = [low + (high - low) * n / 4 for n in range(5)]
    drawn = "".join(
        f'<line class="{"zero" if not tick else "grid"}" x1="{x(tick)}" y1="4" x2="{x(tick)}" y2="{bottom}"/>'
        f'<text class="soft" x="{x(tick)}" y="{bottom + 18}" text-anchor="middle">{_plain(told(tick))}</text>'
        for tick in ticks
    )
    for row, (name, value, interval) in enumerate(points):
        y = 10 + _ROW * row + _ROW / 2
        short = name if len(name) <= 24 else name[:23] + "…"  # noqa: PLR2004
        drawn += f"<g{' class=' + chr(34) + 'first' + chr(34) if not row and low == 0 else ''}>"
        drawn += f'<text x="{_LEFT - 14}" y="{y + 4}" text-anchor="end">{_plain(short)}</text>'
        if interval is not None:
            drawn += f'<line class="bar" x1="{x(interval.low)}" y1="{y}" x2="{x(interval.high)}" y2="{y}"/>'
        if value is not None:
            drawn += f'<circle class="dot" cx="{x(value)}" cy="{y}" r="5"/>'
        drawn += f"<title>{_plain(name)}: {_plain(told(value))}</title></g>"
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {bottom + 26}" role="img" aria-label="{_plain(title)}">{drawn}</svg>'
        f"<figcaption>{_text(title)}; the table has the figures.</figcaption></figure>"
    )


def _turns(pair: Pair) -> str:
    parts = [
        _turn_table(pair, f"{pair.arm} right, {pair.first} wrong", pair.to_right, pair.better),
        _turn_table(pair, f"{pair.arm} wrong, {pair.first} right", pair.to_wrong, pair.worse),
        _turn_table(pair, f"{pair.arm} answers otherwise than {pair.first}", pair.changed, len(pair.changed)),
    ]
    return "".join(parts)


def _turn_table(pair: Pair, title: str, turns: Sequence[Turn], count: int) -> str:
    if not turns:
        return ""
    shown = turns[:_SHOWN_TURNS]
    rows = [[str(t.line), *(_said(v) for v in (t.id, t.expected, t.first, t.arm))] for t in shown]
    more = "" if count == len(shown) else f", the first {len(shown)} of them; records.jsonl has all"
    table = _table(("line", "id", "expected", pair.first, pair.arm), rows, title + more, words=True)
    return f"<details><summary>{_text(title)}: {count}</summary>{table}</details>"


def _said(value: JsonValue) -> str:
    text = wording.NONE if value is None else text_of(value)
    return text if len(text) <= _MOST_CHARS else text[:_MOST_CHARS] + " [cut]"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str, *, words: bool = False) -> str:
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in heads)
    body = "".join(
        f'<tr><th scope="row">{_text(row[0])}</th>{"".join(f"<td>{_text(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    side = ' class="words"' if words else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_plain(caption)}"><table{side}>'
        f"<caption>{_text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _text(raw: str) -> str:
    """A stranger's text as inert HTML, with what is invisible shown."""
    return "".join(f'<i class="hidden">U+{ord(c):04X}</i>' if _is_hidden(c) else html.escape(c) for c in raw)


def _plain(raw: str) -> str:
    """The same for an attribute or a title of the drawing."""
    return html.escape("".join(f"[U+{ord(c):04X}]" if _is_hidden(c) else c for c in raw))


def _is_hidden(sign: str) -> bool:
    return sign not in _KEPT and unicodedata.category(sign) in _HIDDEN
