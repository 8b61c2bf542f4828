"""What an estimate says: nothing is sent for it, the run lies within it, and a sample is not paid twice."""

from __future__ import annotations

import json
import math
import random
from statistics import NormalDist
from typing import TYPE_CHECKING

import anyio
import pytest

from s2a_batch.estimate import Survey, estimate, survey, text_tokens
from s2a_batch.figures import Range, clock, dollars, most
from s2a_batch.resume import Options
from s2a_batch.sample import _sum_of, student
from tests.fakes import a_job, usage
from tests.processes import JsonObject, read_lines, run, write_input

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Plan, Rule, Upstream

RECORDS = 40
MODEL = ("--model", "m", "--open-requests", "4")
PRICES = ("--set", "price.usd_per_million_input=100", "--set", "price.usd_per_million_output=400")
TEXT = "Is [[r-{n}]] right? I think that it is, and so does everybody whom I asked about it this morning. "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    write_input(work / "in.jsonl", range(RECORDS), TEXT * 5)
    return work


def estimated(folder: Path, *more: str, status: int = 0) -> JsonObject:
    """What the command prints with --json."""
    done = run(folder, "estimate", "in.jsonl", *MODEL, "--json", *more)
    assert done.status == status, done.err
    found: JsonObject = json.loads(done.out, parse_constant=pytest.fail)
    return found


def within(figure: JsonObject, value: float) -> bool:
    return bool(figure["low"] <= value <= figure["high"])


# --- without a sample


def test_an_estimate_sends_and_writes_nothing(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """It is asked for before the key is there, and before anybody agreed to pay."""
    up = upstream({})
    before = {path.name for path in folder.iterdir()}
    for more in ((), ("-o", "out")):
        assert estimated(folder, "--base-url", up.base_url, *more)["pending"] == RECORDS
    assert estimated(folder, "--model", "gpt-4o-mini")["cost_usd"]["low"] > 0, "no key is set"
    assert up.stats().requests == 0
    assert {path.name for path in folder.iterdir()} == before


def test_a_real_run_lies_within_the_ranges(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A range that the run leaves is a promise broken; the server here counts four characters a token."""
    rewrites: Rule = {
        "when": {"stage": "rewrite"},
        "replies": [{"json": {"relevant_context": TEXT, "user_query": TEXT}}],
    }
    up = upstream({"rules": [rewrites, {"replies": [{"content": "word " * 60}]}]})
    where = ("--base-url", up.base_url, "-o", "out", *PRICES)
    found = estimated(folder, *where)
    assert run(folder, "run", "in.jsonl", *MODEL, *where).status == 0
    summary = json.loads((folder / "out" / "run.json").read_text())["summary"]
    for name, stage in found["stages"].items():
        assert stage["requests"] == {"low": RECORDS, "high": RECORDS, "mean": None}
        for kind in ("input_tokens", "output_tokens"):
            assert within(stage[kind], summary[name]["usage"][kind]), (name, kind)
        assert within(stage["cost_usd"], summary[name]["cost_usd"])
    assert within(found["cost_usd"], summary["rewrite"]["cost_usd"] + summary["answer"]["cost_usd"])


def test_an_unknown_price_is_unknown(folder: Path) -> None:
    """0 would read as free."""
    done = run(folder, "estimate", "in.jsonl", *MODEL, "--base-url", "http://127.0.0.1:9/v1")
    assert done.status == 0
    assert "cost: unknown" in done.out
    assert done.out.count("; cost unknown") == 2
    assert "$" not in done.out
    assert "assumed: 3 to 5.5 letters a token" in done.out
    assert done.err == ""
    assert estimated(folder, "--base-url", "http://127.0.0.1:9/v1")["cost_usd"] is None


def test_only_what_is_pending_counts(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A run that is half done costs half; a finished rewrite is not paid again."""
    where = ("--base-url", upstream({}).base_url, "-o", "out")
    assert run(folder, "run", "in.jsonl", *MODEL, *where, "--limit", "8").status == 0
    assert run(folder, "run", "in.jsonl", *MODEL, *where, "--only", "rewrite", "--limit", "18").status == 0
    (folder / "in.jsonl").write_text((folder / "in.jsonl").read_text() + "no json\n")
    found = estimated(folder, *where)
    assert (found["lines"], found["done"], found["pending"], found["bad"]) == (RECORDS + 1, 8, RECORDS - 8, 1)
    requests = {name: stage["requests"]["low"] for name, stage in found["stages"].items()}
    waiting = len(read_lines(folder / "out" / "rewrites.jsonl")) - 8
    assert waiting == 18
    assert requests == {"rewrite": RECORDS - 8 - waiting, "answer": RECORDS - 8}
    assert estimated(folder, *where, "--limit", "5")["pending"] == 5
    assert estimated(folder, *where, "--fresh")["pending"] == RECORDS
    only = estimated(folder, *where, "--only", "rewrite")
    assert (only["done"], list(only["stages"])) == (26, ["rewrite"])


def test_dead_letters_are_pending_when_they_are_taken_up_again(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """The same options must mean the same records as for a run."""
    up = upstream({"rules": [{"when": {"contains": "[[r-1"}, "replies": [{"status": 400}]}]})
    where = ("--base-url", up.base_url, "-o", "out")
    assert run(folder, "run", "in.jsonl", *MODEL, *where).status == 1
    failed = len(read_lines(folder / "out" / "dead_letters.jsonl"))
    assert failed > 0
    assert estimated(folder, *where)["pending"] == 0
    assert estimated(folder, *where, "--retry-failed")["pending"] == failed


def test_rewrites_of_other_settings_are_made_again(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Counted as paid, the first stage of a changed job looks free; it is half of the bill."""
    up = upstream({})
    where = ("--base-url", up.base_url, "-o", "out")
    assert run(folder, "run", "in.jsonl", *MODEL, *where, "--only", "rewrite", "--limit", "18").status == 0
    unchanged = ("--set", "answer.seed=1")
    assert estimated(folder, *where, *unchanged)["stages"]["rewrite"]["requests"]["low"] == RECORDS - 18
    changed = ("--set", "rewrite.seed=1")
    refused = run(folder, "estimate", "in.jsonl", *MODEL, *where, *changed)
    assert refused.status == 2, "as a run with these options"
    assert "rewrite.seed: null -> 1" in refused.err
    found = estimated(folder, *where, *changed, "--accept-changes")
    preview = run(folder, "run", "in.jsonl", *MODEL, *where, *changed, "--accept-changes", "--dry-run").out
    up.reset_stats()
    assert run(folder, "run", "in.jsonl", *MODEL, *where, *changed, "--accept-changes").status == 0
    asked = {name: stage["requests"]["low"] for name, stage in found["stages"].items()}
    assert asked == up.stats().by_stage == {"rewrite": RECORDS, "answer": RECORDS}
    assert f"about {2 * RECORDS} requests" in preview


def test_the_tightest_limit_makes_the_time() -> None:
    """Whether requests, tokens or open requests bind is what the person wants to change."""
    found = Survey(
        lines=600, pending=600, rewrites=600, answers=600, prompts=Range(6e4, 6e4), rewritten=Range(6e4, 6e4)
    )
    endless = {"open_requests": 10_000}
    by_requests = estimate(a_job(limits={**endless, "requests_per_minute": 60}), found).seconds
    assert by_requests == Range(1200, 1200)
    tokens = estimate(a_job(limits={**endless, "tokens_per_minute": 1000}), found)
    stages = tokens.stages.values()
    low = sum(part.input_tokens.low + part.output_tokens.low for part in stages)
    assert tokens.seconds is not None
    assert tokens.seconds.low == pytest.approx(low * 60 / 1000)
    opened = estimate(a_job(limits={"open_requests": 2}), found)
    assert opened.seconds is not None
    assert opened.seconds.low == pytest.approx(
        sum(part.open_s.low for part in opened.stages.values() if part.open_s) / 2
    )
    apart = estimate(a_job(limits={**endless, "requests_per_minute": 60}, answer={"model": "m2"}), found).seconds
    assert apart == Range(600, 600), "two models have a limit each, and work side by side"
    alone = estimate(a_job(limits=endless), Survey(pending=1, rewrites=1, answers=1)).seconds
    assert alone is not None
    assert alone.low > 1, "a record goes through one stage after the other"
    assert estimate(a_job(model="embedded", base_url=None), found).seconds is None


def test_the_answers_type_bounds_its_length() -> None:
    """A number costs a few tokens, a text some hundreds; the job says which."""
    found = Survey(pending=10, rewrites=10, answers=10, prompts=Range(1000, 1000), rewritten=Range(1000, 1000))

    def came(**answer: object) -> Range:
        return estimate(a_job(answer=answer), found).stages["answer"].output_tokens

    assert came(type="int").high < came(type="text").low * 2
    assert came(type="text", max_tokens=30).high == 300
    assert came(type="choice", choices=["a", "b" * 300]).high > came(type="choice", choices=["a", "b"]).high
    kept = estimate(a_job(answer={"keep_original": True}), found).stages["answer"].input_tokens
    assert kept.low == pytest.approx(estimate(a_job(), found).stages["answer"].input_tokens.low + 1000)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The quick brown fox jumps over the lazy dog.", 10),
        ("東京は日本の首都です。", 19),
        ("Съешь же ещё этих мягких французских булок", 42),
        ("x = {'a': 1, 'b': [2, 3]}  # 12345", 25),
    ],
)
def test_scripts_have_their_own_range(text: str, tokens: int) -> None:
    """Japanese counted as English is a fifth of the bill; the numbers are what SmolLM2 makes of it."""
    found = text_tokens(text)
    assert found.low <= tokens <= found.high
    assert found.high <= 3 * tokens


def test_a_large_input_is_streamed(tmp_path: Path) -> None:
    """What is to be estimated is what is too large to try."""
    write_input(tmp_path / "small.jsonl", range(100))
    write_input(tmp_path / "large.jsonl", range(100_000))
    peaks = [run(tmp_path, "estimate", f"{name}.jsonl", *MODEL).peak_kib for name in ("small", "large")]
    assert peaks[1] - peaks[0] < 12_000


# --- with a sample


def test_a_samples_records_are_not_paid_twice(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """The sample is a part of the work; whoever then runs the job gets the rest alone."""
    up = upstream({})
    where = ("--base-url", up.base_url, "-o", "out", *PRICES)
    done = run(folder, "estimate", "in.jsonl", *MODEL, *where, "--sample", "8")
    assert done.status == 0
    assert up.stats().requests == 16
    assert f"{RECORDS} lines: {RECORDS - 8} pending, 8 done, 0 bad; 8 of those done are the sample" in done.out
    assert "8 answered" in done.err, "progress and summary stay off stdout"
    assert "8 answered" not in done.out
    ids = sorted(line["id"] for line in read_lines(folder / "out" / "results.jsonl"))
    assert ids == list(range(4, RECORDS, 5)), "from all over the input"
    assert run(folder, "run", "in.jsonl", *MODEL, *where).status == 0
    assert up.stats().requests == 2 * RECORDS


def test_the_rest_lies_within_the_samples_interval(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Records of two kinds, lying in two halves: a sample of the head alone would be wrong by a factor of four."""
    rules: list[Rule] = [
        {"when": {"contains": f"[[r-{n}]]"}, "replies": [{"usage": usage(1000, 100)}]} for n in range(20)
    ]
    up = upstream({"rules": [*rules, {"replies": [{"usage": usage(9000, 900)}]}]})
    where = ("--base-url", up.base_url, "-o", "out", *PRICES)
    found = estimated(folder, *where, "--sample", "10")
    assert found["sampled"] == 10
    assert found["sample_cost_usd"] == pytest.approx(5 * 2 * 0.14 + 5 * 2 * 1.26)
    assert run(folder, "run", "in.jsonl", *MODEL, *where).status == 0
    summary = json.loads((folder / "out" / "run.json").read_text())["summary"]
    for name, stage in found["stages"].items():
        assert stage["requests"]["mean"] == summary[name]["requests"] == 30
        for kind in ("input_tokens", "output_tokens"):
            assert within(stage[kind], summary[name]["usage"][kind])
            assert stage[kind]["mean"] == pytest.approx(summary[name]["usage"][kind])
    cost = summary["rewrite"]["cost_usd"] + summary["answer"]["cost_usd"]
    assert within(found["cost_usd"], cost)
    assert found["cost_usd"]["mean"] == pytest.approx(cost)
    assert found["seconds"]["low"] <= found["seconds"]["mean"] <= found["seconds"]["high"]


def test_a_samples_retries_and_failures_count(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A server that fails each third request costs half again; that is why one samples."""
    up = upstream({"rules": [{"when": {"stage": "answer"}, "replies": [{"json": "bad", "usage": usage(70, 7)}, {}]}]})
    where = ("--base-url", up.base_url, "-o", "out", "--answer", "int")
    found = estimated(folder, *where, "--sample", "10")
    assert found["stages"]["answer"]["requests"]["mean"] == 2 * 30
    assert found["stages"]["rewrite"]["requests"]["mean"] == 30
    up.replan({"rules": [{"when": {"stage": "answer"}, "replies": [{"status": 400}]}]})
    found = estimated(folder, *where, "--sample", "10")
    assert found["done"] == 20
    assert found["stages"]["answer"]["requests"]["mean"] == 20
    assert len(read_lines(folder / "out" / "dead_letters.jsonl")) == 10


def test_rewrites_of_before_are_no_part_of_a_sample(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """They are paid; counting them again would double the first stage."""
    up = upstream({})
    where = ("--base-url", up.base_url, "-o", "out")
    assert run(folder, "run", "in.jsonl", *MODEL, *where, "--only", "rewrite").status == 0
    found = estimated(folder, *where, "--sample", "10")
    assert found["stages"]["rewrite"]["requests"] == {"low": 0, "high": 0, "mean": 0}
    assert found["stages"]["answer"]["requests"]["mean"] == 30
    write_input(folder / "in.jsonl", range(RECORDS + 10), TEXT * 5)  # the last ten have none
    found = estimated(folder, *where, "--sample", "10")
    assert found["stages"]["rewrite"]["requests"]["mean"] == 10 - 3
    write_input(folder / "in.jsonl", range(100, 100 + RECORDS), TEXT)
    only = estimated(folder, *where, "--sample", "10", "--only", "rewrite")
    assert only["stages"]["rewrite"]["requests"]["mean"] == 30


def test_a_sample_that_stops_early_is_no_estimate(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Half a sample of a broken endpoint says nothing; its exit status says what is wrong."""
    up = upstream({"rules": [{"replies": [{"status": 401}]}]})
    done = run(folder, "estimate", "in.jsonl", *MODEL, "--base-url", up.base_url, "-o", "out", "--sample", "10")
    assert (done.status, done.out) == (3, "")
    done = run(folder, "estimate", "in.jsonl", *MODEL, "--base-url", up.base_url, "--sample", "10")
    assert (done.status, done.out) == (2, ""), "a sample needs a place to stay"


def test_a_sample_of_all_leaves_nothing(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A sample larger than the input is a run."""
    found = estimated(folder, "--base-url", upstream({}).base_url, "-o", "out", "--sample", "100", *PRICES)
    assert (found["pending"], found["sampled"]) == (0, RECORDS)
    assert found["cost_usd"] == {"low": 0, "high": 0, "mean": 0}


# --- the figures


def test_the_interval_holds_the_rest_in_95_of_100_samples() -> None:
    """A 95 % interval that holds 80 % is a wrong word on a bill."""
    rng = random.Random(5)  # noqa: S311  a draw
    held = 0
    for _ in range(2000):
        rest = sum(rng.gauss(10, 3) for _ in range(20))
        found = _sum_of([rng.gauss(10, 3) for _ in range(20)], 20)
        held += found.low <= rest <= found.high
    assert 0.93 <= held / 2000 <= 0.97


def test_students_t_is_that_of_the_tables() -> None:
    """Small samples need a wider interval than the normal one."""
    table = {1: 12.706, 2: 4.303, 4: 2.776, 5: 2.571, 9: 2.262, 20: 2.086, 60: 2.000}
    assert all(student(n) == pytest.approx(t, rel=0.01) for n, t in table.items())
    assert student(10**6) == pytest.approx(NormalDist().inv_cdf(0.975), abs=1e-4)


def test_one_record_says_nothing_about_the_spread() -> None:
    """Two equal ends would look like certainty."""
    found = _sum_of([3.0], 10)
    assert (found.low, found.high, found.mean) == (0, math.inf, 30)
    assert most([found, Range(1, 2, 3)]) == Range(1, math.inf, 30)


def test_money_and_time_read_well() -> None:
    """Small sums must not read as nothing, nor large ones as noise."""
    assert [dollars(cost) for cost in (None, 0, 0.000012, 0.0123, 1234.5)] == [
        "unknown",
        "$0.00",
        "$0.000012",
        "$0.0123",
        "$1234.50",
    ]
    assert [clock(seconds) for seconds in (0, 59.9, 3599, 3661, math.inf)] == [
        "0:00",
        "0:59",
        "59:59",
        "1:01:01",
        "no bound",
    ]


@pytest.mark.anyio
async def test_a_survey_counts_what_a_run_would_take_up(tmp_path: Path) -> None:
    """Equal lines are two records, blank ones none."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n\n{"prompt": "a"}\n{"prompt": ""}\n')
    job = a_job(input=tmp_path / "in.jsonl", output=tmp_path / "out")
    found = await survey(job, Options())
    assert (found.lines, found.pending, found.bad, found.done) == (3, 2, 1, 0)
    assert not await anyio.Path(tmp_path / "out").exists()
