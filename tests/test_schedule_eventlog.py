"""What the scheduler says: one line an event, for a person or a machine."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.schedule.eventlog import EventLog, meaning, one_line, span

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


@given(st.text(st.characters(codec=None) | st.sampled_from("\n\x7f\x85\u00a0\u200b\u2028\udcff")))
def test_an_event_as_json_is_one_strict_object_whatever_is_in_it(text: str) -> None:
    """The line that no reader of JSON takes is the one of the job whose name is odd, and which failed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", stderr := io.StringIO())
        EventLog("json", lambda: NOON).say("bad_file", text, text, path=text)
    (line,) = stderr.getvalue().splitlines()
    told = json.loads(line.encode("ascii"))
    assert told["message"] == told["path"] == text.encode("utf-8", "backslashreplace").decode()


def test_spans_are_told_in_two_units() -> None:
    """28800 seconds are a riddle."""
    told = [span(value) for value in (0.2, 59, 61, 3_600, 28_830, 90_000)]
    assert told == ["0 s", "59 s", "1 min 1 s", "1 h", "8 h", "1 d 1 h"]


def test_every_exit_status_of_the_readme_has_a_meaning() -> None:
    """A number in a log at three in the morning is looked up by nobody."""
    assert all(meaning(status) != "unknown" for status in (0, 1, 2, 3, 4, 70, 129, 130, 143, -9, -11, -64))
