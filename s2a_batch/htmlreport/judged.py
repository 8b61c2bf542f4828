"""The sections of the report's page on rewrites, checks and failures: from a reading to HTML.

Pure functions. Invariant: every number comes from the reading as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from s2a_batch.htmlreport import charts, htmltext
from s2a_batch.htmlreport.htmltext import DASH, TIMES, count, share, table
from s2a_batch.records import place_of

if TYPE_CHECKING:
    from s2a_batch.htmlreport.readings import FailureReading, Reading

_PER_CENT: Final = 100
_SHARE_STEP: Final = 5


def rewrites(reading: Reading) -> str:
    """How much the rewrites kept, what the checks found, and what was done about it."""
    found = reading["compression"]
    if not found["records"]:
        return "<p>There is no rewrite yet.</p>"
    kept, shares = found["kept"], found["shares"]
    values = [(_share_label(n), float(v), f"{_share_range(n)}: {count(v)}") for n, v in enumerate(shares)]
    quantiles = ", ".join(f"{name} {share(kept[name] or 0, 1)}" for name in ("p50", "p95", "p99"))
    told = (
        f"{share(found['rewrite_words'], found['prompt_words'])} of the words are left: "
        f"{count(found['rewrite_words'])} words in {count(found['records'])} rewrites, of "
        f"{count(found['prompt_words'])} words of prompts. By record: {quantiles}."
    )
    rows = [[_share_range(n), count(v), share(v, found["records"])] for n, v in enumerate(shares) if v]
    numbers = table(["words of the rewrite, of the prompt's", "rewrites", "share"], rows, caption="Length of rewrites")
    draw = charts.bars(values, max(shares), "fill rewrite")
    drawn = charts.figure("compression", "Words of the rewrite, in per cent of the prompt's", told, draw, numbers)
    return drawn + _checks(reading)


def _share_label(n: int) -> str:
    return f"{n * _SHARE_STEP} %" if n % 4 == 0 else ""


def _share_range(n: int) -> str:
    low = n * _SHARE_STEP
    return f"{low}{DASH}{low + _SHARE_STEP} %" if low < _PER_CENT + 4 * _SHARE_STEP else f"{low} % and more"


def _checks(reading: Reading) -> str:
    checked, rewritten = reading["checked"], sum(reading["checked"].values())
    rows = [
        [
            f"<code>{htmltext.text(c['name'])}</code>",
            _level(c["level"]),
            count(c["records"]),
            share(c["records"], rewritten),
        ]
        for c in reading["checks"]
    ]
    worst = (
        f"<p>Of {count(rewritten)} rewrites {count(checked['error'])} have a finding of level error, "
        f"{count(checked['warn'])} at worst a warning, {count(checked['info'])} only notes; "
        f"{count(checked['none'])} have none.</p>"
    )
    found = table(["check", "level", "rewrites", "share"], rows, caption="Checks by kind", texts=2) if rows else ""
    return "<h3>Checks</h3>" + worst + found + _policies(reading)


def _policies(reading: Reading) -> str:
    if not reading["policies"]:
        return '<p class="note">No policy had to be taken for a failed check.</p>'
    rows = [[f"<code>{htmltext.text(name)}</code>", count(n)] for name, n in reading["policies"].items()]
    return table(["policy taken", "records"], rows, caption="Policies taken")


def _level(level: str) -> str:
    return f'<span class="level {htmltext.level(level)}">{htmltext.text(level)}</span>'


def failures(reading: Reading) -> str:
    """Dead letters by kind, and what to do about each."""
    if not reading["failures"]:
        return "<p>No record failed.</p>"
    return f'<dl class="failures">{"".join(map(_failure, reading["failures"]))}</dl>'


def _failure(found: FailureReading) -> str:
    kind = htmltext.text(found["kind"])
    meaning = htmltext.sentence(found["meaning"] or "of a kind that this version does not know")
    where = ", ".join(f"{htmltext.text(name)} {count(n)}" for name, n in found["stages"].items())
    remedy = f" Remedy: {htmltext.text(found['remedy'])}." if found["remedy"] else ""
    place = place_of(found["first_line"], found["first_file"])
    place = f"line {place}" if found["first_file"] is None else place
    first = f"First: {htmltext.text(place)}: {htmltext.text(found['first_message'])}"
    return (
        f"<dt>{count(found['records'])}{TIMES} <code>{kind}</code></dt><dd>{meaning}.{remedy} "
        f'<span class="quiet">Stage: {where}.</span><br><span class="quiet">{first}</span></dd>'
    )
