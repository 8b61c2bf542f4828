"""The [budget] and [price] tables of a job: what an execution may spend, and what tokens cost.

Knows pydantic. Invariants: nothing here can change an answer; wall-clock times are read once, when an execution begins.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from s2a_batch.bounds import Positive, Table

_HOUR: Final = re.compile(r"(\d{1,2}:\d{2}(?::\d{2})?)(Z|[+-]\d{2}:?\d{2})?")
_MOMENT: Final = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}.*")


def moment(text: str, now: datetime) -> datetime:
    """The moment that an `until` means, seen from `now`; both know their time zone.

    An hour without a date is the next such hour; what names no offset is local time, also over a change of the clocks.

    Raises:
        ValueError: It is no time.
    """
    text = text.strip()
    hour = _HOUR.fullmatch(text)
    try:
        if hour is not None:
            return _next(time.fromisoformat(hour[1].rjust(5, "0") + (hour[2] or "")), now)
        if _MOMENT.fullmatch(text):
            found = datetime.fromisoformat(text)
            return found if found.tzinfo is not None else found.astimezone()
    except ValueError:
        pass
    raise ValueError('expected a time: "06:00", "06:00+02:00" or "2026-12-01T06:00:00+01:00"')


def _next(hour: time, now: datetime) -> datetime:
    today = now.astimezone(hour.tzinfo).date()
    moments = (_moments(datetime.combine(today + timedelta(days=n), hour)) for n in range(3))
    return next(found for day in moments for found in day if found > now)


def _moments(wall: datetime) -> list[datetime]:
    """When the wall shows it: twice where clocks go back; where they skip it, an hour later on the wall."""
    if wall.tzinfo is not None:
        return [wall]
    # Not wall.astimezone(), which takes a skipped time for one before the gap.
    return [datetime.fromtimestamp(wall.replace(fold=fold).timestamp(), UTC).astimezone() for fold in (0, 1)]


def _as_text(value: object) -> object:
    """TOML has times of its own, which need no quotes."""
    return value.isoformat() if isinstance(value, time | datetime) else value


def _checked(text: str) -> str:
    moment(text, datetime.now().astimezone())
    return text


Until = Annotated[str, BeforeValidator(_as_text), AfterValidator(_checked)]
Dollars = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class Budget(Table):
    """Caps on an execution; none unless given. At the first one reached it drains, and the rest stays pending."""

    max_requests: int | None = Field(default=None, ge=1, description="HTTP requests, failed ones included.")
    max_tokens: int | None = Field(default=None, ge=1, description="Input and output tokens.")
    max_cost_usd: Positive | None = Field(default=None, description="Needs prices.")
    max_runtime_s: Positive | None = Field(default=None, description="Seconds since the execution began.")
    until: Until | None = Field(default=None, description="An hour, local unless it names an offset; or an ISO time.")
    over: Literal["execution", "directory"] = Field(
        default="execution", description="Whether what earlier executions of the directory spent counts too."
    )


class Price(Table):
    """What a model's tokens cost."""

    usd_per_million_input: Dollars = Field(description="Input tokens.")
    usd_per_million_output: Dollars = Field(description="Output tokens, reasoning included.")
    usd_per_million_cached: Dollars | None = Field(
        default=None, description="Cached input tokens; if not given: as input."
    )
