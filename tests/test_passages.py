"""Numbered passages: a rewrite that names what to keep keeps it to the letter."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.passages import kept, numbered, passages

TEXTS = st.text(st.sampled_from("ab .?!\n\t\u3002\u00e9"), max_size=60)


@given(TEXTS)
def test_passages_joined_give_the_text(text: str) -> None:
    """A character that is in no passage could never be kept."""
    assert "".join(passages(text)) == text


@given(TEXTS, st.sets(st.integers(-2, 9)))
def test_what_is_kept_stands_in_the_text_in_its_order(text: str, numbers: set[int]) -> None:
    """Unknown numbers keep nothing, and the order of naming changes nothing."""
    parts = passages(text)
    found = kept(parts, sorted(numbers, reverse=True))
    assert found == "".join(part for n, part in enumerate(parts, 1) if n in numbers).strip()


def test_paragraphs_are_passages_and_a_single_one_is_cut_into_sentences() -> None:
    """Documents come in paragraphs; a word problem is one, and its sentences are what can be left out."""
    documents = "First. With two sentences.\n\nSecond,\nover two lines.\n \n\nThird"
    assert passages(documents) == ["First. With two sentences.\n\n", "Second,\nover two lines.\n \n\n", "Third"]
    assert passages("Tom has 3.5 kg. Rita sings! How much?") == ["Tom has 3.5 kg. ", "Rita sings! ", "How much?"]
    assert passages("\u4e00\u3002\u4e8c\uff1f") == ["\u4e00\u3002", "\u4e8c\uff1f"]
    assert passages("") == []


def test_passages_are_numbered_for_the_model() -> None:
    """A model that cannot tell the numbers apart keeps the wrong ones."""
    assert numbered(["One.\n\n", "Two."]) == "[1] One.\n[2] Two."


def test_a_megabyte_of_anything_takes_moments() -> None:
    """One hostile text must not hold up the run; processor time, so that a busy machine fails nothing."""
    began = time.process_time()
    for piece in ("a", "a. ", "\n", " \n", "?!", ". ."):
        passages(piece * (1_000_000 // len(piece)))
    assert time.process_time() - began < 20
