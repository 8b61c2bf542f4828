"""The sections of the report's page on time, requests and money, one function each: from a reading to HTML.

Pure functions. Invariant: every number comes from the reading as it is; what is unknown reads so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from s2a_batch.figures import dollars
from s2a_batch.htmlreport import charts, htmltext, timecharts
from s2a_batch.htmlreport.htmltext import DASH, count, factor, seconds, share, table
from s2a_batch.records import place_of

if TYPE_CHECKING:
    from s2a_batch.htmlreport.readings import OneCallReading, Reading, SizeReading, Spread, StageReading

_NOTHING: Final = "<p>Nothing was sent yet.</p>"
_PAPER: Final = (1.2, 5.0)
Kind = Literal["input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"]
_TOKENS: Final[tuple[Kind, ...]] = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")


def time(reading: Reading) -> str:
    """Throughput, latency and waits over time, and latencies as they lie."""
    stages = reading["stages"]
    drawn = timecharts.charts(reading["course"], list(stages))
    if not drawn:
        return _NOTHING
    rows = [_latencies(name, stage["seconds"]) for name, stage in stages.items()]
    rows += [_latencies("whole record", reading["seconds"])]
    heads = ["", "count", "p50", "p95", "p99", "most", "mean"]
    about = (
        f'<p class="note">Percentiles are exact to {share(reading["resolution"], 1)}; means and the most are exact.</p>'
    )
    return table(heads, rows, caption="Seconds of requests and of records") + about + drawn


def _latencies(name: str, spread: Spread) -> list[str]:
    return [name, count(spread["n"]), *(seconds(v) for v in _quantiles(spread)), seconds(spread["mean"])]


def _quantiles(spread: Spread) -> list[float | None]:
    return [spread["p50"], spread["p95"], spread["p99"], spread["most"]]


def requests(reading: Reading) -> str:
    """What each stage sent, and what went wrong with it."""
    stages = reading["stages"]
    if not stages:
        return _NOTHING + _reconciled(reading)
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
    if not stages:
        return _NOTHING
    rows = [[name, *_tokens(stage)] for name, stage in stages.items()]
    rows += [_together(list(stages.values()))] if len(stages) > 1 else []
    notes = [
        f"{count(stage['unknown_usage'])} replies of the {name} stage did not tell their tokens: sums are lower bounds."
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
    return [*(count(stage[name]) for name in _TOKENS), money_of([stage])]


def _together(stages: list[StageReading]) -> list[str]:
    sums = [sum(stage[name] for stage in stages) for name in _TOKENS]
    return ["together", *map(count, sums), money_of(stages)]


def money_of(stages: list[StageReading]) -> str:
    """What stages cost together; unknown when nothing is known of one that sent requests."""
    costs = [stage["cost_usd"] for stage in stages if stage["requests"]]
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        return dollars(None)
    partly = any(stage["unpriced"] or stage["unknown_usage"] for stage in stages)
    return f"at least {dollars(sum(known))}" if partly else dollars(sum(known))


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
        "The shaded range, 1.2 to 5 times the input, was measured with prompts as the paper's."
    )
    return _sides(total) + _factors(found, told, numbers) + _measured(found)


def _sides(total: SizeReading) -> str:
    """Both ways beside each other."""
    rows = [
        ["S2A, both stages", count(total["input_tokens"]), count(total["output_tokens"]), dollars(total["cost_usd"])],
        [
            "one call, estimated",
            count(total["one_input_tokens"]),
            count(total["one_output_tokens"]),
            dollars(total["one_cost_usd"]),
        ],
        ["times as much", factor(total["input_factor"]), factor(_output_factor(total)), factor(total["cost_factor"])],
    ]
    caption = f"Against one call with the original prompt, {count(total['records'])} answered records"
    return table(["", "input", "output", "cost"], rows, caption=caption)


def _output_factor(total: SizeReading) -> float | None:
    return total["output_tokens"] / total["one_output_tokens"] if total["one_output_tokens"] else None


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
    return f"{low}{DASH}{htmltext.short(high)}" if high is not None else f"{low} and more"


def slowest(reading: Reading) -> str:
    """The records that took longest."""
    names = list(reading["stages"])
    rows = [
        [
            htmltext.text(place_of(found["line"], found["file"])),
            htmltext.text(found["id"]) or DASH,
            htmltext.text(found["status"]),
            seconds(found["seconds"]),
            *(seconds(found["stages"].get(name)) for name in names),
            seconds(found["waited_s"]),
            count(found["requests"]),
        ]
        for found in reading["slowest"]
    ]
    heads = ["line", "id", "status", "whole", *names, "waited", "requests"]
    return (
        table(heads, rows, caption="From the first prompt to the result, waits included", texts=3)
        if rows
        else "<p>None yet.</p>"
    )
