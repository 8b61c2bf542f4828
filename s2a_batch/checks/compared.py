"""Two texts made ready to be compared: what was to be rewritten, and the rewrite.

Knows rapidfuzz. Each text is gone through once, sentence by sentence. Invariant: what is kept of a text is its folded
form, its vocabulary and a bounded number of its sentences and numbers, and only while it is judged.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rapidfuzz import fuzz, process

from s2a_batch.checks import amounts, phrases, words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from s2a_batch.checks.amounts import Amount
    from s2a_batch.records import Rewrite

MOST_SENTENCES: Final = 4000
_MOST_ASKED: Final = 40
# Not behind a stop, so its capital is its own.
_NAME: Final = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}+(?![A-Z])")
_FOREIGN_SHARE: Final = 0.2


@dataclass(slots=True)
class Text:
    """One text gone through.

    Attributes:
        folded: As it is compared (`words.fold`).
        count: Running words.
        vocabulary: Distinct words.
        stems: Of those that carry meaning.
        sentences: The words of each sentence joined by spaces -> the sentence as folded; equal ones once.
        spelled: Numbers written as words.
        names: Words with a capital inside a sentence, as compared.
        digits: Numbers written in digits.
        allowed: Every reading of every number.
        asked: The last sentences with a question mark.
        signs: Running words that are signs of a script without spaces.
    """

    folded: str
    count: int = 0
    signs: int = 0
    vocabulary: set[str] = field(default_factory=set)
    stems: set[str] = field(default_factory=set)
    sentences: dict[str, str] = field(default_factory=dict)
    spelled: list[Amount] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    digits: list[Amount] = field(default_factory=list)
    allowed: set[str] = field(default_factory=set)
    asked: deque[str] = field(default_factory=lambda: deque(maxlen=_MOST_ASKED))

    @classmethod
    def of(cls, text: str, *, enumerated: bool = True) -> Text:
        """Go through a text; `enumerated` false, of a rewrite: a number before a list's line is none."""
        made = cls(words.fold(text))
        if not enumerated:
            made.names.update(name.lower() for name in _NAME.findall(text))
        for sentence in words.sentences(made.folded):
            made._add(sentence)
        made._count_numbers(enumerated=enumerated)
        made.stems = words.content(made.vocabulary)
        return made

    def _add(self, sentence: str) -> None:
        found = words.tokens(sentence)
        joined = " ".join(found)
        self.count += len(found)
        if not joined.isascii():
            self.signs += sum(1 for _ in words.SIGN.finditer(joined))
        if "?" in sentence and sentence.rstrip("\"')] ").endswith("?"):
            self.asked.append(sentence)
        if joined in self.sentences:
            return
        self.vocabulary.update(found)
        if not amounts.WORDS.isdisjoint(found) and len(self.spelled) < MOST_SENTENCES:
            self.spelled += amounts.spelled(found)
        if found and len(self.sentences) < MOST_SENTENCES:
            self.sentences[joined] = sentence

    def _count_numbers(self, *, enumerated: bool) -> None:
        for amount in amounts.digits(self.folded, enumerated=enumerated):
            self.allowed.update(amount.values, amount.parts)
            if len(self.digits) < MOST_SENTENCES:
                self.digits.append(amount)
        for amount in self.spelled:
            self.allowed.update(amount.values, amount.parts)
        if self.signs:
            self.allowed.update(value for amount in amounts.han(self.folded) for value in amount.values)
        if not words.NEGATIONS.isdisjoint(self.vocabulary):
            self.allowed.add("0")

    @property
    def in_signs(self) -> bool:
        """Whether a good part is in a script without spaces."""
        return self.signs > _FOREIGN_SHARE * self.count


@dataclass(frozen=True, slots=True)
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
            context=Text.of(_unless_placeholder(rewrite.relevant_context), enumerated=False),
            query=Text.of(_unless_placeholder(rewrite.user_query), enumerated=False),
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


def _unless_placeholder(text: str) -> str:
    return "" if len(text) < 60 and phrases.PLACEHOLDER.fullmatch(words.fold(text)) else text  # noqa: PLR2004


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
