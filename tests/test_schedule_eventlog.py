"""What the scheduler says: one line an event, for a person or a machine."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.schedule.eventlog import EventLog, meaning, one_line, span

if TYPE_CHECKING:
    import pytest

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@given(st.text())
def test_an_event_is_one_line_whatever_is_in_it(text: str) -> None:
    """A file name with a line end must not forge an event."""
    assert len(one_line(text).splitlines()) <= 1


def test_events_are_json_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    """Machines read the log, too."""
    EventLog("json", lambda: NOON).say("end", "jobs/a.toml", "ended", status=3)
    told = json.loads(capsys.readouterr().err)
    assert told == {
        "time": "2026-06-01T12:00:00Z",
        "event": "end",
        "job": "jobs/a.toml",
        "message": "ended",
        "status": 3,
    }


def test_spans_are_told_in_two_units() -> None:
    """28800 seconds are a riddle."""
    told = [span(value) for value in (0.2, 59, 61, 3_600, 28_830, 90_000)]
    assert told == ["0 s", "59 s", "1 min 1 s", "1 h", "8 h", "1 d 1 h"]


def test_every_exit_status_of_the_readme_has_a_meaning() -> None:
    """A number in a log at three in the morning is looked up by nobody."""
    assert all(meaning(status) != "unknown" for status in (0, 1, 2, 3, 4, 70, 129, 130, 143, -9, -11, -64))
