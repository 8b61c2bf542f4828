"""Whether the numbers of a rewrite are those of the text.

Pure functions of a compared pair. Invariant: a number in another spelling is the same number; where number words of a
language are not known, a number is called changed only when the text has another one between the same words.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from s2a_batch.checks import amounts
from s2a_batch.checks.verdicts import verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s2a_batch.checks.amounts import Amount
    from s2a_batch.checks.compared import Pair, Text
    from s2a_batch.records import Check

_MOST: Final = 60
_ENDING: Final = 40
_NEIGHBOURS: Final = (14, 32)
_STOP: Final = re.compile(r"[.!?](?: |$)|\n")
_OTHER: Final = re.compile(r"\d(?:[\d.,/]*\d)?")
_OTHER_BEFORE: Final = re.compile(r"(?<![\d.,/])\d(?:[\d.,/]*\d)?$")


def checks(pair: Pair) -> Iterator[Check]:
    """What is to be said of a rewrite with other numbers than the text's."""
    found: dict[str, dict[str, None]] = {"numbers_invented": {}, "numbers_unknown": {}, "numbers_swapped": {}}
    for part in pair.parts:
        for tried, amount in enumerate(part.digits):
            is_tried = tried < _MOST and not part.is_copy
            phrase = _swapped(part.folded, amount, pair.source.folded) if is_tried else ""
            if not _explained(amount, pair.source.allowed):
                name = "numbers_invented" if pair.english or phrase else "numbers_unknown"
                found[name][amount.values[0]] = None
            elif phrase:
                found["numbers_swapped"][phrase] = None
        found["numbers_invented"].update(dict.fromkeys(_invented_in_words(part, pair)))
    for name, words in found.items():
        if words:
            yield verdict(name, words if name == "numbers_swapped" else sorted(words))


def _invented_in_words(part: Text, pair: Pair) -> Iterator[str]:
    for joined, said in part.spelled_in.items():
        if joined in pair.source.spelled_in or not pair.english:
            continue
        yield from (a.values[0] for a in said if a.certain and not _explained(a, pair.source.allowed))


def _explained(amount: Amount, allowed: set[str]) -> bool:
    return not allowed.isdisjoint(amount.values) or (bool(amount.parts) and allowed.issuperset(amount.parts))


def _swapped(text: str, amount: Amount, source: str) -> str:
    """The words around a number that the source has around another one, and nowhere around this; empty without."""
    reach = _NEIGHBOURS[-1]
    if text[max(0, amount.start - reach) : amount.end + reach] in source:  # most are a copy: half the time
        return ""
    number = text[amount.start : amount.end]
    for reach in _NEIGHBOURS:
        left = _STOP.split(text[max(0, amount.start - reach) : amount.start])[-1]
        right = _STOP.split(text[amount.end : amount.end + reach])[0]
        if len(left) + len(right) < _NEIGHBOURS[0] or left + number + right in source:
            continue
        if _stands_with_another(left, right, source, amount):
            return left + number + right
    return ""


def _stands_with_another(left: str, right: str, source: str, amount: Amount) -> bool:
    """Whether the source has other numbers between these, and never this one in any spelling."""
    found = False
    at = source.find(left or right)
    for _ in range(_MOST):
        if at < 0:
            break
        if left:
            other = _OTHER.match(source, at + len(left))
            fits = other is not None and source.startswith(right, other.end())
        else:
            other = _OTHER_BEFORE.search(source, max(0, at - _ENDING), at)
            fits = other is not None
        if fits and other is not None:
            there = {value for a in amounts.digits(other.group()) for value in (*a.values, *a.parts)}
            if not there.isdisjoint(amount.values):
                return False
            found = True
        at = source.find(left or right, at + 1)
    return found
