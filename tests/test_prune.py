"""What may go goes, as a whole; and nothing else does, whatever lies there and whoever kills it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.errors import JobError
from s2a_batch.prune import Rules, age, prune
from s2a_batch.rundir import RunDirectory
from tests.processes import RUN, read_lines, run, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server import Plan, Upstream

RECORDS = 3
NOW = datetime(2026, 12, 1, 3, tzinfo=UTC)
DEAD = "dead_letters.1.jsonl"
WHOLE: dict[str, Any] = {"stopped": None, "pending": 0, "read_all": True}


def a_run(place: Path, days: float, part: dict[str, Any] | None = None, **manifest: object) -> Path:
    """A run's directory of so many days ago, whole unless its summary says otherwise."""
    place.mkdir(parents=True)
    written = (NOW - timedelta(days=days)).isoformat()
    told = {
        "s2a_batch": "0",
        "written_at": written,
        "summary": WHOLE | (part or {}),
        "job": {"only": None},
        **manifest,
    }
    (place / "run.json").write_text(json.dumps(told))
    (place / "results.jsonl").write_text("")
    (place / "rewrites.jsonl").write_text("")
    for name in (
        ".lock",
        ".synced",
        ".view.sqlite",
        ".view.sqlite-wal",
        "report.html",
        "damaged.bin",
        "dead_letters.1.jsonl",
    ):
        (place / name).write_text("x" * 10)
    return place


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def total(folder: Path) -> int:
    """The bytes of all files but the locks, which are signed anew whenever they are taken."""
    files = (path for path in folder.rglob("*") if not path.is_dir() and path.name != ".lock")
    return sum(path.lstat().st_size for path in files)


def of(days: float | None = None, keep: int | None = None, *, force: bool = False, dry: bool = False) -> Rules:
    return Rules(None if days is None else timedelta(days=days), keep, force, dry)


@given(
    days=st.lists(st.integers(0, 60), unique=True, max_size=6),
    older=st.none() | st.integers(0, 60),
    keep=st.none() | st.integers(0, 6),
)
def test_what_goes_is_older_than_the_age_and_none_of_the_newest(
    tmp_path_factory: pytest.TempPathFactory, days: list[int], older: int | None, keep: int | None
) -> None:
    """Both rules must let a run go: `--keep 10` beside `--older-than 30d` is there so that ten stay in any case."""
    runs = tmp_path_factory.mktemp("runs")
    for day in days:
        a_run(runs / f"r{day}", day)
    if older is None and keep is None:
        with pytest.raises(JobError, match="--older-than"):
            prune(runs, of(older, keep), NOW)
        return
    found = prune(runs, of(older, keep), NOW)
    newest = sorted(days)[: keep or 0]
    stay = {day for day in days if day in newest or (older is not None and day <= older)}
    assert names(runs) == sorted(f"r{day}" for day in stay)
    assert [Path(run.path).name for run in found.runs] == [f"r{day}" for day in sorted(days, reverse=True)]
    assert {run.path for run in found.runs if run.why is None} == {
        str(runs / f"r{day}") for day in days if day not in stay
    }


@pytest.mark.parametrize(
    ("summary", "manifest", "why"),
    [
        (None, {"summary": None}, "killed"),
        ({"stopped": "SIGTERM"}, {}, "something pending"),
        ({"pending": 2}, {}, "something pending"),
        ({"read_all": False}, {}, "something pending"),
        (None, {"summary": {}}, "something pending"),
        (None, {"summary": "rubbish"}, "killed"),
        (None, {"job": {"only": "rewrite"}}, "rewrites wait"),
    ],
)
def test_what_has_something_pending_stays_unless_forced(
    tmp_path: Path, summary: dict[str, Any] | None, manifest: dict[str, object], why: str
) -> None:
    """What is pending was paid for in part; who deletes it pays for it again."""
    a_run(tmp_path / "r", 90, summary, **manifest)
    [found] = prune(tmp_path, of(30), NOW).runs
    assert why in str(found.why)
    assert len(names(tmp_path / "r")) == 10
    assert prune(tmp_path, of(30, force=True), NOW).runs[0].why is None
    assert names(tmp_path) == []


def test_what_is_no_run_is_not_touched(tmp_path: Path) -> None:
    """RUNS may be a home directory, by a slip of the finger."""
    runs, elsewhere = tmp_path / "runs", a_run(tmp_path / "elsewhere", 90)
    runs.mkdir()
    (runs / "link").symlink_to(elsewhere)
    strange = runs / "strange"
    strange.mkdir()
    (strange / "run.json").write_text('{"name": "theirs"}')
    (strange / "results.jsonl").write_text("theirs")
    damaged = a_run(runs / "damaged", 90)
    (damaged / "run.json").write_text('{"s2a_batch": ')
    undated = a_run(runs / "undated", 0, written_at="yesterday")
    (runs / "notes").mkdir()
    (runs / "results.jsonl").write_text("theirs")
    linked = a_run(runs / "linked", 90)
    (linked / "run.json").rename(runs / "notes" / "run.json")
    (linked / "run.json").symlink_to(elsewhere / "run.json")
    (runs / "notes" / "run.json").unlink()
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    found = prune(runs, of(0, 0, force=True), NOW)
    assert [(Path(run.path), run.state) for run in found.runs] == [(undated, "stays"), (damaged, "stays")]
    assert "no time is known" in str(found.runs[0].why)
    assert found.runs[1].why == "its run.json cannot be read, so nothing is known of it"
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_strangers_file_stays_and_is_named(tmp_path: Path) -> None:
    """An exported table in a run's directory is what somebody works with."""
    place = a_run(tmp_path / "r", 90)
    (place / "answers.csv").write_text("1,2")
    aim = tmp_path / "aim.txt"
    aim.write_text("kept")
    (place / "report.html").unlink()
    (place / "report.html").symlink_to(aim)
    a_run(place / "old-1", 90)
    (place / "old-1" / "mine").mkdir()
    (place / "old-2").symlink_to(tmp_path)
    size = total(place)
    looked = prune(tmp_path, of(30, dry=True), NOW)
    assert total(place) == size
    found = prune(tmp_path, of(30), NOW)
    assert looked.runs == found.runs, "foretold"
    assert (found.runs[0].state, found.runs[0].freed) == ("emptied", size - total(place))
    assert found.runs[0].freed == found.runs[0].bytes > 0
    assert json.loads(found.to_json())["runs"][0]["deleted"] is False
    assert found.to_text().splitlines()[1].startswith("0 deleted, 1 emptied, ")
    assert looked.to_text().splitlines()[1].startswith("0 would go, 1 would be emptied, ")
    assert "; 0 stay" in found.to_text()
    assert names(place) == [".lock", "answers.csv", "old-1", "old-2"]
    assert names(place / "old-1") == ["mine"]
    assert found.runs[0].why == "what is not the run's is left: answers.csv, old-1, old-2"
    assert aim.read_text() == "kept"
    assert prune(tmp_path, of(30), NOW).runs == []


def test_a_dry_run_says_the_same_and_deletes_nothing(tmp_path: Path) -> None:
    """Whoever is not sure looks first."""
    for day in (1, 40, 50):
        a_run(tmp_path / f"r{day}", day)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    looked = prune(tmp_path, of(30, dry=True), NOW)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    size = total(tmp_path)
    done = prune(tmp_path, of(30), NOW)
    assert looked.runs == done.runs
    assert sum(run.freed for run in done.runs) == size - total(tmp_path)
    assert "2 would go" in looked.to_text()


def test_of_one_run_goes_what_it_set_aside(tmp_path: Path) -> None:
    """`--fresh` and `--retry-failed` leave copies for the audit, of which a nightly job makes hundreds."""
    place = a_run(tmp_path / "r", 0)
    for number, days in ((1, 90), (2, 60), (3, 10)):
        a_run(place / f"old-{number}", days)
        letters = place / f"dead_letters.{number}.jsonl"
        letters.write_text("x")
        at = (NOW - timedelta(days=days + 1)).timestamp()
        os.utime(letters, (at, at))
    (place / "old-4.part").mkdir()
    own = {".synced", ".view.sqlite", "damaged.bin", "report.html", "results.jsonl", "rewrites.jsonl", "run.json"}
    prune(place, of(30, 3), NOW)
    left = {*names(place)} - own - {".lock", ".view.sqlite-wal"}
    assert left == {"old-2", "old-3", "dead_letters.3.jsonl", "old-4.part"}
    assert own <= {*names(place)}


@pytest.mark.parametrize("text", ["", "30", "d", "1y", "-3d", "1.5d", "3 d", "9999999d"])
def test_an_age_that_means_none_is_refused(text: str) -> None:
    """A typo in a rule of deletion must not be guessed at."""
    with pytest.raises(JobError, match="as in 12h, 30d or 8w"):
        age(text)
    assert (age("12h"), age("30d"), age("8w")) == (timedelta(hours=12), timedelta(30), timedelta(56))


def test_a_run_that_goes_on_is_never_touched(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Not even forced: the answers that are being paid for would go with it."""
    up = upstream({"rules": [{"when": {"contains": "[[r-1]]"}, "replies": [{"hang_s": 60}]}]})
    with running(folder, *RUN, "--base-url", up.base_url) as program:
        up.wait_until(lambda stats: stats.by_stage.get("answer", 0) >= RECORDS - 1)
        before = names(folder / "out")
        for more in ((), ("--dry-run",)):
            done = run(folder, "prune", ".", "--keep", "0", "--force", *more)
            assert done.status == 0
            assert done.out.splitlines()[0].endswith("stays: a run goes on here")
        assert {*before} <= {*names(folder / "out")}
        assert run(folder, "prune", "out", "--keep", "0", "--force").status == 4
        program.kill()
    assert run(folder, *RUN, "--base-url", upstream({}).base_url).status == 0
    assert len(read_lines(folder / "out" / "results.jsonl")) == RECORDS
    done = run(folder, "prune", ".", "--older-than", "1d")
    assert (done.status, done.out.splitlines()[-1]) == (0, "0 deleted, 0 bytes; 1 stay")
    done = run(folder, "prune", ".", "--keep", "0", "--json")
    assert json.loads(done.out)["runs"][0]["deleted"]
    assert names(folder) == ["in.jsonl"]
    assert run(folder, "prune", ".").status == 2
    assert run(folder, "prune", "nowhere", "--keep", "1").status == 2


def test_what_a_kill_leaves_is_finished_and_taken_for_no_whole_run(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """A power cut in the middle: the next prune finishes it, and a run of the job asks anew what is gone."""
    up = upstream({})
    argv = (*RUN, "--base-url", up.base_url)
    assert run(folder, *argv).status == 0
    whole = folder.with_name("whole")
    shutil.copytree(folder / "out", whole)
    order = deleted_one_by_one(whole)
    assert order[-1] == "run.json"
    for count in range(1, len(order)):
        shutil.rmtree(folder / "out")
        shutil.copytree(whole, folder / "out")
        for name in order[:count]:
            (folder / "out" / name).unlink()
        up.reset_stats()
        kept = len(read_lines(folder / "out" / "results.jsonl"))
        again = shutil.copytree(folder / "out", folder / "again")
        assert prune(folder, of(keep=0), NOW).failed is False
        assert not again.exists()
        assert not (folder / "out").exists()
        shutil.copytree(whole, folder / "out")
        for name in order[:count]:
            (folder / "out" / name).unlink()
        assert run(folder, *argv).status == 0
        assert len(read_lines(folder / "out" / "results.jsonl")) == RECORDS
        assert up.stats().by_stage.get("answer", 0) == RECORDS - kept


def deleted_one_by_one(place: Path) -> list[str]:
    """The files of a run in the order in which a prune deletes them, the lock apart."""
    copy = place.with_name("copy")
    shutil.copytree(place, copy / "runs" / "r")
    pid = os.fork()
    if pid == 0:
        seen: list[str] = []
        sys.addaudithook(lambda event, args: seen.append(Path(args[0]).name) if event == "os.remove" else None)
        prune(copy / "runs", of(keep=0), NOW)
        (copy / "order").write_text("\n".join(seen))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert names(copy / "runs") == []
    return [name for name in (copy / "order").read_text().split() if name != ".lock"]


def test_a_directory_with_nothing_but_our_lock_is_finished(tmp_path: Path) -> None:
    """The last moment of a deletion may be the one of the kill; one of some other program's lock is not ours."""
    for name, text in {"rest": "process 4711 on host\n", "theirs": "1234\n", "empty": ""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / ".lock").write_text(text)
    looked = prune(tmp_path, of(30, dry=True), NOW)
    assert names(tmp_path) == ["empty", "rest", "theirs"]
    found = prune(tmp_path, of(30), NOW)
    assert found.runs == looked.runs
    assert [(Path(run.path).name, run.state) for run in found.runs] == [("rest", "deleted")]
    assert names(tmp_path) == ["empty", "theirs"]
    with RunDirectory(tmp_path / "begins"):
        assert prune(tmp_path, of(30), NOW).runs == [], "a run that has just begun"


def test_the_parts_of_a_comparison_are_no_runs_to_prune(tmp_path: Path) -> None:
    """Its judge and its arms make one whole, of which the figures speak."""
    a_run(tmp_path / "compared" / "judge", 90)
    (tmp_path / "compared" / ".lock").touch()
    with pytest.raises(JobError, match="a comparison's"):
        prune(tmp_path / "compared", of(30), NOW)
    assert prune(tmp_path, of(30), NOW).runs == []


def test_a_held_lock_keeps_a_run(tmp_path: Path) -> None:
    """Between the look and the deletion a run may have begun."""
    place = a_run(tmp_path / "r", 90)
    with RunDirectory(place):
        pid = os.fork()
        if pid == 0:
            found = prune(tmp_path, of(30), NOW)
            os._exit(0 if found.runs[0].why == "a run goes on here" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (place / "results.jsonl").exists()
