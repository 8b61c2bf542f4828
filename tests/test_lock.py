"""One process at a time writes in a directory."""

from __future__ import annotations

import json
import shutil
import signal
from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest

from s2a_batch.errors import LockedError
from s2a_batch.lock import Lock, is_locked
from tests.processes import RUN, read_lines, run, running, write_input
from tests.server import Upstream

if TYPE_CHECKING:
    from pathlib import Path


def test_a_lock_is_one_s_at_a_time_and_can_be_had_again(tmp_path: Path) -> None:
    """Given back it must be free, in the same process too."""
    first, second = Lock(tmp_path), Lock(tmp_path)
    first.take(None)
    with pytest.raises(LockedError):
        second.take(None)
    first.give_back()
    second.take(None)
    assert is_locked(tmp_path)
    second.give_back()
    assert not is_locked(tmp_path)


def test_whoever_waits_while_the_directory_is_deleted_locks_the_new_one(tmp_path: Path) -> None:
    """A lock on a file that nobody can open any more protects nothing: two runs would write."""
    place = tmp_path / "run"
    first, second, third = Lock(place), Lock(place), Lock(place)
    first.take(None)
    waits = Event()
    waiter = Thread(target=second.take, args=(lambda _: waits.set(),))
    waiter.start()
    assert waits.wait(10)
    shutil.rmtree(place)
    first.give_back()
    waiter.join(10)
    assert is_locked(place)
    with pytest.raises(LockedError):
        third.take(None)
    second.give_back()


def test_a_second_copy_waits_when_it_is_told_to(tmp_path: Path) -> None:
    """A night that takes longer than a day must not cost the next one."""
    write_input(tmp_path / "in.jsonl", range(6))
    with Upstream({"latency_s": 0.1}) as upstream:
        command = (*RUN, "--base-url", upstream.base_url)
        with running(tmp_path, *command) as first:
            upstream.wait_until(lambda stats: stats.requests > 0)
            assert run(tmp_path, *command, "--if-running", "exit").status == 4
            second = run(tmp_path, *command, "--if-running", "wait")
            assert first.wait().status == 0
        assert second.status == 0
        assert "another run holds it" in second.err
        assert "0 answered" in second.err
        assert upstream.stats().requests == 12
    assert len(read_lines(tmp_path / "out" / "results.jsonl")) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whoever_waits_for_another_run_ends_at_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    """`systemctl stop` must not hang until the other run is over; and whoever is told of a night hears of this one."""
    (tmp_path / "hook.sh").write_text("#!/bin/sh\ncat > told.json\n")
    (tmp_path / "hook.sh").chmod(0o700)
    (tmp_path / "s2a.prom").write_text("of the run that goes on")
    settings = ('hooks.on_failure.command=["./hook.sh"]', "metrics.textfile=s2a.prom")
    more = [word for setting in settings for word in ("--set", setting)]
    write_input(tmp_path / "in.jsonl", range(2))
    lock = Lock(tmp_path / "out")
    lock.take(None)
    with running(tmp_path, *RUN, "--base-url", "http://127.0.0.1:1/v1", "--if-running", "wait", *more) as waits:
        while "waiting for its end" not in waits.err():
            waits.process.join(0.01)
            assert waits.process.exitcode is None, waits.err()
        waits.send(number)
        done = waits.wait(10)
    lock.give_back()
    assert done.status == 128 + number
    waiting, ended = done.err.splitlines()
    assert "waiting for its end" in waiting
    assert ended == f"error: out: {number.name} ended the wait for another run's end"
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["exit_status"], told["summary"]) == (128 + number, None)
    assert told["meaning"].startswith(f"interrupted by {number.name}")
    assert (tmp_path / "s2a.prom").read_text() == "of the run that goes on"
