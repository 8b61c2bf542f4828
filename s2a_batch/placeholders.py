"""What the paths of a job may leave open: the day, and the job's name. Nothing else is templated.

Invariant: all paths of one command stand for one day, whatever midnight comes while it runs.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Final

from s2a_batch.errors import JobError

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import JsonValue

_PLACEHOLDER: Final = re.compile(r"\{(?:job|date[^{}]*)\}", re.IGNORECASE)
_DATE: Final = re.compile(r"\{date(?P<days>[+-]\d{1,4}d)?(?P<zone>[+-]\d\d:[0-5]\d)?\}")
_PATHS: Final = ("input", "output", "rewrites")
_ODD: Final = re.compile(r"[^\w.-]")
_HOURS: Final = 24
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DAY_CHARS: Final = len("2026-11-25")


def fill(table: dict[str, JsonValue], name: str, at: date) -> dict[str, JsonValue]:
    """The job's table with `{job}` and `{date}` filled in where it names input, output and another run.

    Args:
        table: As merged from job file and options.
        name: Of the job.
        at: The moment whose day in UTC is `{date}`; `{date-1d}` is the day before, `{date+02:00}` the day in that
            offset of UTC, `{date-1d+02:00}` both. A mere day is the same in all offsets.

    Raises:
        JobError: A placeholder is misspelt, or its day is in no calendar.
    """
    filled = dict(table)
    metrics = filled.get("metrics")
    if isinstance(metrics, dict) and "textfile" in metrics:
        filled["metrics"] = metrics | {"textfile": _filled(metrics["textfile"], name, at)}
    return filled | {key: _filled(filled[key], name, at) for key in _PATHS if key in filled}


def _filled(value: JsonValue, name: str, at: date) -> JsonValue:
    if isinstance(value, list):
        return [_filled(part, name, at) for part in value]
    return _PLACEHOLDER.sub(lambda found: _meaning(found[0], name, at), value) if isinstance(value, str) else value


def _meaning(placeholder: str, name: str, at: date) -> str:
    if placeholder == "{job}":
        return name
    found = _DATE.fullmatch(placeholder)
    if found is None or (found["zone"] and int(found["zone"][1:3]) >= _HOURS):
        known = "{job}, {date}, {date-1d}, {date+02:00}, {date-1d+02:00}"
        raise JobError(f"{placeholder} stands for nothing; known are {known}")
    try:
        day = at.astimezone(_zone(found["zone"])) if isinstance(at, datetime) else at
        return (day + timedelta(days=int((found["days"] or "0d")[:-1]))).isoformat()[:_DAY_CHARS]
    except OverflowError:
        raise JobError(f"{placeholder} leaves the calendar, which has the years 1 to 9999") from None


def _zone(offset: str | None) -> timezone:
    if offset is None:
        return UTC
    sign = -1 if offset.startswith("-") else 1
    return timezone(sign * timedelta(hours=int(offset[1:3]), minutes=int(offset[4:])))


def name_of(path: Path) -> str:
    """A job's name by that of its file or input, without endings and with odd characters replaced."""
    name = path.stem if path.suffix == ".toml" else path.name.partition(".")[0]
    return _ODD.sub("_", name).lstrip("-.") or "job"


def day_of(text: str) -> date:
    """A day that is written as 2026-11-25; `JobError` for anything else."""
    try:
        if _DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise JobError(f"--date {text}: expected a day, as in 2026-11-25")
