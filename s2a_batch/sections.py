"""The sections of the report's page, one function each: from a reading to HTML.

Pure functions. Invariant: every number comes from the reading as it is; what is unknown reads so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from s2a_batch import charts, htmltext, timecharts
from s2a_batch.figures import dollars
from s2a_batch.htmltext import count, factor, seconds, share, table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from s2a_batch.readings import OneCallReading, Reading, SizeReading, Spread, StageReading

_PAPER: Final = (1.2, 5.0)
_PER_CENT: Final = 100
_SHARE_STEP: Final = 5
_DASH: Final = "–"  # noqa: RUF001


def time(reading: Reading) -> str:
    """Throughput, latency and waits over time, and latencies as they lie."""
    stages = reading["stages"]
    drawn = timecharts.charts(reading["course"], list(stages))
    if not drawn:
        return "<p>Nothing was sent yet.</p>"
    rows = [_latencies(name, stage["seconds"]) for name, stage in stages.items()]
    rows += [_latencies("a whole record", reading["seconds"])]
    heads = ["", "count", "p50", "p95", "p99", "most", "mean"]
    about = f'<p class="note">Percentiles are exact to {reading["resolution"]:.1%}; means and the most are exact.</p>'
    return table(heads, rows, caption="Seconds of requests and of records") + about + drawn


def _latencies(name: str, spread: Spread) -> list[str]:
    return [name, count(spread["n"]), *(seconds(v) for v in _quantiles(spread)), seconds(spread["mean"])]


def _quantiles(spread: Spread) -> list[float | None]:
    return [spread["p50"], spread["p95"], spread["p99"], spread["most"]]


def requests(reading: Reading) -> str:
    """What each stage sent, and what went wrong with it."""
    stages = reading["stages"]
    lines = [
        ("records", [count(stage["records"]) for stage in stages.values()]),
        ("requests", [count(stage["requests"]) for stage in stages.values()]),
        ("retries after a fault", [count(stage["retries"]) for stage in stages.values()]),
        ("re-asks after an unusable reply", [count(stage["reasks"]) for stage in stages.values()]),
        ("refused by a rate limit", [count(stage["rate_limited"]) for stage in stages.values()]),
        ("failed in an outage", [count(stage["outage"]) for stage in stages.values()]),
        ("waited before sending, p50", [seconds(stage["waited_s"]["p50"]) for stage in stages.values()]),
        ("waited before sending, p95", [seconds(stage["waited_s"]["p95"]) for stage in stages.values()]),
        ("waited before sending, all together", [seconds(stage["waited_s"]["total"]) for stage in stages.values()]),
    ]
    found = table(["", *stages], [[name, *cells] for name, cells in lines], caption="Requests by stage")
    kinds = sorted({kind for stage in stages.values() for kind in stage["errors"]})
    if kinds:
        rows = [
            [f"<code>{htmltext.text(k)}</code>", *(count(s["errors"].get(k, 0)) for s in stages.values())]
            for k in kinds
        ]
        found += table(["attempts that failed", *stages], rows, caption="Failed attempts by kind")
    return found + _reconciled(reading)


def _reconciled(reading: Reading) -> str:
    """How the requests in the files stand to what all executions sent."""
    run, counts = reading["run"], reading["counts"]
    here = sum(stage["requests"] for stage in reading["stages"].values())
    notes = []
    if not run["running"] and not run["killed"] and run["requests"] > here:
        notes.append(
            f"All executions together sent {count(run['requests'])} requests; {count(run['requests'] - here)} of them "
            "belong to records that are pending, were asked again, or are no longer in these files."
        )
    if run["killed"]:
        notes.append(f"{count(run['killed'])} of {count(run['executions'])} executions came to no regular end.")
    if counts["set_aside"]:
        notes.append(f"{count(counts['set_aside'])} files of earlier dead letters were set aside and are not counted.")
    if counts["unreadable"]:
        notes.append(
            f"{count(counts['unreadable'])} lines could not be read and are not counted: see s2a-batch verify."
        )
    return "".join(f'<p class="note">{note}</p>' for note in notes)


def money(reading: Reading) -> str:
    """Tokens and cost by stage, and against one call with each prompt."""
    heads = ["", "input", "of it cached", "output", "of it reasoning", "cost"]
    stages = reading["stages"]
    rows = [[name, *_tokens(stage)] for name, stage in stages.items()]
    notes = [
        f"{count(stage['unknown_usage'])} replies of the {name} stage did not say their tokens: its sums are lower bounds."
        for name, stage in stages.items()
        if stage["unknown_usage"]
    ]
    notes += [
        f"No price is known for {count(stage['unpriced'])} requests of the {name} stage; give [price] in the job."
        for name, stage in stages.items()
        if stage["unpriced"]
    ]
    told = "".join(f'<p class="note">{note}</p>' for note in notes)
    return table(heads, rows, caption="Tokens and cost by stage") + told + _one_call(reading["one_call"])


def _tokens(stage: StageReading) -> list[str]:
    cells = [count(stage[name]) for name in ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")]
    return [*cells, cost(stage)]


def cost(stage: StageReading) -> str:
    """A stage's money; "at least" where something of it is not known."""
    known = dollars(stage["cost_usd"])
    partly = stage["cost_usd"] is not None and (stage["unknown_usage"] or stage["unpriced"])
    return f"at least {known}" if partly else known


def _one_call(found: OneCallReading) -> str:
    total = found["total"]
    if total is None:
        return (
            '<p class="note">There is no comparison with one call: it needs answered records with known tokens, and '
            "rewrite requests to learn the tokens of a character from.</p>"
        )
    rows = [_compared(_range(size), size) for size in found["sizes"]] + [_compared("all", total)]
    heads = [
        "prompt, characters",
        "records",
        "S2A in",
        "S2A out",
        "one call in",
        "one call out",
        "input",
        "all tokens",
        "cost",
    ]
    numbers = table(heads, rows, caption="Against one call, by size of prompt")
    how = {
        "slope": f"the slope over {count(found['points'])} rewrite requests (fit {found['fit']:.3f})",
        "ratio": f"the mean over {count(found['points'])} rewrite requests",
    }[found["method"]]
    told = (
        f"{factor(total['token_factor'])} the tokens of one call, over {count(total['records'])} answered records; "
        f"cost {factor(total['cost_factor'])}. The one call is an estimate: the prompt alone at "
        f"{found['tokens_per_char'] or 0:.3f} tokens a character ({how}), the same answer, the answer model's price. "
        "The shaded range is 1.2 to 5 times the input, as was measured with the paper's prompts."
    )
    return _factors(found, told, numbers) + _measured(found)


def _factors(found: OneCallReading, told: str, numbers: str) -> str:
    sizes = found["sizes"]
    series = [
        ("s-input", [size["input_factor"] for size in sizes]),
        ("s-tokens", [size["token_factor"] for size in sizes]),
        ("s-cost", [size["cost_factor"] for size in sizes]),
    ]
    names = {"s-input": "input tokens", "s-tokens": "all tokens", "s-cost": "cost"}
    shown = [(kind, row) for kind, row in series if any(row)]
    draw = charts.dots([_range(size) for size in sizes], shown, _PAPER, "1.2 to 5 times")
    key = charts.legend((f"dot {kind}", names[kind]) for kind, _ in shown)
    drawn = charts.figure("factor", "Times one call, by characters of the prompt", told, draw, numbers)
    return drawn.replace("</h3>", "</h3>" + key, 1)


def _measured(found: OneCallReading) -> str:
    measured = found["measured"]
    if not measured["records"]:
        return ""
    return (
        f"<p>{count(measured['records'])} of the prompts were also asked as they are: measured on these, S2A took "
        f"{factor(measured['token_factor'])} the tokens, and {count(measured['flips'])} answers differ "
        f"({share(measured['flips'], measured['records'])}).</p>"
    )


def _compared(name: str, size: SizeReading) -> list[str]:
    tokens = [size["input_tokens"], size["output_tokens"], size["one_input_tokens"], size["one_output_tokens"]]
    factors = [size["input_factor"], size["token_factor"], size["cost_factor"]]
    return [name, count(size["records"]), *map(count, tokens), *map(factor, factors)]


def _range(size: SizeReading) -> str:
    low, high = htmltext.short(size["from_chars"]), size["to_chars"]
    return f"{low}{_DASH}{htmltext.short(high)}" if high is not None else f"{low} and more"


def rewrites(reading: Reading) -> str:
    """How much the rewrites kept, what the checks found, and what was done about it."""
    found = reading["compression"]
    if not found["records"]:
        return "<p>There is no rewrite yet.</p>"
    kept, shares = found["kept"], found["shares"]
    values = [(_share_label(n), float(v), f"{_share_range(n)}: {count(v)}") for n, v in enumerate(shares)]
    quantiles = ", ".join(
        f"{name} {v:.0%}" for name, v in zip(("p50", "p95", "p99"), _quantiles(kept), strict=False) if v is not None
    )
    told = (
        f"{share(found['rewrite_words'], found['prompt_words'])} of the words are left: "
        f"{count(found['rewrite_words'])} words in {count(found['records'])} rewrites of {count(found['prompt_words'])} "
        f"words of prompts. By record: {quantiles}."
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
    return f"{low}{_DASH}{low + _SHARE_STEP} %" if low < _PER_CENT + 4 * _SHARE_STEP else f"{low} % and more"


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
    kind = level if level in ("error", "warn", "info") else "info"
    return f'<span class="level {kind}">{htmltext.text(level)}</span>'


def failures(reading: Reading) -> str:
    """Dead letters by kind, and what to do about each."""
    if not reading["failures"]:
        return "<p>No record failed.</p>"
    return (
        "<dl class=failures>".replace("=failures", '="failures"')
        + "".join(_failure(f) for f in _failed(reading))
        + "</dl>"
    )


def _failed(reading: Reading) -> Iterable[tuple[str, str, str, str]]:
    for found in reading["failures"]:
        where = ", ".join(f"{htmltext.text(name)} {count(n)}" for name, n in found["stages"].items())
        remedy = f" Remedy: {htmltext.text(found['remedy'])}." if found["remedy"] else ""
        first = f"First: line {found['first_line']}, {htmltext.text(found['first_message'])}"
        yield (
            f"{count(found['records'])} × <code>{htmltext.text(found['kind'])}</code>",
            f"{htmltext.text(found['meaning'])}.{remedy}",
            where,
            first,
        )  # noqa: RUF001


def _failure(parts: tuple[str, str, str, str]) -> str:
    head, meaning, where, first = parts
    return f'<dt>{head}</dt><dd>{meaning} <span class="quiet">Stage: {where}.</span><br><span class="quiet">{first}</span></dd>'


def slowest(reading: Reading) -> str:
    """The records that took longest."""
    names = list(reading["stages"])
    rows = [
        [
            f"{found['line']}",
            htmltext.text(found["id"]) or _DASH,
            htmltext.text(found["status"]),
            seconds(found["seconds"]),
            *(seconds(found["stages"].get(name)) for name in names),
            seconds(found["waited_s"]),
            count(found["requests"]),
        ]
        for found in reading["slowest"]
    ]
    heads = ["line", "id", "status", "whole", *names, "waited", "requests"]
    return table(heads, rows, caption="Slowest records", texts=3) if rows else "<p>None yet.</p>"
