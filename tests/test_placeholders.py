"""The day and the job's name in the paths of a job."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch import jobfile
from s2a_batch.errors import JobError
from s2a_batch.options import job_parts
from s2a_batch.placeholders import day_of, fill
from tests.processes import run, write_input
from tests.server import Upstream

if TYPE_CHECKING:
    from pathlib import Path

LATE = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("runs/{job}-{date}", "runs/nightly-2026-03-01"),
        ("{date-1d}", "2026-02-28"),
        ("{date+30d}", "2026-03-31"),
        ("{date+01:00}", "2026-03-02"),
        ("{date-1d+01:00}", "2026-03-01"),
        ("{date-23:45}", "2026-02-28"),
        ("{x} {{y}} $HOME %Y", "{x} {{y}} $HOME %Y"),
    ],
)
def test_paths_may_name_the_day_and_the_job(text: str, filled: str) -> None:
    """A nightly job reads yesterday's file; whatever else stands in a path is meant as it stands."""
    table = fill({"input": ["a", text], "output": text, "model": text}, "nightly", LATE)
    assert table == {"input": ["a", filled], "output": filled, "model": text}


@given(st.datetimes(timezones=st.just(UTC)), st.integers(-999, 999), st.integers(-23 * 60, 23 * 60))
def test_a_day_is_that_of_the_moment_in_the_offset_that_is_given(at: datetime, days: int, minutes: int) -> None:
    """A job that runs at half past midnight in Sydney reads the file of Sydney's day."""
    hours, rest = divmod(abs(minutes), 60)
    zone = f"{'-' if minutes < 0 else '+'}{hours:02}:{rest:02}"
    try:
        expected = (at + timedelta(minutes=minutes) + timedelta(days=days)).date()
        (at + timedelta(minutes=minutes))
    except OverflowError:
        return
    assert fill({"input": f"{{date{days:+}d{zone}}}"}, "j", at)["input"] == expected.isoformat()


def test_a_day_that_was_given_is_the_same_everywhere() -> None:
    """`--date 2026-03-01` repeats that day, not the next one because the job lives in Auckland."""
    assert fill({"output": "{date+13:00}"}, "j", date(2026, 3, 1))["output"] == "2026-03-01"
    assert day_of("2026-03-01") == date(2026, 3, 1)


@pytest.mark.parametrize(
    ("text", "day"), [("{date-1d}", "0001-01-01"), ("{date+1d}", "9999-12-31"), ("{date-9999d}", "0027-05-17")]
)
def test_a_day_that_is_in_no_calendar_is_refused(tmp_path: Path, text: str, day: str) -> None:
    """A slip of the keys is a fault of the job, said with its file, and none of this program."""
    path = tmp_path / "night.toml"
    path.write_text(f'input = "a.jsonl"\noutput = "out-{text}"\n')
    with pytest.raises(JobError, match=r"night\.toml: \{date.*d\} leaves the calendar"):
        jobfile.load(path, at=day_of(day))


def test_a_moment_at_the_edge_of_the_calendar_is_refused_too() -> None:
    """The offset alone leaves it."""
    with pytest.raises(JobError, match="leaves the calendar"):
        fill({"output": "{date-01:00}"}, "j", datetime(1, 1, 1, tzinfo=UTC))


def test_an_early_year_has_four_digits() -> None:
    """`strftime` has fewer on some systems, and names of days no longer sort."""
    assert fill({"output": "{date+1d}"}, "j", date(33, 4, 3))["output"] == "0033-04-04"


@pytest.mark.parametrize("text", ["{Date}", "{date-1}", "{date+1h}", "{date:%Y}", "{date+24:00}", "{JOB}"])
def test_a_misspelt_placeholder_is_refused(tmp_path: Path, text: str) -> None:
    """As a directory of that name it would be found in a month, with thirty nights in it."""
    path = tmp_path / "night.toml"
    path.write_text(f'input = "a.jsonl"\noutput = "out-{text}"\n')
    with pytest.raises(JobError, match=r"night\.toml.*known are \{job\}, \{date\}"):
        jobfile.load(path)


@pytest.mark.parametrize(
    "text", ["2026-3-1", "2026-3-1x", "20260301", "2026-W09-7", " 2026-03-01", "yesterday", "2026-02-30"]
)
def test_a_day_that_is_none_is_refused(text: str) -> None:
    """A typo must not run the whole of another day."""
    with pytest.raises(JobError, match=r"--date .*: expected a day, as in"):
        day_of(text)


def test_a_command_that_goes_over_midnight_stays_in_its_day(tmp_path: Path) -> None:
    """The arms of a comparison are made one after the other, and belong into one directory."""
    path = tmp_path / "night.toml"
    path.write_text('input = "a.jsonl"\noutput = "{job}-{date}"\n')
    parts = job_parts([str(path)], {}, None, "2026-03-01")
    assert parts.job().output == parts.arm(("x",), {}, {}).output == tmp_path / "night-2026-03-01"


def test_a_run_of_a_day_reads_and_writes_there(tmp_path: Path) -> None:
    """The whole command, as a person repeats a day that went wrong."""
    write_input(tmp_path / "2026-02-28.jsonl", range(2))
    with Upstream() as upstream:
        (tmp_path / "night.toml").write_text(
            f'base_url = "{upstream.base_url}"\nmodel = "m"\n'
            'input = "{date-1d}.jsonl"\noutput = "runs/{job}-{date}"\n'
        )
        done = run(tmp_path, "run", "night.toml", "--date", "2026-03-01")
    assert done.status == 0, done.err
    job = json.loads((tmp_path / "runs" / "night-2026-03-01" / "run.json").read_text())["job"]
    assert (job["name"], job["input"]) == ("night", "2026-02-28.jsonl")
