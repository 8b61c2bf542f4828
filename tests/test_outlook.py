"""A look ahead counts the requests that the run then sends: for every arm, and for whatever spares or adds one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from s2a_batch.answers import REWRITE_REPLIES
from s2a_batch.estimate import Survey, estimate, text_tokens
from s2a_batch.forms import Asked
from s2a_batch.prompts import rewrite_messages
from tests.fakes import a_job
from tests.processes import JsonObject, read_lines, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from s2a_batch.figures import Range
    from s2a_batch.stagejob import Form
    from tests.server import Plan, Upstream

RECORDS = 24
ARMS = ("baseline", "instructed", "cot", "oracle")
MODEL = ("--model", "m", "--open-requests", "4")
SHARED = ("--set", "answer.baseline_share=0.5")
SKIP = ("--set", "rewrite.skip=true")


def arm(name: str) -> tuple[str, ...]:
    """The option for an arm."""
    return ("--set", f'arm="{name}"')


def form(name: str) -> tuple[str, ...]:
    """The option for a rewrite's form."""
    return ("--set", f'rewrite.form="{name}"')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An input whose every third record is a plain question, every fourth has no oracle's prompt; line 2 is faulty."""
    work = tmp_path / "work"
    work.mkdir()
    rows = []
    for n in range(RECORDS):
        plain, long = (
            f"Which river runs past [[r-{n}]]?",
            f"I think that [[r-{n}]] lies on the Nile. Which river is it?",
        )
        row = {"id": n, "prompt": long if n % 3 else plain}
        rows.append(json.dumps(row | ({"oracle_prompt": plain} if n % 4 else {})))
    rows.insert(1, "no json")
    (work / "in.jsonl").write_text("\n".join(rows) + "\n")
    return work


def estimated(folder: Path, *more: str) -> JsonObject:
    """What `estimate --json` prints."""
    done = run(folder, "estimate", "in.jsonl", *MODEL, "--json", *more)
    assert done.status == 0, done.err
    found: JsonObject = json.loads(done.out)
    return found


def looked_ahead(folder: Path, *more: str) -> dict[str, float]:
    """The requests of each stage that an estimate tells; a dry run must tell their sum."""
    found = {name: part["requests"] for name, part in estimated(folder, *more)["stages"].items()}
    assert all(part["low"] == part["high"] for part in found.values())
    dry = run(folder, "run", "in.jsonl", *MODEL, "--dry-run", *more)
    assert dry.status == 1, dry.err
    assert f"; about {sum(part['low'] for part in found.values())} requests" in dry.out
    return {name: part["low"] for name, part in found.items()}


def sent(folder: Path, *more: str) -> dict[str, int]:
    """The requests of each stage that a run sends, as it counts them itself."""
    assert run(folder, "run", "in.jsonl", *MODEL, *more).status == 1, "the faulty line"
    summary = json.loads((folder / "out" / "run.json").read_text())["summary"]
    return {name: summary[name]["requests"] for name in ("rewrite", "answer")}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ((), {"rewrite": 24, "answer": 24}),
        (arm("baseline"), {"answer": 24}),
        (arm("instructed"), {"answer": 24}),
        ((*arm("cot"), "--answer", "int"), {"answer": 24}),
        (arm("oracle"), {"answer": 18}),
        ((*arm("baseline"), *SHARED, *SKIP), {"answer": 24}),
        (SKIP, {"rewrite": 16, "answer": 24}),
        (form("single"), {"rewrite": 24, "answer": 24}),
        (form("passages"), {"rewrite": 24, "answer": 24}),
        (("--only", "rewrite", *SKIP, *SHARED), {"rewrite": 16}),
        (("--limit", "5", *SKIP), {"rewrite": 2, "answer": 4}),
    ],
)
def test_a_look_ahead_counts_what_is_sent(
    folder: Path, upstream: Callable[[Plan], Upstream], more: tuple[str, ...], expected: dict[str, int]
) -> None:
    """Whoever agrees to pay for so many requests shall find so many on the bill."""
    up = upstream({"rules": [{"replies": [{"json": {"reasoning": "r", "answer": 5}}]}]} if "cot" in str(more) else {})
    where = ("-o", "out", "--base-url", up.base_url, *more)
    assert looked_ahead(folder, *where) == expected
    assert up.stats().requests == 0
    assert {name: n for name, n in sent(folder, *where).items() if n} == expected
    assert up.stats().requests == sum(expected.values())


def test_a_share_that_is_answered_twice_is_counted(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Which records are drawn hangs on their lines alone, so that the number can be told to the one."""
    up = upstream({})
    where = ("-o", "out", "--base-url", up.base_url, *SHARED, *SKIP)
    ahead = looked_ahead(folder, *where)
    assert RECORDS < ahead["answer"] < 2 * RECORDS
    assert sent(folder, *where) == ahead == {"rewrite": 16, "answer": ahead["answer"]}
    results = read_lines(folder / "out" / "results.jsonl")
    assert ahead["answer"] == RECORDS + sum(line["stages"]["baseline"] is not None for line in results)
    everyone = looked_ahead(folder, "-o", "new", "--base-url", up.base_url, "--set", "answer.baseline_share=1")
    assert everyone == {"rewrite": RECORDS, "answer": 2 * RECORDS}


@pytest.mark.parametrize("only", [(), ("--only", "rewrite")])
def test_a_rewrite_that_another_run_lends_is_not_counted(
    folder: Path, upstream: Callable[[Plan], Upstream], only: tuple[str, ...]
) -> None:
    """Rewrites are lent to save their price; an estimate that asks it again hides that."""
    up = upstream({})
    url = ("--base-url", up.base_url)
    lend = ("run", "in.jsonl", *MODEL, *url, "-o", "lender", "--only", "rewrite", "--set", "rewrite.seed=1")
    assert run(folder, *lend, "--limit", "11").status == 1
    lent = len(read_lines(folder / "lender" / "rewrites.jsonl"))
    assert lent == 10
    where = ("-o", "out", *url, "--set", "rewrites=lender", *only)
    expected = {"rewrite": RECORDS - lent} | ({} if only else {"answer": RECORDS})
    assert looked_ahead(folder, *where) == looked_ahead(folder, *where, "--fresh") == expected
    assert {name: n for name, n in sent(folder, *where).items() if n} == expected


@pytest.mark.parametrize("more", [(), arm("baseline")])
def test_a_lender_without_rewrites_is_refused_ahead(folder: Path, more: tuple[str, ...]) -> None:
    """A typo in its name must show at the look, not at night."""
    (folder / "empty").mkdir()
    where = ("in.jsonl", *MODEL, "-o", "out", "--base-url", "http://127.0.0.1:9/v1", *more, "--set", "rewrites=empty")
    calls = (("run", "--dry-run"), ("estimate",), ("run",))
    found = [run(folder, name, *where, *dry) for name, *dry in calls]
    assert [(done.status, done.out) for done in found] == [(2, "")] * 3
    assert "empty/rewrites.jsonl: no such file; 'rewrites' names the directory" in found[0].err
    assert found[0].err == found[1].err == found[2].err
    assert not (folder / "out").exists(), "nothing is left of it"


def test_of_two_rewrites_of_a_record_the_last_one_counts(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Settings that were changed and changed back: a run looks at the last rewrite alone, and makes it again."""
    up = upstream({"rules": [{"when": {"stage": "answer"}, "replies": [{"status": 400}]}]})
    where = ("-o", "out", "--base-url", up.base_url, "--accept-changes", "--retry-failed")
    changed = ("--set", "rewrite.seed=1")
    assert run(folder, "run", "in.jsonl", *MODEL, *where, "--only", "rewrite").status == 1
    assert run(folder, "run", "in.jsonl", *MODEL, *where, *changed).status == 1
    assert looked_ahead(folder, *where, *changed) == {"rewrite": 0, "answer": RECORDS}
    assert looked_ahead(folder, *where) == sent(folder, *where) == {"rewrite": RECORDS, "answer": RECORDS}


# --- with a sample


@pytest.mark.parametrize(
    "more",
    [arm("baseline"), arm("oracle"), SKIP, (*SHARED, *SKIP), ("--only", "rewrite", *SKIP), form("single")],
    ids=lambda more: "-".join(word for word in more if word != "--set"),
)
def test_a_sample_tells_how_many_requests_are_left(
    folder: Path, upstream: Callable[[Plan], Upstream], more: tuple[str, ...]
) -> None:
    """Where no request fails, what is left can be told to the one, whatever the sample happened to hold."""
    up = upstream({})
    where = ("-o", "out", "--base-url", up.base_url, *more)
    found = estimated(folder, *where, "--sample", "12")
    asked = up.stats().requests
    assert asked > 0
    left = {name: part["requests"]["mean"] for name, part in found["stages"].items()}
    rest = sent(folder, *where)
    assert left == {name: rest[name] for name in left}
    assert (found["sampled"], found["pending"]) == (11, 13), "each second record; the faulty line is none"
    assert up.stats().requests == asked + sum(left.values())


def test_a_samples_baseline_attempts_are_paid_too(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """The prompt as given may fail and be asked again like any other; its attempts stand on the same bill."""
    broken: Plan = {"rules": [{"when": {"stage": "answer"}, "replies": [{"json": "bad"}, {}], "per_record": False}]}
    up = upstream(broken)
    where = ("-o", "out", "--base-url", up.base_url, "--answer", "int", "--set", "answer.baseline_share=1")
    prices = ("--set", "price.usd_per_million_input=100", "--set", "price.usd_per_million_output=400")
    found = estimated(folder, *where, *prices, "--sample", "6")
    summary = json.loads((folder / "out" / "run.json").read_text())["summary"]
    asked = summary["answer"]["requests"]
    done = found["sampled"]
    assert asked > 2 * done
    assert found["stages"]["answer"]["requests"]["mean"] == pytest.approx(asked / done * found["pending"])
    assert found["sample_cost_usd"] == pytest.approx(summary["rewrite"]["cost_usd"] + summary["answer"]["cost_usd"])


# --- tokens


@pytest.mark.parametrize("name", ["s2a", *ARMS])
def test_a_run_of_any_arm_lies_within_the_ranges(
    tmp_path: Path, upstream: Callable[[Plan], Upstream], name: str
) -> None:
    """Earlier turns and the system's text go to the answer in each arm; in a long chat they are most of the bill."""
    said = "Everybody whom I asked this morning holds another view of it. " * 20
    turns = [{"role": "system", "content": said}, {"role": "user", "content": said}]
    turns += [{"role": "assistant", "content": said}, {"role": "user", "content": "Is [[r-1]] it? I think so."}]
    row = {"messages": turns, "oracle_prompt": "Is [[r-1]] it?"}
    (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\nno json\n")
    up = upstream({"rules": [{"when": {"stage": "answer"}, "replies": [{"content": "word " * 60}]}]})
    where = ("-o", "out", "--base-url", up.base_url, *arm(name))
    found = estimated(tmp_path, *where)["stages"]["answer"]
    sent(tmp_path, *where)
    usage = json.loads((tmp_path / "out" / "run.json").read_text())["summary"]["answer"]["usage"]
    assert usage["input_tokens"] > 900
    for kind in ("input_tokens", "output_tokens"):
        assert found[kind]["low"] <= usage[kind] <= found[kind]["high"], kind


def test_only_what_an_arm_does_is_assumed(folder: Path) -> None:
    """A word on rewrites beside an arm that makes none is read as a cost."""
    where = ("-o", "out", "--base-url", "http://127.0.0.1:9/v1")
    said = {name: estimated(folder, *where, *arm(name))["assumed"] for name in ("s2a", *ARMS)}
    assert [name for name, lines in said.items() if any("rewrite" in line for line in lines)] == ["s2a"]
    assert (
        "a rewrite of at most 100 tokens, and 3 for each passage"
        in estimated(folder, *where, *form("passages"))["assumed"]
    )


def test_a_form_has_its_own_length() -> None:
    """Numbers of passages in place of a copy are the whole gain of that form for a long text."""
    text = "\n\n".join(f"Paragraph {n} says what the paragraph before it said." for n in range(200))

    def rewriting(name: str) -> tuple[Range, Range]:
        job, found = a_job(rewrite={"form": name}), Survey()
        found.add(job, Asked(text), {"rewrite", "answer"})
        part = estimate(job, found).stages["rewrite"]
        return part.input_tokens, part.output_tokens

    split, single, passages = (rewriting(name) for name in ("split", "single", "passages"))
    assert passages[1].high < split[1].high / 3
    assert single[1] == split[1]
    assert passages[0].low > split[0].low + 200, "each passage has a number before it"


@pytest.mark.parametrize("given", [None, "Rewrite it."])
@pytest.mark.parametrize("name", ["single", "passages"])
def test_a_forms_wording_and_schema_are_counted(name: Form, given: str | None) -> None:
    """They come with each request; of short prompts they are the most of it."""

    def asked(form_name: Form) -> Range:
        rewrite = {"form": form_name, "instructions": given}
        return estimate(a_job(rewrite=rewrite), Survey(rewrites=1)).stages["rewrite"].input_tokens

    def wording(form_name: Form) -> Range:
        return text_tokens(rewrite_messages("", form=form_name, instructions=given)[0]["content"])

    def schema(form_name: Form) -> float:
        return text_tokens(json.dumps(REWRITE_REPLIES[form_name].model_json_schema())).high

    one, other = asked(name), asked("split")
    assert one.low - other.low == pytest.approx(wording(name).low - wording("split").low)
    more = wording(name).high + schema(name) - wording("split").high - schema("split")
    assert one.high - other.high == pytest.approx(more)
    assert one.high != other.high


def test_a_chain_of_thought_is_longer_than_its_answer() -> None:
    """A number with its reasoning counted as a number is a tenth of the bill."""

    def came(name: str) -> Range:
        job, found = a_job(arm=name, answer={"type": "int"}), Survey()
        found.add(job, Asked("How many?"), {"answer"})
        return estimate(job, found).stages["answer"].output_tokens

    assert came("cot").high >= came("baseline").high + 400
