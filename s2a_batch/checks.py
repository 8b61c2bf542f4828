"""Judgements on a rewrite that need no model: pure functions of the prompt and the rewrite.

Knows rapidfuzz. Invariant: a check speaks of what it can prove from the two texts; it never changes either.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from itertools import islice
from typing import TYPE_CHECKING, Final

from rapidfuzz import fuzz
from rapidfuzz.distance import Indel

from s2a_batch.records import Check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s2a_batch.records import Rewrite

_NUMBER: Final = re.compile(r"\d[\d,]*(?:\.\d+)?")
_SENTENCE: Final = re.compile(r"[^.!?\n]+[.!?]*")
_WORD: Final = re.compile(r"\S+")
_WORDS: Final = re.compile(r"\S+\s*|\s+")
_MOST_WORDS: Final = 500_000
_SMALL: Final = 500 * 500
_MIDDLE: Final = 30_000 * 30_000
_FAR: Final = 1_000
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
    """The prompt in pieces, each with whether the rewrite keeps it; pieces joined give the prompt.

    Takes 2 s at most, on any text: up to 500 words by 500 by their longest common runs, up to 30 thousand by 30
    thousand by their longest common sequence, and beyond word by word, where a text in another order counts as
    removed; what comes after half a million words is not compared and counts as kept.
    """
    found = (match.group() for match in _WORDS.finditer(prompt))
    words = list(islice(found, _MOST_WORDS))
    kept = list(
        islice((m.group() for m in _WORD.finditer(f"{rewrite.relevant_context} {rewrite.user_query}")), _MOST_WORDS)
    )
    pieces: list[tuple[str, bool]] = []
    at = 0
    for start, end in _common(list(map(str.strip, words)), kept):
        if start > at:
            pieces.append(("".join(words[at:start]), False))
        pieces.append(("".join(words[start:end]), True))
        at = end
    if at < len(words):
        pieces.append(("".join(words[at:]), False))
    rest = prompt[sum(map(len, words)) :]
    return [*pieces, (rest, True)] if rest else pieces


def _common(words: list[str], kept: list[str]) -> Iterator[tuple[int, int]]:
    """Where the words are that the others hold in the same order, from and to, ascending."""
    size = len(words) * len(kept)
    if size <= _SMALL:
        matcher = SequenceMatcher(None, words, kept, autojunk=False)
        yield from ((start, start + count) for start, _, count in matcher.get_matching_blocks() if count)
    elif size <= _MIDDLE:  # 125 MB, 0.5 s
        found = Indel.opcodes(words, kept)
        yield from ((code.src_start, code.src_end) for code in found if code.tag == "equal")
    else:
        yield from _met(words, kept)


def _met(words: list[str], kept: list[str]) -> Iterator[tuple[int, int]]:
    """From where to where words follow in the others, too, each not far behind the last one that did."""
    places: dict[str, list[int]] = {}
    for at in range(len(kept) - 1, -1, -1):
        places.setdefault(kept[at], []).append(at)
    reached = start = 0
    for at, word in enumerate(words):
        left = places.get(word, [])
        while left and left[-1] < reached:
            left.pop()
        if left and left[-1] - reached < _FAR:
            reached = left.pop() + 1
        else:
            if start < at:
                yield start, at
            start = at + 1
    if start < len(words):
        yield start, len(words)


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
