"""Judgements on a rewrite that need no model: pure functions of the prompt and the rewrite.

Knows rapidfuzz. Invariant: a check speaks of what it can prove from the two texts; it never changes either.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Final

from rapidfuzz import fuzz

from s2a_batch.records import Check

if TYPE_CHECKING:
    from s2a_batch.records import Rewrite

_NUMBER: Final = re.compile(r"\d[\d,]*(?:\.\d+)?")
_SENTENCE: Final = re.compile(r"[^.!?\n]+[.!?]*")
_WORD: Final = re.compile(r"\S+")
_SAME_QUESTION: Final = 80.0
# token_set_ratio of the last question with the rewritten one: 100 % of dropped or replaced questions lie below, no
# correct one (200 GSM8K problems with a planted sentence).


def judge_rewrite(prompt: str, rewrite: Rewrite) -> tuple[Check, ...]:
    """All checks that have something to say, worst first."""
    text = f"{rewrite.relevant_context} {rewrite.user_query}"
    found = [
        _invented_numbers(prompt, text),
        _lost_question(prompt, rewrite.user_query),
        _removed_nothing(prompt, text),
        _dropped_numbers(prompt, text),
    ]
    return tuple(check for check in found if check is not None)


def removed_words(prompt: str, rewrite: Rewrite) -> list[tuple[str, bool]]:
    """The prompt in pieces, each with whether the rewrite keeps it; pieces joined give the prompt."""
    words = re.findall(r"\S+\s*|\s+", prompt)
    kept = [word.strip() for word in f"{rewrite.relevant_context} {rewrite.user_query}".split()]
    matcher = SequenceMatcher(None, [word.strip() for word in words], kept, autojunk=False)
    pieces = []
    for tag, start, end, _, _ in matcher.get_opcodes():
        if end > start:
            pieces.append(("".join(words[start:end]), tag == "equal"))
    return pieces


def _count_words(text: str) -> int:
    return sum(1 for _ in _WORD.finditer(text))  # one at a time: a list of them takes ten times the text's memory


def _numbers(text: str) -> set[str]:
    return {_plain(found) for found in _NUMBER.findall(text)}


def _plain(number: str) -> str:
    whole, _, fraction = number.replace(",", "").partition(".")
    fraction = fraction.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")


def _invented_numbers(prompt: str, text: str) -> Check | None:
    invented = sorted(_numbers(text) - _numbers(prompt))
    if not invented:
        return None
    return Check(name="numbers_invented", level="error", message="numbers that the prompt lacks", words=tuple(invented))


def _dropped_numbers(prompt: str, text: str) -> Check | None:
    dropped = sorted(_numbers(prompt) - _numbers(text))
    if not dropped:
        return None
    return Check(name="numbers_dropped", level="info", message="numbers left out", words=tuple(dropped))


def _lost_question(prompt: str, query: str) -> Check | None:
    asked = ""
    for sentence in _SENTENCE.finditer(prompt):
        asked = sentence.group() if sentence.group().endswith("?") else asked
    if not asked or fuzz.token_set_ratio(asked.strip().lower(), query.lower()) >= _SAME_QUESTION:
        return None
    return Check(name="question_lost", level="error", message="the query is not the prompt's last question")


def _removed_nothing(prompt: str, text: str) -> Check | None:
    if _count_words(text) < _count_words(prompt):
        return None
    return Check(name="removed_nothing", level="info", message="the rewrite is as long as the prompt")
