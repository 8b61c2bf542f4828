"""A crontab's five fields, read as cron reads them: which minutes, hours, days, months and weekdays.

Invariants: what Debian's cron refuses is refused, with the spelling that it takes; weekdays count from Sunday, which is
0; no expression is accepted that never comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DAYS_OF: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_FIELDS: Final = ("minute", "hour", "day", "month", "weekday")
_RANGES: Final = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 7)}
_NAMES: Final = {
    "month": {name: n for n, name in enumerate(_MONTHS, start=1)},
    "weekday": {name: n for n, name in enumerate(_WEEKDAYS)},
}
_MACROS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


@dataclass(frozen=True)
class Cron:
    """An expression, understood.

    Attributes:
        fields: The five fields as they are written, macros replaced.
        minutes, hours, days, months, weekdays: The values that fit, rising; Sunday is 0.
        either: Whether a day fits by its day or by its weekday: both are named. Otherwise it must fit by both.
        flowing: Whether minute or hour begin with `*`: it follows the clock, also through hours that come twice or not
            at all. Otherwise each time of day is meant once a day.
    """

    fields: tuple[str, str, str, str, str]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    either: bool
    flowing: bool


def parse(text: str) -> Cron:
    """Understand an expression; raise ValueError, which says field, fault and remedy."""
    words = text.split()
    if len(words) == 1 and words[0].lower() in _MACROS:
        words = _MACROS[words[0].lower()].split()
    if len(words) != len(_FIELDS):
        known = ", ".join(_MACROS)
        raise ValueError(f"expected five fields (minute hour day month weekday) or one of {known}; found {len(words)}")
    minute, hour, day, month, weekday = words
    minutes, hours, days, months, found = (_values(name, word) for name, word in zip(_FIELDS, words, strict=True))
    either = not day.startswith("*") and not weekday.startswith("*")
    if not either and days[0] > max(_DAYS_OF[n - 1] for n in months):
        raise ValueError(f"no month of '{month}' has a day {days[0]}: it would never run")
    weekdays = tuple(sorted({n % 7 for n in found}))
    flowing = minute.startswith("*") or hour.startswith("*")
    return Cron((minute, hour, day, month, weekday), minutes, hours, days, months, weekdays, either, flowing)


def crontab(text: str) -> str:
    """The text, if it is an expression; else ValueError."""
    parse(text)
    return text


def _values(name: str, word: str) -> tuple[int, ...]:
    found: set[int] = set()
    for part in word.split(","):
        found |= _part(name, part)
    return tuple(sorted(found))


def _part(name: str, part: str) -> set[int]:
    """The values of `*`, `n`, `a-b`, and `*` or `a-b` with a step."""
    low, high = _RANGES[name]
    reach, slash, step = part.partition("/")
    first, dash, last = reach.partition("-")
    if slash and not (step.isascii() and step.isdigit() and int(step) > 0):
        raise ValueError(f"{name} '{part}': the step must be a whole number above 0")
    if reach == "*":
        high = 6 if name == "weekday" else high
    elif dash:
        low, high = _number(name, first, part), _number(name, last, part)
    elif slash:
        raise ValueError(f"{name} '{part}': a step needs a range; write {first}-{high}/{step} or */{step}")
    else:
        low = high = _number(name, reach, part)
    if low > high:
        hint = "; Sunday at the end of a range is 7" if name == "weekday" else ""
        raise ValueError(f"{name} '{part}': the range runs backwards; write it as two, with a comma{hint}")
    return set(range(low, high + 1, int(step or 1)))


def _number(name: str, word: str, part: str) -> int:
    low, high = _RANGES[name]
    value = _NAMES.get(name, {}).get(word.lower())
    if value is None and word.isascii() and word.isdigit():
        value = int(word)
    if value is None or not low <= value <= high:
        names = f" or {', '.join(_NAMES[name])}" if name in _NAMES else ""
        raise ValueError(f"{name} '{part}': expected {low} to {high}{names}")
    return value
