"""What the checks know of a copy, or of a text in ASCII, without a look: it must be what a look would have found."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s2a_batch.checks import Original, amounts, judge_answer, judge_rewrite, phrases, words
from s2a_batch.checks.compared import Text
from s2a_batch.records import Rewrite

SENTENCES = [
    "Ann has 3 cats.", "She sold 1,250.50 euros!", "In 2010.", "5 of them left.", ".5 is half?", "-7 degrees.",
    "The price was $0.50.", "At 10:00 it rang.", "It is 1 000.", "000 more.", "1/2 of it.", "Two thirds are red.",
    "1. Peel 2 apples.", "(2) Wash them.", "Did Mr. Bo see Dr. Wu?", 'He said "no 4."', "No one won.", "Costs 50",
    "percent of 12.", "I think it is 9.", "Er hat drei Äpfel.", "他有三只猫。", "Is it 7?", "- \n- 8 eggs.", "...",
    "etc.",
    "Twenty-five boys and a hundred girls came.",
]  # fmt: skip
GAPS = st.sampled_from([" ", " ", " ", "\n", "\n\n", "  ", ""])
PIECES = st.lists(st.tuples(st.sampled_from(SENTENCES), GAPS), max_size=8)
ODD = st.text(alphabet="ab .!?\"')]*\n。！5,mr")


def text_of(pieces: list[tuple[str, str]]) -> str:
    return "".join(sentence + gap for sentence, gap in pieces)


def known_by(source: Text) -> dict[str, str]:
    return {sentence: joined for joined, sentence in source.sentences.items()}


def values(found: Text) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    return [(amount.values, amount.parts) for amount in found.digits]


def agrees_with_a_text_read_alone(part: str, source: Text) -> None:
    fast = Text.part(part, source, known_by(source))
    alone = Text.part(part, Text.of("\0"), {})
    assert values(fast) == values(alone)
    assert (fast.vocabulary, fast.stems, fast.count, fast.signs) == (
        alone.vocabulary,
        alone.stems,
        alone.count,
        alone.signs,
    )
    assert (fast.sentences, fast.asked) == (alone.sentences, alone.asked)
    assert (fast.spelled, fast.allowed) == (alone.spelled, alone.allowed)
    assert "0" in fast.allowed or words.NEGATIONS.isdisjoint(fast.vocabulary)


@given(PIECES, st.integers(0, 8), st.integers(0, 8))
@example([("It is 1", " "), ("000 more.", "")], 1, 2)
@example([("Costs 50", " "), ("percent of 12.", "")], 0, 1)
@example([("Ann has 3 cats.", " "), (".5 is half?", "")], 1, 2)
@example([("Ann has 3 cats.", "\n"), ("1. Peel 2 apples.", "\n"), ("In 2010.", "")], 0, 3)
@example([("(2) Wash them.", "")], 0, 1)
def test_sentences_that_a_part_has_from_the_text_are_read_as_if_alone(
    pieces: list[tuple[str, str]], start: int, end: int
) -> None:
    """A number that a copy gains or loses by its neighbours in the text is an error said of a good rewrite."""
    agrees_with_a_text_read_alone(text_of(pieces[start:end]).strip(), Text.of(text_of(pieces)))


@given(PIECES, PIECES, st.integers(0, 200), st.integers(0, 200))
@example([("She sold 1,250.50 euros!", "")], [("She never won.", "")], 0, 0)
@example([("She sold 1,250.50 euros!", "")], [], 14, 0)
def test_a_part_that_mixes_known_and_own_sentences_is_read_as_if_alone(
    pieces: list[tuple[str, str]], others: list[tuple[str, str]], start: int, end: int
) -> None:
    """Most rewrites leave sentences out of the middle, and some begin or end inside one."""
    source = Text.of(text_of(pieces))
    agrees_with_a_text_read_alone(text_of(pieces[::2] + others), source)
    agrees_with_a_text_read_alone(text_of(pieces)[start:end], source)
    agrees_with_a_text_read_alone(text_of(pieces)[start:], source)


@pytest.mark.parametrize("text", ["Go 3.\n1. Peel 5.", "1. Go 3.\n 2) Peel 5.", "(1) Go 3 and 5.", " 1. Go 3 and 5."])
def test_the_numbers_of_a_list_are_none_in_a_copy_either(text: str) -> None:
    """A model that writes a list anew counts from one: these numbers are nobody's."""
    source = Text.of(f"{text} Is it 7?")
    assert values(Text.part(text, source, known_by(source))) == [(("3",), ()), (("5",), ())]


@given(st.one_of(st.text(), ODD, st.text(alphabet=st.characters(max_codepoint=127))))
def test_a_text_in_ascii_is_taken_apart_as_any_other(text: str) -> None:
    """Else a single accent in a prompt would change what is said of its numbers."""
    folded = words.fold(text)
    assert words.tokens(folded) == words.TOKEN.findall(folded)
    assert words.has_token(folded) == bool(words.TOKEN.findall(folded))
    assert list(amounts.digits(folded)) == list(amounts.digits(folded + "\n猫"))


@given(ODD)
@example("... a.b. c")
@example('a." b. c')
@example("mr. a. st. b dr. c e.g. d i.e. e etc. f prof. g approx. h no. i")
def test_sentences_end_at_their_stops(text: str) -> None:
    """The search for stops was made fast; the rule is the plain one of here."""
    stop = re.compile(r"(?<![.!?])[.!?]++[\"')\]*]*+(?=\s|$)|[。！？।]+|\n+")
    short = re.compile(r"(?:^|[\s(])(?:mr|mrs|ms|dr|st|prof|jr|sr|vs|no|e\.g|i\.e|etc|approx)\.$")
    expected, start = [], 0
    for found in stop.finditer(text):
        if not short.search(text, max(start, found.end() - 8), found.end()):
            expected.append(text[start : found.end()].strip())
            start = found.end()
    expected.append(text[start:].strip())
    assert list(words.sentences(text)) == [sentence for sentence in expected if sentence]


def test_the_last_questions_are_kept_and_no_more() -> None:
    """A book of questions is compared with each: forty take milliseconds, and the last is the one that counts."""
    asked = Text.of(" ".join(f"is it {n}?" for n in range(50))).asked
    assert (len(asked), asked[-1]) == (40, "is it 49?")


@given(st.sets(st.sampled_from(["the", "and", "she", "is", "of", "12", "3", "cat", "dog", "tree", "haus", "baum"])))
def test_english_is_told_by_its_share_among_the_words(vocabulary: set[str]) -> None:
    """Numbers are of no language: they must not make a text English, nor keep it from being so."""
    named = [word for word in vocabulary if word.isalpha()]
    sure = len(vocabulary & {"the", "and", "she"})
    likely = len(vocabulary & {"the", "and", "she", "is", "of"})
    assert words.is_english(vocabulary) is (sure > 0 and likely >= (0.22 if sure > 1 else 0.35) * len(named))


@pytest.mark.parametrize(
    ("pattern", "hints"),
    [
        (phrases.REFUSAL, phrases.REFUSAL_HINTS),
        (phrases.UNDECIDED, phrases.UNDECIDED_HINTS),
        (phrases.YOUR_ANSWER, phrases.YOUR_ANSWER_HINTS),
    ],
)
def test_no_phrase_is_without_one_of_its_hints(pattern: re.Pattern[str], hints: tuple[str, ...]) -> None:
    """A text without hints is not searched: a phrase that has none is never found."""

    @given(st.from_regex(pattern))
    def every_phrase_has_one(text: str) -> None:
        found = pattern.search(text)
        assert found is not None
        assert phrases.has_one(hints, found.group())

    every_phrase_has_one()


@pytest.mark.parametrize(
    "text", ["a ` b", "~~~", "<think>", "[inst]", "= 5", "≈ 5", "user_query", "why? 3", "context: a"]
)
def test_each_mark_is_seen(text: str) -> None:
    """A label or a value behind the question has no word by which it would be looked for."""
    assert phrases.is_marked(text)
    assert not phrases.is_marked("Is it 3. A plain text, as most are; with (marks) - of its own!")


@given(st.lists(st.sampled_from(["how", "many", "cats", "does", "ann", "have", "3", "three", "so"])).map(" ".join))
def test_an_answer_restates_when_it_has_the_words_of_the_question_and_no_other(answer: str) -> None:
    """Nobody looks again at an answer that was found by its first words to be none."""
    asked, said = {"how", "many", "cats", "does", "ann", "have"}, set(answer.split())
    judged = judge_answer(answer, Rewrite(relevant_context="", user_query="How many cats does Ann have?", raw=""))
    expected = said <= asked and len(said) >= 0.8 * len(asked)
    assert ("answer_restates" in {check.name for check in judged}) is expected


@pytest.mark.parametrize("ending", [",", " (", " [", " {", ":", " -", " and"])
def test_an_answer_that_ends_open_breaks_off(ending: str) -> None:
    """Each of these needs something behind it, and most answers are told by their last sign to end well."""
    rewrite = Rewrite(relevant_context="", user_query="How many cats has she?", raw="")
    assert [check.name for check in judge_answer(f"There are three cats{ending}", rewrite)] == ["answer_cut"]
    assert judge_answer(f"There are{ending} three cats.", rewrite) == ()


@pytest.mark.parametrize(
    ("context", "query"),
    [
        ("Ann has 3 cats.", "How many cats has she?"),
        ("Anna hat drei Katzen.", "Wie viele Katzen hat Anna?"),
        ("他有三只猫。", "他有几只猫？"),
        ("Ann has 3 cats.", "And so?"),
    ],
)
def test_a_copied_question_is_the_question_in_any_language(context: str, query: str) -> None:
    """It is not compared with anything, so that it must be right by itself."""
    found = judge_rewrite(Original(f"{context} {query}"), Rewrite(relevant_context=context, user_query=query, raw=""))
    assert {check.name for check in found if check.level == "error"} == set()
