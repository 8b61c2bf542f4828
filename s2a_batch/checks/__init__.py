"""Judgements on a rewrite and on an answer that need no model: pure functions of the texts.

Invariant: a check speaks of what it can prove from the texts, changes neither, and takes time linear in them; what each
name means and weighs is `verdicts.VERDICTS`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from s2a_batch.checks import fidelity, losses, phrases, quantities, words
from s2a_batch.checks.compared import Pair, Text
from s2a_batch.checks.verdicts import verdict, worst_first

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s2a_batch.records import Check, Rewrite

_UNFINISHED: Final = re.compile(
    r"(?:[,(\[{:\-]|\b(?:a|an|the|and|or|but|of|to|in|on|at|by|for|with|is|are|was|if|that|which|its|their))$"
)
_OPEN: Final = ",([{:-"
_ENDED: Final = re.compile(r"[.!?。！？]")
_RESTATED: Final = 0.8
_BEGINNING: Final = 240
# Each check with its phrases, the words that they have, and whether they are looked for at the start alone.
_RESIDUE: Final = (
    ("refused", phrases.REFUSAL, phrases.REFUSAL_WORDS, True),
    ("preamble_left", phrases.PREAMBLE, phrases.PREAMBLE_WORDS, False),
    ("labels_left", phrases.LABEL, frozenset[str](), False),
    ("reasoning_left", phrases.REASONING, phrases.REASONING_WORDS, False),
    ("answer_leaked", phrases.ANSWER, phrases.ANSWER_WORDS, False),
)
_EVASIONS: Final = (
    ("answer_refused", phrases.REFUSAL, phrases.REFUSAL_HINTS),
    ("answer_undecided", phrases.UNDECIDED, phrases.UNDECIDED_HINTS),
)
MOST_CHARS: Final = 2_000_000  # they take sixteen times as much memory, and a second


@dataclass(frozen=True, slots=True)
class Original:
    """What a rewrite was made from.

    Attributes:
        text: All that the rewrite stage was shown.
        question: The question, when the input gave it on its own; may be a part of `text` or not.
        kept: What goes past the rewrite to the answer (system, instructions), so that a rewrite cannot lose it.
        rephrased: The preset asks for the question in other words, so that it is judged by its subject alone.
    """

    text: str
    question: str | None = None
    kept: str = ""
    rephrased: bool = False


def judge_rewrite(original: Original, rewrite: Rewrite) -> tuple[Check, ...]:
    """All checks that have something to say of a rewrite, worst first; `verdicts.reason` says the errors to a model."""
    if len(original.text) + len(rewrite.relevant_context) + len(rewrite.user_query) > MOST_CHARS:
        return (verdict("not_checked"),)
    pair = Pair.of(original.text, original.question, original.kept, rewrite, rephrased=original.rephrased)
    if not pair.source.count and not pair.length:
        return ()
    return worst_first(
        [
            *losses.checks(pair),
            *_residue(pair),
            *quantities.checks(pair),
            *fidelity.checks(pair),
            *(fidelity.copied_little(pair) if pair.same_script else ()),
        ]
    )


def judge_answer(answer: str, rewrite: Rewrite, *, finish_reason: str | None = None) -> tuple[Check, ...]:
    """What can be said of a final answer without a model, worst first.

    Args:
        answer: The answer as text; of a typed answer its fields' text.
        rewrite: What was asked.
        finish_reason: As the server gave it; `length` says that the answer was cut.
    """
    folded = words.fold(answer)
    if not words.has_token(folded):
        return () if re.search(r"\w", answer) else (verdict("answer_empty"),)
    start = phrases.beginning(folded)
    found = []
    for name, pattern, hints in _EVASIONS:
        if phrases.has_one(hints, start):
            asked = words.fold(rewrite.relevant_context + " " + rewrite.user_query)
            if said := phrases.strangers(pattern, start, asked):
                found.append(verdict(name, said))
    if _restates(folded, rewrite.user_query):
        found.append(verdict("answer_restates"))
    if finish_reason == "length" or _breaks_off(folded):
        found.append(verdict("answer_cut", [folded[-60:]]))
    return worst_first(found)


def _restates(answer: str, query: str) -> bool:
    """Whether an answer has nearly all words of the question, and no other."""
    asked = words.fold(query)
    for found in words.TOKEN.finditer(answer, 0, _BEGINNING):  # most answers have another word soon
        if found.end() < _BEGINNING and found.group() not in asked:
            return False
    wanted = set(words.tokens(asked))
    if len(wanted) <= 3:  # noqa: PLR2004
        return False
    vocabulary = Text.of(answer).vocabulary
    return vocabulary <= wanted and len(vocabulary) >= _RESTATED * len(wanted)


def _breaks_off(answer: str) -> bool:
    """Whether a text ends on a word that needs another, or without a stop after sentences that have one."""
    text = answer.rstrip()
    last = text[-400:].rpartition("\n")[2]
    if text.count("```") % 2:
        return True
    if not last[-1:].isalpha() and last[-1:] not in _OPEN:
        return False
    if _UNFINISHED.search(last[-20:]):
        said = Text.of(answer)
        if said.count > 2 and not said.in_signs:  # noqa: PLR2004
            return True
    stops = list(_ENDED.finditer(last[:-1]))
    return bool(stops) and last[-1:].isalpha() and len(last[stops[-1].end() :].split()) > 3  # noqa: PLR2004


def _residue(pair: Pair) -> Iterator[Check]:
    """Words about the rewrite, in place of the rewrite."""
    own = [part for part in pair.parts if not part.is_copy]  # a phrase of the others is the source's too
    for name, pattern, hints, at_start in _RESIDUE if own else ():
        found = []
        for part in own:
            if part.is_marked or not hints.isdisjoint(part.vocabulary):
                text = phrases.beginning(part.folded) if at_start else part.folded
                found += phrases.strangers(pattern, text, pair.source.folded)
        if found:
            yield verdict(name, found)
    if not any(part.has_new for part in pair.parts) and phrases.OPINION_WORDS.isdisjoint(pair.source.vocabulary):
        return
    texts = [part.folded for part in pair.parts if not phrases.OPINION_WORDS.isdisjoint(part.vocabulary)]
    if left := [match.group() for text in texts if (match := phrases.OPINION.search(text))]:
        yield verdict("opinion_left", left)
