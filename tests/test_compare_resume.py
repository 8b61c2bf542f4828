"""A comparison that is killed, capped or cut short: what one arm paid for is never paid again."""

from __future__ import annotations

import json
import random
import signal
from typing import TYPE_CHECKING

import pytest

from tests.comparing import arm, figures, write_job
from tests.processes import OPEN, JsonObject, Program, read_lines, run, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Plan, Reply, Upstream

RECORDS = 12
FOUR = {"rewrite": RECORDS, "answer": 4 * RECORDS}
COMPARE = ("compare", "job.toml", "--open-requests", str(OPEN))


@pytest.fixture(autouse=True)
def _right_answers(folder: Path) -> None:
    lines = [{"id": n, "prompt": f"Is [[r-{n}]] so? I think it is.", "expected": "1"} for n in range(RECORDS)]
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def results(folder: Path) -> list[JsonObject]:
    """All result lines of all arms."""
    return [line for path in sorted((folder / "out" / "arms").glob("*/results.jsonl")) for line in read_lines(path)]


def kept(folder: Path) -> int:
    """Whole lines that requests paid for, also while the last one is being written."""
    paths = [p for name in ("results", "rewrites") for p in (folder / "out" / "arms").glob(f"*/{name}.jsonl")]
    return sum(path.read_bytes().count(b"\n") for path in paths)


def kill_after(program: Program, up: Upstream, requests: int, jitter_s: float) -> None:
    """End it when the upstream has seen so many requests more, and a little later."""
    seen = up.stats().requests
    up.wait_until(lambda stats: stats.requests >= seen + requests)
    program.process.join(jitter_s)
    program.kill()
    up.wait_until(lambda stats: stats.in_flight == 0)


def test_rewrites_and_equal_arms_are_paid_once(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Four arms of System 2 Attention cost one rewrite of each record, not four; a doubled arm costs nothing."""
    up = upstream({})
    write_job(
        folder,
        up,
        compare='arms = ["s2a", "s2a_keep_original", "s2a_not_instructed", "again", "baseline"]\n'
        '[compare.variants.again]\narm = "s2a"\nanswer = {instructed = false}',
    )
    assert run(folder, *COMPARE).status == 0
    assert up.stats().by_stage == FOUR
    found = figures(folder)
    assert [(one["same_as"], one["rewrites_of"]) for one in found["arms"]] == [
        (None, None),
        (None, "s2a"),
        (None, "s2a"),
        ("s2a_not_instructed", "s2a"),
        (None, None),
    ]
    assert arm(found, "again")["paid"]["requests"] == 0
    assert arm(found, "again")["alone"]["requests"] == 2 * RECORDS
    assert run(folder, *COMPARE).status == 0
    assert up.stats().by_stage == FOUR, "a finished comparison costs nothing"
    again = figures(folder)
    assert [again.pop("written_at"), found.pop("written_at")]
    assert again == found


def test_arms_that_differ_in_their_endpoint_share_nothing(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """The same model behind another address may be another model."""
    up = upstream({})
    other = up.base_url.replace("127.0.0.1", "localhost")
    write_job(
        folder, up, compare=f'arms = ["s2a", "there"]\n[compare.variants.there]\narm = "s2a"\nbase_url = "{other}"'
    )
    assert run(folder, *COMPARE).status == 0
    assert up.stats().by_stage == {"rewrite": 2 * RECORDS, "answer": 2 * RECORDS}


def test_another_way_to_rewrite_is_asked_for(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A variant that borrowed the rewrites of another preset would be that other variant."""
    up = upstream({})
    write_job(folder, up, compare='arms = ["s2a", "s2a_single", "s2a_unbiased"]')
    assert run(folder, *COMPARE).status == 0
    assert up.stats().requests == 6 * RECORDS


def test_killed_again_and_again_it_pays_only_what_was_open_twice(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """A comparison takes the longest of all commands: it is the one that a reboot hits."""
    up = upstream({"latency_s": [0.01, 0.03]})
    write_job(folder, up)
    draw, lost = random.Random(5), 0  # noqa: S311  no secret
    for _ in range(8):
        paid, before = up.stats().answered, kept(folder)
        with running(folder, *COMPARE) as program:
            kill_after(program, up, draw.randint(3, 9), draw.uniform(0, 0.02))
        wasted = up.stats().answered - paid - (kept(folder) - before)
        assert 0 <= wasted <= OPEN
        lost += wasted
    assert kept(folder) < 5 * RECORDS, "the kills came too late to prove anything"
    assert run(folder, *COMPARE).status == 0
    assert up.stats().answered - lost == 5 * RECORDS
    assert len(results(folder)) == 4 * RECORDS
    assert [one["judged"]["n"] for one in figures(folder)["arms"]] == [RECORDS] * 4


def test_a_limit_means_the_first_records_however_often_it_is_run(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """A trial over some records must compare the same ones in every arm, also after it was interrupted."""
    up = upstream({"latency_s": 0.02})
    write_job(folder, up, compare='arms = ["baseline", "s2a"]')
    with running(folder, *COMPARE, "--limit", "5") as program:
        up.wait_until(lambda stats: stats.answered >= 6)
        program.kill()
    up.wait_until(lambda stats: stats.in_flight == 0)
    for _ in range(2):
        assert run(folder, *COMPARE, "--limit", "5").status == 0
        assert sorted(line["line"] for line in results(folder)) == sorted([1, 2, 3, 4, 5] * 2)
        found = figures(folder)
        assert (found["limit"], found["lines"]) == (5, 5)
    assert run(folder, *COMPARE, "--limit", "7").status == 0
    assert len(results(folder)) == 14
    assert run(folder, *COMPARE).status == 0
    assert len(results(folder)) == 2 * RECORDS
    assert figures(folder)["lines"] == RECORDS


def test_a_budget_caps_all_arms_together(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Whoever allows 20 requests means 20, not 20 for each of four arms."""
    up = upstream({})
    write_job(folder, up, compare='arms = ["baseline", "instructed"]', more="budget = {max_requests = 20}")
    first = run(folder, *COMPARE)
    assert first.status == 3
    assert "budget.max_requests" in first.err
    assert up.stats().requests == 20
    assert not (folder / "out" / "compare.json").exists()
    assert run(folder, *COMPARE).status == 0, "a cap holds for one execution"
    assert up.stats().requests == 2 * RECORDS


def test_a_budget_used_up_stops_before_the_next_arm_and_lets_finished_ones_be(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """The cap may fall between two arms; and what is finished needs no budget."""
    up = upstream({})
    cap = f'budget = {{max_requests = {RECORDS}, over = "directory"}}'
    write_job(folder, up, compare='arms = ["baseline", "instructed"]', more=cap)
    for _ in range(2):
        done = run(folder, *COMPARE)
        assert done.status == 3
        assert f"by all arms together ({RECORDS} requests" in done.err
    assert up.stats().requests == RECORDS
    write_job(folder, up, compare='arms = ["baseline"]', more=cap)
    assert run(folder, *COMPARE).status == 0
    assert up.stats().requests == RECORDS


def test_the_first_signal_drains_the_arm_and_begins_no_other(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """Ctrl-C means stop, not "go on with the next arm"."""
    up = upstream({"latency_s": 0.05})
    write_job(folder, up)
    with running(folder, *COMPARE) as program:
        up.wait_until(lambda stats: stats.answered >= 2)
        program.send(signal.SIGTERM)
        assert program.wait().status == 143
    sent = up.stats()
    assert sent.by_status.keys() == {"200"}, "what was open was waited for"
    assert len(results(folder)) == sent.answered < RECORDS
    assert [path.name for path in (folder / "out" / "arms").iterdir()] == ["baseline"]
    upstream({})
    assert run(folder, *COMPARE).status == 0
    assert up.stats().requests == 5 * RECORDS - sent.answered


def test_a_directory_that_was_moved_goes_on(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Results are copied to another disk when one is full; where the rewrites lie changes no answer."""
    up = upstream({})
    write_job(folder, up, compare='arms = ["s2a", "s2a_keep_original"]')
    assert run(folder, *COMPARE, "--limit", "4").status == 0
    (folder / "out").rename(folder / "elsewhere")
    assert run(folder, *COMPARE, "-o", "elsewhere").status == 0
    assert up.stats().by_stage == {"rewrite": RECORDS, "answer": 2 * RECORDS}


def test_an_arm_without_any_rewrite_lends_none(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """When no rewrite can be had there is nothing to borrow: each arm asks for its own, and that is a result."""
    empty: Reply = {"json": {"relevant_context": "", "user_query": " "}}
    up = upstream({"rules": [{"when": {"stage": "rewrite"}, "replies": [empty]}]})
    write_job(folder, up)
    assert run(folder, *COMPARE).status == 1
    found = figures(folder)
    assert [one["failed"] for one in found["arms"]] == [0, 0, RECORDS, RECORDS]
    assert [one["judged"]["n"] for one in found["arms"]] == [RECORDS] * 4
    up = upstream({})
    assert run(folder, *COMPARE, "--retry-failed").status == 0
    assert up.stats().by_stage == {"rewrite": RECORDS, "answer": 2 * RECORDS}


def test_an_empty_input_is_compared_to_its_end(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Last night's export may have been empty; then there is no file of rewrites at all."""
    (folder / "in.jsonl").write_text("")
    write_job(folder, upstream({}))
    done = run(folder, *COMPARE)
    assert done.status == 0, done.err
    assert figures(folder)["lines"] == 0


def test_a_second_comparison_in_the_same_place_is_refused(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Two that take turns on the same arms would pay twice."""
    up = upstream({"latency_s": 0.2})
    write_job(folder, up)
    with running(folder, *COMPARE) as program:
        up.wait_until(lambda stats: stats.requests > 0)
        write_job(folder, up, compare='arms = ["cot"]')  # none of the arms that the first one holds by itself
        other = run(folder, *COMPARE)
        assert other.status == 4
        assert "out: another run holds it" in other.err
        program.kill()


def test_an_arm_is_an_ordinary_run(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """What is said of runs (verify, show, status) holds for each arm."""
    write_job(folder, upstream({}), compare='arms = ["baseline", "s2a", "s2a_keep_original"]')
    assert run(folder, *COMPARE).status == 0
    for name in ("baseline", "s2a", "s2a_keep_original"):
        assert run(folder, "verify", f"out/arms/{name}").status == 0
    assert "original" in run(folder, "show", "out/arms/s2a_keep_original", "3").out
