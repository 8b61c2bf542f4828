"""Intervals and tests against scipy, and against their definitions."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from s2a_batch.compare import stats

COUNTS = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12)).filter(any)


def resampled(values: list[int]) -> tuple[float, float]:
    """The percentile interval of 9,999 resamples that scipy draws."""
    found = scipy_stats.bootstrap(
        (np.array(values),), np.mean, method="percentile", n_resamples=9_999, rng=7, batch=1_000
    )
    return found.confidence_interval.low, found.confidence_interval.high


@pytest.mark.parametrize(("right", "n"), [(3, 7), (18, 60), (1, 40), (59, 60), (150, 400)])
def test_the_interval_of_a_share_is_that_of_a_drawn_bootstrap(right: int, n: int) -> None:
    """A figure in a paper must be the one that everybody else's tool gives, but for one record's weight."""
    mine = stats.bootstrap_share(right, n)
    assert mine is not None
    assert (mine.low, mine.high) == pytest.approx(resampled([1] * right + [0] * (n - right)), abs=1.01 / n)


@pytest.mark.parametrize(
    ("better", "worse", "n"),
    [(3, 5, 60), (0, 4, 20), (6, 0, 30), (10, 2, 200), (1, 1, 10), (30, 30, 60), (90, 40, 400)],
)
def test_the_interval_of_a_difference_is_that_of_a_drawn_bootstrap(better: int, worse: int, n: int) -> None:
    """As for a share; it is paired, so only records on which the arms differ move it."""
    mine = stats.bootstrap_difference(better, worse, n)
    assert mine is not None
    drawn = resampled([1] * better + [-1] * worse + [0] * (n - better - worse))
    assert (mine.low, mine.high) == pytest.approx(drawn, abs=1.01 / n)


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_the_interval_of_a_difference_is_exact(better: int, worse: int, same: int) -> None:
    """Every resample of few records can be listed: the quantiles of all of them are the interval."""
    values = ([1] * better + [-1] * worse + [0] * same)[:5]
    n, mine = len(values), stats.bootstrap_difference(values.count(1), values.count(-1), len(values))
    if mine is None:
        assert n == 0
        return
    sums = sorted(sum(picked) for picked in product(values, repeat=n))
    low = sums[math.ceil(0.025 * len(sums)) - 1]
    high = sums[len(sums) - math.ceil(0.025 * len(sums))]
    assert (mine.low * n, mine.high * n) == pytest.approx((low, high))


@given(COUNTS)
def test_better_and_worse_are_mirror_images(counts: tuple[int, int, int]) -> None:
    """Whoever names the arms the other way round must read the same with the other sign."""
    better, worse, same = counts
    n = better + worse + same
    for interval in (stats.bootstrap_difference, stats.adjusted_difference):
        one, other = interval(better, worse, n), interval(worse, better, n)
        assert one is not None
        assert other is not None
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert stats.mcnemar(better, worse) == stats.mcnemar(worse, better)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemars_p_is_the_exact_binomial_one(better: int, worse: int) -> None:
    """A p value decides whether somebody believes a difference."""
    p, mid_p = stats.mcnemar(better, worse)
    n, least = better + worse, min(better, worse)
    if n:
        assert p == pytest.approx(scipy_stats.binomtest(least, n).pvalue, rel=1e-9)
    tail = Fraction(sum(math.comb(n, k) for k in range(least + 1)), 2**n)
    assert p == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-9)
    assert mid_p == pytest.approx(float(min(Fraction(1), 2 * tail - Fraction(math.comb(n, least), 2**n))), rel=1e-9)


@pytest.mark.parametrize(("right", "n"), [(0, 36), (1, 36), (7, 20), (36, 36)])
def test_wilsons_interval_is_scipys(right: int, n: int) -> None:
    """It is shown where a bootstrap of nothing but wrong answers would claim to be sure."""
    mine = stats.wilson_share(right, n)
    theirs = scipy_stats.binomtest(right, n).proportion_ci(method="wilson")
    assert mine is not None
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_the_interval_of_agresti_and_min_is_that_of_their_formula() -> None:
    """Nothing turned among few records is no proof that nothing turns."""
    found = stats.adjusted_difference(0, 0, 8)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((-0.1959963985, 0.1959963985))  # 1.96 * sqrt(1) / 10
    other = stats.adjusted_difference(5, 1, 38)  # (4 +- 1.96 * sqrt(7 - 16 / 40)) / 40
    assert other is not None
    assert (other.low, other.high) == pytest.approx((-0.0258817, 0.2258817), abs=1e-6)


def test_several_p_values_are_adjusted_as_holm_says() -> None:
    """Of twenty arms that do nothing one looks significant."""
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.5, 0.9]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_many_records_cost_no_more_than_a_moment_and_lose_nothing() -> None:
    """A whole data set has a hundred thousand records; weights of 1e-5000 must not become zeros that shift the ends."""
    found = stats.bootstrap_difference(10_000, 10_500, 100_000)
    assert found is not None
    spread = 1.959964 * math.sqrt(20_500 - 25) / 100_000  # the normal distribution's, to which it has come
    assert (found.low, found.high) == pytest.approx((-0.005 - spread, -0.005 + spread), abs=2e-5)


def test_no_records_have_no_interval() -> None:
    """Nothing was measured: no figure is better than a made-up one."""
    assert stats.bootstrap_share(0, 0) is None
    assert stats.wilson_share(0, 0) is None
    assert stats.bootstrap_difference(0, 0, 0) is None
    assert stats.adjusted_difference(0, 0, 0) is None
