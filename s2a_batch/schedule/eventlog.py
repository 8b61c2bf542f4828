"""What the scheduler says on stderr: one line an event, for a person or as JSON.

Invariants: an event is one line, whatever is in a path or an error, and as JSON a strict object in ASCII; a line that
cannot be written stops nothing.
"""

from __future__ import annotations

import json
import signal
import sys
from datetime import UTC
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal, Protocol

from s2a_batch import errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

Event = Literal["start", "begin", "end", "late", "skip", "wait", "bad_file", "reread", "state", "stop"]
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


class Say(Protocol):
    """Where events go: what happened, to which job ("" for none), in words and as facts."""

    def __call__(self, event: Event, job: str, text: str, **facts: str | float | None) -> None:
        """Write it."""


class EventLog:
    """Writes events."""

    def __init__(self, form: Literal["text", "json"], clock: Callable[[], datetime]) -> None:
        self._form = form
        self._clock = clock

    def say(self, event: Event, job: str, text: str, **facts: str | float | None) -> None:
        """One event of a job ("" for none), in words and as facts."""
        now = instant(self._clock())
        if self._form == "json":
            told = {"time": now, "event": event, "job": job or None, "message": text, **facts}
            line = json.dumps({name: _whole(value) for name, value in told.items()})
        else:
            line = one_line(f"{now} {job}: {text}" if job else f"{now} {text}")
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):  # nobody reads it any more; the jobs matter more
            pass


def _whole(value: str | float | None) -> str | float | None:
    """A text in which the bytes of a path that are no UTF-8 are spelled out, as a strict reader of JSON takes it."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def one_line(text: str) -> str:
    """The text with its line ends and control signs made visible."""
    return "".join(sign if sign.isprintable() or sign == " " else f"\\x{ord(sign):02x}" for sign in text)


def meaning(status: int) -> str:
    """What an exit status of a run says; a signal's number is negative."""
    if status >= 0:
        return errors.meaning(status)
    try:
        return f"killed by {signal.Signals(-status).name}, the rest is pending"
    except ValueError:
        return f"killed by signal {-status}, the rest is pending"


def instant(moment: datetime) -> str:
    """A time in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def span(seconds: float) -> str:
    """A time span in its two largest units."""
    whole = max(0, round(seconds))
    for (size, unit), (below, small) in pairwise(_UNITS):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {unit} {rest} {small}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"
