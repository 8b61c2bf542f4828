"""Two texts made ready to be compared: what was to be rewritten, and the rewrite.

Knows rapidfuzz. Each text is gone through once, sentence by sentence. Invariant: what is kept of a text is its folded
form, its vocabulary and a bounded number of its sentences and numbers, and only while it is judged.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rapidfuzz import fuzz, process

from s2a_batch.checks import amounts, phrases, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from s2a_batch.checks.amounts import Amount
    from s2a_batch.records import Rewrite

MOST_SENTENCES: Final = 4000
_MOST_ASKED: Final = 40
_LONGEST_PLACEHOLDER: Final = 60
# Not behind a stop, so its capital is its own.
_NAME: Final = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}+(?![A-Z])")
_SENTENCE_ENDS: Final = frozenset((". ", "! ", "? "))
_STOPS: Final = frozenset(".!?")
_SPACES: Final = frozenset(("", " ", "\n"))
_FOREIGN_SHARE: Final = 0.2


@dataclass(slots=True)
class Text:
    """One text gone through.

    Attributes:
        raw: As it was given.
        folded: As it is compared (`words.fold`).
        count: Running words.
        signs: Running words that are signs of a script without spaces.
        sentences: The words of each sentence joined by spaces -> the sentence as folded; equal ones once.
        asked: The last sentences with a question mark.
        spelled_in: The words of a sentence, joined -> the numbers in it that are written as words.
        digits: Numbers written in digits.
        allowed: Every reading of every number.
        says_no: Of a source: whether a word of it negates.
        has_new: Of a part: whether it may have words that the source has not.
        own: Of a part: its sentences that the source does not have, as words joined.
        is_copy: Of a part: whether it stands in the source as it is.
        is_marked: Of a part that does not: whether it has a mark of a phrase (`phrases.is_marked`).
    """

    raw: str
    folded: str
    count: int = 0
    signs: int = 0
    sentences: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    spelled_in: dict[str, list[Amount]] = field(default_factory=dict)
    digits: list[Amount] = field(default_factory=list)
    allowed: set[str] = field(default_factory=set)
    says_no: bool = False
    has_new: bool = False
    own: list[str] = field(default_factory=list)
    is_copy: bool = False
    is_marked: bool = False
    _vocabulary: set[str] = field(default_factory=set)
    _is_unread: bool = False
    _stems: set[str] | None = None

    @classmethod
    def of(cls, text: str) -> Text:
        """Go through a text."""
        made = cls(text, words.fold(text))
        made._read({}, {})
        made._count_numbers(amounts.digits(made.folded))
        made.says_no = not words.NEGATIONS.isdisjoint(made.vocabulary)
        if made.says_no:
            made.allowed.add("0")
        return made

    @classmethod
    def part(cls, text: str, source: Text, known: dict[str, str]) -> Text:
        """Go through a part of a rewrite: a number before a list's line is none, and "none" is no text.

        Args:
            text: The part.
            source: What was to be rewritten.
            known: Its sentences, as folded -> their words joined; most of a part are among them.
        """
        folded = words.fold(text)
        if len(text) < _LONGEST_PLACEHOLDER and phrases.PLACEHOLDER.fullmatch(folded):
            text = folded = ""
        made = cls(text, folded)
        made._read(known, source.spelled_in)
        made.own = [joined for joined in made.sentences if joined not in source.sentences]
        at = source.folded.find(folded)
        made.is_copy = at >= 0
        made.is_marked = not made.is_copy and phrases.is_marked(folded)
        digits = source.digits_within(at, at + len(folded)) if made.is_copy else None
        made._count_numbers(amounts.digits(folded, enumerated=False) if digits is None else digits)
        made.has_new, made._is_unread = bool(made._vocabulary), True
        if (made.has_new or source.says_no) and not words.NEGATIONS.isdisjoint(made.vocabulary):
            made.allowed.add("0")
        return made

    def _read(self, known: dict[str, str], known_numbers: dict[str, list[Amount]]) -> None:
        """Take each sentence apart; of `known` ones the words are as given, and their numbers in words."""
        count = signs = numbers = 0
        vocabulary, sentences, asked = self._vocabulary, self.sentences, self.asked
        for sentence in words.sentences(self.folded):
            found: list[str] = []
            joined = known.get(sentence)
            if joined is None:
                found = words.tokens(sentence)
                joined = " ".join(found)
                count += len(found)
            else:
                count += joined.count(" ") + 1
            if not joined.isascii():
                signs += sum(1 for _ in words.SIGN.finditer(joined))
            if "?" in sentence and sentence.rstrip("\"')] ").endswith("?"):
                asked.append(sentence)
                del asked[:-_MOST_ASKED]
            if joined in sentences:
                continue
            if joined and len(sentences) < MOST_SENTENCES:
                sentences[joined] = sentence
            elif not found:
                found = joined.split()
            vocabulary.update(found)
            has_numbers = not amounts.WORDS.isdisjoint(found) if found else joined in known_numbers
            if has_numbers and numbers < MOST_SENTENCES:
                said = self.spelled_in[joined] = known_numbers.get(joined) or list(amounts.spelled(found))
                numbers += len(said)
        self.count, self.signs = count, signs

    def digits_within(self, start: int, end: int) -> Iterator[Amount] | None:
        """The numbers in digits of whole sentences of this text, with their places in it; None to read them anew.

        No number goes over the end of a sentence and the space behind it, so they are those of the sentences alone,
        unless one begins with a number, which may be a list's, and is none there. This takes 1 us, reading 6.
        """
        text = self.folded
        begins = start == 0 or text[start - 2 : start] in _SENTENCE_ENDS or text[start - 1] == "\n"
        ends = text[end - 1 : end] in _STOPS and text[end : end + 1] in _SPACES
        if not begins or not ends or len(self.digits) >= MOST_SENTENCES or amounts.may_be_list(text[start:end]):
            return None
        return (amount for amount in self.digits if start <= amount.start < end)

    def _count_numbers(self, digits: Iterator[Amount]) -> None:
        self.digits = list(itertools.islice(digits, MOST_SENTENCES))
        seen = [*self.digits, *self.spelled]
        self.allowed = {value for amount in seen for value in amount.values + amount.parts}
        for amount in digits:
            self.allowed.update(amount.values, amount.parts)
        if self.signs:
            self.allowed.update(value for amount in amounts.han(self.folded) for value in amount.values)

    @property
    def vocabulary(self) -> set[str]:
        """Distinct words; of a part, those of the sentences that it has from the source are added when asked for."""
        if self._is_unread:
            self._is_unread = False
            self._vocabulary.update(" ".join(self.sentences).split())
        return self._vocabulary

    @property
    def stems(self) -> set[str]:
        """The stems of the words that carry meaning; few texts are asked for them."""
        if self._stems is None:
            self._stems = words.content(self.vocabulary)
        return self._stems

    @property
    def spelled(self) -> list[Amount]:
        """Numbers written as words."""
        return [amount for found in self.spelled_in.values() for amount in found] if self.spelled_in else []

    def names(self) -> set[str]:
        """Words with a capital inside a sentence, as compared."""
        return {name.lower() for name in _NAME.findall(self.raw)}

    @property
    def in_signs(self) -> bool:
        """Whether a good part is in a script without spaces."""
        return self.signs > _FOREIGN_SHARE * self.count


@dataclass(slots=True)
class Pair:
    """What was to be rewritten, and the rewrite.

    Attributes:
        source: The whole of what the rewrite stage was shown, its question too.
        known: Its sentences as folded -> their words joined.
        same_script: Whether words of both can be compared at all.
        question: The question as the input gave it on its own; None without one.
        context, query: The rewrite's parts; a part that only says "none" counts as empty.
        kept: What goes past the rewrite, folded.
        rephrased: Whether the rewrite may put the question in other words.
    """

    source: Text
    known: dict[str, str]
    same_script: bool
    question: str | None
    context: Text
    query: Text
    kept: str
    rephrased: bool
    _english: bool | None = None

    @classmethod
    def of(cls, text: str, question: str | None, kept: str, rewrite: Rewrite, *, rephrased: bool) -> Pair:
        """Go through both."""
        if question and question not in text:
            text = f"{text}\n{question}"
        source = Text.of(text)
        known = {sentence: joined for joined, sentence in source.sentences.items()}
        if len(source.spelled) >= MOST_SENTENCES:  # not all were read
            known.clear()
        context = Text.part(rewrite.relevant_context, source, known)
        query = Text.part(rewrite.user_query, source, known)
        in_signs = context.signs + query.signs > _FOREIGN_SHARE * max(1, context.count + query.count)
        return cls(
            source=source,
            known=known,
            same_script=source.in_signs == in_signs,
            question=words.fold(question) if question and question.strip() else None,
            context=context,
            query=query,
            kept=words.fold(kept),
            rephrased=rephrased,
        )

    @property
    def english(self) -> bool:
        """Whether the source is English beyond doubt, so that words can be judged; most pairs are not asked."""
        if self._english is None:
            self._english = not self.source.in_signs and words.is_english(self.source.vocabulary)
        return self._english

    def joined(self, sentence: str) -> str:
        """The words of a folded sentence, joined by spaces."""
        return self.known.get(sentence) or " ".join(words.tokens(sentence))

    @property
    def parts(self) -> tuple[Text, Text]:
        """Context and query."""
        return self.context, self.query

    @property
    def length(self) -> int:
        """Running words of the rewrite."""
        return self.context.count + self.query.count


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
