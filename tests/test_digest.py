"""Every number of a report against a count by hand."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest

from s2a_batch.errors import JobError
from s2a_batch.htmlreport.digest import digest
from s2a_batch.htmlreport.remedies import REMEDIES
from tests.processes import ROOT, run, running, write_input
from tests.result_lines import JOB, SUMMARY, JsonObject, attempt, failed, line, stage, write_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Plan, Upstream


def test_requests_and_faults_are_those_of_a_count_by_hand(tmp_path: Path) -> None:
    """These decide whether limits are raised, prompts mended or a provider changed."""
    busy = stage(
        attempt(0, 2.0, error="rate_limited", status=429, tokens=None, waited_s=1.0),
        attempt(3, 4.0, error="connection", status=None, tokens=None, outage=True, waited_s=2.0),
        attempt(9, 8.0, error="invalid_reply", waited_s=3.0),
        attempt(20, 1.0, reask=True, waited_s=0.0),
    )
    lost = failed(2, "invalid_reply", stages={"answer": stage(attempt(error="invalid_reply"))})
    found = digest(write_run(tmp_path, [line(1, stages={"rewrite": busy, "answer": stage(attempt())})], [lost]))
    rewrite = found["stages"]["rewrite"]
    assert (rewrite["records"], rewrite["requests"], rewrite["rate_limited"], rewrite["outage"]) == (1, 4, 1, 1)
    assert (rewrite["retries"], rewrite["reasks"]) == (1, 1), "a retry follows the lost connection, not the limit"
    assert rewrite["errors"] == {"rate_limited": 1, "connection": 1, "invalid_reply": 1}
    assert rewrite["statuses"] == {"429": 1, "None": 1, "200": 2}
    assert rewrite["seconds"]["total"] == 15.0
    assert rewrite["seconds"]["most"] == 8.0
    assert rewrite["seconds"]["p50"] == pytest.approx(2.0, rel=0.011)
    assert (rewrite["waited_s"]["total"], rewrite["waited_s"]["most"], rewrite["waited_s"]["mean"]) == (6.0, 3.0, 1.5)
    assert rewrite["models_answered"] == {"m-2": 1}
    answer = found["stages"]["answer"]
    assert (answer["requests"], answer["reasks"], answer["errors"]) == (2, 0, {"invalid_reply": 1}), "none followed"
    assert "baseline" not in found["stages"]


def test_tokens_and_cost_are_those_of_a_count_by_hand(tmp_path: Path) -> None:
    """The bill: re-asks are paid, refusals are not, cached tokens cost their own price, another model has none."""
    cached = {"input_tokens": 1_000, "cached_tokens": 600, "output_tokens": 100, "reasoning_tokens": 40}
    lines = [
        line(1, stages={"answer": stage(attempt(error="invalid_reply", tokens=(500, 50)), attempt(usage=cached))}),
        line(2, stages={"answer": stage(attempt(tokens=None, error="rate_limited"), attempt(tokens=(200, 20)))}),
        line(3, stages={"answer": stage(attempt(tokens=None))}),
        line(4, stages={"answer": stage(attempt(tokens=(300, None)))}),
        line(5, stages={"answer": stage(attempt(tokens=(7, 7)), model="another")}),
    ]
    answer = digest(write_run(tmp_path, lines))["stages"]["answer"]
    assert (answer["input_tokens"], answer["cached_tokens"]) == (500 + 1_000 + 200 + 300 + 7, 600)
    assert (answer["output_tokens"], answer["reasoning_tokens"]) == (50 + 100 + 20 + 7, 40)
    expected = (500 * 2 + 50 * 10) + (400 * 2 + 600 * 1 + 100 * 10) + (200 * 2 + 20 * 10)
    assert answer["cost_usd"] == pytest.approx(expected / 1e6)
    assert answer["unknown_usage"] == 2, "one reply said nothing, one half of it"
    assert answer["unpriced"] == 2, "what the half would cost is not known, nor what another model costs"


def test_without_a_price_the_cost_is_unknown_and_not_nothing(tmp_path: Path) -> None:
    """A report that says $0.00 of a bill that nobody knows would be believed."""
    job = {name: value for name, value in JOB.items() if name != "price"}
    found = digest(write_run(tmp_path, [line(1, stages={"answer": stage(attempt())})], job=job))
    assert (found["stages"]["answer"]["cost_usd"], found["stages"]["answer"]["unpriced"]) == (None, 1)
    assert found["stages"]["answer"]["input_tokens"] == 100


@pytest.mark.parametrize("job", [{}, None, {"model": 7}, {**JOB, "from": "another version"}])
def test_a_job_that_this_version_does_not_know_costs_the_prices_alone(tmp_path: Path, job: JsonObject | None) -> None:
    """An old run is looked at with a new version; its counts must still be there."""
    found = digest(write_run(tmp_path, [line(1, stages={"answer": stage(attempt())})], job=job))
    assert found["counts"]["answered"] == 1
    assert found["stages"]["answer"]["cost_usd"] is None


def test_the_factor_of_one_call_is_that_of_a_count_by_hand(tmp_path: Path) -> None:
    """The method doubles the bill or quintuples it, by the size of the prompts: whoever pays wants to see which."""
    sizes = [100] * 6 + [1_500] * 4
    lines = [
        line(
            n,
            "x" * chars,
            stages={
                "rewrite": stage(attempt(tokens=None, error="rate_limited"), attempt(tokens=(50 + chars // 4, 30))),
                "answer": stage(attempt(tokens=(40, 10), error="invalid_reply"), attempt(tokens=(60, 5))),
            },
        )
        for n, chars in enumerate(sizes)
    ]
    one = digest(write_run(tmp_path, lines))["one_call"]
    assert (one["method"], one["points"]) == ("slope", 10)
    assert one["tokens_per_char"] == pytest.approx(0.25)
    small, large = one["sizes"]
    assert (small["from_chars"], small["to_chars"], small["records"]) == (0, 250, 6)
    assert (large["from_chars"], large["to_chars"], large["records"]) == (1_000, 2_000, 4)
    assert (small["input_tokens"], small["output_tokens"]) == (6 * (75 + 100), 6 * (30 + 15))
    assert small["one_input_tokens"] == pytest.approx(6 * 25)
    assert small["one_output_tokens"] == 6 * 5, "the answer that was taken; the re-ask is the method's"
    assert small["input_factor"] == pytest.approx(175 / 25)
    assert small["token_factor"] == pytest.approx((175 + 45) / (25 + 5))
    assert small["cost_factor"] == pytest.approx((175 * 2 + 45 * 10) / (25 * 2 + 5 * 10))
    total = one["total"]
    assert total is not None
    assert total["records"] == 10
    given, one_given = 6 * 175 + 4 * 525, 6 * 25 + 4 * 375
    assert total["input_factor"] == pytest.approx(given / one_given)
    assert total["one_cost_usd"] == pytest.approx((one_given * 2 + 50 * 10) / 1e6)


def test_only_what_is_known_on_both_sides_is_compared(tmp_path: Path) -> None:
    """One record without usage on one side would make the method look cheap."""
    answer = stage(attempt(tokens=(30, 3)))
    both = {"rewrite": stage(attempt(tokens=(90, 9))), "answer": answer}
    by_size = [{"rewrite": stage(attempt(tokens=(10 + 40 * n, 9))), "answer": answer} for n in range(4)]
    lines = [line(n, "y" * 40 * n, stages=by_size[n]) for n in range(1, 4)]
    lines += [line(4, "y" * 80, stages={**both, "rewrite": stage(attempt(tokens=None))})]
    lines += [line(5, "y" * 80, stages={**both, "answer": stage(attempt(tokens=(None, 3)))})]
    dead = [failed(6, "truncated", prompt="y" * 80, stages=both), failed(7, "bad_json", prompt=None, rewrite=None)]
    messages = [{"role": "system", "content": "s" * 100}, {"role": "user", "content": "u" * 80}]
    lines += [line(8, "y" * 80, stages={**both, "rewrite": stage(attempt(tokens=(90, 9)), messages=messages)})]
    one = digest(write_run(tmp_path, lines, dead))["one_call"]
    assert (one["method"], one["tokens_per_char"]) == ("ratio", 0.5), "too few for a slope: 90 tokens for 180 sent"
    assert one["total"] is not None
    assert one["total"]["records"] == 4
    assert one["total"]["one_input_tokens"] == pytest.approx((40 + 80 + 120 + 80) * 0.5)


def test_without_a_way_to_learn_the_rate_nothing_is_compared(tmp_path: Path) -> None:
    """A guessed factor looks like a measured one."""
    one = digest(write_run(tmp_path, [line(1, stages={"answer": stage(attempt())})]))["one_call"]
    assert (one["total"], one["sizes"], one["tokens_per_char"]) == (None, [], None)


def test_prompts_that_were_also_asked_as_they_are_are_measured(tmp_path: Path) -> None:
    """An estimate is good until there is a measurement; and a flipped answer is what the method is for."""
    stages = {name: stage(attempt(tokens=(100, 20))) for name in ("rewrite", "answer", "baseline")}
    lines = [line(1, stages=stages, baseline={"answer": "no"}), line(2, stages=stages, baseline={"answer": "yes"})]
    found = digest(write_run(tmp_path, [*lines, line(3)]))
    assert found["one_call"]["measured"] == {"records": 2, "flips": 1, "token_factor": 2.0}
    assert (found["counts"]["baselines"], found["counts"]["flips"]) == (2, 1)
    assert found["stages"]["baseline"]["cost_usd"] == pytest.approx(2 * (100 * 2 + 20 * 10) / 1e6)


def test_rewrites_checks_and_policies_are_those_of_a_count_by_hand(tmp_path: Path) -> None:
    """What the method did to the prompts is the audit itself."""
    prompt = "a b c d e f g h i j"
    error, note = {"name": "question_lost", "level": "error"}, {"name": "numbers_dropped", "level": "info"}
    lines = [
        line(1, prompt, rewrite=("a b", "c"), checks=[error, note], policy="keep_original"),
        line(2, prompt, rewrite=("", "a b c d e"), checks=[note]),
        line(3, prompt, rewrite=(prompt + " k", prompt)),
        line(4, prompt, rewrite=None, policy="original"),
    ]
    found = digest(write_run(tmp_path, lines, [failed(5, "check_failed", prompt=prompt, checks=[error])]))
    kept = found["compression"]
    assert (kept["records"], kept["prompt_words"], kept["rewrite_words"]) == (4, 40, 3 + 5 + 21 + 10)
    assert {n: count for n, count in enumerate(kept["shares"]) if count} == {6: 1, 10: 1, 20: 1, 24: 1}
    assert kept["kept"]["most"] == 2.1
    assert kept["kept"]["p50"] == pytest.approx(0.5, rel=0.011)
    assert found["checks"] == [
        {"name": "question_lost", "level": "error", "records": 2},
        {"name": "numbers_dropped", "level": "info", "records": 2},
    ]
    assert found["checked"] == {"error": 2, "warn": 0, "info": 1, "none": 1}
    assert found["policies"] == {"keep_original": 1, "original": 1}


def test_dead_letters_are_told_by_kind_with_the_first_and_the_remedy(tmp_path: Path) -> None:
    """A thousand failures are few causes; the first line of each is where one looks."""
    bad = {"stage": "input", "kind": "bad_json", "message": "not JSON", "line": 2}
    dead = [
        failed(9, "truncated"),
        failed(4, "truncated"),
        failed(2, "bad_json", prompt=None, rewrite=None, error=bad, raw="{oh"),
        failed(3, "of_tomorrow"),
    ]
    found = digest(write_run(tmp_path, [], dead))
    assert found["counts"]["failed"] == 4
    first, *others = found["failures"]
    assert (first["kind"], first["records"], first["first_line"]) == ("truncated", 2, 4)
    assert (first["first_message"], first["stages"]) == ("what is wrong with line 4", {"answer": 2})
    assert (first["meaning"], first["remedy"]) == ("the reply hit the token bound", "raise max_tokens")
    assert {(f["kind"], f["meaning"] != "") for f in others} == {("bad_json", True), ("of_tomorrow", False)}
    assert [f["stages"] for f in others if f["kind"] == "bad_json"] == [{"input": 1}]


def test_remedies_are_those_of_the_readme() -> None:
    """Two places that advise differently are one place too many."""
    table = (ROOT / "README.md").read_text().partition("## Errors and remedies")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines() if row.startswith("| `")]
    documented = {kind.strip("`"): (what, remedy) for kind, what, remedy in rows if kind != "`error.kind`"}
    assert {k: (w.replace("`", ""), r.replace("`", "")) for k, (w, r) in documented.items()} == REMEDIES


def test_a_record_counts_once_by_its_result_or_its_last_rewrite(tmp_path: Path) -> None:
    """The rewrites' file holds those of answered records too; counted twice they double the bill."""
    first, last = (stage(attempt(tokens=(100 * n, n))) for n in (1, 2))
    waiting = {"status": "rewritten", "answer": None}
    rewrites = [
        line(1, stages={"rewrite": first}, **waiting),
        line(2, stages={"rewrite": first}, **waiting),
        line(2, stages={"rewrite": last}, **waiting),
        line(3, stages={"rewrite": first}, **waiting),
    ]
    results = [line(1, stages={"rewrite": first, "answer": first})]
    found = digest(write_run(tmp_path, results, [failed(3, "truncated", stages={"rewrite": first})], rewrites))
    assert [found["counts"][name] for name in ("answered", "failed", "rewritten")] == [1, 1, 1]
    rewrite = found["stages"]["rewrite"]
    assert (rewrite["records"], rewrite["requests"], rewrite["input_tokens"]) == (3, 3, 100 + 100 + 200)
    assert found["compression"]["records"] == 3


def test_what_is_pending_is_told_only_when_it_is_known(tmp_path: Path) -> None:
    """`0 pending` of an input that was never read to its end sends people home too early."""
    whole = {**SUMMARY, "pending": 3, "superseded": 2}
    known = digest(write_run(tmp_path / "a", [line(1)], summary=whole))
    assert (known["counts"]["pending"], known["counts"]["superseded"]) == (3, 2)
    limited = digest(write_run(tmp_path / "b", [line(1)], summary={**whole, "read_all": False}))
    assert (limited["counts"]["pending"], limited["counts"]["superseded"]) == (None, None)
    killed = digest(write_run(tmp_path / "c", [line(1)], summary=None))
    assert (killed["counts"]["pending"], killed["run"]["executions"], killed["run"]["killed"]) == (None, 2, 1)


def test_results_of_other_settings_are_told_apart(tmp_path: Path) -> None:
    """After --accept-changes two kinds of answers lie in one file; whoever compares must know."""
    waiting = line(3, status="rewritten", answer=None, fingerprint="r")
    lines = [line(1, fingerprint="a"), line(2, fingerprint="b"), line(4, fingerprint="b")]
    found = digest(write_run(tmp_path, lines, (), [waiting]))
    assert found["counts"]["fingerprints"] == {"b": 2, "a": 1}


def test_nothing_is_a_run_of_nothing(tmp_path: Path) -> None:
    """An empty input is a finished run; a directory without a run is a typo."""
    found = digest(write_run(tmp_path / "empty"))
    assert (found["counts"]["answered"], found["stages"], found["course"]["bins"]) == (0, {}, [])
    assert (found["seconds"]["p50"], found["first"], found["one_call"]["total"]) == (None, None, None)
    with pytest.raises(JobError, match="no run here"):
        digest(tmp_path)


def test_the_course_holds_requests_where_they_began_and_records_where_they_ended(tmp_path: Path) -> None:
    """A bottleneck is found by its minute."""
    stages = {"rewrite": stage(attempt(10.2, 2.0, waited_s=4.0), attempt(10.9, 4.0, error="rate_limited", tokens=None))}
    lines = [line(1, stages=stages, started_at="2026-03-01T22:00:10+00:00", seconds=3.5)]
    course = digest(write_run(tmp_path, lines))["course"]
    first, last = course["bins"]
    assert (course["width_s"], last["at"] - first["at"]) == (1, 3)
    assert (first["requests"], first["rate_limited"], first["errors"], first["answered"]) == (2, 1, 0, 0)
    assert (first["waited_mean_s"], first["waited_most_s"]) == (2.0, 4.0)
    assert first["latency_s"]["rewrite"] == pytest.approx((2.0, 4.0, 4.0), rel=0.011)
    assert (last["answered"], last["requests"], last["waited_mean_s"], last["latency_s"]) == (1, 0, None, {})


def test_examples_and_slowest_do_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    """Two people who look at one run must speak of the same records."""
    shuffled = random.Random(1)  # noqa: S311  an order
    error = {"name": "numbers_invented", "level": "error"}
    lines = [
        line(n, "w " * 40, rewrite=("w " * (n % 50 + 1), "w"), seconds=float(n), checks=[error] if n % 7 == 0 else [])
        for n in range(200)
    ]
    chosen: list[list[tuple[str | int, list[str]]]] = []
    for name in ("a", "b"):
        found = digest(write_run(tmp_path / name, lines))
        chosen.append([(e["key"], e["why"]) for e in found["examples"]] + [(s["line"], []) for s in found["slowest"]])
        shuffled.shuffle(lines)
    assert chosen[0] == chosen[1]
    reasons = [why for _, why in chosen[0][:-10]]
    assert {reason for why in reasons for reason in why} == {"typical", "most removed", "check numbers_invented"}
    assert [number for number, _ in chosen[0][-10:]] == list(range(199, 189, -1))


def test_the_numbers_are_those_of_the_run_itself(tmp_path: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """The summary counted where it happened; a report that differs from it is wrong."""
    (tmp_path / "work").mkdir()
    write_input(tmp_path / "work" / "in.jsonl", range(40))
    plan: Plan = {
        "limits": {"max_in_flight": 6, "retry_after": "0.02"},
        "rules": [
            {"when": {"every": 11}, "replies": [{"status": 500}], "per_record": False},
            {"when": {"every": 13, "stage": "answer"}, "replies": [{"finish_reason": "length"}], "per_record": False},
            {"when": {"every": 9, "stage": "rewrite"}, "replies": [{"content": "no"}], "per_record": False},
        ],
    }
    money = ("--set", "price.usd_per_million_input=3", "--set", "price.usd_per_million_output=7")
    fast = ("--set", "retry.backoff_s=0.01", "--open-requests", "8", *money)
    call = ("run", "in.jsonl", "-o", "out", "--model", "m", "--base-url", upstream(plan).base_url, *fast)
    assert run(tmp_path / "work", *call, "--limit", "15").status in (0, 1)
    half = json.loads((tmp_path / "work" / "out" / "run.json").read_text())["summary"]
    assert run(tmp_path / "work", *call).status in (0, 1)
    found = digest(tmp_path / "work" / "out")
    last = json.loads((tmp_path / "work" / "out" / "run.json").read_text())["summary"]
    for name, part in found["stages"].items():
        for field in ("requests", "retries", "rate_limited", "reasks"):
            assert part[field] == half[name][field] + last[name][field], (name, field)
        for field in ("input_tokens", "output_tokens"):
            assert part[field] == half[name]["usage"][field] + last[name]["usage"][field]  # type: ignore[literal-required]
        assert part["cost_usd"] == pytest.approx(half[name]["cost_usd"] + last[name]["cost_usd"])
        assert part["seconds"]["total"] == pytest.approx(half[name]["seconds"] + last[name]["seconds"], abs=0.01)
    answered = half["answered"] + last["answered"]
    assert (found["counts"]["answered"], found["counts"]["failed"]) == (answered, 40 - answered)
    assert (found["counts"]["pending"], found["run"]["executions"], found["run"]["running"]) == (0, 2, False)
    assert sum(part["rate_limited"] + part["retries"] + part["reasks"] for part in found["stages"].values()) > 3


def test_a_run_can_be_looked_at_while_it_goes(tmp_path: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """At two in the night one wants to know how it goes, and must not disturb it."""
    (tmp_path / "work").mkdir()
    write_input(tmp_path / "work" / "in.jsonl", range(6))
    held = {"when": {"stage": "answer", "contains": "[[r-5]]"}, "replies": [{"delay_s": 30.0}]}
    up = upstream({"rules": [held]})  # type: ignore[list-item]
    call = ("run", "in.jsonl", "-o", "out", "--model", "m", "--base-url", up.base_url)
    with running(tmp_path / "work", *call):
        up.wait_until(lambda stats: stats.answered == 11)
        found = digest(tmp_path / "work" / "out")
        while found["counts"]["answered"] + found["counts"]["rewritten"] < 6:  # a reply is written after it was sent
            found = digest(tmp_path / "work" / "out")
        assert found["run"]["running"]
        assert (found["counts"]["pending"], found["counts"]["failed"]) == (None, 0)


def test_failed_records_that_are_asked_again_are_not_counted_twice(
    tmp_path: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """After --retry-failed the old dead letters lie beside the new results."""
    (tmp_path / "work").mkdir()
    write_input(tmp_path / "work" / "in.jsonl", range(3))
    refuse = {"when": {"stage": "answer", "contains": "[[r-1]]"}, "replies": [{"status": 400}], "then": "good"}
    call = ("run", "in.jsonl", "-o", "out", "--model", "m", "--base-url", upstream({"rules": [refuse]}).base_url)  # type: ignore[list-item]
    assert run(tmp_path / "work", *call).status == 1
    assert digest(tmp_path / "work" / "out")["counts"]["failed"] == 1
    assert run(tmp_path / "work", *call, "--retry-failed").status == 0
    found = digest(tmp_path / "work" / "out")
    assert (found["counts"]["answered"], found["counts"]["failed"], found["counts"]["set_aside"]) == (3, 0, 1)
    assert (found["stages"]["rewrite"]["requests"], found["stages"]["answer"]["requests"]) == (3, 3)
    assert found["run"]["requests"] == 7


def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    """A run of a night has millions of lines; the report of it must fit beside it."""
    stages = {"rewrite": stage(attempt()), "answer": stage(attempt())}
    peaks = []
    for name, size in (("small", 1_000), ("large", 16_000)):
        work = tmp_path / name
        lines = (line(n, "word " * 60, stages=stages, started_at="2026-03-01T22:00:00+00:00") for n in range(size))
        write_run(work / "out", lines)
        done = run(work, "report", "out")
        assert done.status == 0, done.err
        peaks.append(done.peak_kib)
    assert peaks[1] - peaks[0] < 8_000
