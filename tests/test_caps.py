"""Hours and moments mean what people mean by them, also in the nights when clocks change."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from s2a_batch.caps import Budget, moment
from tests.processes import RUN, caps, run

if TYPE_CHECKING:
    from pathlib import Path

RECORDS = 12
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("06:00Z", "2026-11-26T06:00:00+00:00"),
        ("12:00Z", "2026-11-26T12:00:00+00:00"),
        ("12:00:01Z", "2026-11-25T12:00:01+00:00"),
        ("6:00+02:00", "2026-11-26T04:00:00+00:00"),
        ("13:30+01:00", "2026-11-25T12:30:00+00:00"),
        ("23:00-05:00", "2026-11-26T04:00:00+00:00"),
        ("01:00+14:00", "2026-11-26T11:00:00+00:00"),
        ("2026-12-01T06:00:00+01:00", "2026-12-01T05:00:00+00:00"),
        ("2026-12-01 06:00Z", "2026-12-01T06:00:00+00:00"),
    ],
)
def test_an_hour_is_the_next_such_hour(text: str, expected: str) -> None:
    """An hour wrong by its zone or its day is a night lost, or a day of working into the office hours."""
    assert moment(text, NOON) == datetime.fromisoformat(expected)


def test_local_hours_follow_the_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the nights when clocks change, six is six on the wall, not six hours after midnight."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        before_spring = datetime(2026, 3, 28, 22, tzinfo=UTC)  # 23:00 on the wall, the night loses an hour
        assert moment("06:00", before_spring) - before_spring == timedelta(hours=6)
        before_autumn = datetime(2026, 10, 24, 21, tzinfo=UTC)
        assert moment("06:00", before_autumn) - before_autumn == timedelta(hours=8)
        assert moment("02:30", before_spring) - before_spring == timedelta(hours=3.5), "02:30 is skipped"
        first = moment("02:30", before_autumn)
        assert first - before_autumn == timedelta(hours=3.5)
        assert moment("02:30", first) - first == timedelta(hours=1), "the clocks go back, and show it again"
        assert moment("02:30", first + timedelta(hours=1)) - first == timedelta(hours=25)
        assert moment("2026-12-01T06:00", NOON) == datetime(2026, 12, 1, 5, tzinfo=UTC)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["6", "25:00", "06:61", "2026-12-01", "tomorrow", "", "06:00+99:00", "0600"])
def test_what_is_no_time_is_refused_before_anything_is_sent(folder: Path, text: str) -> None:
    """A deadline that is misread is worse than none."""
    done = run(folder, *RUN, *caps(f'until="{text}"'))
    assert done.status == 2
    assert "budget.until: expected a time" in done.err


def test_toml_times_need_no_quotes(folder: Path) -> None:
    """TOML has times of its own, and people write them."""
    (folder / "job.toml").write_text(
        'input = "in.jsonl"\noutput = "out"\nmodel = "m"\nbase_url = "http://127.0.0.1:9/v1"\n'
        "[budget]\nuntil = 2026-12-01T06:00:00+01:00\n"
    )
    assert run(folder, "run", "job.toml", "--dry-run").status == 0
    assert Budget.model_validate({"until": datetime(2026, 12, 1, 6, tzinfo=UTC).time()}).until == "06:00:00"
