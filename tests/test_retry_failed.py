"""Dead letters that a job takes up again by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.processes import RUN, read_lines, run, write_input
from tests.server import Upstream

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server import Plan

REFUSED, LOST = "[[r-1]]", "[[r-2]]"
FAULTS: Plan = {
    "rules": [
        {"when": {"contains": REFUSED}, "replies": [{"status": 400, "error": {"message": "no"}}]},
        {"when": {"contains": LOST}, "replies": [{"status": 500, "error": {"message": "sorry"}}]},
    ]
}
ONCE = ("--set", "retry.attempts=1")


@pytest.mark.parametrize(("failed", "asked_again"), [("never", set[int]()), ("transient", {2}), ("all", {1, 2})])
def test_the_job_says_which_dead_letters_a_later_run_takes_up(
    tmp_path: Path, failed: str, asked_again: set[int]
) -> None:
    """The cron line stays the same after a bad night; what would only be refused again is not paid again."""
    write_input(tmp_path / "in.jsonl", range(4))
    with Upstream(FAULTS) as upstream:
        command = (*RUN, "--base-url", upstream.base_url, "--set", f"retry.failed={failed}", *ONCE)
        assert run(tmp_path, *command).status == 1
        upstream.replan({})
        upstream.reset_stats()
        preview = run(tmp_path, *command, "--dry-run")
        assert f"{len(asked_again)} pending" in preview.out
        second = run(tmp_path, *command)
        asked = {int(marker[4:-2]) for row in upstream.requests() for marker in row["markers"]}
        upstream.reset_stats()
        third = run(tmp_path, *command)
        assert upstream.stats().requests == 0
    out = tmp_path / "out"
    assert asked == asked_again
    assert len(read_lines(out / "results.jsonl")) == 2 + len(asked_again)
    left = {line["id"] for line in read_lines(out / "dead_letters.jsonl")}
    assert left == {1, 2} - asked_again
    assert second.status == third.status == (1 if left else 0)
    aside = [line["id"] for path in out.glob("dead_letters.[0-9].jsonl") for line in read_lines(path)]
    assert sorted(aside) == sorted(asked_again)
    assert run(tmp_path, "verify", "out").status == 0


@pytest.mark.parametrize(("failed", "status"), [("never", 3), ("transient", 1)])
def test_a_quiet_night_with_one_broken_record_is_no_outage(tmp_path: Path, failed: str, status: int) -> None:
    """Nothing new came in, and the server fails on the one record that is left: nobody shall be called up for that."""
    write_input(tmp_path / "in.jsonl", [2])
    with Upstream(FAULTS) as upstream:
        command = (*RUN, "--base-url", upstream.base_url, "--set", f"retry.failed={failed}", *ONCE)
        done = [run(tmp_path, *command) for _ in range(2)]
    assert [one.status for one in done] == [status] * 2, done[1].err
    assert len(read_lines(tmp_path / "out" / "dead_letters.jsonl")) == (status == 1)


def test_a_server_that_nobody_reaches_is_one_all_the_same(tmp_path: Path) -> None:
    """What cannot be reached says nothing of a record, so it must stay pending."""
    write_input(tmp_path / "in.jsonl", [2])
    command = (*RUN, "--base-url", "http://127.0.0.1:1/v1", "--set", "retry.failed=transient", *ONCE)
    assert run(tmp_path, *command).status == 3
    assert not read_lines(tmp_path / "out" / "dead_letters.jsonl")


def test_a_line_that_cannot_change_is_taken_up_by_hand_alone(tmp_path: Path) -> None:
    """It is known by its bytes: taken up night after night, it would only leave one more file of dead letters each."""
    write_input(tmp_path / "in.jsonl", range(2))
    with (tmp_path / "in.jsonl").open("ab") as file:
        file.write(b'no JSON\n[1]\n"\xff"\n')
    with Upstream({}) as upstream:
        command = (*RUN, "--base-url", upstream.base_url, "--set", "retry.failed=all")
        for _ in range(3):
            assert run(tmp_path, *command).status == 1
        assert not list((tmp_path / "out").glob("dead_letters.[0-9].jsonl"))
        assert "0 pending" in run(tmp_path, *command, "--dry-run").out
        assert run(tmp_path, *command, "--retry-failed").status == 1
    assert len(read_lines(tmp_path / "out" / "dead_letters.1.jsonl")) == 3
