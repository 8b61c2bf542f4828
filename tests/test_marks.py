"""What a rewrite left out and what it put in, as a person sees it: true to the text, and never slow."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.marks import Pieces, invented, removed
from s2a_batch.records import Rewrite

WORDS = st.lists(st.sampled_from(["Ann", "has", "3", "cats.", "I", "think", "5.", "\n", " ", "-", "the"])).map(" ".join)


def rewrite(context: str, query: str = "") -> Rewrite:
    return Rewrite(relevant_context=context, user_query=query, raw="")


def marked(pieces: Pieces) -> str:
    """Pieces with what the other text lacks in brackets."""
    return "".join(text if has else f"[{text}]" for text, has in pieces)


@given(st.one_of(st.text(), WORDS), st.one_of(st.text(), WORDS), st.one_of(st.text(), WORDS))
def test_the_pieces_joined_give_the_text(prompt: str, context: str, query: str) -> None:
    """What is shown as original and as rewrite must be these texts, no sign more or less."""
    assert "".join(piece for piece, _ in removed(prompt, rewrite(context, query))) == prompt
    assert "".join(piece for piece, _ in invented(prompt, context)) == context


@given(st.one_of(st.text(), WORDS))
def test_a_text_lacks_nothing_of_itself(text: str) -> None:
    """A rewrite that copies all must not look as if it had dropped or added something."""
    assert all(has for _, has in [*removed(text, rewrite(text)), *invented(text, text)])


@pytest.mark.parametrize(
    ("prompt", "context", "query", "shown"),
    [
        ("Ann has 3 cats. I think 5. How many?", "Ann has 3 cats.", "How many?",
         "Ann has 3 cats. [I think 5. ]How many?"),
        ("How many cats? Ann has 3 cats. I say 5.", "Ann has 3 cats.", "How many cats?",
         "How many cats? Ann has 3 cats. [I say 5.]"),
        ("Ann, who is tall, has 3 cats.", "Ann has 3 cats.", "", "Ann, [who is tall, ]has 3 cats."),
        ("The cat sat. I think the dog ran. The cat ran.", "The cat ran.", "",
         "[The cat sat. I think the dog ran. ]The cat ran."),
        ("He said (wrongly) five.", "HE SAID FIVE", "", "He said [(wrongly) ]five."),
        ("Pay 1,000 or 2.50 now", "pay 1000.0", "or 2.5?", "Pay 1,000 or 2.50 [now]"),
        ("It was -5 degrees.", "It was 5 degrees.", "", "It was [-5 ]degrees."),
        ("猫は三匹です。犬は五匹。", "猫は三匹です。", "", "猫は三匹です。[犬は五匹。]"),
        ("किताब का पन्ना", "किताब पन्ना", "", "किताब [का ]पन्ना"),
        ("  two\n\nparts", "", "", "[  two\n\nparts]"),
        ("", "Ann", "", ""),
    ],
)  # fmt: skip
def test_what_was_left_out_is_marked(prompt: str, context: str, query: str, shown: str) -> None:
    """It is what an auditor looks at first; a question that moved to the end was not left out."""
    assert marked(removed(prompt, rewrite(context, query))) == shown


@pytest.mark.parametrize(
    ("prompt", "text", "shown"),
    [
        ("Ann has 3 cats.", "Ann has 4 cats and “3” dogs.", "Ann has [4 ]cats [and ]“3” [dogs.]"),
        ("Ann\u2019s cats, $1,000.50", "ANN's (cats) 1000.5 $", "ANN's (cats) 1000.5 $"),
        ("Mary's cat", "Mary, cats", "Mary, [cats]"),
        ("A well-known law", "known well", "known well"),
        ("Six states", "6 states", "6 states"),
        ("5 degrees", "-5 degrees", "[-5 ]degrees"),
        ("", "new", "[new]"),
    ],
)
def test_what_was_put_in_is_marked(prompt: str, text: str, shown: str) -> None:
    """A word that the prompt lacks is where a rewrite may have gone wrong; another spelling of a word is none."""
    assert marked(invented(prompt, text)) == shown


def test_a_word_counts_as_kept_as_often_as_the_rewrite_has_it() -> None:
    """Said five times and kept once is four times left out."""
    pieces = removed("no no no no no", rewrite("no"))
    assert sum(len(text.split()) for text, has in pieces if has) == 1


def _huge(kind: str) -> tuple[str, str]:
    dice = random.Random(1)  # noqa: S311  the same each time
    vocabulary = [f"w{n}" for n in range(2000)]
    natural = [" ".join(dice.choices(vocabulary, k=12)) + ". " for _ in range(7_000)]
    return {
        "one word": ("word " * 100_000, "word " * 80_000),
        "one sentence": ("Go on. " * 75_000, "Go on. " * 50_000),
        "two words in turn": ("a b " * 125_000, "b a a " * 80_000),
        "no space": ("a" * 500_000, "a" * 499_999),
        "punctuation": ("-" * 250_000 + ".,(" * 80_000, ".,(" * 150_000),
        "blanks": (" " * 500_000, "\n" * 500_000),
        "natural": ("".join(natural), "".join(natural[::2])),
        "scattered": ("".join(natural), "".join(natural).replace("w7 ", "").replace("w70", "x")),
        "beyond all bounds": ("a b. " * 1_000_000, "b. " * 100),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["one word", "one sentence", "two words in turn", "no space", "punctuation", "blanks", "natural", "scattered",
     "beyond all bounds"],
)  # fmt: skip
def test_texts_as_long_as_books_take_seconds_at_most(kind: str) -> None:
    """A page or a screen that hangs at one odd record is not used again."""
    prompt, text = _huge(kind)
    began = time.process_time()
    kept, known = removed(prompt, rewrite(text)), invented(prompt, text)
    assert time.process_time() - began < 10
    assert "".join(piece for piece, _ in kept) == prompt
    assert "".join(piece for piece, _ in known) == text


def test_a_long_text_is_still_compared_by_its_words() -> None:
    """The bound is for the worst; a book of natural text with half of its sentences left out shows just those."""
    prompt, text = _huge("natural")
    sentences = {sentence.strip() for sentence in text.split(".") if sentence.strip()}
    for piece, has in removed(prompt, rewrite(text)):
        assert has == (piece.strip(" .") in sentences)


def _common(ours: list[str], others: list[str]) -> int:
    """Length of a longest common subsequence, the slow way."""
    row = [0] * (len(others) + 1)
    for word in ours:
        before, row = row, [0]
        for place, other in enumerate(others):
            row.append(before[place] + 1 if word == other else max(before[place + 1], row[-1]))
    return row[-1]


@pytest.mark.parametrize("seed", range(2))
def test_as_much_as_can_be_kept_in_order_is_kept(seed: int) -> None:
    """Of repetitive texts, which take the faster way, no more may look left out than must."""
    dice = random.Random(seed)  # noqa: S311  the same each time
    prompt, text = (dice.choices("abcdefghijklmnopqrst", k=size) for size in (1500, 1200))
    pieces = removed(" ".join(prompt), rewrite(" ".join(text)))
    kept = [word for piece, has in pieces if has for word in piece.split()]
    assert _common(prompt, text) <= len(kept) <= len(text)
    assert all(kept.count(word) <= text.count(word) for word in set(text))


def test_words_that_are_left_out_one_by_one_take_no_time() -> None:
    """Every second word gone makes as many runs as words; processor time, so that a busy machine fails nothing."""
    words = 20_000
    prompt = " ".join(f"k{n} r{n}" for n in range(words))
    kept = " ".join(f"k{n}" for n in range(words))
    began = time.process_time()
    pieces = removed(prompt, Rewrite(relevant_context=kept, user_query="", raw=""))
    assert time.process_time() - began < 10
    assert "".join(text for text, _ in pieces) == prompt
    assert sum(is_kept for _, is_kept in pieces) == words
