"""When a job's times come: a crontab expression in a time zone, as instants.

Knows APScheduler, for its triggers. They are given plain numbers, as their crontab counts weekdays from Monday, takes
day *and* weekday, and drops the step of `mon-fri/2`; and a clock without changes, on which the zone's is laid here: in
a zone their `30 2 * * *` comes twice in the night that has 2:30 twice, an hour late in the night that has none, and
`*/30 0 * * *` not at all on the day after that night.
Invariants: an expression without `*` in minute and hour comes once for each of its times of day: the first time where
that comes twice, at the end of the gap where it does not come at all. One with `*` comes whenever the clock shows it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

from s2a_batch.cron import parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zoneinfo import ZoneInfo

    from s2a_batch.cron import Cron

_TINY: Final = timedelta(microseconds=1)
_DAY: Final = timedelta(days=1)
_FIRST_LOOK: Final = timedelta(minutes=1)


class Times:
    """The times of one job. All instants are in UTC."""

    def __init__(self, expression: str, zone: ZoneInfo) -> None:
        self.cron = parse(expression)
        self.zone = zone
        self._trigger = _trigger(self.cron)

    def after(self, moment: datetime) -> datetime:
        """The first time after a moment."""
        return next(self._flowing(moment) if self.cron.flowing else self._by_day(moment))

    def last(self, since: datetime, until: datetime) -> datetime | None:
        """The last time that came after `since` and no later than `until`; None for none."""
        look = _FIRST_LOOK
        while True:
            begin = max(since, until - look)
            found, moment = None, self.after(begin)
            while moment <= until:
                found, moment = moment, self.after(moment)
            if found is not None or begin <= since:
                return found
            look *= 2

    def _flowing(self, moment: datetime) -> Iterator[datetime]:
        offset = self._offset(moment)
        begin, wall = moment, moment + offset
        while True:
            shown = self._next(wall)
            found = shown - offset
            if self._offset(found) == offset:
                yield found
                begin, wall = found, shown
            else:  # the clocks change before it
                begin = self._change(begin, found, offset)
                offset = self._offset(begin)
                wall = begin + offset - _TINY

    def _change(self, begin: datetime, end: datetime, offset: timedelta) -> datetime:
        """The first instant at which the offset is another one, to the second."""
        while begin + _DAY < end and self._offset(begin + _DAY) == offset:
            begin += _DAY
        end = min(end, begin + _DAY)
        while end - begin > timedelta(seconds=1):
            middle = begin + (end - begin) / 2
            begin, end = (middle, end) if self._offset(middle) == offset else (begin, middle)
        return end.replace(microsecond=0)

    def _offset(self, moment: datetime) -> timedelta:
        return moment.astimezone(self.zone).utcoffset() or timedelta()

    def _by_day(self, moment: datetime) -> Iterator[datetime]:
        wall = moment.astimezone(self.zone).replace(tzinfo=UTC)
        while True:
            wall = self._next(wall)
            if (found := self._instant(wall.replace(tzinfo=None))) > moment:
                yield found

    def _next(self, moment: datetime) -> datetime:
        found: datetime | None = self._trigger.get_next_fire_time(None, moment.astimezone(UTC) + _TINY)
        if found is None:
            raise OverflowError("the calendar ends")
        return found

    def _instant(self, wall: datetime) -> datetime:
        """When a clock on the wall first shows this, or the end of the gap that holds it."""
        found = wall.replace(tzinfo=self.zone, fold=0).astimezone(UTC)
        if found.astimezone(self.zone).replace(tzinfo=None) == wall:
            return found
        # In a gap, fold 0 counts by the offset before it and fold 1 by the one after it: the gap lies in between.
        before = wall.replace(tzinfo=self.zone, fold=1).astimezone(UTC)
        return self._change(before, found, self._offset(before))


def _trigger(cron: Cron) -> CronTrigger | OrTrigger:
    shared = {"minute": cron.minutes, "hour": cron.hours, "month": cron.months}
    days, weekdays = {"day": cron.days}, {"day_of_week": tuple((n - 1) % 7 for n in cron.weekdays)}
    alternatives = [days, weekdays] if cron.either else [days | weekdays]
    triggers = [
        CronTrigger(**{name: ",".join(map(str, values)) for name, values in (shared | part).items()}, timezone=UTC)
        for part in alternatives
    ]
    return triggers[0] if len(triggers) == 1 else OrTrigger(triggers)
