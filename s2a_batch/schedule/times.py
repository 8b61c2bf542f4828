"""When a job's times come: a crontab expression in a time zone, as instants.

Knows APScheduler, for its triggers. They are given plain numbers, as their crontab counts weekdays from Monday, takes
day *and* weekday, and drops the step of `mon-fri/2`; and a clock without changes wherever a time of day is meant, as
their `30 2 * * *` comes twice in the night that has 2:30 twice, and an hour late in the night that has none.
Invariants: an expression without `*` in minute and hour comes once for each of its times of day: the first time where
that comes twice, at the end of the gap where it does not come at all. One with `*` comes whenever the clock shows it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Final

from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

from s2a_batch.cron import parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zoneinfo import ZoneInfo

    from s2a_batch.cron import Cron

_TINY: Final = timedelta(microseconds=1)
_FIRST_LOOK: Final = timedelta(minutes=1)


class Times:
    """The times of one job. All instants are in UTC."""

    def __init__(self, expression: str, zone: ZoneInfo) -> None:
        self.cron = parse(expression)
        self.zone = zone
        self._trigger = _trigger(self.cron, zone if self.cron.flowing else UTC)

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
        while True:
            shown = self._next(moment.astimezone(self.zone))
            moment = self._instant(shown.replace(tzinfo=None), shown.fold)
            if moment.astimezone(self.zone).replace(tzinfo=None) == shown.replace(tzinfo=None):
                yield moment
            else:  # a time that no clock shows: the gap's end may itself be one
                moment -= _TINY

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

    def _instant(self, wall: datetime, fold: int = 0) -> datetime:
        """When a clock on the wall shows this (for the first time, or fold 1: the second), or the end of its gap."""
        found = wall.replace(tzinfo=self.zone, fold=fold).astimezone(UTC)
        if found.astimezone(self.zone).replace(tzinfo=None) == wall:
            return found
        # In a gap, fold 0 counts by the offset before it and fold 1 by the one after it: the gap ends in between.
        before, after = (wall.replace(tzinfo=self.zone, fold=n).astimezone(UTC) for n in (1, 0))
        offset = before.astimezone(self.zone).utcoffset()
        while after - before > timedelta(seconds=1):
            middle = before + (after - before) / 2
            if middle.astimezone(self.zone).utcoffset() == offset:
                before = middle
            else:
                after = middle
        return after.replace(microsecond=0)


def _trigger(cron: Cron, zone: tzinfo) -> CronTrigger | OrTrigger:
    shared = {"minute": cron.minutes, "hour": cron.hours, "month": cron.months}
    days, weekdays = {"day": cron.days}, {"day_of_week": tuple((n - 1) % 7 for n in cron.weekdays)}
    alternatives = [days, weekdays] if cron.either else [days | weekdays]
    triggers = [
        CronTrigger(**{name: ",".join(map(str, values)) for name, values in (shared | part).items()}, timezone=zone)
        for part in alternatives
    ]
    return triggers[0] if len(triggers) == 1 else OrTrigger(triggers)
