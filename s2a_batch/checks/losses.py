"""Whether a rewrite still has what the answer needs: the question, the context, options, the form of the answer.

Pure functions of a compared pair. Invariant: that a sentence was needed cannot be proven without a
model; what is left out is listed, and an error is said of the question and of what only its form shows to be needed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from s2a_batch.checks import amounts, compared, phrases, words
from s2a_batch.checks.verdicts import verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s2a_batch.checks.compared import Pair
    from s2a_batch.records import Check

_SAME: Final = 0.6
_SAME_LETTERS: Final = 80.0
_FOREIGN: Final = 0.3
_PRONOUN: Final = words.listed("he she it they him her them his its their i me my we us our this that")
_LONGEST_QUESTION: Final = 1500
_OPTION: Final = re.compile(r"\(([a-h])\)(?=\s)|^[ \t]*([a-h])[).](?=\s)", re.MULTILINE)
_MANY: Final = re.compile(
    r"\bhow (?:many|much|long|far|old|often|fast|big|tall|heavy)\b|\bwhat\b.*\b(?:percent|percentage"
    r"|fraction|number|amount|"
    r"average|total|price|cost|sum|age|weight|profit|ratio)\b"
)


def checks(pair: Pair) -> Iterator[Check]:
    """What is to be said of a rewrite that lost something."""
    if not pair.source.count:
        return
    if not pair.query.count:
        yield verdict("question_empty")
    elif pair.same_script:
        yield from _question(pair)
    if not pair.context.count:
        yield from _no_context(pair)
    yield from _options(pair)
    yield from _format(pair)
    yield from _length(pair)
    yield from _left_out(pair)


def _question(pair: Pair) -> Iterator[Check]:
    asked, sure = _candidates(pair)
    if asked and len(pair.query.sentences) == 1 and asked[-1] == pair.query.folded.strip():
        pass  # a copy is asked in any language: no need to compare
    elif not asked:
        stems = pair.query.stems
        if pair.english and len(stems) > 1 and stems.isdisjoint(pair.source.stems):
            yield verdict("question_lost")
    elif _is_asked(asked[-1], pair):
        pass
    elif not any(_is_asked(question, pair) for question in asked[:-1]):
        yield verdict("question_lost", asked[-1:])
    elif words.content(words.tokens(asked[-1])) and sure:
        yield verdict("question_other", asked[-1:])
    if sure and not pair.query.asked and pair.english and not _asks(pair):
        yield verdict("question_not_asked", [pair.query.folded])
    last = asked[-1] if asked else pair.query.folded.strip()
    if len(last) > 12 and pair.joined(last) in pair.context.sentences:  # noqa: PLR2004  not a mere "why?"
        yield verdict("question_doubled")


def _candidates(pair: Pair) -> tuple[list[str], bool]:
    """What the source asks, the last at the end; and whether these are questions, not orders."""
    if pair.question is not None:
        return [pair.question[-_LONGEST_QUESTION:]], pair.question.rstrip("\"')] ").endswith("?")
    if pair.source.asked:
        return pair.source.asked, True
    if not pair.english:
        return [], False
    orders = [s for s in pair.source.sentences.values() if phrases.IMPERATIVE.match(s)]
    return orders[-20:], False


def _is_asked(question: str, pair: Pair) -> bool:
    """Whether the query is this question: nearly all of one is in the other."""
    if not pair.english:
        return _is_asked_in_any_language(question, pair)
    query = pair.query
    letters = compared.same_words(question.strip(" ?"), query.folded[-_LONGEST_QUESTION:].strip(" ?"))
    wanted = words.content(words.tokens(question))
    common = len(wanted & query.stems)
    if pair.rephrased and common:
        return True
    bare = not wanted or not query.stems
    if letters >= _SAME_LETTERS and (bare or not _PRONOUN.isdisjoint(words.tokens(question))):
        return True  # a name in place of a pronoun is the same question
    if bare:
        return False
    alike = compared.alike(" ".join(sorted(wanted)), " ".join(sorted(query.stems)))
    return (
        common >= _SAME * len(wanted)
        or (common >= _SAME * len(query.stems) and (common > 1 or letters >= _SAME_LETTERS))
        or alike >= _SAME_LETTERS
    )


def _is_asked_in_any_language(question: str, pair: Pair) -> bool:
    """Whether at least a third of the shorter one's pairs of neighbouring letters are in the other."""
    a, b = ({text[n : n + 2] for n in range(len(text) - 1)} for text in (question, pair.query.folded))
    return len(a & b) >= _FOREIGN * min(len(a), len(b))


def _asks(pair: Pair) -> bool:
    return any(
        phrases.ASKS.search(sentence) or phrases.IMPERATIVE.match(sentence)
        for sentence in pair.query.sentences.values()
    )


def _no_context(pair: Pair) -> Iterator[Check]:
    """An empty context is right when all is in the question, or when the rest was opinion."""
    query = " ".join(words.tokens(pair.query.folded))
    rest = [
        joined
        for joined, sentence in pair.source.sentences.items()
        if joined not in pair.query.sentences
        and not sentence.endswith("?")
        and not phrases.OPINION.search(sentence)
        and not phrases.IMPERATIVE.match(sentence)
        and joined not in query
        and len(meaning := words.content(joined.split())) > 1
        and not meaning <= pair.query.stems
    ]
    if not pair.source.asked and rest:  # the question was put as a statement
        rest.remove(max(rest, key=lambda joined: len(pair.query.stems & words.content(joined.split()))))
    told = sum(not s.endswith("?") and j in pair.source.sentences for j, s in pair.query.sentences.items())
    if not rest or (told >= len(rest) and not _labels(pair.query.folded)):  # what was told went into the query
        return
    linked = any(not pair.query.stems.isdisjoint(words.content(joined.split())) for joined in rest)
    counts = _MANY.search(pair.query.folded[-_LONGEST_QUESTION:]) and any(
        re.search(r"\d", joined) or not amounts.WORDS.isdisjoint(joined.split()) for joined in rest
    )
    needed = pair.english and not _labels(pair.query.folded) and ((linked and len(rest) > 1) or counts)
    yield verdict("context_empty" if needed else "context_dropped", rest[:3])


def _labels(text: str) -> list[str]:
    """Labels of answer options that follow one another from A on; empty when there are fewer than two."""
    if not (("a)" in text or "a." in text) and ("b)" in text or "b." in text)):
        return []
    found = {m[1] or m[2] for m in _OPTION.finditer(text)}
    labels = []
    for label in "abcdefgh":
        if label not in found:
            break
        labels.append(label)
    return labels if len(labels) > 1 else []


def _options(pair: Pair) -> Iterator[Check]:
    labels = _labels(pair.source.folded)
    if not labels:
        return
    left = set(_labels(pair.context.folded) + _labels(pair.query.folded) + _labels(pair.kept))
    if missing := [label.upper() for label in labels if label not in left]:
        yield verdict("options_lost", missing)


def _format(pair: Pair) -> Iterator[Check]:
    lost = []
    for joined, sentence in pair.source.sentences.items():
        if joined in pair.query.sentences or joined in pair.context.sentences:
            continue
        is_wish = phrases.has_one(phrases.YOUR_ANSWER_HINTS, sentence) and phrases.YOUR_ANSWER.search(sentence)
        if not is_wish and not phrases.IMPERATIVE.match(sentence):
            continue
        if not phrases.FORMAT.search(sentence):
            continue
        wish = {words.stem(word) for word in joined.split()} - {"a", "the", "your"}
        left = {words.stem(word) for part in pair.parts for word in part.vocabulary}
        left.update(words.stem(word) for word in words.tokens(pair.kept))
        if len(wish & left) < _SAME * len(wish):
            lost.append(sentence)
    if lost:
        yield verdict("format_lost", lost)


def _length(pair: Pair) -> Iterator[Check]:
    if pair.length > pair.source.count:
        yield verdict("longer_than_prompt", [f"{pair.length} of {pair.source.count} words"])
    if pair.length >= pair.source.count:
        yield verdict("removed_nothing")


def _left_out(pair: Pair) -> Iterator[Check]:
    """Lists for whoever looks through: numbers, sentences, and what the question is about."""
    kept = pair.context.allowed | pair.query.allowed
    numbers = {a.values[0] for a in pair.source.digits if kept.isdisjoint(a.values)}
    numbers |= {a.values[0] for a in pair.source.spelled if a.certain and kept.isdisjoint(a.values)}
    if numbers:
        yield verdict("numbers_dropped", sorted(numbers))
    dropped, told = [], set[str]()
    for joined, sentence in pair.source.sentences.items():
        if joined in pair.context.sentences or joined in pair.query.sentences:
            continue
        meaning = words.content(joined.split())
        if meaning and len(meaning & pair.context.stems | meaning & pair.query.stems) <= len(meaning) / 2:
            dropped.append(sentence)
            if not sentence.endswith("?"):
                told |= meaning
    if dropped:
        yield verdict("sentences_dropped", dropped)
    if subjects := (pair.query.stems & told) - pair.context.stems:
        shown = [word for word in sorted(pair.query.vocabulary) if words.stem(word) in subjects and word.isalpha()]
        if shown:
            yield verdict("subjects_dropped", shown)
