"""Quantiles, courses, choices and prices against the plain way that holds everything."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.htmlreport.gauges import RESOLUTION, Histogram, Least, Slope, Timeline
from s2a_batch.htmlreport.onecall import Bill
from s2a_batch.job import Job
from s2a_batch.prices import CostOf, prices_of
from s2a_batch.records import Usage

SECONDS = st.floats(0, 1e7, allow_nan=False) | st.sampled_from([0.0, 1e-7, 1.0, 60.0])
SHARES = st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0])


@given(st.lists(SECONDS, min_size=1, max_size=60), SHARES)
def test_a_quantile_is_that_of_the_sorted_values(values: list[float], share: float) -> None:
    """A p99 that is wrong by more than it says moves a limit or blames a provider."""
    found = Histogram()
    for value in values:
        found.add(value)
    exact = sorted(values)[max(1, math.ceil(share * len(values) - 1e-9)) - 1]
    shown = found.quantile(share)
    assert shown is not None
    assert abs(shown - exact) <= exact * RESOLUTION * 1.000001 + 1e-6
    assert found.quantile(1.0) == max(values), "the largest is exact"
    assert (found.least, found.most, found.n) == (min(values), max(values), len(values))
    assert found.mean == pytest.approx(sum(values) / len(values))


@given(st.lists(SECONDS, max_size=30), st.lists(SECONDS, max_size=30))
def test_two_halves_make_the_whole(first: list[float], second: list[float]) -> None:
    """Bins of time are joined as a run grows; what they hold must not change by it."""
    halves, whole = Histogram(), Histogram()
    for values in (first, second):
        half = Histogram()
        for value in values:
            half.add(value)
            whole.add(value)
        halves.merge(half)
    assert [halves.quantile(s) for s in (0.5, 0.99)] == [whole.quantile(s) for s in (0.5, 0.99)]
    assert (halves.n, halves.buckets, halves.zeros) == (whole.n, whole.buckets, whole.zeros)


def test_without_values_there_is_no_quantile() -> None:
    """0 s would read as the fastest of all endpoints."""
    assert (Histogram().quantile(0.5), Histogram().mean) == (None, None)


@given(st.permutations([*range(0, 900, 3), 10**6, 10**6 + 1]))
def test_a_course_is_the_same_in_any_order_and_loses_nothing(moments: list[int]) -> None:
    """Results come in the order they are finished; a chart must not depend on it."""
    course, ordered = Timeline(most_bins=12), Timeline(most_bins=12)
    for timeline, events in ((course, moments), (ordered, sorted(moments))):
        for at in events:
            timeline.at(at).request("answer", 1.0, 0.0)
    assert [(at, found.requests) for at, found in course.course()] == [
        (at, found.requests) for at, found in ordered.course()
    ]
    assert sum(found.requests for _, found in course.course()) == len(moments)
    assert len(course.bins) <= 12
    assert course.width_s == 128, "300 requests in 900 s fit 12 bins of 128 s; the long pause costs none"
    assert course.merged("answer")[0].n == len(moments)
    assert course.merged("rewrite")[0].n == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.text("abc", min_size=1, max_size=3)), max_size=40), st.integers(1, 6))
def test_the_least_are_those_of_the_sorted_list(entries: list[tuple[int, str]], size: int) -> None:
    """An example that is shown instead of a worse one hides the worse one."""
    kept = Least[tuple[int, str]](size)
    for mark, name in entries:
        things = kept.things()
        assert kept.wants((mark,), name) == (len(things) < size or (mark, name) < things[-1])
        kept.offer((mark,), name, (mark, name))
    assert kept.things() == sorted(entries)[:size]


def test_a_slope_is_found_and_its_fit_told() -> None:
    """The estimate of one call rests on it."""
    line, cloud, point = Slope(), Slope(), Slope()
    for x in range(10):
        line.add(x, 3 * x + 7)
        cloud.add(x, (x * 7919) % 10)
        point.add(5, x)
    assert line.slope == pytest.approx(3)
    assert line.fit == pytest.approx(1)
    assert cloud.fit < 0.3
    assert (point.slope, point.fit) == (None, 0.0)


def _listed(model: str, url: str) -> CostOf:
    job = Job.model_validate({"input": "in.jsonl", "output": "out", "model": model, "base_url": url})
    found = prices_of(job)["answer"]
    assert found is not None
    return found


TOKENS = st.tuples(st.integers(0, 300_000), st.floats(0, 1), st.integers(0, 120_000))


@pytest.mark.parametrize(
    ("model", "url"),
    [
        ("gpt-4o-mini", "https://api.openai.com/v1"),
        ("gemini-2.5-pro", "https://generativelanguage.googleapis.com/v1beta/openai"),
    ],
)
def test_a_bill_is_that_of_the_price_list(model: str, url: str) -> None:
    """The list is too slow for millions of requests; what is taken instead must be the same money, also in steps."""
    cost_of = _listed(model, url)
    bill = Bill(cost_of)

    @given(TOKENS)
    def same(tokens: tuple[int, float, int]) -> None:
        given_, share, came = tokens
        cached = int(given_ * share)
        usage = Usage(input_tokens=given_, cached_tokens=cached, output_tokens=came)
        assert bill.usd(given_, cached, came) == pytest.approx(cost_of(usage), rel=1e-9, abs=1e-12)

    same()


def test_a_price_in_steps_is_not_taken_for_a_line() -> None:
    """A provider's second step begins where the long prompts are, which is where the money is."""
    asked: list[int] = []

    def stepped(usage: Usage) -> float:
        asked.append(usage.input_tokens or 0)
        return (usage.input_tokens or 0) * (2e-6 if (usage.input_tokens or 0) > 30_000 else 1e-6)

    bill = Bill(stepped)
    assert bill.usd(10_000, 0, 5) == pytest.approx(0.01)
    assert bill.usd(40_000, 0, 5) == pytest.approx(0.08)
    before = len(asked)
    assert bill.usd(40_000, 0, 5) == pytest.approx(0.08)
    assert len(asked) == before, "an equal request is looked up once"
    assert Bill(None).usd(1, 0, 1) is None
