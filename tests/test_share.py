"""The parts of a limit add up to it, and there are never more processes than it has parts for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.errors import JobError
from s2a_batch.jobfile import build
from s2a_batch.share import Share, process_count
from tests.fakes import a_job

COUNTS = st.integers(min_value=1, max_value=64)


@given(whole=st.integers(min_value=0, max_value=10_000), of=COUNTS)
def test_parts_of_a_count_are_even_and_add_up(whole: int, of: int) -> None:
    """One open request too many for each process is what a server refuses; one too few is a slower night."""
    parts = [Share(index, of).count(whole) for index in range(of)]
    assert sum(parts) == whole
    assert max(parts) - min(parts) <= 1


@given(of=COUNTS, rate=st.floats(min_value=0.001, max_value=1e6))
def test_parts_of_a_rate_add_up_and_waste_nothing(of: int, rate: float) -> None:
    """A window has room for whole requests only: two halves of an odd one would be lost, or taken twice."""
    processes = max(1, min(of, int(rate)))
    parts = [Share(index, processes).rate(rate) for index in range(processes)]
    assert math.isclose(sum(parts), rate)
    assert sum(1 for part in parts if part % 1) <= 1


@pytest.mark.parametrize(
    ("table", "count"),
    [
        ({}, 8),
        ({"processes": 1}, 1),
        ({"limits": {"open_requests": 3}}, 3),
        ({"limits": {"open_requests": "auto"}}, 8),
        ({"answer": {"open_requests": 2}}, 2),
        ({"limits": {"requests_per_minute": 5.9}}, 5),
        ({"limits": {"requests_per_minute": 0.5}}, 1),
        ({"limits": {"tokens_per_minute": 70_000}}, 3),
        ({"answer": {"base_url": "http://127.0.0.1:8/v1", "model": "n", "limits": {"open_requests": 4}}}, 4),
        ({"only": "rewrite", "answer": {"open_requests": 2}}, 8),
    ],
)
def test_there_are_never_more_processes_than_a_limit_has_parts(table: dict[str, object], count: int) -> None:
    """A process with no part of a limit would hold its records for ever, or break the limit."""
    assert process_count(a_job(**{"processes": 8, **table})) == count


def test_the_embedded_model_is_carried_by_one_process() -> None:
    """Its server is one, with few slots; each process would start a server of its own, and read the model once more."""
    job = build({"input": "in.jsonl", "output": "out", "processes": "auto"}, "here")
    assert process_count(job) == 1
    with pytest.raises(JobError, match="leave processes out"):
        build({"input": "in.jsonl", "output": "out", "processes": 2}, "here")


@pytest.mark.parametrize("value", [0, -1, 65, True, "many", 1.5, None])
def test_what_is_no_number_of_processes_is_refused(value: object) -> None:
    """`processes = true` is a typo, and a thousand processes are a machine that stands still."""
    with pytest.raises(ValueError, match=r"expected a whole number from 1 to 64|no number"):
        a_job(processes=value)


def test_the_number_of_processes_changes_no_answer() -> None:
    """A run must go on with more or fewer processes without a word."""
    assert a_job(processes=4).settings() == a_job().settings()
