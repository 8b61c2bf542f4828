"""Whether an answer is right: each way of judging that needs no model. Pure functions.

Invariants: what is compared is told by the way's name alone, never guessed from the texts; where the right answer
cannot be used (none is given, a pattern that is none) the judgement is None and not "wrong".
"""

from __future__ import annotations

import json
import re
import unicodedata
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

    from s2a_batch.arms import Score
    from s2a_batch.stagejob import AnswerJob

_EDGES: Final = " \t\r\n\"'`“”‘’„«»*_.,;:!?()[]{}"  # noqa: RUF001  typographic quotes are what models write
_MINUS: Final = str.maketrans({"−": "-", "–": "-"})  # noqa: RUF001
_NUMBER: Final = re.compile(
    r"(?P<sign>(?<![\w).])-)?[$€£¥]?(?P<digits>(?:\d{1,3}(?:[,\u00a0\u202f'’]\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"  # noqa: RUF001
    r"(?P<power>[eE][-+]?\d{1,3}(?![\w.]))?"
)
_GROUPS: Final = re.compile(r"[,\u00a0\u202f'’]")  # noqa: RUF001
_WORD: Final = re.compile(r"\w+(?:[.,'’]\w+)*")  # noqa: RUF001
_TRUTHS: Final = {"true": True, "yes": True, "false": False, "no": False}
_BARE_LABEL: Final = re.compile(r"[\W_]*([A-Za-z])[\W_]*")
_LEADING_LABEL: Final = re.compile(r"[\s*_\"']*\(?([A-Z])\s*[).:\]]\s*(.*)", re.DOTALL)
_SAID_LABEL: Final = re.compile(r"(?i:answer|option|choice)(?i:\s+is)?\s*:?\s*[*_\"']*\(?([A-Z])\b(?!')")
_BRACKETED: Final = re.compile(r"\(([A-Z])\)")
_OPTION_LINE: Final = re.compile(r"^[ \t]*\(?([A-Z])[).:]\s+(\S.*?)\s*$", re.MULTILINE)


def usual(job: AnswerJob) -> Score:
    """The way of judging that goes with a type of answer."""
    return "number" if job.type in ("int", "float") else "choice" if job.type == "choice" else "exact"


def is_given(gold: JsonValue) -> bool:
    """Whether a right answer is named at all."""
    if isinstance(gold, list):
        return any(map(is_given, gold))
    return gold is not None and gold != {} and (not isinstance(gold, str) or bool(gold.strip()))


def said(answer: JsonValue, member: str) -> JsonValue:
    """What an answer object says: its member of this name, else all of it."""
    return answer[member] if isinstance(answer, dict) and member in answer else answer


def is_right(way: Score, gold: JsonValue, answer: JsonValue, options: Mapping[str, str]) -> bool | None:
    """Whether an answer is right; None when the right answer cannot be used.

    Args:
        way: How to judge, but for a judge.
        gold: The right answer, or a list of right answers, of which one will do.
        answer: What was said.
        options: Of a choice: label -> text.
    """
    golds = [one for one in (gold if isinstance(gold, list) else [gold]) if is_given(one)]
    judged = [_WAYS[way](one, answer, options) for one in golds]
    known = [one for one in judged if one is not None]
    return any(known) if known else None


def text_of(value: JsonValue) -> str:
    """A value as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def normal(value: JsonValue) -> str:
    """Text for comparison: one case, one form of each character, single spaces, no quotes or punctuation around it."""
    return " ".join(unicodedata.normalize("NFKC", text_of(value)).casefold().split()).strip(_EDGES)


def number_in(value: JsonValue) -> Decimal | None:
    """The number that a value is, or the last one in a text; units and marks between thousands do not matter."""
    if value is None or isinstance(value, bool | dict | list):
        return None
    if not isinstance(value, str):
        return Decimal(str(value))
    found = None
    for found in _NUMBER.finditer(value.translate(_MINUS)):  # noqa: B007  the last one
        pass
    if found is None:
        return None
    try:
        digits = Decimal(_GROUPS.sub("", found["digits"]) + (found["power"] or ""))
    except InvalidOperation:
        return None
    return digits.copy_negate() if found["sign"] else digits  # a minus would round it


def options_of(given: JsonValue, prompt: str) -> dict[str, str]:
    """The options of a choice: of the input's field, by label or in order, else the labelled lines of the prompt."""
    if isinstance(given, dict):
        return {label.strip().upper(): text_of(text) for label, text in given.items()}
    if isinstance(given, list):
        return {chr(ord("A") + n): text_of(text) for n, text in enumerate(given[:26])}
    return {found[1]: found[2] for found in _OPTION_LINE.finditer(prompt)}


def choice_in(value: JsonValue, options: Mapping[str, str]) -> str | None:
    """The label that a value names, by label or by the option's text; without options its text. None: no or any."""
    text = text_of(value).strip()
    labels = {normal(option): label for label, option in options.items()}
    if (label := labels.get(normal(text))) is not None:
        return label
    leading = _LEADING_LABEL.fullmatch(text)
    if bare := _BARE_LABEL.fullmatch(text):
        return bare[1].upper()
    if leading is not None and (not options or leading[1] in options):
        return leading[1]
    return _mentioned(text, labels) if options else normal(text) or None


def _mentioned(text: str, labels: Mapping[str, str]) -> str | None:
    """The label that a longer text settles on; None when it names several or none."""
    known = set(labels.values())
    if spoken := [label for label in _SAID_LABEL.findall(text) if label in known]:
        return str(spoken[-1])
    named = {label for label in _BRACKETED.findall(text) if label in known}
    held = {label for option, label in labels.items() if _holds(text, option)}
    return next((str(*found) for found in (named, held) if len(found) == 1), None)


def _exact(gold: JsonValue, answer: JsonValue, _options: Mapping[str, str]) -> bool:
    if isinstance(answer, bool) or isinstance(gold, bool):
        sides = [side if isinstance(side, bool) else _TRUTHS.get(normal(side)) for side in (gold, answer)]
        return sides[0] is not None and sides[0] == sides[1]
    return normal(gold) == normal(answer)


def _number(gold: JsonValue, answer: JsonValue, _options: Mapping[str, str]) -> bool | None:
    wanted = number_in(gold)
    return None if wanted is None else number_in(answer) == wanted


def _choice(gold: JsonValue, answer: JsonValue, options: Mapping[str, str]) -> bool | None:
    wanted = choice_in(gold, options)
    if not options and (leading := _LEADING_LABEL.fullmatch(text_of(answer))) and normal(leading[2]) == wanted:
        return True
    return None if wanted is None else choice_in(answer, options) == wanted


def _regex(gold: JsonValue, answer: JsonValue, _options: Mapping[str, str]) -> bool | None:
    try:
        return re.search(text_of(gold), text_of(answer)) is not None
    except re.error:
        return None


def _contains(gold: JsonValue, answer: JsonValue, _options: Mapping[str, str]) -> bool | None:
    return _holds(text_of(answer), text_of(gold)) if normal(gold) else None


def _holds(text: str, part: str) -> bool:
    """Whether a text holds another as whole words."""
    words, wanted = _words(text), _words(part)
    return bool(wanted) and f" {' '.join(wanted)} " in f" {' '.join(words)} "


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


_WAYS: Final = {
    "exact": _exact,
    "one_of": _exact,
    "number": _number,
    "choice": _choice,
    "regex": _regex,
    "contains": _contains,
}
