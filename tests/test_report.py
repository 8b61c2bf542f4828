"""The counts of a run: every number counted once, where it happened, and the sum is the input."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.errors import FailureKind
from s2a_batch.records import Attempt, Fault, Known, Outcome, RecordFault, StageName, Status, Usage
from s2a_batch.report import StageTally, Tally

if TYPE_CHECKING:
    from s2a_batch.account import Summary

KINDS: tuple[FailureKind, ...] = get_args(FailureKind)
COUNT = st.none() | st.integers(0, 10_000)
USAGES = st.builds(Usage, input_tokens=COUNT, cached_tokens=COUNT, output_tokens=COUNT, reasoning_tokens=COUNT)


def attempt(n: int = 1, *, usage: Usage | None = None, kind: FailureKind | None = None, reask: bool = False) -> Attempt:
    fault = None if kind is None else Fault(kind=kind, message="m")
    return Attempt(n=n, started="", seconds=1.5, waited_s=0, usage=usage, error=fault, reask=reask)


def outcome(kind: FailureKind | None) -> Outcome:
    fault = None if kind is None else RecordFault(kind=kind, message="m", stage="answer", line=1)
    return Outcome(
        status="answered" if kind is None else "failed", error=fault, fingerprint="f", started_at="", seconds=1
    )


def summary(tally: Tally) -> Summary:
    return tally.summary(seconds=2.0, stopped=None, superseded=0, read_all=True)


READ: st.SearchStrategy[list[Status | None]] = st.lists(st.sampled_from([None, "answered", "failed", "rewritten"]))


@given(read=READ, ended=st.lists(st.sampled_from(["pending", "answered", "rewritten", *KINDS]), max_size=20))
def test_the_lines_add_up(read: list[Status | None], ended: list[str]) -> None:
    """Lines = answered + rewritten + failed + skipped + pending, or a record was lost and nobody sees it."""
    tally = Tally()
    for status in [*read, *[None] * len(ended)]:
        if status is None:
            tally.read()
        else:
            known = Known()
            known.note(status)
            tally.skip(known)
    for end in ended:
        if end != "pending":
            tally.note(None if end == "rewritten" else outcome(None if end == "answered" else KINDS[KINDS.index(end)]))
    found = summary(tally)
    assert found.lines == len(read) + len(ended)
    assert found.lines == found.answered + found.rewritten + found.failed + found.skipped + found.pending
    assert found.failed == sum(found.kinds.values())
    assert found.failed_before == read.count("failed")
    assert found.pending == read.count(None) + ended.count("pending")


@given(st.lists(USAGES, max_size=20))
def test_token_sums_are_lower_bounds_when_some_are_unknown(usages: list[Usage]) -> None:
    """Unknown is not zero: the sum holds all that is known, and how many replies were not counted."""
    tally = StageTally()
    for usage in usages:
        tally.add(attempt(usage=usage), None)
    for name in Usage.model_fields:
        known = [value for usage in usages if (value := getattr(usage, name)) is not None]
        assert getattr(tally.usage, name) == (sum(known) if known else None)
    assert tally.unknown_usage == sum(u.input_tokens is None or u.output_tokens is None for u in usages)


@given(USAGES, USAGES, USAGES)
def test_usage_sums_do_not_depend_on_order(a: Usage, b: Usage, c: Usage) -> None:
    """Replies come in any order; a bill must not."""
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert a + Usage() == a


def test_attempts_are_counted_by_what_they_were() -> None:
    """Retries, rate limits and re-asks have different remedies; each request is one request."""
    tally = StageTally()
    of_one = [
        attempt(1, kind="rate_limited"),
        attempt(2, kind="timeout"),
        attempt(3, kind="invalid_reply", usage=Usage(input_tokens=5, output_tokens=6)),
        attempt(4, reask=True, usage=Usage(input_tokens=7, output_tokens=8)),
    ]
    for before, now in zip([None, *of_one], of_one, strict=False):
        tally.add(now, before)
    found = tally.summary()
    assert (found.retries, found.rate_limited, found.reasks) == (1, 1, 1)
    assert found.usage == Usage(input_tokens=12, output_tokens=14)
    assert found.unknown_usage == 0
    assert found.seconds == pytest.approx(6.0)


def test_both_stages_are_summed() -> None:
    """A budget holds over the whole run."""
    tally = Tally()
    tally.stage("rewrite").add(attempt(usage=Usage(input_tokens=1, output_tokens=2)), None)
    tally.stage("answer").add(attempt(usage=Usage(input_tokens=3)), None)
    tally.rewrite.requests, tally.answer.requests = 1, 2
    assert (tally.requests, tally.tokens) == (3, 6)
    assert (summary(tally).rewrite.requests, summary(tally).answer.requests) == (1, 2)


def test_what_is_left_is_reckoned_from_the_bytes() -> None:
    """The display must not need to count the lines of a file of 100 GB first."""
    tally = Tally()
    assert tally.left() is None
    for _ in range(10):
        tally.read()
    tally.reached(500)
    assert tally.left() is None, "a pipe has no size"
    tally.total_bytes = 5000
    assert tally.left() == 100
    tally.note(outcome(None))
    assert tally.left() == 99
    tally.total_bytes = 400
    assert tally.left() == 9, "the file was cut since, or grew"


@given(
    lines=st.integers(1, 1000),
    done=st.integers(0, 1000),
    finished=st.integers(0, 1000),
    limit=st.integers(1, 1000),
    total=st.none() | st.integers(1, 10_000),
)
def test_no_more_is_left_than_the_limit_still_allows(
    lines: int, done: int, finished: int, limit: int, total: int | None
) -> None:
    """`--limit 10` of a million: an hour announced for a minute's work makes people stop it."""
    skipped = min(done, lines)
    taken = min(lines - skipped, limit)
    finished = min(finished, taken)
    tally = Tally(lines=lines, skipped=skipped, answered=finished, limit=limit, total_bytes=total, read_bytes=10)
    left = tally.left()
    assert left is not None
    under_way = taken - finished
    assert left <= limit - taken + under_way
    if skipped + taken == lines and total is not None and total <= 10:
        assert left == under_way, "all is read"


@given(
    events=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["rewrite", "answer"]),
            st.none() | USAGES,
            st.none() | st.floats(0, 9),
            st.none() | st.sampled_from(["server_error", "rate_limited", "invalid_reply"]),
        ),
        max_size=20,
    ),
    ended=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["answered", "rewritten", *KINDS])), max_size=20),
    flips=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=5),
)
def test_the_counts_of_several_processes_gathered_are_those_of_one(
    events: list[tuple[int, StageName, Usage | None, float | None, FailureKind | None]],
    ended: list[tuple[int, str]],
    flips: list[tuple[int, bool]],
) -> None:
    """A token that is lost between processes is money that nobody accounts for."""
    one, parts, gathered = Tally(), [Tally() for _ in range(3)], Tally()
    for tally in (one, gathered):
        tally.read()
    for at, name, usage, cost, kind in events:
        for stage in (one.stage(name), parts[at].stage(name)):
            stage.add(attempt(usage=usage, kind=kind), attempt(kind=kind))
            stage.requests += 1
            stage.done += 1
            if cost is not None:
                stage.cost_usd = (stage.cost_usd or 0.0) + cost
    for at, end in ended:
        for tally in (one, parts[at]):
            tally.note(None if end == "rewritten" else outcome(None if end == "answered" else KINDS[KINDS.index(end)]))
    for at, flipped in flips:
        both = outcome(None).model_copy(update={"policy": "original", "answer": 1, "baseline": 2 if flipped else 1})
        for tally in (one, parts[at]):
            tally.note(both)
    for _ in range(2):  # what is gathered again is not counted again
        gathered.gather(parts)
    assert_same(summary(gathered), summary(one))


def assert_same(found: Summary, expected: Summary) -> None:
    """All counts are equal, and costs but for the order in which they were added."""
    for name in ("rewrite", "answer"):
        assert getattr(found, name).cost_usd == pytest.approx(getattr(expected, name).cost_usd)
    costs = {"rewrite": {"cost_usd": True}, "answer": {"cost_usd": True}}
    assert found.model_dump(exclude=costs) == expected.model_dump(exclude=costs)
