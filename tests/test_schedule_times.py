"""A crontab line means what cron means, and the two nights on which the clocks change have no surprise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from s2a_batch.cron import parse
from s2a_batch.schedule.times import Times

BERLIN = ZoneInfo("Europe/Berlin")
SPRING = datetime(2026, 3, 28, 23, tzinfo=UTC)  # midnight in Berlin; 2:00 becomes 3:00
AUTUMN = datetime(2026, 10, 24, 22, tzinfo=UTC)  # midnight in Berlin; 3:00 becomes 2:00
CHANGES = {
    "Europe/Berlin": (SPRING, AUTUMN),
    "America/Santiago": (datetime(2026, 9, 6, tzinfo=UTC), datetime(2026, 4, 4, 18, tzinfo=UTC)),  # at midnight
    "Australia/Lord_Howe": (
        datetime(2026, 10, 3, 12, tzinfo=UTC),
        datetime(2026, 4, 4, 12, tzinfo=UTC),
    ),  # half an hour
    "Antarctica/Troll": (datetime(2026, 3, 28, 20, tzinfo=UTC), datetime(2026, 10, 24, 20, tzinfo=UTC)),  # two hours
    "Africa/Cairo": (datetime(2026, 4, 23, 18, tzinfo=UTC), datetime(2026, 10, 29, 18, tzinfo=UTC)),
}


def coming(expression: str, since: datetime, hours: float, zone: str = "Europe/Berlin") -> list[datetime]:
    """All times of so many hours."""
    times, found, moment = Times(expression, ZoneInfo(zone)), [], since
    while (moment := times.after(moment)) <= since + timedelta(hours=hours):
        found.append(moment)
    return found


def shown(expression: str, since: datetime, hours: float = 24) -> list[str]:
    """The same as a clock in Berlin shows them."""
    return [f"{moment.astimezone(BERLIN):%H:%M%z}" for moment in coming(expression, since, hours)]


@pytest.mark.parametrize(
    ("expression", "weekdays"),
    [
        ("0 2 * * 0", "Sun"),
        ("0 2 * * 7", "Sun"),
        ("0 2 * * sun", "Sun"),
        ("0 2 * * 1-5", "Mon Tue Wed Thu Fri"),
        ("0 2 * * MON-FRI", "Mon Tue Wed Thu Fri"),
        ("0 2 * * mon-fri/2", "Mon Wed Fri"),
        ("0 2 * * 5-7", "Fri Sat Sun"),
        ("0 2 * * sun-tue", "Mon Tue Sun"),
        ("0 2 * * */3", "Wed Sat Sun"),
        ("@weekly", "Sun"),
    ],
)
def test_weekdays_are_those_of_cron(expression: str, weekdays: str) -> None:
    """The library that finds the times counts Monday as 0 and drops a step: each job would run on the wrong days."""
    monday = datetime(2026, 6, 1, tzinfo=UTC)
    found = coming(expression, monday - timedelta(minutes=1), 7 * 24, "UTC")
    assert " ".join(f"{moment:%a}" for moment in found) == weekdays


@pytest.mark.parametrize(
    ("expression", "dates"),
    [
        ("0 0 13 * fri", [5, 12, 13, 19, 26]),  # either
        ("0 0 */10 * fri", []),  # both: 1, 11, 21 and 31 are no Fridays of this month
        ("0 0 1-7 * *", [1, 2, 3, 4, 5, 6, 7]),
        ("0 0 30,31 2,6 *", [30]),
        ("@monthly", [1]),
    ],
)
def test_day_and_weekday_join_as_cron_joins_them(expression: str, dates: list[int]) -> None:
    """Two named days are alternatives to cron, and one that begins with a star is a condition."""
    found = coming(expression, datetime(2026, 5, 31, 23, 59, tzinfo=UTC), 30 * 24, "UTC")
    assert [moment.day for moment in found] == dates


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("0 2 * *", "five fields"),
        ("0 0 2 * * *", "five fields"),
        ("@reboot", "@daily"),
        ("60 * * * *", "minute '60': expected 0 to 59"),
        ("0 24 * * *", "hour"),
        ("0 0 0 * *", "day '0'"),
        ("0 0 * foo *", "or jan, feb"),
        ("0 0 * * 8", "weekday"),
        ("0 0 * * fri-mon", "Sunday at the end of a range is 7"),
        ("5/15 * * * *", "write 5-59/15"),
        ("*/0 * * * *", "above 0"),
        ("0 0 L * *", "day 'L'"),
        ("0 0 ? * 1", "day '?'"),
        ("1,,2 * * * *", "minute ''"),
        ("0 0 30 2 *", "never run"),
        ("0 ٣ * * *", "hour"),
        ("", "found 0"),
    ],
)
def test_what_cron_refuses_is_refused_with_the_remedy(expression: str, told: str) -> None:
    """An expression of another dialect that is half understood runs at times that nobody chose."""
    with pytest.raises(ValueError, match=r".") as caught:
        parse(expression)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "spring", "autumn"),
    [
        ("30 2 * * *", ["03:00+0200"], ["02:30+0200"]),
        ("0 3 * * *", ["03:00+0200"], ["03:00+0100"]),
        ("0 2,3 * * *", ["03:00+0200"], ["02:00+0200", "03:00+0100"]),
        ("15,45 2 * * *", ["03:00+0200"], ["02:15+0200", "02:45+0200"]),
        ("*/30 1-2 * * *", ["01:00+0100", "01:30+0100"], None),
    ],
)
def test_a_time_of_day_comes_once_in_the_nights_the_clocks_change(
    expression: str, spring: list[str], autumn: list[str] | None
) -> None:
    """A nightly job that is left out once a year, or paid for twice, is found out months later."""
    assert shown(expression, SPRING, 23) == spring
    if autumn is not None:
        assert shown(expression, AUTUMN, 25) == autumn


def test_a_job_of_every_so_many_minutes_goes_on_through_both_nights() -> None:
    """It follows the clock that goes on: an hour without a run, or with all of them twice at once, is neither."""
    for night, hours in ((SPRING, 23), (AUTUMN, 25)):
        found = coming("*/20 * * * *", night, hours)
        assert {b - a for a, b in pairwise(found)} == {timedelta(minutes=20)}
        assert len(found) == hours * 3


minutes = st.sampled_from(["*", "*/7", "*/59", "0", "30", "5,35", "10-50/20"])
hours = st.sampled_from(["*", "*/2", "0", "0-3", "1,2,3", "23,0,2"])
day_fields = st.sampled_from([("*", "*"), ("29", "*"), ("*", "0"), ("5,29", "4-7"), ("*/2", "0")])
zones = st.sampled_from(sorted(CHANGES))


@settings(max_examples=60)
@example("*/15", "*", ("6", "*"), "America/Santiago", True)  # its day begins with the gap
@example("*/30", "0", ("*", "*"), "Europe/Berlin", True)  # the night after
@example("*/30", "0", ("*", "*"), "Europe/Berlin", False)
@example("10,35", "*/2", ("*", "*"), "Australia/Lord_Howe", True)
@given(minutes, hours, day_fields, zones, st.booleans())
def test_the_times_are_those_that_a_look_at_every_minute_finds(
    minute: str, hour: str, day: tuple[str, str], zone: str, forward: bool
) -> None:
    """The one way to be sure of zones that change at midnight, by half an hour or by two: walk through the minutes."""
    expression = f"{minute} {hour} {day[0]} * {day[1]}"
    cron, since = parse(expression), CHANGES[zone][0 if forward else 1]
    met: set[datetime] = set()
    wanted, before = [], (since.astimezone(ZoneInfo(zone))).replace(tzinfo=None)
    for n in range(1, 30 * 60 + 1):
        moment = since + timedelta(minutes=n)
        wall = moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        skipped = wall - before > timedelta(minutes=1)
        walls = [before + timedelta(minutes=k) for k in range(1, (wall - before) // timedelta(minutes=1))]
        fits = [at for at in (*(walls if skipped and not cron.flowing else ()), wall) if _fits(at, cron)]
        if fits and (cron.flowing or not met.issuperset(fits)):
            wanted.append(moment)
        met.update(fits)
        before = wall
    assert coming(expression, since, 30, zone) == wanted


def _fits(wall: datetime, cron: object) -> bool:
    found = vars(cron)
    day, weekday = wall.day in found["days"], wall.isoweekday() % 7 in found["weekdays"]
    joined = (day or weekday) if found["either"] else (day and weekday)
    return joined and wall.minute in found["minutes"] and wall.hour in found["hours"]


@pytest.mark.parametrize("expression", ["* * * * *", "0 2 * * *", "30 2 * * 0", "0 0 29 2 *"])
def test_the_last_time_before_now_is_found_without_walking_through_the_years(expression: str) -> None:
    """After a year off, a job of every minute has missed half a million times, and may not take a minute to begin."""
    times, now = Times(expression, BERLIN), datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)
    last = times.last(datetime(1970, 1, 1, tzinfo=UTC), now)
    assert last is not None
    assert last <= now < times.after(last)
    assert times.last(last, now) is None
