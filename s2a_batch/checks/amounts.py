"""Numbers in a text, however they are written: 1,000 and 1000.0, three, 1/2 and half, 50 % and fifty percent, 5k.

Pure functions. Invariant: where a spelling has more than one reading, all are given; so a comparison can be sure of
what it calls different.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIGITS: Final = re.compile(r"\d(?:[\d.,/ -]*\d)?")
_ASCII_DIGITS: Final = re.compile(r"[0-9](?:[0-9.,/ -]*[0-9])?")  # the same for a text in ASCII, twice as fast
_NUMBER: Final = re.compile(
    r"(?<![\d/])(?:(?P<whole>\d{1,6})[ -])?(?P<top>\d{1,6}) ?/ ?(?P<under>\d{1,6})(?![\d/])"
    r"|(?<!\d)(?P<spaced>\d{1,3}(?: \d{3}){1,8})(?!\d)"
    r"|(?P<plain>(?<![\w.])\.\d+|\d+(?:[.,]\d+)*+)"
)
_TAIL: Final = re.compile(r" ?(%|percent|per cent|cents?\b|¢|k\b|m\b|thousand|million|billion|trillion|hundred|dozen)")
_LONGEST: Final = 16
"""Digits of a number that is still read as a float for its other readings: 50 % is 0.5 too, 5k 5000, $0.50 50 cents.
Shorter ones are remembered: most numbers of a rewrite are the text's."""
_MOST_REMEMBERED: Final = 4096
_LONGEST_RUN: Final = 8
"""Number words in a row whose sum is remembered."""
_ENUMERATED: Final = re.compile(r"^[ \t]*\(?\d{1,2}[.)](?=\s)", re.MULTILINE)
_BEFORE_ENUMERATOR: Final = frozenset(" \t(")
_COMMAS: Final = re.compile(r"\d{1,3}(?:,\d{3})++(?:\.\d+)?")
_DOTS: Final = re.compile(r"\d{1,3}(?:\.\d{3})++(?:,\d+)?")
_SCALES: Final = {"k": 1e3, "m": 1e6, "hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9}
_SCALES_ALL: Final = {**_SCALES, "trillion": 1e12, "dozen": 12.0, "dozens": 12.0}


def _listed(words: str) -> list[str]:
    return words.split()


_UNITS: Final = {
    word: float(n)
    for n, word in enumerate(
        _listed(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen"
        )
    )
}
_TENS: Final = {
    word: 10.0 * n for n, word in enumerate(_listed("twenty thirty forty fifty sixty seventy eighty ninety"), start=2)
}
_PARTS: Final = {
    "half": 1 / 2, "halves": 1 / 2, "halved": 1 / 2, "thirds": 1 / 3, "quarters": 1 / 4, "fourths": 1 / 4,
    "fifths": 1 / 5, "sixths": 1 / 6, "sevenths": 1 / 7, "eighths": 1 / 8, "ninths": 1 / 9, "tenths": 1 / 10,
}  # fmt: skip
_MULTIPLES: Final = {
    "twice": 2.0, "double": 2.0, "doubled": 2.0, "doubles": 2.0, "thrice": 3.0, "triple": 3.0, "tripled": 3.0,
    "triples": 3.0, "quadruple": 4.0, "quadrupled": 4.0, "twins": 2.0, "triplets": 3.0,
}  # fmt: skip
# These mean a number at one time and something else at another: they can explain a number, and are never called one.
_PERHAPS: Final = {
    "one": (1.0,), "once": (1.0,), "single": (1.0,), "first": (1.0,), "second": (2.0, 1 / 2), "both": (2.0,),
    "pair": (2.0,), "couple": (2.0,), "third": (3.0, 1 / 3), "quarter": (1 / 4, 25.0, 15.0), "fourth": (4.0, 1 / 4),
    "fifth": (5.0, 1 / 5), "sixth": (6.0, 1 / 6), "seventh": (7.0, 1 / 7), "eighth": (8.0, 1 / 8),
    "ninth": (9.0, 1 / 9), "tenth": (10.0, 1 / 10), "no": (0.0,), "none": (0.0,), "nothing": (0.0,), "either": (2.0,),
}  # fmt: skip
_CERTAIN: Final = {**_UNITS, **_TENS, **_PARTS, **_MULTIPLES, **_SCALES_ALL}
_BETWEEN: Final = frozenset(("and", "a", "an"))
WORDS: Final = frozenset((_CERTAIN.keys() | _PERHAPS.keys()) - {"k", "m"})
_HAN: Final = re.compile(r"[零〇一二两三四五六七八九十百千万半]+")
_HAN_DIGITS: Final = {**{c: n for n, c in enumerate("零一二三四五六七八九")}, "〇": 0, "两": 2}
_HAN_SCALES: Final = {"十": 10, "百": 100, "千": 1000, "万": 10000}


class Amount(NamedTuple):
    """One number as it stands in a text.

    Attributes:
        values: All readings, as plain decimals; the first is the usual one.
        parts: The numbers that it may be put together from (1 and 2 in 1/2).
        start, end: Where it stands; of a word: -1.
        certain: Whether it is a number for sure, as `one` and `second` are not.
    """

    values: tuple[str, ...]
    parts: tuple[str, ...] = ()
    start: int = -1
    end: int = -1
    certain: bool = True


def may_be_list(text: str) -> bool:
    """Whether a line of a text can begin with a list's number."""
    return "\n" in text or text[:1].isdigit() or text[:1] in _BEFORE_ENUMERATOR


def digits(text: str, *, enumerated: bool = True) -> Iterator[Amount]:
    """Numbers written in digits; `enumerated` false leaves out those that only number a list's lines."""
    is_list = not enumerated and may_be_list(text)
    skipped = {m.end() - 1 for m in _ENUMERATED.finditer(text)} if is_list else set()
    for run in (_ASCII_DIGITS if text.isascii() else _DIGITS).finditer(text):
        start, end = run.span()
        number = run.group()
        if end not in skipped and end - start < _LONGEST and number.isdecimal() and text[start - 1 : start] != ".":
            if (amount := _written(text, number, start, end)) is not None:
                yield amount
            continue
        for found in _NUMBER.finditer(text, max(0, start - 1), end):
            start, end = found.span()
            if end in skipped:
                continue
            if found["under"]:
                yield _fraction(found)
            elif found["spaced"]:
                parts = tuple(_plain(part) for part in found["spaced"].split(" "))
                yield Amount((_plain(found["spaced"].replace(" ", "")),), parts, start, end)
            elif (amount := _written(text, found["plain"], start, end)) is not None:
                yield amount


def _written(text: str, number: str, start: int, end: int) -> Amount | None:
    before = text[start - 1 : start]
    if before == ":" and not number.strip("0"):  # 10:00 is 10
        return None
    tail = _TAIL.match(text, end)
    unit = tail[1] if tail is not None else "$" if before == "$" else ""
    values, parts = (_read if len(number) < _LONGEST else _read.__wrapped__)(number, unit)
    return Amount(values, parts, start, end)


@lru_cache(_MOST_REMEMBERED)
def _read(number: str, unit: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The values of a number before or behind a unit, and its parts."""
    readings, parts = _readings(number)
    factor = 1.0
    if unit == "$":
        factor = 100.0 if readings[0].startswith("0.") else 1.0
    elif unit:
        factor = _SCALES_ALL.get(unit, 0.01)
    if factor != 1.0:
        scaled = [_text(float(value) * factor) for value in readings if len(value) < _LONGEST]
        readings = list(dict.fromkeys([*readings, *scaled]))
    return tuple(readings), parts


def _fraction(found: re.Match[str]) -> Amount:
    whole, top, under = (int(found[name] or 0) for name in ("whole", "top", "under"))
    parts = tuple(_plain(found[name]) for name in ("whole", "top", "under") if found[name])
    shares = [whole + top / under, top / under] if under else []
    # 16/4 is not the 4 of 3/4: only what is no whole number stands for itself
    values = [_text(share) for share in shares if share != int(share)]
    return Amount(tuple(dict.fromkeys(values)) or (found.group(),), parts, *found.span())


def _readings(number: str) -> tuple[list[str], tuple[str, ...]]:
    """The readings of one spelling, and its parts when it may be several numbers."""
    if number.isdecimal():
        return [_plain(number)], ()
    if number[0] == ".":
        return [_plain("0" + number), _plain(number[1:])], ()
    if _COMMAS.fullmatch(number):
        return [_plain(number.replace(",", ""))], ()
    if _DOTS.fullmatch(number):
        english = [_plain(number)] if number.count(".") == 1 and "," not in number else []
        return [*english, _plain(number.replace(".", "").replace(",", "."))], ()
    if number.count(".") == 1 and "," not in number:
        return [_plain(number)], ()
    parts = tuple({_plain(part): None for part in re.split("[.,]", number)})
    return [_plain(number.replace(",", "."))] if number.count(",") == 1 and "." not in number else list(parts), parts


def _plain(number: str) -> str:
    if not number.isascii():
        number = "".join(str(unicodedata.decimal(c, c)) for c in number)
    whole, _, fraction = number.partition(".")
    fraction = fraction.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")


def _text(value: float) -> str:
    return _plain(f"{value:.6f}")


def spelled(tokens: list[str]) -> Iterator[Amount]:
    """Numbers written as words in the tokens of one sentence."""
    run: list[str] = []
    for token in tokens:
        if token in WORDS or (run and token in _BETWEEN):
            run.append(token)
        elif run:
            yield from _said_in(run)
            run = []
    if run:
        yield from _said_in(run)


def _said_in(run: list[str]) -> tuple[Amount, ...]:
    return (_said if len(run) < _LONGEST_RUN else _said.__wrapped__)(tuple(run))


@lru_cache(_MOST_REMEMBERED)
def _said(run: tuple[str, ...]) -> tuple[Amount, ...]:
    """What a run of number words says: one number, or several side by side."""
    found = []
    words = [word for word in run if word not in _BETWEEN]
    perhaps = [value for word in words for value in _PERHAPS.get(word, ())]
    if perhaps:
        found.append(Amount(tuple(_text(value) for value in perhaps), certain=False))
    if any(word in _CERTAIN and word != "one" for word in words):
        values, scaled = _sum(words)
        parts = tuple(_text(_CERTAIN[word]) for word in words if word in _CERTAIN)
        whole = tuple(dict.fromkeys(_text(value) for value in values))
        found.append(Amount(whole, () if scaled and len(words) > 1 else parts))
        if scaled:
            found.append(Amount(parts, certain=False))
    return tuple(found)


def _sum(words: list[str]) -> tuple[list[float], bool]:
    """Readings of words as one number, and whether hundred and the like are among them."""
    total, current, plus, scaled = 0.0, 0.0, 0.0, False
    for word in words:
        if word in _SCALES_ALL:
            scaled = True
            current = (current or 1.0) * _SCALES_ALL[word]
            if _SCALES_ALL[word] > 100:  # noqa: PLR2004  a thousand ends its group, a hundred does not
                total, current = total + current, 0.0
        elif word in _PARTS or (word in _PERHAPS and word != "one" and word not in _UNITS):
            share = _PARTS[word] if word in _PARTS else _PERHAPS[word][-1] if len(_PERHAPS[word]) > 1 else 1.0
            plus, current = total + current + share, current * share if current else share
        else:
            current += _CERTAIN.get(word, 0.0)
    return [total + current, plus or total + current], scaled


def han(text: str) -> Iterator[Amount]:
    """Numbers in Chinese and Japanese signs, which can explain one in digits."""
    for found in _HAN.finditer(text):
        total, current = 0, 0
        for sign in found.group()[:12]:
            if sign in _HAN_SCALES:
                total, current = total + (current or 1) * _HAN_SCALES[sign], 0
            elif sign in _HAN_DIGITS:
                current = _HAN_DIGITS[sign]
            else:
                yield Amount(("0.5", "2"), certain=False)
        yield Amount((str(total + current), str(current or total)), certain=False)
