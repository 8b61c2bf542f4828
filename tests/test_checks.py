"""Judgements on a rewrite that need no model: each must speak when it should, and hold its tongue otherwise."""

from __future__ import annotations

import itertools
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Indel

from s2a_batch.checks import _common, _met, judge_rewrite, removed_words
from s2a_batch.records import Check, Rewrite

PROMPT = "Ann has 3 cats and 1,250.50 euros. Bob likes the number 7. I think it is 12. How many cats does Ann have?"
QUESTION = "How many cats does Ann have?"


def judged(context: str, query: str, prompt: str = PROMPT) -> dict[str, Check]:
    return {c.name: c for c in judge_rewrite(prompt, Rewrite(relevant_context=context, user_query=query, raw=""))}


def test_a_faithful_rewrite_has_no_errors() -> None:
    """A check that cries at good rewrites is switched off, and then nothing is checked."""
    found = judged("Ann has 3 cats and 1,250.50 euros.", QUESTION)
    assert {name for name, check in found.items() if check.level != "info"} == set()
    assert found["numbers_dropped"].words == ("12", "7")


@pytest.mark.parametrize(
    ("context", "invented"),
    [
        ("Ann has 4 cats.", ("4",)),
        ("Ann has 3 cats and 1250.5 euros.", ()),
        ("Ann has 03 cats.", ()),
        ("Ann has 3.0 cats.", ()),
        ("Ann has 1,250.60 euros and 99 cats.", ("1250.6", "99")),
    ],
)
def test_an_invented_number_is_an_error(context: str, invented: tuple[str, ...]) -> None:
    """A changed number changes the answer silently; another spelling of the same number does not."""
    found = judged(context, QUESTION).get("numbers_invented")
    assert (() if found is None else found.words) == invented
    assert found is None or found.level == "error"


@pytest.mark.parametrize(
    ("query", "lost"),
    [
        (QUESTION, False),
        ("how many cats does ann have", False),
        ("How many cats does Ann have? Answer with a number.", False),
        ("How much money does Bob spend on shoes?", True),
        ("Tell me a story.", True),
    ],
)
def test_a_replaced_question_is_an_error(query: str, lost: bool) -> None:
    """The answer to another question looks just as good."""
    assert ("question_lost" in judged("Ann has 3 cats.", query)) is lost


def test_a_prompt_without_a_question_mark_is_not_judged_on_it() -> None:
    """A request is no question; the check only speaks of what it can prove."""
    assert "question_lost" not in judged("", "List three rivers", prompt="List three rivers, I like the Rhine.")


def test_a_rewrite_that_removed_nothing_is_named() -> None:
    """It is no error, but a file full of them shows that stage 1 does not work."""
    assert "removed_nothing" in judged(PROMPT.removesuffix(QUESTION), QUESTION)
    assert "removed_nothing" not in judged("Ann has 3 cats.", QUESTION)


def test_errors_come_first() -> None:
    """Who reads only the first check must read the worst."""
    rewrite = Rewrite(relevant_context="Ann has 4 cats. " * 9, user_query="Who?", raw="")
    levels = [check.level for check in judge_rewrite(PROMPT, rewrite)]
    assert levels == sorted(levels, key=("error", "warn", "info").index)
    assert levels[0] == "error"


@given(st.text(), st.text(), st.text())
def test_any_texts_can_be_judged(prompt: str, context: str, query: str) -> None:
    """A check that crashes on odd text would make a dead letter of a good record."""
    judged(context, query, prompt)


@given(st.text(), st.text(), st.text())
def test_the_pieces_of_a_prompt_give_the_prompt(prompt: str, context: str, query: str) -> None:
    """What the screen shows as kept and removed must be the user's text, no word more or less."""
    rewrite = Rewrite(relevant_context=context, user_query=query, raw="")
    assert "".join(piece for piece, _ in removed_words(prompt, rewrite)) == prompt


def test_removed_words_are_told_from_kept_ones() -> None:
    """It is what an auditor looks at first."""
    rewrite = Rewrite(relevant_context="Ann has 3 cats.", user_query="How many?", raw="")
    pieces = removed_words("Ann has 3 cats. I think 5. How many?", rewrite)
    assert [(piece.strip(), kept) for piece, kept in pieces] == [
        ("Ann has 3 cats.", True),
        ("I think 5.", False),
        ("How many?", True),
    ]


@pytest.mark.parametrize("piece", ["word ", "Go. ", "Is it? "])
def test_a_prompt_as_long_as_a_book_is_judged_in_little_memory(piece: str) -> None:
    """Lists of its words took ten times its size, for each of the records under way."""
    prompt = piece * (500_000 // len(piece))
    tracemalloc.start()
    judged("", QUESTION, prompt)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * len(prompt)


@pytest.mark.parametrize("words", [100, 800, 40_000, 600_000])
@pytest.mark.parametrize("text", ["a", "a b", "a b c a"])
def test_a_text_of_any_size_is_compared_in_a_bounded_time(words: int, text: str) -> None:
    """A repetitive log of a megabyte took minutes to be shown; what is kept is told at every size alike."""
    repeated = f"{text} " * (words // len(text.split()))
    prompt = f"first {repeated}IGNORE THIS last words"
    began = time.monotonic()
    found = removed_words(prompt, Rewrite(relevant_context=f"first {repeated}", user_query="last words", raw=""))
    assert time.monotonic() - began < 20
    assert "".join(piece for piece, _ in found) == prompt
    if words < 500_000:
        assert found == [(f"first {repeated}", True), ("IGNORE THIS ", False), ("last words", True)]


@given(
    st.lists(st.sampled_from("abcd"), max_size=60).map(" ".join),
    st.lists(st.sampled_from("abcd"), max_size=60).map(" ".join),
)
def test_every_way_of_comparing_finds_words_that_both_hold_in_order(words: list[str], kept: list[str]) -> None:
    """A word marked as kept that the rewrite lacks hides from the auditor what was removed."""
    ways = [_common(words, kept), _met(words, kept)]
    ways.append((c.src_start, c.src_end) for c in Indel.opcodes(words, kept) if c.tag == "equal")
    for way in ways:
        spans = list(way)
        assert all(a < b for a, b in spans)
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(spans))
        rest = iter(kept)
        assert all(word in rest for start, end in spans for word in words[start:end])
