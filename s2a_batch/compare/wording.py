"""A comparison as a person reads it in a terminal.

Invariant: the page and the terminal say the same figures in the same words, those of this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from s2a_batch.figures import dollars

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from s2a_batch.compare.comparison import ArmFigures, Comparison, Pair, Share
    from s2a_batch.compare.matching import Use
    from s2a_batch.compare.stats import Interval

_LEAST_P: Final = 0.0001
_MOST_CHARS: Final = 40
NONE: Final = "-"


def as_text(found: Comparison) -> str:
    """Tables and notes."""
    parts = [headline(found)]
    if found.with_gold:
        parts += [_aligned(RIGHT_HEADS, [right_row(arm) for arm in found.arms])]
        parts += [_aligned(PAIR_HEADS, [pair_row(pair) for pair in found.pairs])] if found.pairs else []
        parts += [_aligned(*group_table(found))] if found.by is not None else []
    if found.agreements:
        parts.append(_aligned(*agreement_table(found)))
    parts += [_aligned(USE_HEADS, use_rows(found)), "\n".join(f"note: {note}" for note in notes(found))]
    return "\n\n".join(parts)


RIGHT_HEADS: Final = ("arm", "right", "share", "95 % interval", "failed", "pending")
PAIR_HEADS: Final = ("arm", "difference", "95 % interval", "better", "worse", "n", "p exact", "mid-p", "p Holm")
USE_HEADS: Final = ("arm", "requests", "tokens in", "out", "cost", "request seconds", "alone: requests", "cost")


def headline(found: Comparison) -> str:
    """What was compared, in a sentence."""
    first = f"the first {found.limit} records" if found.limit is not None else "all records"
    how = f"judged by {found.way} against '{found.expected}'" if found.with_gold else "without right answers"
    return f"{len(found.arms)} arms over {first} of {found.input} ({found.lines} lines), {how}"


def right_row(arm: ArmFigures) -> list[str]:
    """How often an arm is right."""
    judged = arm.judged
    return [
        name_of(arm),
        f"{judged.right} of {judged.n}",
        percent(judged.share),
        _interval(shown_interval(judged), lambda share: f"{100 * share:.1f}") + ("*" if _starred(arm) else ""),
        count_of(arm.failed),
        count_of(arm.pending),
    ]


def pair_row(pair: Pair) -> list[str]:
    """An arm against the first one."""
    return [
        f"{pair.arm} - {pair.first}",
        points(pair.difference),
        _interval(shown_difference(pair), points) + ("*" if _pair_starred(pair) else ""),
        str(pair.better),
        str(pair.worse),
        str(pair.n),
        p_value(pair.p),
        p_value(pair.mid_p),
        p_value(pair.p_holm),
    ]


def group_table(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Right answers by a field of the input."""
    names = list(dict.fromkeys(name for arm in found.arms for name in arm.groups))
    rows = [[name, *(_counted(arm.groups[name]) for arm in found.arms)] for name in names]
    return [f"right, by {found.by}", *(arm.name for arm in found.arms)], rows


def agreement_table(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """How often each two arms say the same."""
    names = [arm.name for arm in found.arms]
    alike = {(one.a, one.b): one for one in found.agreements}
    rows = []
    for name in names:
        cells = []
        for other in names:
            one = alike.get((name, other)) or alike.get((other, name))
            cells.append(NONE if one is None or not one.n else f"{one.alike} of {one.n}")
        rows.append([name, *cells])
    return ["same answer", *names], rows


def use_rows(found: Comparison) -> list[list[str]]:
    """What each arm took."""
    rows = [[name_of(arm), *_use(arm.paid), str(arm.alone.requests), _cost(arm.alone)] for arm in found.arms]
    if found.judge is not None:
        rows.append(["judge", *_use(found.judge), str(found.judge.requests), _cost(found.judge)])
    return rows


def notes(found: Comparison) -> list[str]:
    """What whoever reads the figures must know."""
    said = []
    if found.with_gold:
        said += [
            "intervals: percentile bootstrap over records, computed and not drawn",
            "better, worse: records that one of the two arms alone has right; p: McNemar's exact test, two-sided",
        ]
    if any(map(_starred, found.arms)) or any(map(_pair_starred, found.pairs)):
        said.append(
            "* where the bootstrap has no width: the interval of Wilson, for a difference that of Agresti and Min"
        )
    if len(found.pairs) > 1 and found.with_gold:
        said.append(f"{len(found.pairs)} arms are tested against {found.arms[0].name}: go by p Holm, adjusted for that")
    if found.unusable:
        said.append(f"{found.unusable} lines ask nothing and are left out; see any arm's dead_letters.jsonl")
    if found.no_gold and found.with_gold:
        said.append(f"{found.no_gold} records have no usable '{found.expected}' and are not judged")
    for arm in found.arms:
        said += _arm_notes(arm)
    for pair in found.pairs:
        if pair.left_out:
            said.append(f"{pair.arm} - {pair.first}: {pair.left_out} records left out, which one of the two lacks")
    return said


def _arm_notes(arm: ArmFigures) -> list[str]:
    said = []
    if arm.same_as is not None:
        said.append(f"{arm.name} asks the same as {arm.same_as}, which ran in its stead")
    if arm.rewrites_of is not None:
        said.append(f"{arm.name} uses the rewrites of {arm.rewrites_of}, which paid for them; 'alone' counts them")
    if arm.failed:
        kinds = ", ".join(f"{number} {kind}" for kind, number in arm.failures.items())
        said.append(f"{arm.name}: {arm.failed} failed ({kinds}), which count as wrong; again: --retry-failed")
    if arm.no_oracle:
        said.append(f"{arm.name}: {arm.no_oracle} records have no oracle's prompt and are left out")
    if arm.unjudged:
        said.append(f"{arm.name}: {arm.unjudged} answers have no verdict of the judge and are left out")
    if arm.alone.unknown_usage:
        said.append(f"{arm.name}: {arm.alone.unknown_usage} replies name no tokens; the sums are lower bounds")
    return said


def _starred(arm: ArmFigures) -> bool:
    """Whether the bootstrap has no width: none or all are right."""
    return arm.judged.n > 0 and arm.judged.right in (0, arm.judged.n)


def _pair_starred(pair: Pair) -> bool:
    return pair.n > 0 and not pair.better + pair.worse


def name_of(arm: ArmFigures) -> str:
    """An arm's name, and whose results it shows."""
    return arm.name if arm.same_as is None else f"{arm.name} (= {arm.same_as})"


def percent(share: float | None) -> str:
    """A share with one decimal."""
    return NONE if share is None else f"{100 * share:.1f} %"


def points(difference: float | None) -> str:
    """A difference of shares in percentage points."""
    return NONE if difference is None else f"{round(100 * difference, 1) + 0.0:+.1f}"


def p_value(p: float | None) -> str:
    """A p value with four decimals."""
    return NONE if p is None else f"< {_LEAST_P}" if p < _LEAST_P else f"{p:.4f}"


def count_of(number: int) -> str:
    """A count; none is a dash, so that the others stand out."""
    return str(number) if number else NONE


def shown_interval(judged: Share) -> Interval | None:
    """The interval to show: the bootstrap's, but where it has no width."""
    return judged.wilson if judged.right in (0, judged.n) else judged.bootstrap


def shown_difference(pair: Pair) -> Interval | None:
    """The interval of a difference to show: the bootstrap's, but where it has no width."""
    return pair.bootstrap if pair.better + pair.worse else pair.adjusted


def _interval(interval: Interval | None, told: Callable[[float], str]) -> str:
    if interval is None:
        return NONE
    return f"{told(interval.low)} to {told(interval.high)}"


def _counted(share: Share) -> str:
    return f"{share.right} of {share.n}" if share.n else NONE


def _use(use: Use) -> list[str]:
    return [
        str(use.requests),
        str(use.input_tokens),
        str(use.output_tokens),
        _cost(use),
        f"{use.request_s:.1f}",
    ]


def _cost(use: Use) -> str:
    return dollars(use.cost_usd)


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of columns of equal width: the first to the left, numbers to the right."""
    table = [[_tame(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _tame(cell: str) -> str:
    """A cell that cannot steer a terminal nor break a row; groups are named by the input."""
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in cell)
    return shown if len(shown) <= _MOST_CHARS else shown[: _MOST_CHARS - 2] + ".."
