"""What counts as right, way by way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.compare import scoring
from s2a_batch.stagejob import AnswerJob

if TYPE_CHECKING:
    from pydantic import JsonValue

    from s2a_batch.arms import Score

OPTIONS = {"A": "Paris", "B": "New York", "C": "York"}


def right(way: Score, gold: JsonValue, answer: JsonValue) -> bool | None:
    """Without options."""
    return scoring.is_right(way, gold, answer, {})


@pytest.mark.parametrize(
    ("gold", "answer", "is_right"),
    [
        ("Paris", "  paris. ", True),
        ("Paris", '"Paris"', True),
        ("Straße", "STRASSE", True),
        ("ﬁve", "five", True),
        ("two  words", "two\nwords", True),
        ("Paris", "Paris, France", False),
        ("-5", "5", False),
        ("true", True, True),
        (False, "no", True),
        (True, "maybe", False),
        (12, "12", True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
    ],
)
def test_exact_forgives_the_form_and_nothing_else(gold: JsonValue, answer: JsonValue, is_right: bool) -> None:
    """Case, quotes and spaces are no mistakes; another word is."""
    assert right("exact", gold, answer) is is_right


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("25 pieces", "25"),
        ("$1,234,567.50 in all", "1234567.50"),
        ("-$5", "-5"),
        ("first 3, then 4, so 7.", "7"),
        ("10 - 3 = 7", "7"),
        ("pages 5-12", "12"),
        ("\u22125 degrees", "-5"),
        ("1\u202f000", "1000"),
        ("#### 1210", "1210"),
        (".5", "0.5"),
        ("about 1e3", "1000"),
        ("12%", "12"),
        ("none", None),
    ],
)
def test_the_last_number_of_a_text_is_what_it_says(text: str, number: str | None) -> None:
    """A chain of thought ends with its result; units and marks between thousands are no part of it."""
    found = scoring.number_in(text)
    assert found == (None if number is None else scoring.number_in(float(number)))


@given(st.integers(-(10**30), 10**30), st.sampled_from(["{}", "it is {:,} pieces", "={}."]))
def test_a_number_is_found_whole_however_it_is_written(number: int, form: str) -> None:
    """A digit lost would turn a right answer into a wrong one."""
    assert right("number", number, form.format(number)) is True
    assert right("number", str(number), number + 1) is False


@pytest.mark.parametrize(
    ("gold", "answer", "is_right"),
    [(25, 25.0, True), ("0.10", 0.1, True), ("25", True, False), ("25", "no idea", False), ("25", None, False)],
)
def test_numbers_are_equal_by_value(gold: JsonValue, answer: JsonValue, is_right: bool) -> None:
    """25 and 25.0 are one number; true is none."""
    assert right("number", gold, answer) is is_right


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("A", "A"),
        ("(b)", "B"),
        ("**C**", "C"),
        ("B. New York", "B"),
        ("(A) it must be", "A"),
        ("new york", "B"),
        ("It is Paris, clearly", "A"),
        ("Therefore, the best answer is: (C).", "C"),
        ("Not (A), so the answer is B", "B"),
        ("(A) or (B)?", "A"),
        ("I would say (B)", "B"),
        ("Either Paris or York", None),
        ("A city far away", None),
        ("no idea", None),
    ],
)
def test_a_choice_is_named_by_label_or_text(answer: str, label: str | None) -> None:
    """Models write (A), A., "A" or the option itself, and all of them mean the option."""
    assert scoring.choice_in(answer, OPTIONS) == label


def test_options_come_from_the_field_or_the_prompt() -> None:
    """Data sets hold their options in either place."""
    assert scoring.options_of(["x", "y"], "") == {"A": "x", "B": "y"}
    assert scoring.options_of({"a": "x"}, "") == {"A": "x"}
    assert scoring.options_of(None, "Which?\n(A) one\nB. two\n  C) three \nD is no option") == {
        "A": "one",
        "B": "two",
        "C": "three",
    }
    assert scoring.is_right("choice", "New York", "(B)", OPTIONS) is True
    assert scoring.is_right("choice", "Paris", "(A) Paris", {}) is True
    assert scoring.is_right("choice", "B", "A", OPTIONS) is False


def test_a_list_of_right_answers_takes_any_of_them() -> None:
    """Questions have more than one right wording."""
    assert right("one_of", ["NYC", "New York"], "new york") is True
    assert right("one_of", ["NYC", "New York"], "York") is False
    assert right("number", ["7", "eight"], "7") is True


def test_contains_looks_for_whole_words() -> None:
    """A "no" is not in "know", and a name is in a sentence."""
    assert right("contains", "no", "I know") is False
    assert right("contains", "New York", "It is new york, I think.") is True
    assert right("contains", "1,000", "exactly 1,000 of them") is True


def test_a_pattern_is_searched_for() -> None:
    """Whoever needs it can say exactly what is right."""
    assert right("regex", r"(?i)\bparis\b", "in Paris.") is True
    assert right("regex", r"^Paris", "in Paris.") is False


@pytest.mark.parametrize(("way", "gold"), [("number", "many"), ("regex", "("), ("exact", None), ("one_of", [])])
def test_a_right_answer_that_cannot_be_used_judges_nothing(way: Score, gold: JsonValue) -> None:
    """A hole in the data must not count against every arm."""
    assert right(way, gold, "5") is None


@pytest.mark.parametrize(
    ("gold", "given"),
    [(None, False), ("", False), ("  ", False), ([], False), ([None], False), (0, True), (False, True)],
)
def test_zero_and_false_are_right_answers(gold: JsonValue, given: bool) -> None:
    """Only what is empty is missing."""
    assert scoring.is_given(gold) is given


def test_the_way_follows_the_answers_type() -> None:
    """Nobody who asks for whole numbers wants to say twice that they are numbers."""
    ways = {name: scoring.usual(AnswerJob.model_validate({"type": name})) for name in ("text", "int", "float", "bool")}
    assert ways == {"text": "exact", "int": "number", "float": "number", "bool": "exact"}
    assert scoring.usual(AnswerJob(type="choice", choices=("a", "b"))) == "choice"


def test_the_member_that_is_judged_is_the_one_named() -> None:
    """An answer object may hold its reasoning beside the answer."""
    assert scoring.said({"reasoning": "7?", "answer": 8}, "answer") == 8
    assert scoring.said({"total": 8}, "answer") == {"total": 8}
