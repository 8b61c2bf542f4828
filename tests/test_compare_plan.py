"""What is wrong with a comparison is said before its first request: the fourth arm's fault costs nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from s2a_batch.arms import KNOWN, Compare
from s2a_batch.caps import Budget
from s2a_batch.compare.purse import Purse
from tests.comparing import figures, write_job
from tests.processes import ROOT, run
from tests.test_readme import README

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Plan, Upstream

RECORDS = 3


@pytest.mark.parametrize(
    ("compare", "told"),
    [
        ('arms = ["baseline", "s2a_keeporiginal"]', "did you mean 's2a_keep_original'?"),
        ('arms = ["cot", "COT"]\n[compare.variants.COT]\narm = "cot"', "each name once"),
        ('arm = ["baseline"]', "did you mean 'arms'?"),
        ('score = "nearly"', "compare.score"),
        ('judge = {model = "x"}', "goes with score = 'judge'"),
        ('score = "judge"\njudge = {models = "x"}', "did you mean 'model'?"),
        ("[compare.variants.mine]\nanswer = {types = 'int'}", "compare.variants.mine.answer.types: no such key"),
        (
            "[compare.variants.mine]\nbudget = {max_requests = 1}",
            "compare.variants.mine.budget: is the same for all arms",
        ),
        ('[compare.variants."../up"]\narm = "s2a"', "is no name of an arm"),
        ("[compare.variants.mine]\nanswer = {schema_file = 'gone.json', type = 'text'}", "gone.json: cannot be read"),
        ("[compare.variants.mine]\napi_key_env = 'NO_SUCH_KEY'", "NO_SUCH_KEY"),
    ],
)
def test_a_fault_of_any_arm_is_told_before_anything_is_sent(
    folder: Path, upstream: Callable[[Plan], Upstream], compare: str, told: str
) -> None:
    """Three arms of a night's work may be paid before the fourth turns out to have a typo."""
    up = upstream({})
    write_job(folder, up, compare=compare)
    done = run(folder, "compare", "job.toml")
    assert done.status == 2
    assert told in done.err
    assert up.stats().requests == 0
    assert not (folder / "out").exists()


@pytest.mark.parametrize("key", ['only = "rewrite"', 'rewrites = "other"'])
def test_keys_that_a_comparison_sets_itself_are_refused(
    folder: Path, upstream: Callable[[Plan], Upstream], key: str
) -> None:
    """Silently ignored they would mean something else than the person thinks."""
    write_job(folder, upstream({}), more=key)
    done = run(folder, "compare", "job.toml")
    assert done.status == 2
    assert key.split(" ", maxsplit=1)[0] in done.err


def test_a_changed_arm_is_refused_before_the_others_go_on(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Half an arm with one temperature and half with another compares nothing."""
    up = upstream({})
    write_job(folder, up, compare='arms = ["baseline", "s2a"]')
    assert run(folder, "compare", "job.toml", "--limit", "1").status == 0
    sent = up.stats().requests
    write_job(folder, up, compare='arms = ["baseline", "s2a"]', more="rewrite = {temperature = 0.5}")
    done = run(folder, "compare", "job.toml")
    assert done.status == 2
    assert "rewrite.temperature: null -> 0.5" in done.err
    assert up.stats().requests == sent
    assert run(folder, "compare", "job.toml", "--fresh").status == 0


def test_an_arm_whose_settings_nobody_knows_is_refused_before_the_others_go_on(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """A lost `run.json` of the last arm must not come out when the first ones are paid."""
    up = upstream({})
    write_job(folder, up, compare='arms = ["baseline", "s2a"]')
    assert run(folder, "compare", "job.toml", "--limit", "1").status == 0
    sent = up.stats().requests
    (folder / "out" / "arms" / "s2a" / "run.json").unlink()
    write_job(folder, up, compare='arms = ["baseline", "s2a"]', more="rewrite = {temperature = 0.5}")
    done = run(folder, "compare", "job.toml")
    assert done.status == 2
    assert "which ones is unknown: there are results and no run.json" in done.err
    assert up.stats().requests == sent


def test_a_page_is_never_put_over_another_file(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A slip of the fingers must not cost a file, nor be found out after an hour of requests."""
    up = upstream({})
    write_job(folder, up)
    for place in ("in.jsonl", ".", "no/such/place.html"):
        done = run(folder, "compare", "job.toml", "--html", place)
        assert done.status == 2
        assert "choose another name" in done.err
    assert up.stats().requests == 0


def test_an_input_that_can_be_read_only_once_is_refused(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Every arm reads it; the second would wait at an empty pipe for ever."""
    write_job(folder, upstream({}))
    (folder / "in.jsonl").unlink()
    os.mkfifo(folder / "in.jsonl")
    done = run(folder, "compare", "job.toml")
    assert done.status == 2
    assert "in.jsonl: a pipe; a comparison reads its input" in done.err


def test_without_right_answers_there_is_agreement_and_what_changed(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """Most files have no right answers; how often the arms differ is known all the same."""
    write_job(folder, upstream({}), compare='arms = ["baseline", "s2a"]', answer="")
    done = run(folder, "compare", "job.toml")
    assert done.status == 0
    assert "without right answers" in done.out
    assert "p Holm" not in done.out
    found = figures(folder)
    assert (found["no_gold"], found["pairs"][0]["p"], found["arms"][0]["judged"]["share"]) == (RECORDS, None, None)
    assert [(one["n"], one["alike"]) for one in found["agreements"]] == [(RECORDS, RECORDS)]


def test_paths_in_an_arms_own_keys_are_relative_to_the_job_file(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """As all paths of a job file are; the command may run from anywhere."""
    (folder / "jobs").mkdir()
    (folder / "jobs" / "answer.json").write_text('{"type": "object", "properties": {"answer": {"type": "string"}}}')
    own = '[compare.variants.typed]\narm = "baseline"\nanswer = {schema_file = "answer.json"}'
    write_job(folder, upstream({}), compare=own, answer="")
    (folder / "job.toml").rename(folder / "jobs" / "job.toml")
    (folder / "in.jsonl").rename(folder / "jobs" / "in.jsonl")
    assert run(folder, "compare", "jobs/job.toml", "-o", "out").status == 0
    assert [one["name"] for one in figures(folder)["arms"]][-1] == "typed"


def test_a_budget_shrinks_by_what_is_paid_and_by_time() -> None:
    """Each arm gets what is left; a minute of the first arm is a minute less for the second."""
    now = [100.0]
    purse = Purse(Budget(max_requests=10, max_runtime_s=60, until="23:59:59Z"), [], clock=lambda: now[0])
    left = purse.left()
    assert left is not None
    assert (left.max_requests, left.max_runtime_s, left.max_tokens) == (10, 60, None)
    assert left.until is not None
    assert left.until.endswith("23:59:59+00:00"), "a moment, not an hour that comes again"
    now[0] += 45
    assert (later := purse.left()) is not None
    assert later.max_runtime_s == pytest.approx(15)
    now[0] += 15
    assert purse.left() is None
    assert "max_runtime_s = 60" in str(purse.error())


def test_every_key_and_arm_is_documented() -> None:
    """A key that is not in the reference does not exist for a user."""
    section = README.partition("## Compare arms")[2].partition("\n## ")[0]
    assert [name for name in Compare.model_fields if f"`compare.{name}`" not in section] == []
    assert [name for name in KNOWN if f"`{name}`" not in section] == []
    assert "jobs/compare_sycophancy.toml" in section
    assert (ROOT / "jobs" / "compare_sycophancy.toml").exists()
