"""Numbers in all their spellings: what is the same must be the same, and what is not must not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.checks.compared import Text


def same(a: str, b: str) -> bool:
    """Whether all numbers of b are numbers of a."""
    allowed, other = Text.of(a).allowed, Text.of(b)
    return all(
        not allowed.isdisjoint(amount.values) or (bool(amount.parts) and allowed.issuperset(amount.parts))
        for amount in [*other.digits, *(word for word in other.spelled if word.certain)]
    )


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1,000", "1000"),
        ("1000.0", "1,000"),
        ("1.000,50", "1000.5"),
        ("1 000", "1000"),
        ("three", "3"),
        ("twenty-five", "25"),
        ("one hundred and twenty", "120"),
        ("a hundred", "100"),
        ("2 million", "2,000,000"),
        ("two and a half", "2.5"),
        ("1/2", "half"),
        ("half", "0.5"),
        ("½", "1/2"),
        ("50%", "half"),
        ("50 percent", "0.5"),
        ("a third", "1/3"),
        ("2/3", "two thirds"),
        ("three quarters", "0.75"),
        ("a quarter", "25%"),
        ("twice", "2 times"),
        ("3 times", "triple"),
        ("the 1st", "first"),
        ("third", "3rd"),
        ("a dozen", "12"),
        ("two dozen", "24"),
        ("5k", "5000"),
        ("50 cents", "$0.50"),
        ("$.50", "50 cents"),
        ("10:00", "10"),
        ("no cats", "0 cats"),
        ("１２", "12"),
        ("٣", "3"),
        ("三只", "3"),
        ("二十五", "25"),
    ],
)
def test_another_spelling_is_the_same_number(a: str, b: str) -> None:
    """A rewrite may spell a number as it likes."""
    assert same(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1,000", "100"),
        ("3", "four"),
        ("50%", "0.05"),
        ("1/2", "1/3"),
        ("3/4", "16/4"),
        ("half", "two thirds"),
        ("twice", "three times"),
        ("25", "2.5"),
        ("twenty", "twenty-five"),
        ("two hundred", "three hundred"),
        ("9007199254740993", "9007199254740992"),
        ("12", "1"),
        ("a dozen", "13"),
        ("", "7"),
    ],
)
def test_another_number_is_not_the_same(a: str, b: str) -> None:
    """Tolerance for spellings must not become tolerance for values."""
    assert not same(a, b)


@given(st.integers(0, 10**18))
def test_thousands_can_be_grouped(number: int) -> None:
    """The most frequent respelling of all."""
    assert same(str(number), f"{number:,}")
    assert same(f"{number:,}", str(number))


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_only_equal_numbers_are_equal(a: int, b: int) -> None:
    """Of plain numbers there is one reading."""
    assert same(f"she has {a} cats", f"{b} cats") is (a == b)
