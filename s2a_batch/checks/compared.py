"""Two texts made ready to be compared: what was to be rewritten, and the rewrite.

Knows rapidfuzz. Each text is gone through once, sentence by sentence. Invariant: what is kept of a text is its folded
form, its vocabulary and a bounded number of its sentences and numbers, and only while it is judged.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rapidfuzz import fuzz, process

from s2a_batch.checks import amounts, phrases, words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from s2a_batch.checks.amounts import Amount
    from s2a_batch.records import Rewrite

MOST_SENTENCES: Final = 4000
_MOST_ASKED: Final = 40
_LONGEST_PLACEHOLDER: Final = 60
# Not behind a stop, so its capital is its own.
_NAME: Final = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}+(?![A-Z])")
_FOREIGN_SHARE: Final = 0.2


@dataclass(slots=True)
class Text:
    """One text gone through.

    Attributes:
        raw: As it was given.
        folded: As it is compared (`words.fold`).
        count: Running words.
        signs: Running words that are signs of a script without spaces.
        vocabulary: Distinct words.
        stems: Of those that carry meaning.
        sentences: The words of each sentence joined by spaces -> the sentence as folded; equal ones once.
        asked: The last sentences with a question mark.
        digits: Numbers written in digits.
        spelled: Numbers written as words.
        allowed: Every reading of every number.
    """

    raw: str
    folded: str
    count: int
    signs: int
    vocabulary: set[str]
    stems: set[str]
    sentences: dict[str, str]
    asked: list[str]
    digits: list[Amount]
    spelled: list[Amount]
    allowed: set[str]

    @classmethod
    def of(cls, text: str) -> Text:
        """Go through a text."""
        return cls._of(text, words.fold(text), {}, enumerated=True)

    @classmethod
    def part(cls, text: str, source: Text) -> Text:
        """Go through a part of a rewrite of the source: a number before a list's line is none, nor is "none" a text."""
        folded = words.fold(text)
        if len(text) < _LONGEST_PLACEHOLDER and phrases.PLACEHOLDER.fullmatch(folded):
            text = folded = ""
        known = {sentence: joined for joined, sentence in source.sentences.items()}
        return cls._of(text, folded, known, enumerated=False)

    @classmethod
    def _of(cls, text: str, folded: str, known: dict[str, str], *, enumerated: bool) -> Text:
        """Go through it; of the sentences that are `known` the words are, joined."""
        count = signs = 0
        vocabulary: set[str] = set()
        sentences: dict[str, str] = {}
        asked: deque[str] = deque(maxlen=_MOST_ASKED)
        spelled: list[Amount] = []
        for sentence in words.sentences(folded):
            joined = known.get(sentence)
            found = words.tokens(sentence) if joined is None else joined.split()
            joined = joined or " ".join(found)
            count += len(found)
            if not joined.isascii():
                signs += sum(1 for _ in words.SIGN.finditer(joined))
            if "?" in sentence and sentence.rstrip("\"')] ").endswith("?"):
                asked.append(sentence)
            if joined in sentences:
                continue
            vocabulary.update(found)
            if len(spelled) < MOST_SENTENCES and not amounts.WORDS.isdisjoint(found):
                spelled += amounts.spelled(found)
            if found and len(sentences) < MOST_SENTENCES:
                sentences[joined] = sentence
        digits, allowed = _numbers(folded, spelled, in_signs=signs > 0, enumerated=enumerated)
        if not words.NEGATIONS.isdisjoint(vocabulary):
            allowed.add("0")
        stems = words.content(vocabulary)
        return cls(text, folded, count, signs, vocabulary, stems, sentences, list(asked), digits, spelled, allowed)

    def names(self) -> set[str]:
        """Words with a capital inside a sentence, as compared."""
        return {name.lower() for name in _NAME.findall(self.raw)}

    @property
    def in_signs(self) -> bool:
        """Whether a good part is in a script without spaces."""
        return self.signs > _FOREIGN_SHARE * self.count


def _numbers(folded: str, spelled: list[Amount], *, in_signs: bool, enumerated: bool) -> tuple[list[Amount], set[str]]:
    """Numbers in digits, and what all numbers can mean."""
    digits: list[Amount] = []
    allowed: set[str] = set()
    for amount in amounts.digits(folded, enumerated=enumerated):
        allowed.update(amount.values, amount.parts)
        if len(digits) < MOST_SENTENCES:
            digits.append(amount)
    for amount in spelled:
        allowed.update(amount.values, amount.parts)
    if in_signs:
        allowed.update(value for amount in amounts.han(folded) for value in amount.values)
    return digits, allowed


@dataclass(slots=True)
class Pair:
    """What was to be rewritten, and the rewrite.

    Attributes:
        source: The whole of what the rewrite stage was shown, its question too.
        question: The question as the input gave it on its own; None without one.
        context, query: The rewrite's parts; a part that only says "none" counts as empty.
        kept: What goes past the rewrite, folded.
        english: Whether the source is English beyond doubt, so that words can be judged.
        rephrased: Whether the rewrite may put the question in other words.
    """

    source: Text
    question: str | None
    context: Text
    query: Text
    kept: str
    english: bool
    rephrased: bool

    @classmethod
    def of(cls, text: str, question: str | None, kept: str, rewrite: Rewrite, *, rephrased: bool) -> Pair:
        """Go through both."""
        if question and question not in text:
            text = f"{text}\n{question}"
        source = Text.of(text)
        return cls(
            source=source,
            question=words.fold(question) if question and question.strip() else None,
            context=Text.part(rewrite.relevant_context, source),
            query=Text.part(rewrite.user_query, source),
            kept=words.fold(kept),
            english=not source.in_signs and words.is_english(source.vocabulary),
            rephrased=rephrased,
        )

    @property
    def parts(self) -> tuple[Text, Text]:
        """Context and query."""
        return self.context, self.query

    @property
    def length(self) -> int:
        """Running words of the rewrite."""
        return self.context.count + self.query.count

    def same_script(self) -> bool:
        """Whether words of both can be compared at all."""
        return self.source.in_signs == (self.context.signs + self.query.signs > _FOREIGN_SHARE * max(1, self.length))


def alike(a: str, b: str) -> float:
    """How much of two texts is the same, in percent."""
    return fuzz.ratio(a, b)


def same_words(a: str, b: str) -> float:
    """How much of two texts' words are the same, in percent; all, when those of one are a part of the other's."""
    return fuzz.token_set_ratio(a, b)


def closest(text: str, choices: Iterable[str], cutoff: float, *, part: bool = False) -> tuple[str, float] | None:
    """The most alike of these, or, with `part`, the one that has the text in it most; None below the cutoff."""
    scorer = fuzz.partial_ratio if part else fuzz.ratio
    best = process.extractOne(text, choices, scorer=scorer, score_cutoff=cutoff)
    return None if best is None else (best[0], best[1])
